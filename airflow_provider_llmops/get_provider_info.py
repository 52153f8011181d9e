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
_TEXT = {"type": ["string", "null"]}
_KUBEFLOW_FIELDS = {
    "namespace": {
        "label": "Namespace",
        "description": "Kubeflow: the profile's namespace, where the server is multi-user.",
        "schema": _TEXT,
    },
    "pipeline_root": {
        "label": "Pipeline root",
        "description": "Kubeflow: where steps write artifacts: s3://, gs://, minio:// or file:///. Default: "
        "minio://mlpipeline/v2/artifacts",
        "schema": _TEXT,
    },
    "storage_conn_id": {
        "label": "Storage connection",
        "description": "Kubeflow: Airflow connection with which results are read from the pipeline root.",
        "schema": _TEXT,
    },
    "experiment": {
        "label": "Experiment",
        "description": "Kubeflow: experiment that runs belong to; made when it is missing.",
        "schema": _TEXT,
    },
    "service_account": {
        "label": "Service account",
        "description": "Kubeflow: Kubernetes service account of the steps.",
        "schema": _TEXT,
    },
    "image": {
        "label": "Component image",
        "description": "Kubeflow: image of this provider's components, instead of the one they were compiled with.",
        "schema": _TEXT,
    },
    "auth": {
        "label": "Authentication",
        "description": "Kubeflow: token and cookie are in the password; token_file is a projected service-account token. "
        "Default: token_file if one is named, token if there is a password, else none.",
        "schema": {"type": ["string", "null"], "enum": ["none", "token", "token_file", "cookie", None]},
    },
    "token_file": {
        "label": "Token file",
        "description": "Kubeflow: read again when it changes. Default: /var/run/secrets/kubeflow/pipelines/token",
        "schema": _TEXT,
    },
    "verify_ssl": {
        "label": "Verify TLS",
        "description": "Kubeflow: whether the server's certificate is verified.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "ca_file": {
        "label": "CA file",
        "description": "Kubeflow: bundle of certificates to verify the server with.",
        "schema": _TEXT,
    },
    "ui_url": {
        "label": "Web interface",
        "description": "Kubeflow: address for links to runs, where it is not the host.",
        "schema": _TEXT,
    },
    "kubernetes_conn_id": {
        "label": "Kubernetes connection",
        "description": "Kubeflow: Airflow connection with which pods say why a step failed, or why it waits.",
        "schema": _TEXT,
    },
    "upload_versions": {
        "label": "Upload versions",
        "description": "Kubeflow: upload each specification once as a pipeline version, instead of sending it with each "
        "run.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "timeout": {
        "label": "Time-out",
        "description": "Kubeflow: seconds to wait for one answer. Default: 30",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "patience": {
        "label": "Patience",
        "description": "Kubeflow: seconds to go on trying while the server does not answer. Default: 900",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
}
_RUNS_FIELDS = {
    "slots": {
        "label": "Runs at a time",
        "description": "Local only: further runs wait. Each run uses every core. Default: 1",
        "schema": {"type": ["integer", "null"], "minimum": 1},
    },
    "retention": {
        "label": "Retention in days",
        "description": "Local only: runs, checkpoints and environments that nobody has used for so long are removed when a run "
        "ends, except what a service, a registered model or a run refers to. Default: everything is kept.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
}


_SERVICES_FIELDS = {
    "kubernetes_conn_id": {
        "label": "Kubernetes connection",
        "description": "Cluster: Airflow connection of type kubernetes to a cluster with KServe; services run there.",
        "schema": _TEXT,
    },
    "access_file": {
        "label": "Access file",
        "description": "Local only: absolute path of the file that says who may ask the services that are deployed here: API keys, "
        "quotas, TLS certificate. Default: everybody on this machine",
        "schema": _TEXT,
    },
    "api_key_file": {
        "label": "API key file",
        "description": "File with the API key that services are asked with, instead of the password.",
        "schema": _TEXT,
    },
    "verify_ssl": {
        "label": "Verify TLS",
        "description": "Whether the certificate of a service is verified.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "ca_file": {
        "label": "CA file",
        "description": "Bundle of certificates to verify services with.",
        "schema": _TEXT,
    },
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
                    "airflow_provider_llmops.operators.training",
                    "airflow_provider_llmops.operators.evaluation",
                ],
            },
            {
                "integration-name": "Kubeflow Trainer",
                "python-modules": ["airflow_provider_llmops.operators.train_job"],
            },
            {"integration-name": "MLflow", "python-modules": ["airflow_provider_llmops.operators.registry"]},
            {"integration-name": "KServe", "python-modules": ["airflow_provider_llmops.operators.serving"]},
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
            {"integration-name": "KServe", "python-modules": ["airflow_provider_llmops.sensors.service"]},
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
            {"integration-name": "KServe", "python-modules": ["airflow_provider_llmops.triggers.service"]},
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
                "conn-fields": {**_KUBEFLOW_FIELDS, **_LOCAL_FIELDS, **_RUNS_FIELDS},
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
                "conn-fields": {**_LOCAL_FIELDS, **_SERVICES_FIELDS},
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
        "config": {
            "llmops": {
                "description": "What whoever runs Airflow allows to those who write and trigger DAGs.",
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
                    "specification_hosts": {
                        "description": "Hosts that specifications of components and pipelines are taken from, separated by commas, where "
                        "they are given by address: ``specs.example.com``, ``*.example.com``, ``host:8443``, ``s3://bucket``; "
                        "``none`` for none. Redirects are held to it. Empty, which is the default, means any host.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "specs.example.com, s3://llmops-specs",
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
            "airflow_provider_llmops.links.ReportLink",
            "airflow_provider_llmops.links.ModelCardLink",
            "airflow_provider_llmops.links.MlflowRunLink",
        ],
    }
