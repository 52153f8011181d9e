"""The one place where the manifest of a service is built.

It is a plain dict, valid against the schema of KServe. A cluster and a laptop read the same one and differ only in who
carries it out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from airflow_provider_llmops.backends.kubernetes.manifests import DNS_LABEL, DNS_SUBDOMAIN, variables_from
from airflow_provider_llmops.backends.serving.adapters import adapters_of
from airflow_provider_llmops.backends.serving.overrides import overridden
from airflow_provider_llmops.backends.serving.request_log import logger_of
from airflow_provider_llmops.backends.serving.scaling import scale_of
from airflow_provider_llmops.exceptions import ConfigurationError, shown_value
from airflow_provider_llmops.redaction.signs import is_secret_name
from airflow_provider_llmops.specs.allowed_code import argument_name, is_short_for, refuse_switches
from airflow_provider_llmops.specs.placeholders import refuse_expansions
from airflow_provider_llmops.uris import file_address, scheme_of, split_address

MODEL_DIGEST_ANNOTATION = "llmops/model-digest"
GPU = "nvidia.com/gpu"
# Arguments of KServe's huggingfaceserver, and of vLLM in it, that choose code.
_CODE_OF_SERVERS = {
    "config": "names a file with further arguments",
    "ec_connector_module_path": "names a module to import",
    "hf_overrides": "may name code of the model",
    "inductor_passes": "names functions to import",
    "io_processor_plugin": "names a plugin to load",
    "kv_connector_module_path": "names a module to import",
    "log_config_file": "may name what to call",
    "logits_processors": "names classes to import",
    "middleware": "names functions to import",
    "reasoning_parser_plugin": "names a file to import",
    "scheduler_cls": "names a class to import",
    "tool_parser_plugin": "names a file to import",
    "trust_remote_code": "runs code that the model brings",
    "worker_cls": "names a class to import",
    "worker_extension_cls": "names a class to import",
}
# Those that take the name of a class as well as a word.
_CODE_WITH_DOTS = {
    "backend": "names a function to import",
    "distributed_executor_backend": "names a class to import",
}
_PLAIN = ("reasoning_parser",)  # a word that vLLM knows, and the beginning of reasoning_parser_plugin


def inference_service(
    name: str,
    model_uri: str,
    *,
    namespace: str = "default",
    model_digest: str | None = None,
    args: Mapping[str, Any] | None = None,
    resources: Mapping[str, Any] | None = None,
    gpus: int | str | None = None,
    secrets_as_env: Mapping[str, Mapping[str, str]] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    runtime: str | None = None,
    service_account: str | None = None,
    min_replicas: int | str = 1,
    max_replicas: int | str | None = None,
    autoscaling: Mapping[str, Any] | None = None,
    logger: Mapping[str, Any] | None = None,
    lora_adapters: Mapping[str, str] | None = None,
    spec_overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build an ``InferenceService`` that serves a Hugging Face model.

    Reference: https://kserve.github.io/website/docs/reference/crd-api#inferenceservice

    :param name: name of the service and of the model that clients ask for; a DNS-1123 label
    :param model_uri: where the model lies; an absolute path becomes a ``file://`` address
    :param namespace: Kubernetes namespace
    :param model_digest: content digest of the model, kept as an annotation
    :param args: arguments of KServe's huggingfaceserver, for example ``{"dtype": "bfloat16", "max_model_len": 2048}``
    :param resources: Kubernetes requests and limits of the predictor
    :param gpus: how many GPUs of NVIDIA a pod has; ``None`` for what ``resources`` say
    :param secrets_as_env: environment variables of the predictor from Kubernetes secrets, on a cluster only: by secret, the
        variable for each of its keys; ``{"team-keys": {"api-key": "VLLM_API_KEY"}}`` is how vLLM's server takes an API key
    :param annotations: further annotations
    :param labels: labels
    :param runtime: name of the serving runtime that runs the model; the cluster chooses one by the model's format when left out
    :param service_account: account of the pods, whose secrets fetch the model from a bucket
    :param min_replicas: fewest pods
    :param max_replicas: most pods, among which a cluster chooses by load; ``None`` for ``min_replicas``
    :param autoscaling: by what that is chosen: see :mod:`.scaling`
    :param logger: where requests and answers are sent: see :mod:`.request_log`
    :param lora_adapters: where adapters of the model lie, by the names that clients ask for: see :mod:`.adapters`
    :param spec_overrides: further fields of the service's ``spec``, merged into it as Kubernetes merges a pod's: see
        :mod:`.overrides`
    :raises ConfigurationError: the name is not a DNS-1123 label, the URI is empty, or an argument would be changed on its way,
        chooses code that is not allowed, or is none that Kubernetes takes
    """
    for what, value in (("service name", name), ("namespace", namespace)):
        if not isinstance(value, str) or not DNS_LABEL.fullmatch(value):
            raise ConfigurationError(
                f"Invalid {what} {value!r}: Kubernetes names have 1 to 63 lower-case letters, digits and '-', and begin "
                "and end with a letter or digit."
            )
    if not model_uri:
        raise ConfigurationError(f"Service {name!r} needs the URI of a model.")
    refuse_switches(
        f"args of service {name!r}",
        args or {},
        _CODE_OF_SERVERS,
        by_dotted_name=_CODE_WITH_DOTS,
        others=_PLAIN,
    )
    if any(is_short_for(argument_name(argument), "api_key") for argument in args or {}):
        raise ConfigurationError(
            f"args of service {name!r} have an API key in them, which everybody could read who may see the service. On this machine give "
            "the path of an access file as access_file; on a cluster name a secret in secrets_as_env."
        )
    arguments: Sequence[str] = [
        f"--model_name={name}",
        *(f"--{key}={value}" for key, value in (args or {}).items()),
    ]
    # KServe hands addresses to the container that fetches what is there as arguments, too.
    addresses = [("model_uri", str(model_uri))]
    adapters = None
    if lora_adapters is not None:
        adapters = adapters_of(name, model_uri, lora_adapters, args or {})
        addresses += [("lora_adapters", str(uri)) for uri in lora_adapters.values()]
    for what, uri in addresses:
        _refuse_secrets(f"{what} of service {name!r}", uri)
    for what, text in (*addresses, *(("args", argument) for argument in arguments)):
        refuse_expansions(f"{what} of service {name!r}", text)
        if "{{" in text:
            raise ConfigurationError(
                f"{what} of service {name!r} has '{{{{' in them, which KServe takes for a template: {shown_value(text)}. Put text "
                "that must have it into the model's files."
            )
    noted = {**(annotations or {}), **({MODEL_DIGEST_ANNOTATION: model_digest} if model_digest else {})}
    model: dict[str, Any] = {"modelFormat": {"name": "huggingface"}}
    predictor: dict[str, Any] = {**scale_of(name, min_replicas, max_replicas, autoscaling), "model": model}
    if adapters is None:
        model["storageUri"] = file_address(model_uri) if model_uri.startswith("/") else model_uri
    else:
        predictor["storageUris"] = adapters.storage
    model["args"] = [*arguments, *(adapters.arguments if adapters is not None else ())]
    if resources := _with_gpus(name, resources or {}, gpus):
        model["resources"] = resources
    if logger is not None:
        predictor["logger"] = logger_of(name, logger)
    if secrets_as_env:
        model["env"] = variables_from("secretKeyRef", secrets_as_env)
    for field, kind, given in (
        ("runtime", model, runtime),
        ("serviceAccountName", predictor, service_account),
    ):
        if given is not None:
            kind[field] = _checked_name(field, name, given)
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if noted:
        metadata["annotations"] = noted
    if labels:
        metadata["labels"] = dict(labels)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": overridden({"predictor": predictor}, spec_overrides or {}),
    }


def _refuse_secrets(what: str, uri: str) -> None:
    if not scheme_of(uri):
        return
    if secret := next((key for key, _ in parse_qsl(split_address(uri).query) if is_secret_name(key)), None):
        raise ConfigurationError(
            f"{what} has {secret} in it, which everybody could read who may see the service. Leave it out: what may be fetched is the service "
            "account's to know."
        )


def without_gpus(resources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Requests and limits that say nothing of GPUs, for a service that says how many it has.

    :param resources: Kubernetes requests and limits
    """
    return {
        kind: {what: amount for what, amount in amounts.items() if what != GPU}
        if isinstance(amounts, Mapping)
        else amounts
        for kind, amounts in (resources or {}).items()
    }


def _with_gpus(name: str, resources: Mapping[str, Any], gpus: Any) -> dict[str, Any]:
    if gpus is None:
        return dict(resources)
    number = int(gpus) if isinstance(gpus, str) and gpus.isdecimal() else gpus  # a template gives text
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ConfigurationError(
            f"gpus of service {name!r} must be a whole number from 0 on, got {shown_value(gpus, 60)}."
        )
    limits = dict(resources.get("limits") or {})
    if GPU in {**limits, **(resources.get("requests") or {})}:
        raise ConfigurationError(
            f"gpus and the resources of service {name!r} both say how many GPUs it has. Leave {GPU} out of predictor_resources."
        )
    return {**resources, "limits": {**limits, GPU: str(number)}} if number else dict(resources)


def _checked_name(field: str, service: str, given: Any) -> str:
    if not isinstance(given, str) or not DNS_SUBDOMAIN.fullmatch(given):
        raise ConfigurationError(
            f"{field} of service {service!r} must be the name of an object of Kubernetes: lower-case letters, digits, '-' and '.', got "
            f"{shown_value(given, 60)}."
        )
    return given


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of what a manifest says, independent of the order of its keys; a revision has the one that it was started from.

    :param manifest: the manifest
    """
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
