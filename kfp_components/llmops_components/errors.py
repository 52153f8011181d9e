"""What can go wrong in a component, sorted by who must act.

ComponentError
├── InputError            the caller's data or settings are wrong; running again as it is cannot help
│   ├── DataError         a dataset: which file, row and field
│   ├── SettingError      an argument: which one, what was expected, the nearest valid name
│   └── ModelError        a model: missing weights, unknown repository, unreadable file
└── UnavailableError      a service or resource is not there right now; running again may help
    └── TrainingInterrupted   SIGTERM stopped a training; running again goes on from its checkpoint

A message has four parts: what happened, where, why, and what to do next. Where a message leaves the step, its first 80
characters, which are all that most lists show, are for the reason: see :func:`reason_first`.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Sequence

from llmops_components.redaction import hide_in, redact

SHOWN_CHARACTERS = 80
NAMED = 5  # of things that a sentence names
MAX_CHARACTERS = 10_000  # of a message: what a library refuses, it may repeat
_LONG_PLACE = re.compile(r"(?:[A-Za-z][\w+.-]{0,20}://|(?<![\w/.~])/)[^\s'\"`,;()<>]{24,}")
_TWO_STOPS = re.compile(r"(?<!\.)\.\.(?=\s|$)")


class ComponentError(Exception):
    """Base of every error that a component raises on purpose. Neither its text nor what led to it has secrets."""

    retryable = True

    def __init__(self, *args: object) -> None:
        super().__init__(
            *(shortened(redact(arg), MAX_CHARACTERS) if isinstance(arg, str) else arg for arg in args)
        )
        if cause := sys.exception():  # which a traceback shows as well
            hide_in(cause)


class InputError(ComponentError):
    """The caller must change something; a retry fails in the same way."""

    retryable = False


class DataError(InputError):
    """A dataset cannot be used; names the file, the row and the field."""


class SettingError(InputError):
    """An argument is unknown or has a wrong value."""


class ModelError(InputError):
    """A model cannot be found or loaded."""


class UnavailableError(ComponentError):
    """A service or resource was not available after retries."""


class TrainingInterrupted(UnavailableError):
    """SIGTERM stopped the training. Running it again with the same checkpoints goes on where it stopped."""


def shortened(text: str, limit: int) -> str:
    """Text whose middle is left out where it is long: its end often says what to do.

    Args:
        text: The text.
        limit: Most characters.
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} ... {text[-(limit // 2 - 5) :]}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing.

    Args:
        error: The error.
    """
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def named(things: Sequence[object]) -> str:
    """The first of some things, for a sentence.

    Args:
        things: Numbers of rows, or names.
    """
    shown = ", ".join(map(str, things[:NAMED]))
    return f"{shown}{' and others' if len(things) > NAMED else ''}"


def check_whole_number(name: str, value: object, least: int, most: int) -> None:
    """Raise :class:`SettingError` where a setting is no whole number within its ends.

    Args:
        name: The setting.
        value: What was given.
        least: The lowest.
        most: The highest.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise SettingError(f"{name} must be a whole number from {least} to {most}, got {value!r:.60}.")


def check_known(given: Iterable[str], valid: Iterable[str], what: str) -> None:
    """Raise :class:`SettingError` naming every unknown key and the nearest valid one.

    Args:
        given: Keys that the caller passed.
        valid: Keys that are understood.
        what: Where the keys belong, for the message, for example ``"training_args"``.
    """
    valid = sorted(set(valid))
    problems = []
    for key in given:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
            problems.append(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if problems:
        raise SettingError(f"Unknown {what}: {', '.join(problems)}. Valid names: {', '.join(valid)}.")


def reason_first(message: str) -> str:
    """A message whose beginning is not taken up by paths and addresses.

    Long ones among the first 80 characters are shortened there, and stand in full behind the message, each on a line of its
    own.

    Args:
        message: The message.
    """
    first, *lines = _TWO_STOPS.sub(".", message.strip()).split("\n")
    position = 0
    while (match := _LONG_PLACE.search(first, position)) and match.start() < SHOWN_CHARACTERS:
        whole = match[0].rstrip(".:")
        short = f".../{whole.rstrip('/').rpartition('/')[2][-40:]}"
        first = first.replace(whole, short)
        lines.append(f"{short}: {whole}")
        position = match.start() + len(short)
    return "\n".join([first, *lines])
