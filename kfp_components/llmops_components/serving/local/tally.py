"""How many requests each revision has answered, how many of them with an error of its own, and how long they took.

What a canary is judged by: counted where the requests are shared out, so that it is the same whatever serves.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

# Bound of bucket k is FIRST_BOUND_SECONDS * GROWTH**k: a percentile that is read from them is 9 percent too high at most.
FIRST_BOUND_SECONDS = 0.001
BUCKETS_PER_DOUBLING = 8
MAX_BUCKET = 160  # 1,000 s
# Of a revision that no request has reached.
NO_ANSWERS: dict[str, Any] = {"began": 0.0, "requests": 0, "errors": 0, "seconds": {}}


class Tally:
    """Requests that one revision has answered since the gateway was started.

    Args:
        began: When that was, by which a count that begins anew is told from one that goes on.
    """

    def __init__(self, began: float = 0.0) -> None:
        self.began = began
        self.requests = 0
        self.errors = 0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float, *, is_error: bool) -> None:
        """Count an answer.

        Args:
            seconds: From the request to the end of its answer.
            is_error: Whether the revision failed: a status from 500 on, or 429, no answer, or one that was cut off.
        """
        self.requests += 1
        if is_error:
            self.errors += 1  # how long it took to fail says nothing of how fast it answers
        else:
            self._buckets[bucket_of(seconds)] += 1

    def to_json(self) -> dict[str, Any]:
        """``{"began", "requests", "errors", "seconds"}``; the last maps the upper bound of each bucket, as text, to its answers."""
        bounds = {f"{bound_of(bucket):.6g}": count for bucket, count in sorted(self._buckets.items())}
        return {"began": self.began, "requests": self.requests, "errors": self.errors, "seconds": bounds}


def bucket_of(seconds: float) -> int:
    """The bucket that a duration belongs to.

    Args:
        seconds: The duration.
    """
    if seconds <= FIRST_BOUND_SECONDS:
        return 0
    return min(math.ceil(BUCKETS_PER_DOUBLING * math.log2(seconds / FIRST_BOUND_SECONDS)), MAX_BUCKET)


def bound_of(bucket: int) -> float:
    """The longest duration in a bucket, in seconds.

    Args:
        bucket: The bucket.
    """
    return float(FIRST_BOUND_SECONDS * 2 ** (bucket / BUCKETS_PER_DOUBLING))
