"""Connections to a server: how long each may keep it waiting, how large the head of a request may be, how many there may be.

Uvicorn itself waits for a request's head, its body, and for a client that does not read its answer for as long as they take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import uuid
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

MAX_HEAD_BYTES = 32 << 10
MAX_CONNECTIONS = 2048
MAX_PIPELINED = 4  # requests that wait behind the one that is being answered; no client in use sends any
HEAD_SECONDS = 10.0
STALL_SECONDS = 30.0
_REST_SECONDS = (
    2.0  # for the rest of a body that was refused: a client that is cut off while it sends misses its answer
)
_FILES = 2 * MAX_CONNECTIONS + 256  # a gateway has a connection to a revision for each of a client
_REFUSALS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
logger = logging.getLogger(__name__)


class _Refused(Exception):
    """The head of a request is none that is taken."""


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with limits; what they are is the class's, so that a subclass may have others.

    Args:
        refused: Called with the id and status of each request that is refused before the application sees it.
    """

    max_head_bytes = MAX_HEAD_BYTES
    max_connections = MAX_CONNECTIONS
    head_seconds = HEAD_SECONDS
    stall_seconds = STALL_SECONDS
    rest_seconds = _REST_SECONDS
    max_pipelined = MAX_PIPELINED

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        refused: Callable[[str, int], None] | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._note_refused = refused
        self.waiting_since: float | None = None  # for a whole request
        self._head_bytes = 0
        self._in_head = False
        self._in_body = False
        self._status = 400
        self._timer: TimerHandle | None = None
        self._stall: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; where there are too many, the one that has sent no whole request for longest makes room."""
        super().connection_made(transport)
        # Asyncio sets it where it knows that a socket is TCP's, which it does not of one given by number. Without it an
        # answer in two packets waits 40 ms for the client's acknowledgement.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._idle()
        if len(self.connections) > self.max_connections:
            waiting = [each for each in self.connections if getattr(each, "waiting_since", None) is not None]
            min(waiting, key=lambda each: each.waiting_since).abandon()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self._stop_stall()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Read a piece of a request."""
        was_in_head = self._in_head
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data) if was_in_head else self._length_of_head()
            if self._head_bytes > self.max_head_bytes:
                self._turn_away(431)

    def on_message_begin(self) -> None:
        """A request begins with this byte."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._wait(self.head_seconds, self._head_is_late)

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self._in_head, self._in_body = False, True
        self._stop_waiting()
        if (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            > self.max_head_bytes
        ):
            self._status = 431
            raise _Refused
        if not self.url.startswith(b"/"):  # an address for a proxy, which this is not
            raise _Refused
        if len(self.pipeline) >= self.max_pipelined:
            raise _Refused
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole request is there."""
        self._in_body = False
        self.waiting_since = None
        self._stop_waiting()
        super().on_message_complete()
        if self.cycle.response_complete and not self.pipeline:
            self._idle()

    def on_response_complete(self) -> None:
        """The answer is written; the rest of a body that it did not wait for may come for a moment."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_stall()  # what is written may wait for a client that does not read
        elif self._in_body and self.cycle.response_complete:
            self._wait(self.rest_seconds, self.abandon)
        elif self.cycle.response_complete:
            self._idle()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request."""
        self._refuse(self._status)  # uvicorn has written a line

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._start_stall()

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        self._stop_stall()

    def shutdown(self) -> None:
        """The server stops: who has all of its answers is not waited for, as TLS would for a goodbye that comes with the next reading."""
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            self.abandon()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while."""
        self.abandon()

    def abandon(self) -> None:
        """End the connection without waiting for the client to read."""
        self.transport.abort()

    def _head_is_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait(
                self.head_seconds, self._head_is_late
            )  # not read on, because an answer is being written
            return
        self._turn_away(408)

    def _length_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _turn_away(self, status: int) -> None:
        logger.warning("A request was answered with %d %s.", status, _REFUSALS[status])
        self._refuse(status)

    def _refuse(self, status: int) -> None:
        """Answer without the application, and end the connection."""
        if self.transport.is_closing():
            return
        id = uuid.uuid4().hex
        if self._note_refused is not None:
            self._note_refused(id, status)
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy:  # else the words would stand in the midst of another answer
            phrase = _REFUSALS[status]
            head = (
                f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {len(phrase)}\r\n"
            )
            self.transport.write(f"{head}x-request-id: {id}\r\nconnection: close\r\n\r\n{phrase}".encode())
        self.transport.close()
        self._start_stall()

    def _idle(self) -> None:
        self.waiting_since = self.loop.time()
        self._wait(self.timeout_keep_alive, self.abandon)

    def _wait(self, seconds: float, late: Callable[[], None]) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_stall(self) -> None:
        if self._stall is None:
            self._stall = self.loop.call_later(self.stall_seconds, self.abandon)

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def raise_file_limit() -> None:
    """Let the process have as many connections as it may: the usual soft limit of 1024 files is for select()."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
