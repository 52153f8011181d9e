"""How many requests the predictor has answered, how many with an error of its own, and how long whole answers took, for Prometheus.

What a canary on a cluster is judged by, where no gateway of ours shares the requests out: counted by the same rules as the gateway's
:mod:`~llmops_components.serving.local.tally`. ``process_start_time_seconds``, which ``prometheus_client`` exports of itself, tells a
count that began anew.
"""

from __future__ import annotations

import time

from prometheus_client import Counter, Histogram
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Each bound is 2 ** (1/4) times the one before: a percentile that is read from them is 19 percent too high at most.
BOUNDS_SECONDS = tuple(float(f"{0.001 * 2 ** (bucket / 4):.6g}") for bucket in range(81))  # to 1,049 s
CUT_OFF = "cut_off"
_TOO_MANY = 429
REQUESTS = Counter(
    "llmops_requests",
    "Requests that were answered, or that failed: status 429 and from 500 on, or cut off. Wrong requests and clients that left are none",
    ["code"],
)
SECONDS = Histogram(
    "llmops_request_duration_seconds",
    "From a request to the end of its answer, of requests without an error",
    buckets=BOUNDS_SECONDS,
)
for code in ("200", "429", "500", "503", "504", CUT_OFF):
    REQUESTS.labels(code)  # from 0 on: what first appears as 1 has not grown, as Prometheus sees it


class Counted:
    """Counts what the application behind it is asked to do and how that ended, not whether it is well.

    It stands behind what refuses requests by quota or key: those say nothing of the revision.

    Args:
        app: The application behind.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        answer = _Answer(receive, send)
        try:
            await self.app(scope, answer.receive, answer.send)
        except ClientDisconnect:
            answer.is_left = True
            raise
        finally:
            answer.count()


class _Answer:
    """One request, and what becomes of it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._started = time.monotonic()
        self._status: int | None = None
        self._is_whole = False
        self.is_left = False
        """Whether its client went away before the end of its answer."""

    async def receive(self) -> Message:
        """Receive a message, and see whether the request is whole, or its client gone."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_left = self.is_left or not self._is_whole
        elif not message.get("more_body", False):
            self._started = time.monotonic()
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the answer.

        Args:
            message: The message.
        """
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif not message.get("more_body", False):
            self._is_whole = True
        await self._send(message)

    def count(self) -> None:
        """Count it, now that nothing more is done for it."""
        if self.is_left:
            return
        status = 500 if self._status is None else self._status  # as the server answers where nothing was
        if self._status is not None and not self._is_whole:
            REQUESTS.labels(CUT_OFF).inc()
        elif status >= 500 or status == _TOO_MANY:
            REQUESTS.labels(str(status)).inc()
        elif status < 400:
            REQUESTS.labels(str(status)).inc()
            SECONDS.observe(time.monotonic() - self._started)
