"""What can go wrong, sorted by who must act.

LLMOpsError
├── ConfigurationError     an argument, connection or specification is wrong       final
│   └── RunNotFoundError   there is no run with that id                            final
├── InvalidInputError      a component refused its data, model or settings         final
├── QualityGateFailed      the work is done and its result is not good enough      final
├── RunFailedError         a run or a service failed                               may be retried
├── RunCanceledError       a run was cancelled from outside                        may be retried
├── ResultError            a run succeeded and its result cannot be read           may be retried
│   └── ResultTooLargeError  there is more of it than can be kept                  final
└── ApiUnavailableError    a backend did not answer                                may be retried

Final errors are :class:`AirflowFailException`: Airflow does not retry them. A message has four parts: why, what was
expected, what to do next, and where. Its first 80 characters, which are all that most lists show, are for the reason: see
:func:`reason_first`.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_provider_llmops.redaction import hide_in, redact

__all__ = [
    "ApiUnavailableError",
    "ConfigurationError",
    "InvalidInputError",
    "LLMOpsError",
    "QualityGateFailed",
    "ResultError",
    "ResultTooLargeError",
    "RunCanceledError",
    "RunFailedError",
    "RunNotFoundError",
]

SHOWN_CHARACTERS = 80
MAX_CHARACTERS = 20_000  # of a message: a server or a library may repeat what it was given
_LONG_PLACE = re.compile(r"(?:[A-Za-z][\w+.-]{0,20}://|(?<![\w/.~])/)[^\s'\"`,;()<>]{24,}")
_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
_TWO_STOPS = re.compile(r"(?<!\.)\.\.(?=\s|$)")


def reason_first(message: str, *places: str | None) -> str:
    """A message whose beginning is not taken up by an address or an id.

    Long ones among the first 80 characters are shortened there, and stand in full behind the message, each on a line of its
    own.

    :param message: the reason, and what to do about it
    :param places: lines to put behind it: where it was, and where to read more; ``None`` is left out
    """
    first, *lines = _TWO_STOPS.sub(".", message.strip()).split("\n")
    for pattern in (_LONG_PLACE, _ID):
        position = 0
        while (match := pattern.search(first, position)) and match.start() < SHOWN_CHARACTERS:
            whole = match[0].rstrip(".:")
            short = whole[:8] if pattern is _ID else f".../{whole.rstrip('/').rpartition('/')[2][-40:]}"
            first = first.replace(whole, short)
            lines.append(f"{short}: {whole}")
            position = match.start() + len(short)
    return "\n".join([first, *lines, *filter(None, places)])


class LLMOpsError(AirflowException):
    """Base of every error that this provider raises on purpose. Neither its text nor what led to it has secrets.

    :param message: the reason, and what to do about it
    :param places: lines to put behind it, see :func:`reason_first`
    """

    def __init__(self, message: str, *places: str | None) -> None:
        super().__init__(reason_first(_bounded(message), *(place and _bounded(place) for place in places)))
        if cause := sys.exception():  # which Airflow logs as well
            hide_in(cause)


class ConfigurationError(LLMOpsError, AirflowFailException):
    """An argument, a connection or a specification is wrong."""


class RunNotFoundError(ConfigurationError):
    """There is no run with that id: it was deleted, or the connection points elsewhere."""


class InvalidInputError(LLMOpsError, AirflowFailException):
    """A component refused its data, model or settings; running it again as it is cannot help."""


class QualityGateFailed(LLMOpsError, AirflowFailException):
    """A run finished and its result did not meet the gate. The result was pushed to XCom before this was raised."""


class RunFailedError(LLMOpsError):
    """A pipeline run or a service failed."""


class RunCanceledError(LLMOpsError):
    """A pipeline run was cancelled by somebody else."""


class ResultError(LLMOpsError):
    """A run's result is missing, cut off or of an unknown schema version."""


class ResultTooLargeError(ResultError, AirflowFailException):
    """There is more of a result than can be kept; the same run would give as much again."""


class ApiUnavailableError(LLMOpsError):
    """A backend could not be reached, or answered that it is overloaded."""


def _bounded(text: str) -> str:
    """A text without secrets, and without its middle where it is longer than anybody reads: its end says what to do."""
    text = redact(text)
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS // 2]} ... {text[5 - MAX_CHARACTERS // 2 :]}"


def shortened(text: str, limit: int) -> str:
    """The text, with a mark where it is cut.

    :param text: one line
    :param limit: its longest length
    """
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def check_is_flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false, such as the text that a template has made of it.

    :param name: what the value is called
    :param value: what somebody gave
    :raises ConfigurationError: it is something else
    """
    if not isinstance(value, bool):
        raise ConfigurationError(
            f"{name} must be true or false, got the text {shown_value(value)}. A template stays a truth value only in a DAG with "
            "render_template_as_native_obj=True."
        )


def shown_value(value: object, limit: int = 80) -> str:
    """A value as a message shows it, with a mark where it is cut.

    :param value: what somebody gave
    :param limit: the longest length
    """
    return shortened(redact(repr(value)), limit)


def describe_unknown(given: Iterable[str], valid: Iterable[str]) -> str:
    """Name every unknown key, with the nearest valid one where there is one close by.

    :param given: keys that the caller passed
    :param valid: keys that are understood
    :return: text for a message; empty when every key is known
    """
    valid = sorted(valid)
    described = []
    for key in given:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1)
            described.append(f"{key!r} (did you mean {near[0]!r}?)" if near else repr(key))
    return ", ".join(described)
