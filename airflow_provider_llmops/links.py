"""Buttons on a task's page: one click from a task to what it has made.

Airflow asks a link for its address when the task ends. What is known before is pushed at once, so that it can be looked at
while the task waits. A button without an address is not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import RuntimeTaskInstanceProtocol, TaskInstanceKey

__all__ = [
    "DataDocsLink",
    "MlflowRunLink",
    "ModelCardLink",
    "ModelVersionLink",
    "PageLink",
    "PipelineRunLink",
    "ProfileLink",
    "PushedLink",
    "ReportLink",
    "ReviewSheetLink",
    "ServiceLink",
    "TrendLink",
]


class PushedLink(BaseOperatorLink):
    """A link whose address the task pushes to XCom; empty if it did not get that far."""

    key: ClassVar[str]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address that the task pushed."""
        from airflow.sdk.execution_time.xcom import XCom

        return XCom.get_value(ti_key=ti_key, key=self.key) or ""

    def push(self, ti: RuntimeTaskInstanceProtocol, url: str) -> None:
        """Make the address known, also while the task goes on.

        :param ti: the task
        :param url: the address; nothing is pushed if it is empty
        """
        if url:
            for key in (self.key, self.xcom_key):
                ti.xcom_push(key=key, value=url)


class PageLink(PushedLink):
    """A page among the artifacts of the task."""

    artifact: ClassVar[str]
    file: ClassVar[str] = ""


class PipelineRunLink(PushedLink):
    """The run's page in the web interface of Kubeflow Pipelines; none on the local backend."""

    name = "Pipeline run"
    key = "run_url"


class DataDocsLink(PageLink):
    """What Great Expectations says of each column of the data."""

    name = "Data docs"
    key = "data_docs_url"
    artifact = "data_docs"


class ProfileLink(PageLink):
    """What is in the data, at a glance."""

    name = "Profile"
    key = "profile_url"
    artifact = "profile"


class ReportLink(PageLink):
    """The evaluation's page, with answers side by side."""

    name = "Report"
    key = "report_url"
    artifact = "report"


class TrendLink(PageLink):
    """What evaluations have reached, partition by partition."""

    name = "Trend"
    key = "trend_url"
    artifact = "trend"


class ReviewSheetLink(PageLink):
    """The page on which people judge answers."""

    name = "Review sheet"
    key = "review_sheet_url"
    artifact = "sheet"


class ModelCardLink(PageLink):
    """The model card: what the model was made from, and how."""

    name = "Model card"
    key = "model_card_url"
    artifact = "model"
    file = "/README.md"


class MlflowRunLink(PushedLink):
    """The run in MLflow: curves, parameters, files."""

    name = "MLflow run"
    key = "mlflow_run_url"


class ModelVersionLink(PushedLink):
    """The registered model version in MLflow."""

    name = "Model version in MLflow"
    key = "model_version_url"


class ServiceLink(PushedLink):
    """The models that the service answers for, as its OpenAI API lists them."""

    name = "Service"
    key = "models_url"
