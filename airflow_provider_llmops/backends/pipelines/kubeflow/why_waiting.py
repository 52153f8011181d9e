"""Why steps of a run have not begun: the server does not say, so their pods are asked, in a worker and in the triggerer."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from airflow_provider_llmops.backends.kubernetes.cluster import Cluster, aconnect
from airflow_provider_llmops.backends.pipelines.base import Wait
from airflow_provider_llmops.backends.pipelines.kubeflow.pods import QUESTION_SECONDS, RunPods
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings
from airflow_provider_llmops.backends.pipelines.waiting import NO_CONNECTION
from airflow_provider_llmops.exceptions import ApiUnavailableError, LLMOpsError
from airflow_provider_llmops.redaction import hide_in

log = logging.getLogger(__name__)

# The triggerer asks clusters with threads of these: those of the event loop look at the runs of all tasks, and a cluster that is
# silent must not hold them.
_askers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="why-waiting")


def why_waiting(settings: KfpSettings, run_id: str) -> list[Wait]:
    """Why steps of a run have not begun, as far as it can be told; never raises, since the run goes on.

    :param settings: the connection's settings, which may name a Kubernetes connection
    :param run_id: the run
    """
    if not settings.kubernetes_conn_id:
        return [_cannot_be_asked(settings)]
    try:
        return RunPods.of(settings).why_waiting(run_id)
    except Exception as error:  # whatever it is: the run goes on
        return [_unknown(error)]


async def awhy_waiting(settings: KfpSettings, run_id: str) -> list[Wait]:
    """The same from the triggerer.

    :param settings: the connection's settings
    :param run_id: the run
    """
    if not settings.kubernetes_conn_id:
        return [_cannot_be_asked(settings)]
    try:
        async with asyncio.timeout(QUESTION_SECONDS):
            cluster = await aconnect(settings.kubernetes_conn_id)
            ask = partial(_ask, cluster, settings.namespace, run_id)
            return await asyncio.get_running_loop().run_in_executor(_askers, ask)
    except TimeoutError:
        return [_unknown(ApiUnavailableError(f"No answer within {QUESTION_SECONDS:.0f} s."))]
    except Exception as error:  # whatever it is: the run goes on
        return [_unknown(error)]


def _ask(cluster: Cluster, namespace: str | None, run_id: str) -> list[Wait]:
    return RunPods(cluster, namespace).why_waiting(run_id)


def _cannot_be_asked(settings: KfpSettings) -> Wait:
    return Wait(
        "",
        NO_CONNECTION,
        f"name a Kubernetes connection in 'kubernetes_conn_id' of connection {settings.conn_id!r} to see why",
    )


def _unknown(error: Exception) -> Wait:
    reason = str(error).partition("\n")[0]
    if not isinstance(error, LLMOpsError):
        hide_in(error)
        log.warning("Why a run waits cannot be asked", exc_info=error)
        reason = f"{type(error).__name__}: {reason}"
    return Wait("", "Unknown", f"why cannot be told: {reason}")
