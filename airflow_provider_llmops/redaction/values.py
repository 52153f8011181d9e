"""Values as JSON has them, without secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_llmops.redaction.signs import HIDDEN, PASSWORD_NAME, is_login, is_secret_name
from airflow_provider_llmops.redaction.text import redact

_MIN_IN_PAIR = 6  # what follows a header's name in a pair, as a label does the name of a column


def redacted(value: Any) -> Any:
    """A value as JSON has it, without secrets, however deep they lie.

    :param value: what is to be written
    """
    if isinstance(value, Mapping):
        return {
            redact(key) if isinstance(key, str) else key: HIDDEN
            if _is_secret(str(key), item)
            else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            HIDDEN if isinstance(item, str) and at and _announces(value[at - 1], value) else redacted(item)
            for at, item in enumerate(value)
        ]
    return redact(value) if isinstance(value, str) else value


def _announces(name: Any, values: Sequence[Any]) -> bool:
    """Whether a secret follows in a list: behind an option as ``--token``, or a header as ``X-Api-Key`` in a pair."""
    return isinstance(name, str) and (
        (name.startswith("-") and is_secret_name(name.lstrip("-")))
        or (len(values) == 2 and "-" in name and len(values[1]) >= _MIN_IN_PAIR and is_secret_name(name))
    )


def _is_secret(name: str, value: Any) -> bool:
    """Whether what a setting holds is one: a number is only where it would be a password."""
    if name == "auth" and isinstance(value, str):
        return is_login(value)
    if value is None or isinstance(value, bool) or value in ("", [], {}, ()) or not is_secret_name(name):
        return False
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(number, int | float) for number in numbers):
        return bool(PASSWORD_NAME.search(name))
    return True
