"""The fields in the extra of each type of connection: what a form shows of them, and what hooks know by name. Imports nothing."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": ["string", "null"]}
# Of connections without a host: where runs and services are carried out.
LOCAL_FIELDS: dict[str, dict[str, Any]] = {
    "python": {
        "label": "Data-plane interpreter",
        "description": "Local only: path of the Python interpreter in whose environment llmops-components is installed.",
        "schema": _TEXT,
    },
    "root": {
        "label": "Local directory",
        "description": "Local only: where runs and services live. Default: ~/.llmops",
        "schema": _TEXT,
    },
}
# Of a server of Kubeflow Pipelines.
KUBEFLOW_FIELDS: dict[str, dict[str, Any]] = {
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
# Of connections without a host that runs are submitted to.
RUNS_FIELDS: dict[str, dict[str, Any]] = {
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
# Of services.
SERVICES_FIELDS: dict[str, dict[str, Any]] = {
    "kubernetes_conn_id": {
        "label": "Kubernetes connection",
        "description": "Cluster: Airflow connection of type kubernetes to a cluster with KServe; services run there.",
        "schema": _TEXT,
    },
    "kserve_namespace": {
        "label": "KServe's namespace",
        "description": "Cluster: where KServe's controller runs and is configured. Default: kserve",
        "schema": _TEXT,
    },
    "predictor_resources": {
        "label": "Resources of services",
        "description": "Cluster: Kubernetes requests and limits of services whose task gives none, as JSON: "
        '{"limits": {"cpu": "4", "memory": "24Gi", "nvidia.com/gpu": "1"}}',
        "schema": {"type": ["object", "null"]},
    },
    "service_account": {
        "label": "Service account",
        "description": "Cluster: account of the pods of services whose task names none; its secrets fetch models from a bucket.",
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
# Of an endpoint that speaks OpenAI's API.
ENDPOINT_FIELDS: dict[str, dict[str, Any]] = {
    name: SERVICES_FIELDS[name] for name in ("api_key_file", "verify_ssl", "ca_file")
}
# Of a Prometheus.
PROMETHEUS_FIELDS: dict[str, dict[str, Any]] = {
    "verify_ssl": {
        "label": "Verify TLS",
        "description": "Whether the server's certificate is verified.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "ca_file": {
        "label": "CA file",
        "description": "Bundle of certificates to verify the server with.",
        "schema": _TEXT,
    },
}
# Of keys that models are signed with.
SIGNING_FIELDS: dict[str, dict[str, Any]] = {
    "key_password": {
        "label": "Password of the private key",
        "description": "Where the key is encrypted.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "key_file": {
        "label": "File of the private key",
        "description": "Path on the workers, instead of the key itself.",
        "schema": _TEXT,
    },
    "public_key": {
        "label": "Public keys",
        "description": "In PEM, one below the other: whose signatures are accepted. Default: that of the private key.",
        "schema": {"type": ["string", "null"], "format": "multiline"},
    },
}


def names_of_type(fields: dict[str, dict[str, Any]], kind: str) -> frozenset[str]:
    """Names of the fields of one type.

    :param fields: the fields
    :param kind: the type as JSON schema has it, such as ``string``
    """
    return frozenset(name for name, field in fields.items() if kind in field["schema"]["type"])


def form_defaults(fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a form stores with every connection, whatever else is filled in.

    :param fields: its fields
    """
    return {
        name: field["schema"]["default"] for name, field in fields.items() if "default" in field["schema"]
    }
