"""The one place where the manifest of a service is built.

A manifest is a plain dict, valid against KServe's own schema. A cluster and a laptop read the same one and differ only
in who carries it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MODEL_DIGEST_ANNOTATION = "llmops/model-digest"


def inference_service(
    name: str,
    model_uri: str,
    *,
    namespace: str = "default",
    model_digest: str | None = None,
    args: Mapping[str, Any] | None = None,
    resources: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Build an ``InferenceService`` that serves a Hugging Face model.

    Reference: https://kserve.github.io/website/docs/reference/crd-api#inferenceservice

    :param name: name of the service and of the model that clients ask for; a DNS-1123 label
    :param model_uri: where the model lies; an absolute path becomes a ``file://`` address
    :param namespace: Kubernetes namespace
    :param model_digest: content digest of the model, kept as an annotation
    :param args: arguments of KServe's huggingfaceserver, for example ``{"dtype": "bfloat16", "max_model_len": 2048}``
    :param resources: Kubernetes requests and limits of the predictor
    :param annotations: further annotations
    :param labels: labels
    :raises ConfigurationError: the name is not a DNS-1123 label, or the URI is empty
    """
    for what, value in (("service name", name), ("namespace", namespace)):
        if not isinstance(value, str) or not _DNS_LABEL.fullmatch(value):
            raise ConfigurationError(
                f"Invalid {what} {value!r}: Kubernetes names have 1 to 63 lower-case letters, digits and '-', and begin "
                "and end with a letter or digit."
            )
    if not model_uri:
        raise ConfigurationError(f"Service {name!r} needs the URI of a model.")
    arguments: Sequence[str] = [
        f"--model_name={name}",
        *(f"--{key}={value}" for key, value in (args or {}).items()),
    ]
    noted = {**(annotations or {}), **({MODEL_DIGEST_ANNOTATION: model_digest} if model_digest else {})}
    model: dict[str, Any] = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": f"file://{model_uri}" if model_uri.startswith("/") else model_uri,
        "args": list(arguments),
    }
    if resources:
        model["resources"] = dict(resources)
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if noted:
        metadata["annotations"] = noted
    if labels:
        metadata["labels"] = dict(labels)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {"predictor": {"minReplicas": 1, "model": model}},
    }
