"""A cluster as the cncf-kubernetes provider reaches it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

# Credentials may be replaced without a change of the connection, in a file for example.
KEEP_CLIENT_SECONDS = 300.0

# Making a client takes what a kubeconfig's plugin takes, and a plugin has no time limit: the triggerer's event loop and the
# threads that all its triggers share must not wait for it. One thread, because a client is a copy of the process's default
# configuration, which has just been overwritten for it.
_client_maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kubernetes-client")
# By connection: what the connection said, when the client was made, and the cluster.
_made: dict[str, tuple[dict[str, Any], float, Cluster]] = {}


@dataclass(frozen=True)
class Cluster:
    """An API server of Kubernetes.

    :param client: the ``kubernetes`` client's ``ApiClient``
    :param namespace: the connection's, if it names one
    :param conn_id: Airflow connection of the client, for messages
    """

    client: Any
    namespace: str | None
    conn_id: str


def connect(conn_id: str) -> Cluster:
    """The cluster of a connection.

    :param conn_id: Airflow connection of type ``kubernetes``
    :raises ConfigurationError: it cannot be used
    """
    return _cluster_of(_kubernetes().KubernetesHook(conn_id=conn_id), conn_id)


async def aconnect(conn_id: str) -> Cluster:
    """The same from the triggerer, where connections are read asynchronously and all triggers share a client.

    :param conn_id: Airflow connection of type ``kubernetes``
    :raises ConfigurationError: it cannot be used
    """
    loop = asyncio.get_running_loop()
    module = await loop.run_in_executor(_client_maker, _kubernetes)  # the import takes a second
    hook = module.KubernetesHook(conn_id=conn_id)
    # Read ahead: the blocking hook's own way to the connection does not work in the triggerer.
    try:
        hook.conn_extras = await module.AsyncKubernetesHook(conn_id=conn_id).get_conn_extras()
    except Exception as error:
        raise _unusable(conn_id, error) from error
    return await loop.run_in_executor(_client_maker, _shared, hook, conn_id)


def _shared(hook: KubernetesHook, conn_id: str) -> Cluster:
    extras, made_at, cluster = _made.get(conn_id, (None, 0.0, None))
    if cluster is None or extras != hook.conn_extras or time.monotonic() - made_at >= KEEP_CLIENT_SECONDS:
        cluster = _cluster_of(hook, conn_id)
        _made[conn_id] = (hook.conn_extras, time.monotonic(), cluster)
    return cluster


def _cluster_of(hook: KubernetesHook, conn_id: str) -> Cluster:
    from kubernetes.client import ApiClient  # type: ignore[import-untyped]

    try:
        configuration = hook.get_conn().configuration
        # urllib3 would ask a cluster that is silent three times more, each time for as long as it may take.
        configuration.retries = False
        return Cluster(ApiClient(configuration), hook.get_namespace() or None, conn_id)
    except Exception as error:
        raise _unusable(conn_id, error) from error


def _unusable(conn_id: str, error: Exception) -> ConfigurationError:
    """What reading a connection and making a client raises is of a dozen kinds, all from what the connection says."""
    return ConfigurationError(
        f"Kubernetes connection {conn_id!r} cannot be used: {type(error).__name__}: {error}. Name a kube_config or "
        "kube_config_path in it, or set in_cluster."
    )


def _kubernetes() -> Any:
    try:
        from airflow.providers.cncf.kubernetes.hooks import kubernetes
    except ImportError as error:
        raise ConfigurationError(
            "Clusters are reached through apache-airflow-providers-cncf-kubernetes, which is not installed: pip install "
            "'airflow-provider-llmops[kubernetes]'"
        ) from error
    return kubernetes
