"""Buttons on a task's page that lead to what the task made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class _XComLink(BaseOperatorLink):
    """A link whose address the task pushed to XCom under ``xcom_key``."""

    @property
    def xcom_key(self) -> str:
        raise NotImplementedError

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address; empty while the task has not pushed it."""
        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""


class ModelVersionLink(_XComLink):
    """The registered model version in MLflow."""

    name = "Model version in MLflow"
    xcom_key = "model_version_url"


class ServiceLink(_XComLink):
    """The service's OpenAI-compatible API."""

    name = "Service"
    xcom_key = "service_link"
