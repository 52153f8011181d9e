"""An ``InferenceService`` manifest, as far as one machine can carry it out.

The manifest is written for KServe. What only a cluster can do (replicas, GPUs, node selection) is ignored here and
reported as ignored; what would change the answers and is not understood is an error. Standard library only: the
controller imports this on every call.

Schema: https://kserve.github.io/website/docs/reference/crd-api
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops_components.errors import SettingError, check_known
from llmops_components.models.directory import check_model_directory
from llmops_components.serving.access.settings import VLLM_KEY_VARIABLE, read_access_file
from llmops_components.serving.http.names import hosts_in, origins_in
from llmops_components.serving.local.loader_variables import why_refused
from llmops_components.uris import local_path

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# Arguments of KServe's huggingfaceserver (vLLM's names included) that the local predictor carries out, by the name that
# it uses itself. The last four are ours; huggingfaceserver ignores arguments that it does not know.
PREDICTOR_ARGUMENTS = {
    "access_file": "access_file",
    "model_name": "model_name",
    "dtype": "dtype",
    "max_length": "max_model_len",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "allowed_origins": "allowed_origins",
    "allowed_hosts": "allowed_hosts",
    "max_queue_length": "max_queue_length",
    "request_timeout_seconds": "request_timeout_seconds",
    "max_batch_total_tokens": "max_batch_total_tokens",
    "engine": "engine",
}

# How the values of those are read that are names.
NAMES_READ = {"allowed_hosts": hosts_in, "allowed_origins": origins_in}

# Arguments that say how a GPU server does its work, or what it logs, and do not change what it answers.
IGNORED_ARGUMENTS = {
    "backend",
    "block_size",
    "disable_log_requests",
    "disable_log_stats",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "max_log_len",
    "max_num_batched_tokens",
    "pipeline_parallel_size",
    "swap_space",
    "tensor_parallel_size",
}

IGNORED_PREDICTOR_FIELDS = {
    "affinity",
    "annotations",
    "autoScaling",
    "automountServiceAccountToken",
    "batcher",
    "canaryTrafficPercent",
    "containerConcurrency",
    "deploymentStrategy",
    "imagePullSecrets",
    "labels",
    "maxReplicas",
    "minReplicas",
    "nodeSelector",
    "priorityClassName",
    "runtimeClassName",
    "scaleMetric",
    "scaleMetricType",
    "scaleTarget",
    "securityContext",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
}

# Without these the service would be another than the one that was asked for.
REFUSED_PREDICTOR_FIELDS = {
    "logger": "requests and answers are sent to no address. Leave logger out here",
    "storageUris": "the local predictor serves one model without lora_adapters. Merge the adapter into the model, and serve that",
}

IGNORED_MODEL_FIELDS = {
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "protocolVersion",
    "readinessProbe",
    "resources",
    "runtime",
    "runtimeVersion",
    "securityContext",
    "startupProbe",
}


@dataclass(frozen=True)
class ServiceSpec:
    """What the local predictor needs to know of a manifest.

    Args:
        name: Name of the service.
        namespace: Namespace of the service.
        model_dir: Directory of the model.
        arguments: Settings of the predictor, by its own argument names.
        access_file: File that says who may ask the service, which its gateway reads.
        env: Environment variables of the predictor.
        ignored: Fields and arguments of the manifest that have no meaning on one machine.
    """

    name: str
    namespace: str
    model_dir: Path
    arguments: dict[str, str]
    env: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    access_file: Path | None = None


def check_name(name: str, what: str = "service name") -> str:
    """Return the name if it is a DNS-1123 label, and so safe as a directory name; raise :class:`SettingError` else.

    Args:
        name: The name.
        what: What the name is of, for the message.
    """
    if not isinstance(name, str) or not _DNS_LABEL.fullmatch(name):
        raise SettingError(
            f"Invalid {what} {name!r}: Kubernetes names have 1 to 63 lower-case letters, digits and '-', and begin and "
            "end with a letter or digit."
        )
    return name


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Digest of what a manifest says, independent of the order of its keys.

    Args:
        manifest: The manifest.
    """
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def read_manifest(manifest: dict[str, Any]) -> ServiceSpec:
    """Read a manifest; every problem is a :class:`SettingError` or :class:`ModelError` that names the field.

    Args:
        manifest: A ``serving.kserve.io/v1beta1`` ``InferenceService``.
    """
    kind = f"{manifest.get('apiVersion')} {manifest.get('kind')}"
    if kind != "serving.kserve.io/v1beta1 InferenceService":
        raise SettingError(
            f"Cannot serve a manifest of kind {kind!r} on this machine: the local predictor reads "
            "'serving.kserve.io/v1beta1 InferenceService' only. Other kinds need a cluster."
        )
    check_known(manifest, ("apiVersion", "kind", "metadata", "spec", "status"), "manifest field")
    metadata, spec = _mapping(manifest, "metadata"), _mapping(manifest, "spec")
    check_known(
        spec, ("predictor",), "field in spec (the local predictor has no transformer and no explainer)"
    )
    predictor = _mapping(spec, "predictor", "spec.")
    for name, why in REFUSED_PREDICTOR_FIELDS.items():
        if name in predictor:
            raise SettingError(
                f"spec.predictor.{name} has no meaning on this machine: {why}, or use a cluster."
            )
    check_known(predictor, {"model", "timeout"} | IGNORED_PREDICTOR_FIELDS, "field in spec.predictor")
    model = _mapping(predictor, "model", "spec.predictor.")
    check_known(
        model,
        {"modelFormat", "storageUri", "args", "env"} | IGNORED_MODEL_FIELDS,
        "field in spec.predictor.model",
    )
    model_format = _mapping(model, "modelFormat", "spec.predictor.model.").get("name")
    if model_format != "huggingface":
        raise SettingError(
            f"Cannot serve modelFormat {model_format!r} (spec.predictor.model.modelFormat.name) on this machine: the "
            "local predictor serves 'huggingface' only."
        )

    name = check_name(metadata.get("name", ""))
    ignored = [
        f"spec.predictor.{key}"
        for key, value in predictor.items()
        if key in IGNORED_PREDICTOR_FIELDS and (key, value) != ("minReplicas", 1)  # one is what runs here
    ]
    ignored += [f"spec.predictor.model.{key}" for key in model if key in IGNORED_MODEL_FIELDS]
    given = _arguments(model.get("args", []))
    ignored += [f"--{key}" for key in given if key in IGNORED_ARGUMENTS]
    arguments = {"model_name": name}
    if "timeout" in predictor:
        arguments["request_timeout_seconds"] = _check_seconds(predictor["timeout"], "spec.predictor.timeout")
    arguments |= {
        PREDICTOR_ARGUMENTS[key]: value for key, value in given.items() if key in PREDICTOR_ARGUMENTS
    }
    access_file = None
    if path := arguments.pop("access_file", None):
        access_file = Path(path)
        if not access_file.is_absolute():
            raise SettingError(f"spec.predictor.model.args: --access_file={path} is no absolute path.")
        read_access_file(access_file)
    return ServiceSpec(
        name=name,
        namespace=check_name(metadata.get("namespace", "default"), "namespace"),
        model_dir=check_model_directory(_local_path(model.get("storageUri"))),
        arguments=arguments,
        env=_environment(model.get("env", [])),
        ignored=tuple(ignored),
        access_file=access_file,
    )


def _mapping(parent: dict[str, Any], key: str, where: str = "") -> dict[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise SettingError(
            f"The manifest's {where}{key} is {'missing' if value is None else 'not a mapping'}."
        )
    return value


def _local_path(uri: Any) -> Path:
    try:
        path = local_path(uri, "storageUri")
    except (SettingError, TypeError):
        raise SettingError(
            f"Cannot read storageUri {uri!r} (spec.predictor.model.storageUri) on this machine: give file:///dir or an "
            "absolute path. Other schemes need a cluster, or the model imported to disk first."
        ) from None
    if not path.is_absolute():
        raise SettingError(
            f"storageUri {uri!r} is a relative path; a service outlives its caller: give an absolute one."
        )
    return path


def _arguments(args: Any) -> dict[str, str]:
    """``["--a=1", "--b", "2", "--flag"]`` as ``{"a": "1", "b": "2", "flag": ""}``, checked."""
    if not isinstance(args, list) or not all(isinstance(item, str) for item in args):
        raise SettingError(f"spec.predictor.model.args must be a list of strings, not {args!r}.")
    found: dict[str, str] = {}
    last = None
    for item in args:
        if item.startswith("--"):
            key, _, value = item[2:].partition("=")
            last = key.replace("-", "_")
            found[last] = value
        elif last is not None and not found[last]:
            found[last] = item
        else:
            raise SettingError(
                f"spec.predictor.model.args: {item!r} belongs to no argument; write --name=value."
            )
    check_known(
        found,
        set(PREDICTOR_ARGUMENTS) | IGNORED_ARGUMENTS,
        "argument in spec.predictor.model.args, for the local predictor",
    )
    for key, value in found.items():
        if key in PREDICTOR_ARGUMENTS and not value:
            raise SettingError(f"spec.predictor.model.args: --{key} needs a value; write --{key}=value.")
        if read := NAMES_READ.get(key):
            _check_names(key, value, read)
        if key == "request_timeout_seconds":
            _check_seconds(value, f"spec.predictor.model.args: --{key}")
    return found


def _check_seconds(value: Any, where: str) -> str:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf or isinstance(value, bool):
        raise SettingError(f"{where} is {value!r}: it takes a number of seconds above 0.")
    return str(value)


def _check_names(key: str, value: str, read: Callable[[str], list[str]]) -> None:
    try:
        read(value)
    except ValueError as error:
        raise SettingError(
            f"{error}. It stands in --{key} of spec.predictor.model.args, which takes a JSON list, or names with commas between them."
        ) from None


def _environment(env: Any) -> dict[str, str]:
    if not isinstance(env, list) or not all(isinstance(item, dict) for item in env):
        raise SettingError("spec.predictor.model.env must be a list of objects with name and value.")
    found = {}
    for item in env:
        name = item.get("name")
        if name and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name)):
            raise SettingError(
                f"spec.predictor.model.env: {name!r:.80} is no name of a variable: letters, digits and '_'."
            )
        if name and (why := why_refused(name)):
            raise SettingError(
                f"spec.predictor.model.env: {name} may not be set for a service on this machine: {why}. Leave it out, or set it in "
                "the environment of whoever starts the service."
            )
        if "\0" in str(item.get("value")):
            raise SettingError(f"spec.predictor.model.env: the value of {name} has a NUL character.")
        if not name or not isinstance(item.get("value"), str):
            raise SettingError(
                f"spec.predictor.model.env: {name or item!r} needs a plain string value; valueFrom refers to objects of a "
                "cluster. Set the variable in the environment of the caller instead."
            )
        if name == VLLM_KEY_VARIABLE:
            raise SettingError(
                f"spec.predictor.model.env: {name} would put an API key into the manifest. Put it into an access file and give its "
                "path with --access_file=PATH in spec.predictor.model.args."
            )
        found[name] = item["value"]
    return found
