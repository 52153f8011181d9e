"""Write a step's settings into its executor, as the ``kfp`` and ``kfp-kubernetes`` SDKs compile them.

Image, resources and environment belong to the executor in the pipeline specification; the rest goes to the executor of
the same name in the platform specification. The fields are those of ``pipeline_spec.proto`` and
``kubernetes_executor_config.proto``, in the JSON of protobuf.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.settings.kubernetes import SHARED_MEMORY_PATH, StepSettings, Toleration, quantity


def write_container(container: dict[str, Any], settings: StepSettings) -> None:
    """Write image, resources and environment into an executor's ``PipelineContainerSpec``.

    :param container: the executor's, in place
    :param settings: of the step
    """
    if settings.image is not None:
        container["image"] = settings.image
    resources = container.get("resources", {})
    for resource in ("Cpu", "Memory"):
        for bound in ("Request", "Limit"):
            name = f"{resource.lower()}_{bound.lower()}"
            value = getattr(settings, name)
            if value is not None:
                amount = quantity(name, value)
                # The number is for servers before 2.4, which do not know the text; it counts memory in 10**9 bytes.
                old = f"{resource.lower()}{bound}"
                resources[old] = float(amount / 10**9 if resource == "Memory" else amount)
                resources[f"resource{resource}{bound}"] = str(value)
    _write_accelerator(resources, settings)
    if resources:
        container["resources"] = resources
    else:
        container.pop("resources", None)
    if settings.env:
        _forget_variables(container, "env", "name", settings.env)
        container.setdefault("env", []).extend(
            {"name": name, "value": value} for name, value in settings.env.items()
        )


def check_limits(resources: Mapping[str, Any]) -> None:
    """Refuse a request that is above its limit: one of the two may be the caller's, and the other what was compiled.

    :param resources: of an executor
    :raises ConfigurationError: naming both
    """
    for resource in ("Cpu", "Memory"):
        request, limit = (resources.get(f"resource{resource}{bound}") for bound in ("Request", "Limit"))
        if request and limit and "{{" not in request + limit:
            names = [f"{resource.lower()}_request", f"{resource.lower()}_limit"]
            if quantity(names[0], request) > quantity(names[1], limit):
                raise ConfigurationError(
                    f"{names[0]} {request} is more than {names[1]} {limit}. What was compiled stays unless it is set: set both."
                )


def _write_accelerator(resources: dict[str, Any], settings: StepSettings) -> None:
    if settings.accelerator_count == 0:
        resources.pop("accelerator", None)
        return
    if settings.accelerator_type is None and settings.accelerator_count is None:
        return
    compiled = resources.get("accelerator", {})
    kind = settings.accelerator_type or compiled.get("resourceType") or compiled.get("type")
    if not kind:
        raise ConfigurationError("accelerator_count needs an accelerator_type, such as nvidia.com/gpu.")
    count = str(settings.accelerator_count or compiled.get("resourceCount") or compiled.get("count") or 1)
    accelerator = {"resourceCount": count, "resourceType": kind}
    if "{{" not in count:
        accelerator["count"] = count
    if "{{" not in kind:
        accelerator["type"] = kind
    resources["accelerator"] = accelerator


def write_config(config: dict[str, Any], container: dict[str, Any], settings: StepSettings) -> None:
    """Add everything else to a ``KubernetesExecutorConfig``; what was compiled for the same variable, path or label gives way.

    :param config: the executor's settings on Kubernetes, in place
    :param container: the executor's ``PipelineContainerSpec``, whose variables give way, too
    :param settings: of the step
    """
    _write_variables(config, container, settings)
    _write_volumes(config, settings)
    if settings.node_selector:
        selector = config.setdefault("nodeSelector", {})
        selector.pop("nodeSelectorJson", None)  # would take precedence
        selector.setdefault("labels", {}).update(settings.node_selector)
    for toleration in settings.tolerations:
        document = _toleration(toleration)
        if document not in config.setdefault("tolerations", []):
            config["tolerations"].append(document)
    for name in settings.image_pull_secrets:
        document = _named("secretName", name)
        if document not in config.setdefault("imagePullSecret", []):
            config["imagePullSecret"].append(document)
    if settings.image_pull_policy is not None:
        config["imagePullPolicy"] = settings.image_pull_policy
    for key, values in (("labels", settings.labels), ("annotations", settings.annotations)):
        if values:
            config.setdefault("podMetadata", {}).setdefault(key, {}).update(values)


def _write_variables(config: dict[str, Any], container: dict[str, Any], settings: StepSettings) -> None:
    sources = (
        ("secretAsEnv", "secretName", "secretKey", settings.secrets_as_env),
        ("configMapAsEnv", "configMapName", "configMapKey", settings.config_maps_as_env),
    )
    given = {
        *settings.env,
        *(variable for *_, by_name in sources for keys in by_name.values() for variable in keys.values()),
    }
    _forget_variables(container, "env", "name", given - {*settings.env})
    _forget_variables(config, "fieldPathAsEnv", "name", given)
    for group, _, _, _ in sources:
        for source in config.get(group, []):
            _forget_variables(source, "keyToEnv", "envVar", given)
        _keep(config, group, [source for source in config.get(group, []) if source.get("keyToEnv")])
    for group, name_field, key_field, by_name in sources:
        for name, keys in by_name.items():
            pairs = [{key_field: key, "envVar": variable} for key, variable in keys.items()]
            config.setdefault(group, []).append(
                {**_named(name_field, name), "keyToEnv": pairs, "optional": False}
            )


def _write_volumes(config: dict[str, Any], settings: StepSettings) -> None:
    mounts: list[tuple[str, dict[str, Any]]] = []
    for claim, path in settings.persistent_volume_claims.items():
        named = {"constant": claim, "pvcNameParameter": _constant(claim)}
        mounts.append(("pvcMount", {**named, "mountPath": path}))
    for group, name_field, by_name in (
        ("secretAsVolume", "secretName", settings.secrets_as_volumes),
        ("configMapAsVolume", "configMapName", settings.config_maps_as_volumes),
    ):
        for name, path in by_name.items():
            mounts.append((group, {**_named(name_field, name), "mountPath": path, "optional": False}))
    if settings.shared_memory is not None:
        mount = {"medium": "Memory", "sizeLimit": str(settings.shared_memory), "volumeName": "dshm"}
        mounts.append(("emptyDirMounts", {**mount, "mountPath": SHARED_MEMORY_PATH}))
    paths = {mount["mountPath"].rstrip("/") for _, mount in mounts}
    for group in (
        "pvcMount",
        "secretAsVolume",
        "configMapAsVolume",
        "emptyDirMounts",
        "genericEphemeralVolume",
    ):
        _keep(
            config,
            group,
            [mount for mount in config.get(group, []) if mount.get("mountPath", "").rstrip("/") not in paths],
        )
    for group, mount in mounts:
        config.setdefault(group, []).append(mount)


def _forget_variables(parent: dict[str, Any], group: str, key: str, names: Container[str]) -> None:
    _keep(parent, group, [item for item in parent.get(group, []) if item.get(key) not in names])


def _keep(parent: dict[str, Any], group: str, items: list[Any]) -> None:
    if items:
        parent[group] = items
    else:
        parent.pop(group, None)


def _toleration(toleration: Toleration) -> dict[str, Any]:
    document = {
        "key": toleration.key,
        "operator": toleration.operator,
        "value": toleration.value,
        "effect": toleration.effect,
        # An int64 is text in the JSON of protobuf.
        "tolerationSeconds": None
        if toleration.toleration_seconds is None
        else str(toleration.toleration_seconds),
    }
    return {key: value for key, value in document.items() if value is not None}


def _named(field: str, name: str) -> dict[str, Any]:
    """A name in both forms: constant for older servers, parameter for those since 2.4."""
    return {field: name, f"{field}Parameter": _constant(name)}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}
