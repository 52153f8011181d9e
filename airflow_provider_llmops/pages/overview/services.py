"""The services of models by their names: which revisions have the requests, and which of them is a canary."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_llmops.exceptions import LLMOpsError, RunNotFoundError

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.serving.base import Revision, Service, ServingBackend
    from airflow_provider_llmops.hooks.kserve import KServeHook

BUDGET_SECONDS = 10.0  # for all services together
PATIENCE_SECONDS = 5.0  # with a server that does not answer
MAX_SERVICES = 20  # that are looked at
_AT_A_TIME = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """Services by name.

    :param found: what is known of each; a sentence where that could not be read
    :param reason: why nothing is known of any other; ``None`` where those are not served
    """

    found: dict[str, Service | str] = field(default_factory=dict)
    reason: str | None = None


def read_services(hook: KServeHook, names: Iterable[str], namespace: str) -> Services:
    """Look at the services of some names, of :data:`MAX_SERVICES` at most.

    :param hook: of the connection that they are deployed through
    :param names: of models
    :param namespace: where they are
    """
    try:
        backend = hook.backend
        served = set(backend.names(namespace, patience=PATIENCE_SECONDS))
    except AirflowNotFoundException:
        return Services(reason=f"There is no connection {hook.kserve_conn_id!r}.")
    except LLMOpsError as error:
        return Services(reason=str(error).splitlines()[0])
    except Exception:  # the library of a cluster has errors of its own, whose words may hold anything
        _log.exception("Services cannot be read through connection %r", hook.kserve_conn_id)
        return Services(
            reason=f"Connection {hook.kserve_conn_id!r} cannot be used; the web server's log says why."
        )
    asked = [name for name in names if name in served]
    found: dict[str, Service | str] = dict.fromkeys(
        asked, f"Not looked at: more than {MAX_SERVICES} services, or they answer slowly."
    )
    pool = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="llmops-services")
    looks = {pool.submit(_look, backend, name, namespace): name for name in asked[:MAX_SERVICES]}
    for look in wait(looks, timeout=BUDGET_SECONDS).done:
        found[looks[look]] = look.result()
    pool.shutdown(wait=False, cancel_futures=True)
    return Services(found)


def _look(backend: ServingBackend, name: str, namespace: str) -> Service | str:
    try:
        return backend.get(namespace, name, patience=PATIENCE_SECONDS)
    except RunNotFoundError:
        return "It is being removed."
    except LLMOpsError as error:
        return str(error).splitlines()[0]
    except Exception:
        _log.exception("Service %s/%s cannot be read", namespace, name)
        return "It cannot be read; the web server's log says why."


def canary_of(service: Service) -> Revision | None:
    """The revision that is being brought in beside the stable one.

    :param service: the service
    """
    shared = sorted(
        (each for each in service.revisions.values() if 0 < each.traffic < 100),
        key=lambda each: (each.revision == service.stable, each.traffic),
    )
    if shared:
        return shared[0]
    coming = service.revisions.get(service.wanted or "")
    return (
        coming
        if coming and service.stable and coming.revision != service.stable and not coming.traffic
        else None
    )
