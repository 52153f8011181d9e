"""Connection to the cluster that Kubeflow Trainer runs in."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_provider_llmops.backends.trainer import TrainJobs
from airflow_provider_llmops.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

# Credentials may be replaced without a change of the connection, in a file for example.
KEEP_CLIENT_SECONDS = 300.0

# Making a client takes what a kubeconfig's plugin takes, and a plugin has no time limit: the triggerer's event loop and the
# threads that all its triggers share must not wait for it. One thread, because a client is a copy of the process's default
# configuration, which has just been overwritten for it.
_client_maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kubernetes-client")
# By connection: what the connection said, when the client was made, and the client.
_made: dict[str, tuple[dict[str, Any], float, TrainJobs]] = {}


class KubeflowTrainerHook(BaseHook):
    """TrainJobs of a cluster, reached as the cncf-kubernetes provider reaches it.

    :param kubernetes_conn_id: connection of type ``kubernetes``
    """

    conn_name_attr = "kubernetes_conn_id"
    default_conn_name = "kubernetes_default"
    conn_type = "kubernetes"
    hook_name = "Kubernetes Cluster Connection"

    def __init__(self, kubernetes_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.kubernetes_conn_id = kubernetes_conn_id

    @cached_property
    def backend(self) -> TrainJobs:
        """The cluster's TrainJobs."""
        return self._backend_of(self._kubernetes().KubernetesHook(conn_id=self.kubernetes_conn_id))

    async def aget_backend(self) -> TrainJobs:
        """The same from the triggerer, where connections are read asynchronously and all triggers share a client."""
        loop = asyncio.get_running_loop()
        module = await loop.run_in_executor(_client_maker, self._kubernetes)  # the import takes a second
        hook = module.KubernetesHook(conn_id=self.kubernetes_conn_id)
        # Read ahead: the blocking hook's own way to the connection does not work in the triggerer.
        hook.conn_extras = await module.AsyncKubernetesHook(conn_id=self.kubernetes_conn_id).get_conn_extras()
        return await loop.run_in_executor(_client_maker, self._shared_backend, hook)

    def get_conn(self) -> TrainJobs:
        """The cluster's TrainJobs."""
        return self.backend

    def _shared_backend(self, hook: KubernetesHook) -> TrainJobs:
        extras, made_at, backend = _made.get(self.kubernetes_conn_id, (None, 0.0, None))
        if backend is None or extras != hook.conn_extras or time.monotonic() - made_at >= KEEP_CLIENT_SECONDS:
            backend = self._backend_of(hook)
            _made[self.kubernetes_conn_id] = (hook.conn_extras, time.monotonic(), backend)
        return backend

    def _backend_of(self, hook: KubernetesHook) -> TrainJobs:
        try:
            client = hook.get_conn()
        except Exception as error:  # of a dozen kinds, all from what the connection says
            raise ConfigurationError(
                f"Kubernetes connection {self.kubernetes_conn_id!r} cannot be used: {type(error).__name__}: {error}. Name a "
                "kube_config or kube_config_path in it, or set in_cluster."
            ) from error
        return TrainJobs(client, namespace=hook.get_namespace() or "default", conn_id=self.kubernetes_conn_id)

    @staticmethod
    def _kubernetes() -> Any:
        try:
            from airflow.providers.cncf.kubernetes.hooks import kubernetes
        except ImportError as error:
            raise ConfigurationError(
                "TrainJobs are reached through apache-airflow-providers-cncf-kubernetes, which is not installed: pip install "
                "'airflow-provider-llmops[kubernetes]'"
            ) from error
        return kubernetes
