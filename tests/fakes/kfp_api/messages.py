"""Reads request bodies as protojson does: unknown fields and ill-typed values are refused.

The fields and their types are those of the official client's models, so a field that the client can send and
this fake does not know cannot exist. Upstream: ``common.CustomMarshaler`` (``DiscardUnknown: false``).
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

import kfp_server_api

from .errors import INVALID_ARGUMENT, ApiError, gateway_error


def parse(model: str, value: Any) -> dict[str, Any]:
    """The fields that ``value`` sets, under their names in snake case; raises 400 as the gateway does."""
    if not isinstance(value, dict):
        raise refused(f"unexpected token {value!r}")
    cls = getattr(kfp_server_api, model)
    names = {_camel(name): name for name in cls.attribute_map.values()}
    names |= {name: name for name in cls.attribute_map.values()}
    types = {cls.attribute_map[attribute]: kind for attribute, kind in cls.openapi_types.items()}
    fields: dict[str, Any] = {}
    for key, item in value.items():
        if key not in names:
            raise refused(f'unknown field "{key}"')
        name = names[key]
        if name in fields:
            raise refused(f'duplicate field "{key}"')
        if item is not None:
            fields[name] = _value(types[name], name, item)
    return fields


def _value(kind: str, name: str, value: Any) -> Any:
    if kind == "str":
        if not isinstance(value, str):
            raise refused(f"invalid value for string field {name}: {value!r}")
        return value
    if kind == "bool":
        if not isinstance(value, bool):
            raise refused(f"invalid value for bool field {name}: {value!r}")
        return value
    if kind == "datetime":
        return timestamp(value)
    if kind == "object":
        return as_struct(value)
    if kind.startswith("dict("):
        if not isinstance(value, dict):
            raise refused(f"unexpected token {value!r}")
        inner = kind[len("dict(str, ") : -1]
        return {key: _value(inner, name, item) for key, item in value.items()}
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise refused(f"unexpected token {value!r}")
        return [_value(kind[5:-1], name, item) for item in value]
    cls = getattr(kfp_server_api, kind, None)
    if cls is not None and hasattr(cls, "allowable_values"):
        if value not in cls.allowable_values:
            raise refused(f"invalid value for enum field {name}: {value!r}")
        return value
    if cls is not None and cls.openapi_types:
        return parse(kind, value)
    return value


def as_struct(value: Any) -> Any:
    """What is left of a JSON value in a ``google.protobuf.Struct``: every number is a double there."""
    if isinstance(value, dict):
        return {str(key): as_struct(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_struct(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise refused(f"invalid google.protobuf.Value: {value!r}")
    return int(number) if number.is_integer() else number


_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$")


def timestamp(value: Any) -> int:
    """Whole seconds since the epoch: fractions are cut off, upstream stores and compares seconds only."""
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise refused(f"invalid google.protobuf.Timestamp value {json.dumps(value)}")
    whole = re.sub(r"\.\d+", "", value)
    return int(datetime.fromisoformat(whole).timestamp())


def rfc3339(seconds: int) -> str:
    """A time as protojson writes it. Zero, which upstream has for "not yet", is written as the epoch."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)


def refused(what: str) -> ApiError:
    return gateway_error(INVALID_ARGUMENT, f"proto: (line 1:1): {what}")
