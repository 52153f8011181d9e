"""The operator that tells where a registered model version came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.arguments import names_of
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.hooks.mlflow import MlflowHook, version_of
from airflow_provider_llmops.openlineage.lineage import TaskLineage
from airflow_provider_llmops.openlineage.registry import registered_model
from airflow_provider_llmops.remote.traced import TracedOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["ModelLineageOperator"]


class ModelLineageOperator(TracedOperator):
    """Tell which DAG version, data, code and image made a registered model version, what was decided on it, and how to run it again.

    Read from MLflow alone, by two requests. What is not recorded is named under ``missing``, and none of it is guessed.

    ``return_value`` is a :class:`~airflow_provider_llmops.lineage.version.Lineage` as JSON; the task's log has the same as text.

    :param model_name: name in the model registry
    :param model_version: number of the version; or
    :param alias: an alias, whose version is taken
    :param mlflow_conn_id: connection of type ``mlflow``
    """

    def __init__(
        self,
        *,
        model_name: str,
        model_version: str | None = None,
        alias: str | None = None,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.model_version = model_version
        self.alias = alias
        self.mlflow_conn_id = mlflow_conn_id

    template_fields = names_of(__init__)
    ui_color = "#e8f0fe"

    def lineage(self) -> TaskLineage:
        """The version that is asked about."""
        known = {"version": self.model_version, "alias": self.alias}
        return TaskLineage(inputs=registered_model(self.mlflow_conn_id, self.model_name, **known))

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask MLflow."""
        from airflow_provider_llmops.lineage.text import lines_of
        from airflow_provider_llmops.lineage.version import read_lineage
        from airflow_provider_llmops.xcom import cut_to_fit

        number = version_of(self.model_version)
        if (number is None) == (not self.alias):
            raise ConfigurationError("Give model_version or alias, one of the two.")
        hook = MlflowHook(self.mlflow_conn_id)
        found = read_lineage(hook, self.model_name, model_version=number, alias=self.alias or None)
        self.log.info("%s", "\n".join(lines_of(found)))
        value: dict[str, Any] = cut_to_fit(found.to_json())
        return value
