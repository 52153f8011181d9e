"""Why a step failed, from the log of its pod; through the cncf-kubernetes provider."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)

# Kubeflow Pipelines puts it on every pod of a run: backend/src/common/util/consts.go.
RUN_LABEL = "pipeline/runid"
STEP_CONTAINER = "main"
MAX_PODS = 3


def failed_pods(conn_id: str, *, namespace: str, run_id: str, lines: int) -> list[str]:
    """Last lines of the log of each failed pod of a run, the first ones to fail only.

    A log that cannot be read is told instead of raised: it must not hide the failure that it would explain.

    :param conn_id: Airflow connection of type ``kubernetes``
    :param namespace: the run's namespace
    :param run_id: id of the pipeline run
    :param lines: how many lines of each
    """
    try:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    except ImportError:
        return [
            f"(The connection names the Kubernetes connection {conn_id!r}, but apache-airflow-providers-cncf-kubernetes is "
            "not installed: pip install 'airflow-provider-llmops[kubernetes]')"
        ]
    try:
        api = KubernetesHook(conn_id=conn_id).core_v1_client
        pods = api.list_namespaced_pod(
            namespace, label_selector=f"{RUN_LABEL}={run_id}", field_selector="status.phase=Failed"
        ).items
        told = []
        for pod in sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)[:MAX_PODS]:
            name = pod.metadata.name
            answer = api.read_namespaced_pod_log(
                name, namespace, container=STEP_CONTAINER, tail_lines=lines, _preload_content=False
            )
            told += last_lines(name, answer)
        return told or [f"(No failed pod of run {run_id} is left in namespace {namespace}.)"]
    except Exception as error:
        log.debug("Reading pods of run %s failed", run_id, exc_info=True)
        reason = " ".join(str(getattr(error, "reason", None) or error).split())[:200]
        return [
            f"(The log of the failed pods cannot be read through {conn_id!r}: {type(error).__name__}: {reason})"
        ]


def last_lines(pod: str, answer: Any) -> list[str]:
    """The end of a pod's log as it is shown in the task's.

    :param pod: its name
    :param answer: what the client got with ``_preload_content=False``; what it reads by itself it turns into the text of a
        bytes literal
    """
    text = answer.data.decode("utf-8", errors="replace")
    return [f"Last lines of pod {pod}:", *(f"  {line}" for line in text.splitlines())]
