"""The operator behind all of this provider's: Airflow's provider for OpenLineage asks it what there is to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import BaseOperator

from airflow_provider_llmops.openlineage.lineage import TaskLineage
from airflow_provider_llmops.remote.origin import code_of, provider_version

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

__all__ = ["TracedOperator"]


class TracedOperator(BaseOperator):
    """Base of the operators: OpenLineage is told what each reads and makes, and what it has found, if the task fails, too.

    Where Airflow's provider for OpenLineage is not installed, or not switched on, nobody asks, and nothing of it is imported. What cannot be told
    is left out with a line in the log; the task's own end is never another for it.
    """

    def lineage(self) -> TaskLineage:
        """What there is to say of the task as it stands: what it reads, and once it has ended, what came of it."""
        return TaskLineage()

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """What a task that begins reads."""
        return self._told({"provider_version": provider_version()})

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """What a task has read, made and found.

        :param task_instance: of the task
        """
        return self._told(code_of(cast("Context", {"ti": task_instance})))

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """The same of one that has failed, as far as it got.

        :param task_instance: of the task
        """
        return self.get_openlineage_facets_on_complete(task_instance)

    def _told(self, code: dict[str, Any]) -> OperatorLineage[Any, Any]:
        from airflow_provider_llmops.openlineage.facets import told  # with OpenLineage's classes

        try:
            lineage = self.lineage()
        except Exception as error:  # whatever it is, the task's own work is done
            self.log.warning("OpenLineage is told nothing of data and models: %r", error, exc_info=True)
            lineage = TaskLineage()
        return told(lineage, code, declared=(self.inlets, self.outlets))
