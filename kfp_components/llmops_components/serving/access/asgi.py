"""Access control as middleware: of a gateway or a predictor that stands alone, and of a predictor behind its gateway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops_components.headers import REVISION_HEADER
from llmops_components.serving.access.admission import (
    CLIENT_WENT_AWAY,
    REQUEST_ID_HEADER,
    Admission,
    Visit,
    body_length,
    is_open,
    not_the_gateway,
)
from llmops_components.serving.access.secret import GATEWAY_HEADER, is_gateway
from llmops_components.serving.access.usage import StreamUsage, Usage, current, tokens_asked
from llmops_components.serving.http.refusals import refuse

USAGE_PATH = "/gateway/usage/"
KEPT_USAGES = 4096  # of the requests that came last
END_SECONDS = 5.0  # that the end of a request is waited for whose client left
VISIT = "llmops.visit"  # in an ASGI scope


class AuditTrail:
    """Gives each request an id, sends it back with the answer, and has the request noted when it is over.

    It stands before the door, so that requests that the door refuses are noted as well.

    Args:
        app: The application behind: a door, and behind that :class:`AccessControl`.
        admission: Where requests are counted and noted.
        secret: The service's secret, of a gateway: what its controller asks is neither counted nor noted.
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
        visit = self.admission.visit(scope["method"], scope["path"], headers.get("authorization"))
        scope[VISIT] = visit
        status, revision, is_over = CLIENT_WENT_AWAY, None, False

        async def seen(message: Message) -> None:
            nonlocal status, revision, is_over
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(raw=message["headers"])
                answered[REQUEST_ID_HEADER] = visit.id
                revision = answered.get(REVISION_HEADER)
            elif not message.get(
                "more_body", False
            ):  # whoever has the whole answer finds its line in the log
                is_over = True
                self.admission.leave(visit, status, revision=revision)
            await send(message)

        try:
            await self.app(scope, receive, seen)
        except Exception:
            status = 500
            raise
        finally:
            if not is_over:
                self.admission.leave(visit, status, revision=revision)


class AccessControl:
    """Refuses the requests of those who may not ask, and finds out how many tokens the others take.

    Args:
        app: The application behind.
        admission: Who may ask.
        usage_of: Asks the predictor how many tokens a request took whose client left before the end of its answer. A
            gateway has it; a predictor that stands alone counts them itself.
    """

    def __init__(
        self,
        app: ASGIApp,
        admission: Admission,
        *,
        usage_of: Callable[[Visit], Awaitable[None]] | None = None,
    ) -> None:
        self.app = app
        self.admission = admission
        self.usage_of = usage_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = scope.get(VISIT)
        if visit is None:  # the controller's, or no request
            await self.app(scope, receive, send)
            return
        self.admission.admit(visit, body_length(Headers(scope=scope).get("content-length")))
        if visit.refusal is not None:
            await refuse(visit.refusal, scope, receive, send)
            return
        await self._let_in(visit, scope, receive, send)

    async def _let_in(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        stream, is_whole = None, False

        async def seen(message: Message) -> None:
            nonlocal stream, is_whole
            if message["type"] != "http.response.start":
                body = message.get("body", b"")
                visit.keep("answer", body)
                if stream is not None:
                    stream.see(body)
                is_whole = not message.get("more_body", False)
            elif self.usage_of is not None:
                headers = Headers(raw=message["headers"])
                visit.usage.read_headers(headers)
                if headers.get("content-type", "").startswith("text/event-stream"):
                    stream = StreamUsage(visit.usage)
            await send(message)

        async def read() -> Message:
            message = await receive()
            body = message.get("body", b"")
            visit.keep("request", body)
            visit.asked += tokens_asked(body)
            return message

        with _noting(visit.usage):
            await self.app(scope, read, seen)
        if not is_whole and self.usage_of is not None:
            await self.usage_of(visit)


class GatewayOnly:
    """Lets a service's gateway and controller in, and nobody else; what they ask is counted and noted there.

    At :data:`USAGE_PATH` the gateway asks how many tokens a request took whose client left before the end of its answer.

    Args:
        app: The application behind.
        secret: The service's secret.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self.app = app
        self.secret = secret
        self._usages: dict[str, tuple[Usage, asyncio.Event]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _only_lifespan(self.app, scope, receive, send)
            return
        headers = Headers(scope=scope)
        comes_from_gateway = is_gateway(headers.get(GATEWAY_HEADER), self.secret)
        if not comes_from_gateway and not is_open(scope["method"], scope["path"]):
            await refuse(not_the_gateway(), scope, receive, send)
            return
        if scope["path"].startswith(USAGE_PATH):
            await (await self._usage_of(scope["path"].removeprefix(USAGE_PATH)))(scope, receive, send)
            return
        usage, ended = Usage(is_for_gateway=True), asyncio.Event()
        if comes_from_gateway and (id := headers.get(REQUEST_ID_HEADER)):
            self._usages[id] = usage, ended
            if len(self._usages) > KEPT_USAGES:
                del self._usages[next(iter(self._usages))]

        async def with_usage(message: Message) -> None:
            if message["type"] == "http.response.start" and (usage.prompt_tokens or usage.completion_tokens):
                MutableHeaders(raw=message["headers"]).update(usage.headers())
            await send(message)

        try:
            with _noting(usage):
                await self.app(scope, receive, with_usage)
        finally:
            ended.set()

    async def _usage_of(self, id: str) -> Response:
        """How many tokens a request took, as soon as the predictor has stopped working for it."""
        if id not in self._usages:
            return Response(status_code=404)
        usage, ended = self._usages[id]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), END_SECONDS)
        return Response(status_code=204, headers=usage.headers())


async def _only_lifespan(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass on what starts and ends an application; no service speaks WebSocket."""
    if scope["type"] == "lifespan":
        await app(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


@contextlib.contextmanager
def _noting(usage: Usage) -> Iterator[None]:
    token = current.set(usage)
    try:
        yield
    finally:
        current.reset(token)
