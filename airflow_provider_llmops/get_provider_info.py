"""What Airflow is told about this provider. Imports nothing: Airflow calls it at every start."""

from __future__ import annotations

from typing import Any

_LOCAL_FIELDS = {
    "python": {
        "label": "Data-plane interpreter",
        "description": "Local only: path of the Python interpreter in whose environment llmops-components is installed.",
        "schema": {"type": ["string", "null"]},
    },
    "root": {
        "label": "Local directory",
        "description": "Local only: where runs and services live. Default: ~/.llmops",
        "schema": {"type": ["string", "null"]},
    },
}
_SLOTS_FIELD = {
    "slots": {
        "label": "Runs at a time",
        "description": "Local only: further runs wait. Each run uses every core. Default: 1",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    }
}


def get_provider_info() -> dict[str, Any]:
    """Provider metadata in the form of ``provider_info.schema.json`` of Airflow."""
    return {
        "package-name": "airflow-provider-llmops",
        "name": "LLMOps",
        "description": "LLM post-training on Kubeflow Pipelines and KServe, or on one machine with no cluster.",
        "integrations": [
            {
                "integration-name": "Kubeflow Pipelines",
                "external-doc-url": "https://www.kubeflow.org/docs/components/pipelines/",
                "tags": ["software"],
            },
            {
                "integration-name": "KServe",
                "external-doc-url": "https://kserve.github.io/website/",
                "tags": ["software"],
            },
            {
                "integration-name": "MLflow",
                "external-doc-url": "https://mlflow.org/docs/latest/",
                "tags": ["software"],
            },
        ],
        "operators": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": [
                    "airflow_provider_llmops.operators.component",
                    "airflow_provider_llmops.operators.data",
                    "airflow_provider_llmops.operators.training",
                    "airflow_provider_llmops.operators.evaluation",
                ],
            },
            {"integration-name": "MLflow", "python-modules": ["airflow_provider_llmops.operators.registry"]},
            {"integration-name": "KServe", "python-modules": ["airflow_provider_llmops.operators.serving"]},
        ],
        "sensors": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": ["airflow_provider_llmops.sensors.pipeline_run"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": ["airflow_provider_llmops.hooks.kubeflow"],
            },
            {"integration-name": "KServe", "python-modules": ["airflow_provider_llmops.hooks.kserve"]},
            {"integration-name": "MLflow", "python-modules": ["airflow_provider_llmops.hooks.mlflow"]},
        ],
        "triggers": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": ["airflow_provider_llmops.triggers.pipeline_run"],
            },
            {"integration-name": "KServe", "python-modules": ["airflow_provider_llmops.triggers.service"]},
        ],
        "connection-types": [
            {
                "connection-type": "kubeflow",
                "hook-class-name": "airflow_provider_llmops.hooks.kubeflow.KubeflowPipelinesHook",
                "hook-name": "Kubeflow Pipelines",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "schema", "login", "password", "extra"],
                    "relabeling": {},
                    "placeholders": {"python": "/opt/llmops/.venv/data/bin/python"},
                },
                "conn-fields": {**_LOCAL_FIELDS, **_SLOTS_FIELD},
            },
            {
                "connection-type": "kserve",
                "hook-class-name": "airflow_provider_llmops.hooks.kserve.KServeHook",
                "hook-name": "KServe",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "schema", "login", "password", "extra"],
                    "relabeling": {},
                    "placeholders": {"python": "/opt/llmops/.venv/data/bin/python"},
                },
                "conn-fields": _LOCAL_FIELDS,
            },
            {
                "connection-type": "mlflow",
                "hook-class-name": "airflow_provider_llmops.hooks.mlflow.MlflowHook",
                "hook-name": "MLflow",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {
                        "host": "Tracking server",
                        "login": "User",
                        "password": "Password, or token when there is no user",
                    },
                    "placeholders": {"host": "https://mlflow.example.com"},
                },
                "conn-fields": {},
            },
        ],
        "extra-links": [
            "airflow_provider_llmops.links.ModelVersionLink",
            "airflow_provider_llmops.links.ServiceLink",
        ],
    }
