"""Bodies of requests: how large one may be, how long it may take, and how much of all of them is held at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops_components.serving.http.refusals import RequestError, refuse

MAX_BODY_BYTES = 1 << 20
MAX_HELD_BYTES = 128 << 20
BODY_SECONDS = 30.0


@dataclass(eq=False)
class _Unfinished:
    """A body of which more is to come."""

    limit: asyncio.Timeout
    bytes: int = 0
    gives_way: bool = False

    @property
    def is_leaving(self) -> bool:
        """Whether it is given up already, though its bytes are held until its turn comes."""
        return self.gives_way or self.limit.expired()


class Bodies:
    """Reads a request's body as a whole before the application sees the request.

    Where the bodies of all requests together are too large, the largest that is not complete is refused: whoever sends much
    and slowly pays for it, not whoever comes last.

    Args:
        app: The application behind.
        max_bytes: Most bytes of one body.
        max_held: Most bytes of all bodies, those included whose requests are being answered.
        seconds: Longest time for a body to arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int = MAX_BODY_BYTES,
        max_held: int = MAX_HELD_BYTES,
        seconds: float = BODY_SECONDS,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_held = max_held
        self.seconds = seconds
        self.held = 0
        self._unfinished: set[_Unfinished] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        took: list[int] = []
        try:
            body = await self._read(scope, receive, took)
        except RequestError as error:
            self.held -= sum(took)
            await refuse(error, scope, receive, send)
            return
        except ClientDisconnect:
            self.held -= sum(took)
            return
        except BaseException:
            self.held -= sum(took)
            raise
        try:
            await self.app(scope, _first(body, receive), send)
        finally:
            self.held -= sum(took)

    async def _read(self, scope: Scope, receive: Receive, took: list[int]) -> bytes:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_bytes:
            raise self._too_large()
        pieces: list[bytes] = []
        waiting: _Unfinished | None = None
        try:
            async with asyncio.timeout(self.seconds) as limit:
                waiting = _Unfinished(limit)
                self._unfinished.add(waiting)
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    waiting.bytes += len(piece)
                    if waiting.bytes > self.max_bytes:
                        raise self._too_large()
                    pieces.append(piece)
                    took.append(len(piece))
                    self.held += len(piece)
                    if self.held > self.max_held:
                        self._make_room()
                    if waiting.gives_way:
                        raise self._full()
        except TimeoutError:
            if waiting is not None and waiting.gives_way:
                raise self._full() from None
            raise RequestError(
                408, f"The request's body did not arrive within {self.seconds:g} s.", code="request_timeout"
            ) from None
        finally:
            if waiting is not None:
                self._unfinished.discard(waiting)
        return b"".join(pieces)

    def _make_room(self) -> None:
        leaving = sum(each.bytes for each in self._unfinished if each.is_leaving)
        if self.held - leaving > self.max_held:
            largest = max(
                (each for each in self._unfinished if not each.is_leaving), key=lambda each: each.bytes
            )
            largest.gives_way = True
            largest.limit.reschedule(0)  # its time is up

    def _too_large(self) -> RequestError:
        return RequestError(
            413,
            f"The request body is larger than the limit of {self.max_bytes} bytes.",
            code="request_too_large",
        )

    def _full(self) -> RequestError:
        return RequestError(
            503,
            f"The server is full: it holds {self.max_held} bytes of requests, which is its limit. Try again later.",
            code="server_full",
            retry_after_seconds=1,
        )


def _first(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the whole body, then what comes."""
    given = False

    async def received() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received
