"""JSON schemas as they are checked here: every ``format`` that one names is checked, and nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import referencing
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import validator_for

_DIALECT = "$schema"
_TIME = re.compile(r"(\d\d:\d\d:\d\d)(\.\d+)?([zZ]|[+-]\d\d:\d\d)", re.ASCII)
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*", re.ASCII)
_LONGEST_HOST = 253


def schema_problem(schema: Any) -> str | None:
    """Why answers cannot be checked by a schema; None where they can.

    Args:
        schema: The schema.
    """
    if not isinstance(schema, dict | bool):
        return "is no object, and no JSON schema"
    if isinstance(schema, dict) and _DIALECT in schema and _class_of(schema, None) is None:
        return f"has the $schema {schema[_DIALECT]!r:.60}, which is none that can be checked"
    try:
        _class_of(schema, Draft202012Validator).check_schema(schema)
        unknown = sorted(_formats(schema) - set(_checker().checkers))
        if unknown:
            return f"names the format {unknown[0]!r:.60}, which cannot be checked. Known: {', '.join(sorted(_checker().checkers))}"
        _follow(schema)
    except jsonschema.SchemaError as error:
        return f"is no valid JSON schema: {error.json_path}: {error.message:.200}"
    except referencing.exceptions.Unresolvable as error:
        return f"refers to {error.ref!r:.100}, which is not in it, and nothing is fetched"
    except RecursionError:
        return "is nested too deeply"
    return None


def validator_of(schema: Any) -> Any:
    """What checks values by a schema.

    Args:
        schema: A schema without problems.
    """
    return _class_of(schema, Draft202012Validator)(
        schema, format_checker=_checker(), registry=_registry(schema)
    )


def _class_of(schema: Any, default: Any) -> Any:
    given = schema if isinstance(schema, dict) else {}
    return validator_for(given, default=default)


def _registry(schema: Any) -> referencing.Registry:
    """The dialects alone; left out, jsonschema fetches what a schema refers to."""
    return referencing.jsonschema.SchemaRegistry().combine(jsonschema.validators.SPECIFICATIONS)


def _follow(schema: Any) -> None:
    """Resolve every reference of a schema."""
    dialect = str(schema.get(_DIALECT, "")) if isinstance(schema, dict) else ""
    draft = referencing.jsonschema.specification_with(dialect, default=referencing.jsonschema.DRAFT202012)
    root = draft.create_resource(schema)
    found = [(root, _registry(schema).resolver_with_root(root))]
    while found:
        resource, resolver = found.pop()
        if isinstance(resource.contents, dict) and isinstance(resource.contents.get("$ref"), str):
            resolver.lookup(resource.contents["$ref"])
        found += [(each, resolver.in_subresource(each)) for each in resource.subresources()]


def _formats(schema: Any) -> set[str]:
    return set(_named(schema))


def _named(part: Any) -> Iterator[str]:
    parts = [part]
    while parts:
        each = parts.pop()
        if isinstance(each, dict):
            if isinstance(each.get("format"), str):
                yield each["format"]
            parts += [
                value for name, value in each.items() if name not in ("const", "default", "enum", "examples")
            ]
        elif isinstance(each, list):
            parts += each


@cache
def _checker() -> FormatChecker:
    """jsonschema's own formats, and those that it would need further packages for and then ignores in silence."""
    own = Draft202012Validator.FORMAT_CHECKER
    checker = FormatChecker(formats=())
    checker.checkers = dict(own.checkers)
    for name, check in {
        "date-time": _is_date_time,
        "time": _is_time,
        "hostname": _is_hostname,
        "uri": _is_uri,
    }.items():
        checker.checkers[name] = (_of_texts(check), ValueError)
    return checker


def _of_texts(check: Any) -> Any:
    return lambda value: not isinstance(value, str) or check(value)


def _is_time(text: str) -> bool:
    match = _TIME.fullmatch(text)
    return match is not None and _is_iso(f"2000-01-01T{_without_leap_second(match)}")


def _is_date_time(text: str) -> bool:
    match = _TIME.fullmatch(text[11:])
    has_date = re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]", text[:11], re.ASCII) is not None
    return has_date and match is not None and _is_iso(f"{text[:10]}T{_without_leap_second(match)}")


def _without_leap_second(match: re.Match[str]) -> str:
    clock, _, zone = match.groups()
    return clock.replace(":59:60", ":59:59") + ("+00:00" if zone in "zZ" else zone)


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_hostname(text: str) -> bool:
    return len(text) <= _LONGEST_HOST and all(map(_LABEL.fullmatch, text.split(".")))


def _is_uri(text: str) -> bool:
    try:
        _ = urlsplit(text).port
    except ValueError:
        return False
    return _URI.fullmatch(text) is not None
