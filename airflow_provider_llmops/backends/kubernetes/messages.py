"""What an API server of Kubernetes says when it refuses something, with the reason before the value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_llmops.exceptions import shortened
from airflow_provider_llmops.json_text import parse_json

MAX_SHOWN_CHARACTERS = 400
_MAX_VALUE_CHARACTERS = 60
_WEBHOOK = re.compile(r'^admission webhook "([^"]+)" denied the request: ')
_OBJECT = re.compile(r'^(?:\S+ )?"[^"]+" is (?:forbidden|invalid): |^\S+ is forbidden: (?=User )')
# As k8s.io/apimachinery/pkg/util/validation/field writes an error; the field may be missing.
_FIELD_ERROR = re.compile(
    r"^(?:(?P<field>[\w.\[\]<>/*'\"-]+): )?(?P<kind>Invalid value|Duplicate value|Unsupported value): "
)


def reason_of(message: str, *, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """What a refusal is about, in one line: ``FIELD: Invalid value: VALUE: REASON`` becomes ``REASON (FIELD is VALUE)``.

    The name of the object and of the webhook, which stand first, say nothing that the reader did not know.

    :param message: of a ``Status`` object or an event
    :param limit: characters that are shown of it; what is cut off is marked
    """
    text = " ".join(message.split())
    for pattern in (_WEBHOOK, _OBJECT):
        text = pattern.sub("", text)
    match = _FIELD_ERROR.match(text)
    if match:
        value, reason = _split(text[match.end() :])
        field = match["field"] if match["field"] not in (None, "<nil>") else ""
        got = shortened(value, _MAX_VALUE_CHARACTERS)
        text = with_note(reason, f"{field} is {got}" if field else f"got {got}") if reason else value
    return shortened(text, limit)


def message_of(error: Any) -> tuple[str, str | None, Mapping[str, Any]]:
    """Message, reason and details of what the ``kubernetes`` client raised; a proxy's answer has only text.

    :param error: its ``ApiException``
    """
    try:
        status = parse_json(error.body)
        return str(status["message"]), status.get("reason"), status.get("details") or {}
    except (ValueError, TypeError, KeyError):
        body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
        return str(body or error.reason or ""), None, {}


def sentence(text: str) -> str:
    """The text with one full stop behind it, whatever it ends with.

    :param text: what somebody else wrote
    """
    return text if text.endswith("…") else f"{text.rstrip(' .')}."


def with_note(text: str, note: str) -> str:
    """The text with a note in brackets behind it, and no full stop before that.

    :param text: what somebody else wrote; a scheduler ends it with a full stop
    :param note: what it is about
    """
    return f"{text if text.endswith('..') else text.removesuffix('.')} ({note})"


def _split(text: str) -> tuple[str, str]:
    """Value and reason of a field error. The value is JSON, or text without quotes up to a colon."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
        if text.startswith(": ", end):
            return text[:end], text[end + 2 :]
    except ValueError:
        pass
    value, _, reason = text.partition(": ")
    return value, reason
