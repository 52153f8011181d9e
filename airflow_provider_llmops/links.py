"""Buttons on a task's page that lead to what the task made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import RuntimeTaskInstanceProtocol, TaskInstanceKey

RUN_URL = "run_url"


class PipelineRunLink(BaseOperatorLink):
    """The run's page in the web interface of Kubeflow Pipelines; none on the local backend."""

    name = "Pipeline run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address that the task pushed when it had submitted the run."""
        return _pushed(ti_key, RUN_URL)

    def push(self, ti: RuntimeTaskInstanceProtocol, url: str) -> None:
        """Make the address known while the task goes on.

        :param ti: the task that made the run, or waits for it
        :param url: the run's page
        """
        # Airflow fills a link in when the task ends; a run is looked at while it goes on.
        for key in (RUN_URL, self.xcom_key):
            ti.xcom_push(key=key, value=url)


class ModelVersionLink(BaseOperatorLink):
    """The registered model version in MLflow."""

    name = "Model version in MLflow"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address that the task pushed; empty if it did not get that far."""
        return _pushed(ti_key, "model_version_url")


class ServiceLink(BaseOperatorLink):
    """The models that the service answers for, as its OpenAI API lists them."""

    name = "Service"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address that the task pushed; empty if it did not get that far."""
        address = _pushed(ti_key, "url")
        return f"{address}/openai/v1/models" if address else ""


def _pushed(ti_key: TaskInstanceKey, key: str) -> str:
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.get_value(ti_key=ti_key, key=key) or ""
