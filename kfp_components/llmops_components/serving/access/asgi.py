"""Access control as middleware: of a gateway or a predictor that stands alone, and of a predictor behind its gateway."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops_components.serving.access.admission import (
    CLIENT_WENT_AWAY,
    REQUEST_ID_HEADER,
    REVISION_HEADER,
    Admission,
    Visit,
    body_length,
    is_open,
    not_the_gateway,
)
from llmops_components.serving.access.secret import GATEWAY_HEADER, is_gateway
from llmops_components.serving.access.usage import StreamUsage, Usage, current, tokens_asked
from llmops_components.serving.refusals import RequestError, request_error_handler


class AccessControl:
    """Lets those in who may ask, counts and notes what they ask.

    Args:
        app: The application behind.
        admission: Who may ask.
        secret: The service's secret, of a gateway: its controller gets in without a key, and how many tokens an answer took is
            told by the predictor behind.
    """

    def __init__(self, app: ASGIApp, admission: Admission, *, secret: str | None = None) -> None:
        self.app = app
        self.admission = admission
        self.secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _only_lifespan(self.app, scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self.secret is not None and is_gateway(headers.get(GATEWAY_HEADER), self.secret):
            await self.app(scope, receive, send)
            return
        length = body_length(headers.get("content-length"))
        visit = self.admission.visit(scope["method"], scope["path"], headers.get("authorization"), length)
        if visit.refusal is not None:
            self.admission.leave(visit, visit.refusal.status)
            await _refuse(visit.refusal, scope, receive, send)
            return
        await self._let_in(visit, scope, receive, send)

    async def _let_in(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        status, revision, stream = CLIENT_WENT_AWAY, None, None

        async def seen(message: Message) -> None:
            nonlocal status, revision, stream
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers[REQUEST_ID_HEADER] = visit.id
                revision = headers.get(REVISION_HEADER)
                if self.secret is not None:
                    visit.usage.read_headers(headers)
                    if headers.get("content-type", "").startswith("text/event-stream"):
                        stream = StreamUsage(visit.usage)
            else:
                body = message.get("body", b"")
                visit.keep("answer", body)
                if stream is not None:
                    stream.see(body)
            await send(message)

        async def read() -> Message:
            message = await receive()
            body = message.get("body", b"")
            visit.keep("request", body)
            visit.asked += tokens_asked(body)
            return message

        try:
            with _noting(visit.usage):
                await self.app(scope, read, seen)
        except Exception:
            status = 500
            raise
        finally:
            self.admission.leave(visit, status, revision=revision)


class GatewayOnly:
    """Lets a service's gateway and controller in, and nobody else; what they ask is counted and noted there.

    Args:
        app: The application behind.
        secret: The service's secret.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self.secret = secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _only_lifespan(self.app, scope, receive, send)
            return
        given = Headers(scope=scope).get(GATEWAY_HEADER)
        if not is_open(scope["method"], scope["path"]) and not is_gateway(given, self.secret):
            await _refuse(not_the_gateway(), scope, receive, send)
            return
        usage = Usage(tell=True)

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start" and (usage.prompt_tokens or usage.completion_tokens):
                MutableHeaders(raw=message["headers"]).update(usage.headers())
            await send(message)

        with _noting(usage):
            await self.app(scope, receive, telling)


async def _only_lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass on what starts and ends an application; no service speaks WebSocket."""
    if scope["type"] == "lifespan":
        await app(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


async def _refuse(refusal: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    await (await request_error_handler(Request(scope), refusal))(scope, receive, send)


@contextlib.contextmanager
def _noting(usage: Usage) -> Iterator[None]:
    token = current.set(usage)
    try:
        yield
    finally:
        current.reset(token)
