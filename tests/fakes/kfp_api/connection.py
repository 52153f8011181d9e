"""HTTP/1.1 with keep-alive, and the faults that happen on the wire.

The standard library's server costs more CPU for a request than the rest of the fake; benchmarks need that CPU.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from .faults import Fault, Faults, LoginPage, Reset, Status, Timeout, Truncated

LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign In</title></head>"
    b'<body><form method="post" action="/dex/auth/local"></form></body></html>'
)


@dataclass
class Incoming:
    method: str
    target: str
    headers: dict[str, str]
    payload: bytes = b""

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        self.path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class Application(Protocol):
    """What a connection asks of the server."""

    faults: Faults

    @property
    def url(self) -> str: ...

    def answer(self, request: Incoming) -> Answer:
        """Does what the request asks."""

    def control(self, request: Incoming) -> Answer:
        """Answers a request to the fake itself."""

    def note(self, request: Incoming, status: int) -> None:
        """Keeps the request for tests to look at; 0 stands for no answer."""


class Connection(asyncio.Protocol):
    """One connection: requests one after the other, answered in order."""

    def __init__(self, api: Application, open_connections: set[Connection]) -> None:
        self._api = api
        self._open = open_connections
        self._buffer = bytearray()
        self._busy = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def abort(self) -> None:
        """Closes with RST: the client sees a reset, not an end of file."""
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        while not self._busy:
            request = self._next_request()
            if request is None:
                return
            self._handle(request)

    def _next_request(self) -> Incoming | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        start = end + 4
        if headers.get("transfer-encoding", "").lower() == "chunked":
            chunks = _chunked(self._buffer, start)
            if chunks is None:
                return None
            payload, stop = chunks
        else:
            stop = start + int(headers.get("content-length", "0"))
            if len(self._buffer) < stop:
                if headers.get("expect", "").lower() == "100-continue" and len(self._buffer) == start:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return None
            payload = bytes(self._buffer[start:stop])
        del self._buffer[:stop]
        return Incoming(method, target, headers, payload)

    def _handle(self, request: Incoming) -> None:
        api = self._api
        if request.path.startswith("/fake/"):
            self._send(request, api.control(request))
            return
        drawn = api.faults.draw(request.method, request.path)
        if drawn is None:
            self._finish(request, api.answer(request))
            return
        fault, after_effect = drawn
        answer = api.answer(request) if after_effect else None
        self._fail(request, fault, answer)

    def _fail(self, request: Incoming, fault: Fault, answer: Answer | None) -> None:
        """:param answer: of a request that took effect before the fault, or ``None``."""
        match fault:
            case Status(code, retry_after):
                headers = [("Content-Type", "text/plain")]
                if retry_after is not None:
                    headers.append(("Retry-After", str(retry_after)))
                self._finish(request, Answer(code, HTTPStatus(code).phrase.encode(), tuple(headers)))
            case LoginPage(status):
                headers = [("Content-Type", "text/html; charset=utf-8")]
                if 300 <= status < 400:
                    headers.append(("Location", f"{self._api.url}/dex/auth"))
                self._finish(request, Answer(status, LOGIN_PAGE, tuple(headers)))
            case Reset():
                self._api.note(request, 0)
                self.abort()
            case Truncated(length_matches):
                if answer is None:
                    # A read has no effect, so the real answer can be cut; a write must not happen.
                    example = Answer(200, b'{"run_id": "00000000-0000-0000-0000-000000000000"}')
                    answer = self._api.answer(request) if request.method == "GET" else example
                self._api.note(request, answer.status)
                cut = answer.body[: max(1, len(answer.body) // 2)]
                length = len(cut) if length_matches else len(answer.body)
                self._write(Answer(answer.status, cut, answer.headers), length, keep_alive=False)
            case Timeout(seconds):
                self._busy = True
                asyncio.get_running_loop().call_later(seconds, self._late, request, answer)

    def _late(self, request: Incoming, answer: Answer | None) -> None:
        if self._transport.is_closing():
            self._api.note(request, 0)
            return
        self._finish(request, answer or self._api.answer(request))
        self._busy = False
        self._advance()

    def _finish(self, request: Incoming, answer: Answer) -> None:
        self._api.note(request, answer.status)
        self._send(request, answer)

    def _send(self, request: Incoming, answer: Answer) -> None:
        keep_alive = request.headers.get("connection", "").lower() != "close"
        self._write(answer, len(answer.body), keep_alive=keep_alive)

    def _write(self, answer: Answer, length: int, *, keep_alive: bool) -> None:
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        lines.append(f"Content-Length: {length}")
        if not keep_alive:
            lines.append("Connection: close")
        self._transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body)
        if not keep_alive:
            self._transport.close()


def _chunked(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    """The body of a chunked request and where it ends, or ``None`` while it is incomplete."""
    payload = bytearray()
    while True:
        line = buffer.find(b"\r\n", start)
        if line < 0:
            return None
        size = int(bytes(buffer[start:line]).split(b";")[0], 16)
        start = line + 2
        if len(buffer) < start + size + 2:
            return None
        payload += buffer[start : start + size]
        start += size + 2
        if size == 0:
            return bytes(payload), start
