"""Kubernetes settings of a pipeline's steps: what may be set, in one typed argument.

The names are those of the ``kfp`` and ``kfp-kubernetes`` SDKs where these have them. :mod:`.steps` writes the
settings into a specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal, get_args

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value
from airflow_provider_llmops.specs.placeholders import refuse_placeholders, refuse_variables

__all__ = ["StepSettings"]

ALL_STEPS = "*"
SHARED_MEMORY_PATH = "/dev/shm"  # noqa: S108 - in the pod, made by the kubelet

PullPolicy = Literal["Always", "IfNotPresent", "Never"]

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED_NAME = re.compile(
    r"(?:(?=[^/]{1,253}/)[a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DATA_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")
_MOUNT_PATH = re.compile(r"/[^\0:\n]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_RESOURCE = re.compile(r"[a-z0-9][-a-z0-9.]*/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d{1,2})?")

_FACTORS = {
    **{
        suffix: Decimal(1000) ** power
        for suffix, power in zip("numkMGTPE", (-3, -2, -1, 1, 2, 3, 4, 5, 6), strict=True)
    },
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """Let a step run on nodes with a taint.

    :param key: key of the taint; every key when left out, which needs the operator ``Exists``
    :param operator: ``Equal``, which is what Kubernetes assumes, or ``Exists``
    :param value: value of the taint, for ``Equal``
    :param effect: effect of the taint; every effect when left out
    :param toleration_seconds: how long a step stays after such a taint was put on its node, for ``NoExecute``
    """

    key: str | None = None
    operator: Literal["Equal", "Exists"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None

    def __post_init__(self) -> None:
        _choice("operator", self.operator, ("Equal", "Exists"), "a toleration's")
        _choice("effect", self.effect, ("NoSchedule", "PreferNoSchedule", "NoExecute"), "a toleration's")
        if self.key is not None:
            _match("a toleration's key", self.key, _QUALIFIED_NAME, "a qualified name such as nvidia.com/gpu")
        if self.value is not None:
            _match(
                "a toleration's value", self.value, _LABEL_VALUE, "at most 63 letters, digits, '-', '_', '.'"
            )
        if self.operator == "Exists" and self.value:
            raise ConfigurationError(f"A toleration with operator Exists takes no value, got {self.value!r}.")
        if self.key is None and self.operator != "Exists":
            raise ConfigurationError("A toleration without a key needs the operator Exists.")
        seconds = self.toleration_seconds
        if seconds is not None:
            if not isinstance(seconds, int) or isinstance(seconds, bool):
                raise ConfigurationError(
                    f"A toleration's toleration_seconds must be whole, got {shown_value(seconds, 60)}."
                )
            if self.effect != "NoExecute":
                raise ConfigurationError("A toleration's toleration_seconds needs the effect NoExecute.")


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Where and with what a step runs. What is left out stays as it was compiled.

    Templates are rendered, as they are in a dict. Values are checked twice, as they are written and when they are rendered,
    so a template for what could not be one, such as an image's name, has to be given in a dict.

    :param image: container image
    :param cpu_request: cores that are reserved: ``"500m"``, ``2``
    :param cpu_limit: cores that the step may use
    :param memory_request: bytes that are reserved: ``"16Gi"``
    :param memory_limit: bytes that the step may use
    :param accelerator_type: resource name of the accelerator: ``nvidia.com/gpu``
    :param accelerator_count: how many; 1 when only the type is given, 0 takes a compiled accelerator away
    :param node_selector: labels that the node must have
    :param tolerations: taints of nodes that the step accepts
    :param env: environment variables; for secrets there is ``secrets_as_env``
    :param secrets_as_env: environment variables from Secrets: ``{"hub": {"token": "HF_TOKEN"}}``
    :param secrets_as_volumes: mount path by name of the Secret
    :param config_maps_as_env: environment variables from ConfigMaps, like ``secrets_as_env``
    :param config_maps_as_volumes: mount path by name of the ConfigMap
    :param persistent_volume_claims: mount path by name of the claim
    :param shared_memory: size limit of ``/dev/shm``, which torch's data loaders and NCCL fill: ``"8Gi"``
    :param image_pull_secrets: names of Secrets for the image's registry
    :param image_pull_policy: when the image is pulled
    :param labels: labels of the pod
    :param annotations: annotations of the pod
    :raises ConfigurationError: a value that Kubernetes would refuse
    """

    image: str | None = None
    cpu_request: str | int | float | None = None
    cpu_limit: str | int | float | None = None
    memory_request: str | int | None = None
    memory_limit: str | int | None = None
    accelerator_type: str | None = None
    accelerator_count: int | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Toleration] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets_as_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets_as_volumes: Mapping[str, str] = field(default_factory=dict)
    config_maps_as_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config_maps_as_volumes: Mapping[str, str] = field(default_factory=dict)
    persistent_volume_claims: Mapping[str, str] = field(default_factory=dict)
    shared_memory: str | int | None = None
    image_pull_secrets: Sequence[str] = ()
    image_pull_policy: PullPolicy | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image is not None:
            _match("image", self.image, _IMAGE, "the name of a container image")
        if self.accelerator_type is not None:
            _match("accelerator_type", self.accelerator_type, _RESOURCE, "a resource such as nvidia.com/gpu")
        count = self.accelerator_count
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise ConfigurationError(
                f"accelerator_count must be a whole number from 0 on, got {shown_value(count, 60)}."
            )
        _choice("image_pull_policy", self.image_pull_policy, get_args(PullPolicy), "the")
        self._check_quantities()
        self._check_texts()
        self._check_environment()
        self._check_volumes()
        for name in ("annotations", "env", *(f"{kind}_as_volumes" for kind in ("secrets", "config_maps"))):
            _refuse_replaced(name, getattr(self, name))
        _refuse_replaced("persistent_volume_claims", self.persistent_volume_claims)

    @classmethod
    def of(cls, value: Any) -> StepSettings:
        """Read settings from a dict, as a templated argument or a YAML file has them.

        :param value: settings by name, tolerations as dicts; settings that are ready are returned as they are
        :raises ConfigurationError: an unknown setting, or a value that Kubernetes would refuse
        """
        if isinstance(value, StepSettings):
            return value
        given = _known(value, cls, "settings of a step")
        if (tolerations := given.get("tolerations")) is not None:
            if not isinstance(tolerations, list | tuple):
                raise ConfigurationError(f"tolerations must be a list, got {shown_value(tolerations)}.")
            given["tolerations"] = [
                item if isinstance(item, Toleration) else Toleration(**_known(item, Toleration, "toleration"))
                for item in tolerations
            ]
        return cls(**given)

    def resolve(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The settings as a dict with its templates rendered; Airflow calls this where it would render a dict.

        :param context: of the task that has the settings
        """
        given = {name: value for name, value in asdict(self).items() if value not in (None, {}, ())}
        rendered: dict[str, Any] = context["task"].render_template(given, context)
        return rendered

    def _check_quantities(self) -> None:
        for resource in ("cpu", "memory"):
            request, limit = getattr(self, f"{resource}_request"), getattr(self, f"{resource}_limit")
            amounts = [
                quantity(name, value)
                for name, value in ((f"{resource}_request", request), (f"{resource}_limit", limit))
                if value is not None
            ]
            if len(amounts) == 2 and amounts[0] > amounts[1]:
                raise ConfigurationError(
                    f"{resource}_request {request} is more than {resource}_limit {limit}."
                )
        if self.shared_memory is not None:
            quantity("shared_memory", self.shared_memory)

    def _check_texts(self) -> None:
        for name in ("node_selector", "labels"):
            for key, value in _items(name, getattr(self, name)):
                _match(f"{name}: key", key, _QUALIFIED_NAME, "a qualified name such as example.com/pool")
                _match(f"{name}[{key!r}]", value, _LABEL_VALUE, "at most 63 letters, digits, '-', '_', '.'")
        for key, value in _items("annotations", self.annotations):
            _match("annotations: key", key, _QUALIFIED_NAME, "a qualified name such as example.com/owner")
            _text(f"annotations[{key!r}]", value)
        if isinstance(self.image_pull_secrets, str) or not isinstance(self.image_pull_secrets, Sequence):
            raise ConfigurationError(
                f"image_pull_secrets must be a list of names, got {shown_value(self.image_pull_secrets)}."
            )
        for name in self.image_pull_secrets:
            _match("image_pull_secrets", name, _DNS_SUBDOMAIN, "the name of a Secret")
        if not isinstance(self.tolerations, Sequence) or not all(
            isinstance(item, Toleration) for item in self.tolerations
        ):
            raise ConfigurationError(
                f"tolerations must be a list of Toleration, got {shown_value(self.tolerations)}."
            )

    def _check_environment(self) -> None:
        variables = [
            name for name, value in _items("env", self.env) if _text(f"env[{name!r}]", value) is not None
        ]
        for name in ("secrets_as_env", "config_maps_as_env"):
            for source, keys in _items(name, getattr(self, name)):
                _match(f"{name}: name", source, _DNS_SUBDOMAIN, "a DNS name in lower case")
                for key, variable in _items(f"{name}[{source!r}]", keys):
                    _match(f"{name}[{source!r}]: key", key, _DATA_KEY, "letters, digits, '-', '_', '.'")
                    variables.append(variable)
        for variable in variables:
            _match("environment variable", variable, _VARIABLE, "letters, digits and '_', not first a digit")
        _unique("environment variable", variables)

    def _check_volumes(self) -> None:
        names: list[str] = []
        paths = [SHARED_MEMORY_PATH] if self.shared_memory is not None else []
        for name in ("persistent_volume_claims", "secrets_as_volumes", "config_maps_as_volumes"):
            for source, path in _items(name, getattr(self, name)):
                # Kubeflow Pipelines calls the volume by the same name, and volumes may have no dots in theirs.
                _match(f"{name}: name", source, _DNS_LABEL, "at most 63 lower-case letters, digits, '-'")
                _match(f"{name}[{source!r}]", path, _MOUNT_PATH, "an absolute path without ':'")
                names.append(source)
                paths.append(path.rstrip("/"))
        _unique("volume name", names)
        _unique("mount path", paths)


def image_set_for(value: Any, step: str) -> str | None:
    """The image that an operator's argument sets for a step, over the connection's; ``None`` for none.

    :param value: as for :func:`settings_by_step`
    :param step: name of the step
    """
    settings = settings_by_step(value) if value else {}
    return next(
        (settings[key].image for key in (step, ALL_STEPS) if key in settings and settings[key].image), None
    )


def settings_by_step(value: Any) -> dict[str, StepSettings]:
    """Read the argument of an operator: settings for all steps, or by step.

    :param value: settings (or a dict of them) for all steps; or a dict of such by name of the step, where ``"*"`` means all
    :raises ConfigurationError: an unknown setting, or a value that Kubernetes would refuse
    """
    if isinstance(value, StepSettings):
        return {ALL_STEPS: value}
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"Settings of steps must be StepSettings or a dict, got {shown_value(value)}."
        )
    names = {item.name for item in fields(StepSettings)}
    if all(key in names for key in value):
        return {ALL_STEPS: StepSettings.of(value)}
    for key, item in value.items():
        if key in names or not isinstance(item, StepSettings | Mapping):
            raise ConfigurationError(
                f"Settings of steps are given either for all steps or by step; {describe_unknown([str(key)], names) or repr(key)}"
                f" = {shown_value(item, 60)} does not fit. Settings: {', '.join(sorted(names))}."
            )
    result = {}
    for step, item in value.items():
        try:
            result[step] = StepSettings.of(item)
        except ConfigurationError as error:
            raise ConfigurationError(f"Settings of step {step!r}: {error}") from error
    return result


def quantity(name: str, value: Any) -> Decimal:
    """Read an amount as Kubernetes writes them.

    :param name: setting that it belongs to, for messages
    :param value: number, or text such as ``500m`` or ``16Gi``
    :raises ConfigurationError: it is no amount above zero
    """
    match = _QUANTITY.fullmatch(str(value)) if not isinstance(value, bool) else None
    if match is None:
        near = " Kubernetes writes thousands with a small k." if str(value).endswith("K") else ""
        raise ConfigurationError(
            f"{name} must be an amount such as 500m, 2 or 16Gi, got {shown_value(value, 60)}.{near}"
        )
    number, suffix = match.groups()
    if suffix in ("n", "u", "m") and not name.startswith("cpu"):
        raise ConfigurationError(f"{name} is {value!r}: a thousandth of a byte or less. Did you mean Mi?")
    if suffix is None:
        amount = Decimal(number)
    elif suffix in _FACTORS:
        amount = Decimal(number) * _FACTORS[suffix]
    else:
        amount = Decimal(f"{number}{suffix}")
    if amount <= 0:
        raise ConfigurationError(f"{name} must be more than zero, got {value!r}.")
    return amount


def _known(value: Any, kind: type, what: str) -> dict[str, Any]:
    """The given fields of a dataclass; ``None`` means not given."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"The {what} must be a dict, got {shown_value(value)}.")
    names = [item.name for item in fields(kind)]
    if unknown := describe_unknown([str(key) for key in value], names):
        raise ConfigurationError(f"The {what} have no {unknown}. There are: {', '.join(sorted(names))}.")
    return {key: item for key, item in value.items() if item is not None}


def _items(name: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} must be a dict, got {shown_value(value)}.")
    return list(value.items())


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be text, got {shown_value(value, 60)}; quote it.")
    return value


def _refuse_replaced(name: str, value: Any) -> None:
    refuse_placeholders(name, value)
    refuse_variables(name, value)


def _match(name: str, value: Any, pattern: re.Pattern[str], what: str) -> None:
    if not pattern.fullmatch(_text(name, value)):
        raise ConfigurationError(f"{name} must be {what}, got {shown_value(value)}.")


def _choice(name: str, value: Any, choices: Sequence[str], whose: str) -> None:
    if value is not None and value not in choices:
        raise ConfigurationError(
            f"{whose} {name} must be one of {', '.join(choices)}, got {shown_value(value, 60)}."
        )


def _unique(what: str, names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"The same {what} is set twice: {', '.join(twice)}.")
