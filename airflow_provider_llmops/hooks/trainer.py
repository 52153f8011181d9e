"""Connection to the cluster that Kubeflow Trainer runs in."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from airflow_provider_llmops.backends.kubernetes.cluster import Cluster, aconnect, connect

if TYPE_CHECKING:
    from airflow_provider_llmops.backends.trainjobs.api import TrainJobs

__all__ = ["KubeflowTrainerHook"]


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
        return _of(connect(self.kubernetes_conn_id))

    async def aget_backend(self) -> TrainJobs:
        """The same from the triggerer."""
        return _of(await aconnect(self.kubernetes_conn_id))

    def get_conn(self) -> TrainJobs:
        """The cluster's TrainJobs."""
        return self.backend


def _of(cluster: Cluster) -> TrainJobs:
    from airflow_provider_llmops.backends.trainjobs.api import TrainJobs  # whoever reads DAGs runs nothing

    return TrainJobs(cluster.client, namespace=cluster.namespace or "default", conn_id=cluster.conn_id)
