"""Specifications read with KFP's own protocol buffers: which fields there are, and what they hold.

``dev/compile_components`` writes the descriptors as data, since ``kfp`` itself cannot be installed beside Airflow. They are
kept in a pool of their own: somebody else may load another version of the same files.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, describe_unknown, shown_value

DESCRIPTORS = "kfp.binpb"

_PIPELINE = "ml_pipelines.PipelineSpec"
_DEPLOYMENT = "ml_pipelines.PipelineDeploymentConfig"
_PLATFORM = "ml_pipelines.PlatformSpec"
_KUBERNETES = "kfp_kubernetes.KubernetesExecutorConfig"
_FREE = "google.protobuf."  # Struct, Value and their like hold any JSON


def read_pipeline(document: Mapping[str, Any], where: str, *, strict: bool = True) -> dict[str, Any]:
    """A pipeline specification with KFP's own field names.

    Field names in snake_case, numbers of an enumeration, and ``null`` for what is absent are other ways to write the same.

    :param document: what is to be one
    :param where: what to call it in messages
    :param strict: refuse what the descriptors do not know; else it stays as it is, since a newer server may know it
    :raises ConfigurationError: naming the part that KFP would not read
    """
    reader = _Reader(where, strict)
    ir = reader.message(document, _PIPELINE, "")
    if "deploymentSpec" in ir:
        ir["deploymentSpec"] = reader.message(ir["deploymentSpec"], _DEPLOYMENT, "deploymentSpec")
    return ir


def read_platform(document: Mapping[str, Any], where: str, *, strict: bool = True) -> dict[str, Any]:
    """A platform specification with KFP's own field names, and its settings for Kubernetes likewise.

    :param document: what is to be one
    :param where: what to call it in messages
    :param strict: as for :func:`read_pipeline`
    :raises ConfigurationError: naming the part that KFP would not read
    """
    reader = _Reader(where, strict)
    platform = reader.message(document, _PLATFORM, "")
    kubernetes = platform.get("platforms", {}).get("kubernetes", {})
    executors = kubernetes.get("deploymentSpec", {}).get("executors", {})
    for name, config in executors.items():
        path = f"platforms.kubernetes.deploymentSpec.executors.{name}"
        executors[name] = reader.message(config, _KUBERNETES, path)
    return platform


def meaning_of(pipeline: Mapping[str, Any], platform: Mapping[str, Any] | None) -> bytes:
    """The same bytes for two specifications that say the same: the order of keys and empty maps say nothing.

    :param pipeline: pipeline IR
    :param platform: its platform specification
    :raises ConfigurationError: there is something in them that the descriptors do not know
    """
    from google.protobuf import json_format

    others = copy.deepcopy(dict(platform or {}))
    kubernetes = others.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
    executors = kubernetes.pop("executors", {})
    try:
        parts = [
            _deterministic({**pipeline, "deploymentSpec": {}}, _PIPELINE),
            _deterministic(pipeline.get("deploymentSpec", {}), _DEPLOYMENT),
            _deterministic(others, _PLATFORM),
        ]
        for name in sorted(executors):
            if settings := _deterministic(executors[name], _KUBERNETES):
                parts += [name.encode(), settings]
    except json_format.ParseError as error:
        raise ConfigurationError(f"The specification cannot be compared: {error}.") from error
    # With their lengths: bytes that separate them may be in them.
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _deterministic(value: Any, name: str) -> bytes:
    data: bytes = _parse(value, name).SerializeToString(deterministic=True)
    return data


@functools.cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    data = (resources.files("airflow_provider_llmops") / "components" / DESCRIPTORS).read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


def _parse(value: Any, descriptor: Any) -> Any:
    from google.protobuf import json_format, message_factory

    if isinstance(descriptor, str):
        descriptor = _pool().FindMessageTypeByName(descriptor)
    return json_format.ParseDict(value, message_factory.GetMessageClass(descriptor)())


class _Reader:
    """Reads JSON by the descriptors of messages.

    :param where: what to call the document in messages
    :param strict: refuse fields that a message does not have
    """

    def __init__(self, where: str, strict: bool) -> None:
        self._where = where
        self._strict = strict

    def message(self, value: Any, name: str, path: str) -> dict[str, Any]:
        """The JSON of a message, by the message's full name."""
        return self._message(value, _pool().FindMessageTypeByName(name), path)

    def _message(self, value: Any, descriptor: Any, path: str) -> dict[str, Any]:
        self._expect(value, Mapping, "a mapping", path)
        fields = {name: field for field in descriptor.fields for name in (field.json_name, field.name)}
        found: dict[str, Any] = {}
        chosen: dict[str, str] = {}
        for key, item in value.items():
            field = fields.get(key)
            if field is None:
                self._refuse_unknown(key, descriptor, path)
                found[key] = item
                continue
            if item is None and not _is_value(field):
                continue
            name = field.json_name
            group = field.containing_oneof.name if field.containing_oneof else name
            if group in chosen:
                raise self._error(
                    f"There can be one of {chosen[group]!r} and {key!r}, and there are both", path
                )
            chosen[group] = key
            found[name] = self._field(item, field, f"{path}.{key}" if path else key)
        return found

    def _refuse_unknown(self, key: str, descriptor: Any, path: str) -> None:
        if self._strict:
            known = sorted(field.json_name for field in descriptor.fields)
            raise self._error(
                f"There is no field {describe_unknown([key], known)} in a {descriptor.name}, which has "
                f"{', '.join(known)}",
                path,
            )

    def _field(self, value: Any, field: Any, path: str) -> Any:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            self._expect(value, Mapping, "a mapping", path)
            read = self._read_by(entry.fields_by_name["value"])
            return {key: read(item, f"{path}.{key}") for key, item in value.items()}
        read = self._read_by(field)
        if not field.is_repeated:
            return read(value, path)
        self._expect(value, list, "a list", path)
        return [read(item, f"{path}[{index}]") for index, item in enumerate(value)]

    def _read_by(self, field: Any) -> Callable[[Any, str], Any]:
        kind = field.message_type
        if kind is not None and not kind.full_name.startswith(_FREE):
            return lambda value, path: self._message(value, kind, path)
        return lambda value, path: self._leaf(value, field, path)

    def _leaf(self, value: Any, field: Any, path: str) -> Any:
        """A value without fields of its own: text, a number, a name of an enumeration, or free JSON, which stays as it is."""
        from google.protobuf import json_format

        try:
            if field.message_type is not None:
                _parse(value, field.message_type)
                return value
            wrapped = [value] if field.is_repeated else value
            message = _parse({field.json_name: wrapped}, field.containing_type)
        except (json_format.ParseError, TypeError, ValueError) as error:
            raise self._wrong(value, _kind_of(field), path) from error
        read = getattr(message, field.name)
        read = read[0] if field.is_repeated else read
        if field.enum_type is None:
            return read
        named = field.enum_type.values_by_number.get(read)
        if named is None:
            raise self._wrong(value, _kind_of(field), path)
        return named.name

    def _expect(self, value: Any, kind: type, description: str, path: str) -> None:
        if not isinstance(value, kind):
            raise self._wrong(value, description, path)

    def _wrong(self, value: Any, expected: str, path: str) -> ConfigurationError:
        name = path.rpartition(".")[2] or "It"
        return self._error(
            f"{name} must be {expected}, got {type(value).__name__} {shown_value(value, 60)}", path
        )

    def _error(self, reason: str, path: str) -> ConfigurationError:
        return ConfigurationError(
            f"{reason}. Kubeflow Pipelines would refuse it.",
            f"Specification: {self._where}",
            f"Place: {path or 'its first level'}",
        )


def _kind_of(field: Any) -> str:
    """What a field takes, in words."""
    if field.enum_type is not None:
        return f"one of {', '.join(value.name for value in field.enum_type.values if value.number)}"
    if field.message_type is not None:
        return f"a {field.message_type.name}"
    if field.cpp_type == field.CPPTYPE_STRING:
        return "text"
    if field.cpp_type == field.CPPTYPE_BOOL:
        return "true or false"
    return "a number" if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT) else "a whole number"


def _is_value(field: Any) -> bool:
    """Whether ``null`` is a value of it."""
    return field.message_type is not None and field.message_type.full_name == f"{_FREE}Value"
