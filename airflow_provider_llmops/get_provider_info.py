"""What Airflow is told about this provider. Imports next to nothing: Airflow calls it at every start."""

from __future__ import annotations

from typing import Any

from airflow_provider_llmops.connections import (
    ENDPOINT_FIELDS,
    KUBEFLOW_FIELDS,
    LOCAL_FIELDS,
    PROMETHEUS_FIELDS,
    RUNS_FIELDS,
    SERVICES_FIELDS,
    SIGNING_FIELDS,
)


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
                "integration-name": "Kubeflow Trainer",
                "external-doc-url": "https://www.kubeflow.org/docs/components/trainer/",
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
            {
                "integration-name": "Prometheus",
                "external-doc-url": "https://prometheus.io/docs/",
                "tags": ["software"],
            },
            {
                "integration-name": "OpenAI-compatible endpoints",
                "external-doc-url": "https://platform.openai.com/docs/api-reference/chat",
                "tags": ["service"],
            },
            {
                "integration-name": "Amazon S3",
                "external-doc-url": "https://docs.aws.amazon.com/s3/",
                "tags": ["service"],
            },
            {
                "integration-name": "OpenSSF Model Signing",
                "external-doc-url": "https://github.com/sigstore/model-transparency",
                "tags": ["software"],
            },
        ],
        "operators": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": [
                    "airflow_provider_llmops.operators.kubeflow",
                    "airflow_provider_llmops.operators.joined",
                    "airflow_provider_llmops.operators.pipeline_run",
                    "airflow_provider_llmops.operators.component",
                    "airflow_provider_llmops.operators.data",
                    "airflow_provider_llmops.operators.profiling",
                    "airflow_provider_llmops.operators.versions",
                    "airflow_provider_llmops.operators.training",
                    "airflow_provider_llmops.operators.evaluation",
                    "airflow_provider_llmops.operators.evaluate_service",
                    "airflow_provider_llmops.operators.explaining",
                    "airflow_provider_llmops.operators.benchmarks",
                    "airflow_provider_llmops.operators.history",
                    "airflow_provider_llmops.operators.publishing",
                    "airflow_provider_llmops.operators.human",
                    "airflow_provider_llmops.operators.safety",
                    "airflow_provider_llmops.operators.judged",
                ],
            },
            {
                "integration-name": "Kubeflow Trainer",
                "python-modules": ["airflow_provider_llmops.operators.train_job"],
            },
            {
                "integration-name": "MLflow",
                "python-modules": [
                    "airflow_provider_llmops.operators.lineage",
                    "airflow_provider_llmops.operators.registry",
                    "airflow_provider_llmops.operators.spending",
                ],
            },
            {
                "integration-name": "KServe",
                "python-modules": [
                    "airflow_provider_llmops.operators.serving",
                    "airflow_provider_llmops.operators.canary",
                    "airflow_provider_llmops.operators.inference",
                    "airflow_provider_llmops.operators.promote",
                    "airflow_provider_llmops.operators.rollback",
                    "airflow_provider_llmops.operators.delete_service",
                ],
            },
        ],
        "sensors": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": ["airflow_provider_llmops.sensors.pipeline_run"],
            },
            {
                "integration-name": "Kubeflow Trainer",
                "python-modules": ["airflow_provider_llmops.sensors.train_job"],
            },
            {
                "integration-name": "KServe",
                "python-modules": [
                    "airflow_provider_llmops.sensors.service",
                    "airflow_provider_llmops.sensors.service_level",
                ],
            },
        ],
        "hooks": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": ["airflow_provider_llmops.hooks.kubeflow"],
            },
            {
                "integration-name": "Kubeflow Trainer",
                "python-modules": ["airflow_provider_llmops.hooks.trainer"],
            },
            {"integration-name": "KServe", "python-modules": ["airflow_provider_llmops.hooks.kserve"]},
            {"integration-name": "MLflow", "python-modules": ["airflow_provider_llmops.hooks.mlflow"]},
            {
                "integration-name": "Prometheus",
                "python-modules": ["airflow_provider_llmops.hooks.prometheus"],
            },
            {
                "integration-name": "OpenAI-compatible endpoints",
                "python-modules": ["airflow_provider_llmops.hooks.openai_endpoint"],
            },
            {
                "integration-name": "OpenSSF Model Signing",
                "python-modules": ["airflow_provider_llmops.hooks.signing"],
            },
            {"integration-name": "Amazon S3", "python-modules": ["airflow_provider_llmops.hooks.storage"]},
        ],
        "triggers": [
            {
                "integration-name": "Kubeflow Pipelines",
                "python-modules": ["airflow_provider_llmops.triggers.pipeline_run"],
            },
            {
                "integration-name": "Kubeflow Trainer",
                "python-modules": ["airflow_provider_llmops.triggers.train_job"],
            },
            {
                "integration-name": "KServe",
                "python-modules": [
                    "airflow_provider_llmops.triggers.service",
                    "airflow_provider_llmops.triggers.service_level",
                    "airflow_provider_llmops.triggers.canary",
                ],
            },
        ],
        "asset-uris": [{"schemes": ["llmops"], "handler": "airflow_provider_llmops.assets.sanitize_uri"}],
        "notifications": [
            "airflow_provider_llmops.notifications.decision.DecisionNotifier",
            "airflow_provider_llmops.notifications.rollback.RollbackNotifier",
        ],
        "connection-types": [
            {
                "connection-type": "kubeflow",
                "hook-class-name": "airflow_provider_llmops.hooks.kubeflow.KubeflowPipelinesHook",
                "hook-name": "Kubeflow Pipelines",
                "ui-field-behaviour": {
                    "hidden-fields": ["port", "schema", "login", "extra"],
                    "relabeling": {
                        "host": "API server; empty for this machine",
                        "password": "Bearer token, or cookie as name=value",
                    },
                    "placeholders": {
                        "host": "http://ml-pipeline.kubeflow:8888",
                        "python": "/opt/llmops/.venv/data/bin/python",
                    },
                },
                "conn-fields": {**KUBEFLOW_FIELDS, **LOCAL_FIELDS, **RUNS_FIELDS},
            },
            {
                "connection-type": "kserve",
                "hook-class-name": "airflow_provider_llmops.hooks.kserve.KServeHook",
                "hook-name": "KServe",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "schema", "login", "extra"],
                    "relabeling": {"password": "API key of services"},
                    "placeholders": {"python": "/opt/llmops/.venv/data/bin/python"},
                },
                "conn-fields": {**LOCAL_FIELDS, **SERVICES_FIELDS},
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
            {
                "connection-type": "prometheus",
                "hook-class-name": "airflow_provider_llmops.hooks.prometheus.PrometheusHook",
                "hook-name": "Prometheus",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {
                        "host": "Server",
                        "login": "User",
                        "password": "Password, or token when there is no user",
                    },
                    "placeholders": {"host": "http://prometheus.monitoring:9090"},
                },
                "conn-fields": PROMETHEUS_FIELDS,
            },
            {
                "connection-type": "openai_endpoint",
                "hook-class-name": "airflow_provider_llmops.hooks.openai_endpoint.OpenAIEndpointHook",
                "hook-name": "OpenAI-compatible endpoint",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "schema", "extra"],
                    "relabeling": {"host": "Base URL", "password": "API key"},
                    "placeholders": {"host": "https://api.example.com/v1"},
                },
                "conn-fields": ENDPOINT_FIELDS,
            },
            {
                "connection-type": "model_signing",
                "hook-class-name": "airflow_provider_llmops.hooks.signing.SigningHook",
                "hook-name": "Model signing",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "schema", "login", "extra"],
                    "relabeling": {"password": "Private key in PEM; empty where signatures are only checked"},
                    "placeholders": {"key_file": "/etc/llmops/signing-key.pem"},
                },
                "conn-fields": SIGNING_FIELDS,
            },
        ],
        "config": {
            "llmops": {
                "description": "What whoever runs Airflow allows to those who write and trigger DAGs, and where tasks wait.",
                "options": {
                    "allowed_code": {
                        "description": "Arguments of components that choose code, such as ``trust_remote_code``, are refused unless "
                        "they are named here, separated by commas: ``trust_remote_code``, ``use_kernels``, a repository "
                        "of kernels or its organisation, a module and those below it. Where the component runs, "
                        "``LLMOPS_ALLOWED_CODE`` has to name them as well; the local backend sets it.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "trust_remote_code, kernels-community",
                        "default": "",
                    },
                    "gpu_pool": {
                        "description": "Pool of the tasks that train a model or have it answer, in the example DAGs, recipes and groups. It has to "
                        "exist, and has to count deferred tasks.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "gpu",
                        "default": "default_pool",
                    },
                    "price_per_hour": {
                        "description": "What an hour of a step costs, in any currency: ``RunCostOperator`` tells the cost of a run of a DAG by it. "
                        "Empty, which is the default, means that the cost is not known.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "2.5",
                        "default": "",
                    },
                    "specification_hosts": {
                        "description": "Hosts that specifications of components and pipelines are taken from, separated by commas, where "
                        "they are given by address: ``specs.example.com``, ``*.example.com``, ``host:8443``, ``s3://bucket``; "
                        "``none`` for none. Redirects are held to it. Empty, which is the default, means any host.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "specs.example.com, s3://llmops-specs",
                        "default": "",
                    },
                    "watts_per_device": {
                        "description": "What a device draws while a training goes on: ``RunCostOperator`` tells the energy of a run of a DAG by it, "
                        "where steps have not measured it. Empty, which is the default, means that it is not known.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "400",
                        "default": "",
                    },
                },
            },
        },
        "extra-links": [
            "airflow_provider_llmops.links.PipelineRunLink",
            "airflow_provider_llmops.links.ModelVersionLink",
            "airflow_provider_llmops.links.ServiceLink",
            "airflow_provider_llmops.links.DataDocsLink",
            "airflow_provider_llmops.links.ProfileLink",
            "airflow_provider_llmops.links.ReportLink",
            "airflow_provider_llmops.links.ReviewSheetLink",
            "airflow_provider_llmops.links.TrendLink",
            "airflow_provider_llmops.links.ModelCardLink",
            "airflow_provider_llmops.links.MlflowRunLink",
        ],
    }
