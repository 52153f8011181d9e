"""Ask again while a server does not answer: how often, how long, and what the log says of it."""

from __future__ import annotations

import logging

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    stop_never,
)
from tenacity.stop import stop_base

from airflow_provider_llmops.exceptions import ApiUnavailableError

log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 120.0


def while_unavailable(patience: float, *, stop: stop_base | None = None) -> Retrying:
    """Try again while there is no usable answer.

    :param patience: seconds within which the last error is raised
    :param stop: what else ends the trying
    """
    in_time: stop_base = stop_before_delay(patience)
    return Retrying(
        retry=retry_if_exception_type(ApiUnavailableError),
        wait=wait_before_retry,
        stop=in_time | stop if stop else in_time,
        before_sleep=log_retry,
        reraise=True,
    )


def for_ever_while_unavailable() -> AsyncRetrying:
    """The same for who keeps no time, in an event loop."""
    return AsyncRetrying(
        retry=retry_if_exception_type(ApiUnavailableError),
        wait=wait_before_retry,
        stop=stop_never,
        before_sleep=log_retry,
        reraise=True,
    )


def wait_before_retry(state: RetryCallState) -> float:
    """Seconds to wait: twice as long each time up to a ceiling, at random, and never less than the server asked for.

    "Full jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    import random

    ceiling = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(state.attempt_number - 1, 16))
    error = state.outcome.exception() if state.outcome else None
    asked = getattr(error, "retry_after", None) or 0.0
    return min(asked, MAX_RETRY_AFTER_SECONDS) + random.uniform(0, ceiling)  # noqa: S311 - not a secret


def log_retry(state: RetryCallState) -> None:
    """Say why a request is repeated, and when. Tenacity's own line names a function that nobody knows."""
    error = state.outcome.exception() if state.outcome else None
    reason = str(error).partition("\n")[0]
    log.warning("Trying again in %.1f s: %s", state.upcoming_sleep, reason)
