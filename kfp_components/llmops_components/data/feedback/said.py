"""What one person has said of one answer, as a line of the feedback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmops_components.data.content import content_problem, content_text
from llmops_components.data.feedback.times import time_of
from llmops_components.data.lines import Line, finite
from llmops_components.errors import SettingError

FIELDS = ("request_id", "id", "answer", "rating", "correction", "who", "at", "time", "comment")
_WORDS = {
    **dict.fromkeys(
        ("up", "thumbs_up", "positive", "good", "like", "yes", "true", "\N{THUMBS UP SIGN}"), True
    ),
    **dict.fromkeys(
        ("down", "thumbs_down", "negative", "bad", "dislike", "no", "false", "\N{THUMBS DOWN SIGN}"), False
    ),
}
_LONGEST_NAME = 200
_EARLIEST = datetime.min.replace(tzinfo=UTC)


class UnreadableFeedbackError(ValueError):
    """A line of feedback cannot be used; goes on from the name of the line."""


@dataclass(frozen=True)
class Scale:
    """What numbers say of an answer.

    Args:
        up_from: The lowest that says that it is good; None where numbers are not taken.
        down_to: The highest that says that it is bad.
    """

    up_from: float | None = None
    down_to: float | None = None

    def check(self) -> None:
        """Raise :class:`SettingError` where the ends cannot be meant."""
        ends = {"up_from": self.up_from, "down_to": self.down_to}
        for name, end in ends.items():
            if end is not None and (isinstance(end, bool) or not isinstance(end, int | float)):
                raise SettingError(f"{name} must be a number, got {end!r:.60}.")
        if (self.up_from is None) != (self.down_to is None):
            raise SettingError("Give both, up_from and down_to, or none of them.")
        if self.up_from is not None and self.down_to is not None and self.down_to >= self.up_from:
            raise SettingError(
                f"down_to must be lower than up_from, got {self.down_to} and {self.up_from}: a rating would say both."
            )

    def is_good(self, rating: Any) -> bool | None:
        """Whether a rating says that an answer is good; None where there is no rating.

        Args:
            rating: A word, true or false, a number, or None.

        Raises:
            UnreadableFeedbackError: It is none of them, or says neither.
        """
        if rating is None or isinstance(rating, bool):
            return rating
        if isinstance(rating, str):
            word = rating.strip().lower()
            if not word or word in _WORDS:
                return _WORDS.get(word)
            try:
                rating = finite(word)  # as in CSV, where all is text
            except ValueError:
                raise UnreadableFeedbackError(
                    f"has a rating that is not known: {rating!r:.40}; up and down are"
                ) from None
        if not isinstance(rating, int | float):
            raise UnreadableFeedbackError(f"has a rating that is neither a word nor a number: {rating!r:.40}")
        if self.up_from is None or self.down_to is None:
            raise UnreadableFeedbackError(
                f"has a number as rating, {rating:g}, and up_from and down_to do not say what it means"
            )
        if rating >= self.up_from:
            return True
        if rating <= self.down_to:
            return False
        raise UnreadableFeedbackError(
            f"has a rating that says neither up nor down: {rating:g} is between {self.down_to} and {self.up_from}"
        )


@dataclass(frozen=True)
class Said:
    """A line of feedback.

    Args:
        line: Where it was read.
        request_id: Of which request.
        answer: Which of its answers, from 0; None where it has but one.
        is_good: Whether the answer is good. A correction without a rating says that it is not.
        correction: A better answer.
        who: Who has said so; None where that is not known.
        at: When.
        id: The feedback's own id.
        comment: Why, in words.
    """

    line: Line
    request_id: str
    answer: int | None
    is_good: bool
    correction: str | None = None
    who: str | None = None
    at: datetime | None = None
    id: str | None = None
    comment: str | None = None

    @property
    def order(self) -> tuple[datetime, int]:
        """What is later is larger; what has no time comes first."""
        return self.at or _EARLIEST, self.line.number


def read_said(line: Line, scale: Scale) -> Said:
    """Read a line of feedback.

    Args:
        line: The line.
        scale: What numbers mean.

    Raises:
        UnreadableFeedbackError: It cannot be used.
    """
    row = line.row
    if row is None:
        raise UnreadableFeedbackError(str(line.problem))
    is_good, correction = scale.is_good(row.get("rating")), _correction(row.get("correction"))
    if is_good is None:
        if correction is None:
            raise UnreadableFeedbackError(
                f"has neither rating nor correction; fields: {', '.join(list(row)[:8]) or 'none'}"
            )
        is_good = False
    request_id, own = ("request_id", "id") if row.get("request_id") is not None else ("id", "feedback_id")
    id = _id(row, request_id)
    if id is None:
        raise UnreadableFeedbackError("has no id of a request")
    answer = row.get("answer")
    if isinstance(answer, str) and (not answer or answer.isdecimal()):
        answer = int(answer) if answer else None  # as in CSV
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, int) or answer < 0):
        raise UnreadableFeedbackError(f"has an answer that is no index from 0: {answer!r:.40}")
    when = row.get("at") if row.get("at") is not None else row.get("time")
    try:
        at = time_of(when)
    except ValueError:
        raise UnreadableFeedbackError(f"has a time that is none: {when!r:.40}") from None
    who, comment = _who(row.get("who")), row.get("comment")
    if comment is not None and not isinstance(comment, str):
        raise UnreadableFeedbackError("has a comment that is no text")
    return Said(line, id, answer, is_good, correction, who, at, _id(row, own), comment or None)


def _id(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnreadableFeedbackError(f"has no text as {name}: {value!r:.40}")
    return str(value)


def _who(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_NAME:
        raise UnreadableFeedbackError(f"has no name as who: {value!r:.40}")
    return value.strip()


def _correction(value: Any) -> str | None:
    """A better answer, as text or as a message of the assistant; None where the field was left empty."""
    if isinstance(value, Mapping):
        if value.get("role", "assistant") != "assistant":
            raise UnreadableFeedbackError("has a correction that is no message of the assistant")
        value = value.get("content")
    if value is None:
        return None
    if content_problem(value):
        raise UnreadableFeedbackError("has a correction that is neither text nor a message")
    text = content_text(value)
    return text if text.strip() else None
