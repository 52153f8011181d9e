"""Points in time as logs write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from llmops_components.data.lines import finite

_LATEST_SECONDS = 1e11  # what is more are milliseconds


def time_of(value: Any) -> datetime | None:
    """A point in time; of one without a zone it is taken to be UTC.

    Args:
        value: ISO 8601, seconds or milliseconds since 1970, or None.

    Raises:
        ValueError: It is none of them.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("no point in time")
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            value = finite(value)
        else:
            value = time if time.tzinfo else time.replace(tzinfo=UTC)
    try:
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return datetime.fromtimestamp(value / 1000 if abs(value) > _LATEST_SECONDS else value, UTC)
    except (OverflowError, OSError):
        raise ValueError("no point in time") from None


def written(time: datetime | None) -> str | None:
    """A point in time as ISO 8601 in UTC.

    Args:
        time: The time.
    """
    return time.isoformat() if time else None
