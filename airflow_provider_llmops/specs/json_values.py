"""Values as JSON and protobuf carry them: what would arrive changed is refused."""

from __future__ import annotations

import math
from typing import Any

from airflow_provider_llmops.exceptions import ConfigurationError, shown_value

MAX_DEPTH = 100
# Numbers travel as IEEE doubles (google.protobuf.Value): beyond this, an integer arrives as another one.
MAX_INTEGER = 2**53 - 1


def check_json(value: Any, path: str) -> Any:
    """Copy a value, making sure that JSON and protobuf carry it unchanged.

    :param value: what somebody gave
    :param path: its name in messages
    :return: the same in dicts, lists, text, numbers, booleans and ``None``
    :raises ConfigurationError: naming the part that cannot be carried
    """
    return _copy(value, path, 0)


def _copy(value: Any, path: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConfigurationError(f"{path:.200}... is nested deeper than {MAX_DEPTH} levels.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigurationError(
                    f"{path} has the key {shown_value(key)}; JSON has only text as keys."
                )
        return {key: _copy(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ConfigurationError(
                f"{path} is {value!r:.40}; integers beyond 2**53 - 1 arrive changed. Pass it as text."
            )
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigurationError(f"{path} is {value}, which JSON cannot carry. Leave it out.")
        return value
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigurationError(f"{path} holds half a surrogate pair, which is no valid text.")
        return value
    raise ConfigurationError(
        f"{path} is a {type(value).__module__}.{type(value).__name__}, which JSON cannot carry: {shown_value(value)}. Convert it to "
        "text or a number."
    )
