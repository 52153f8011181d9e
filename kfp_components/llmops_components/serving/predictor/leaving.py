"""Whether the client of a request is still there: what nobody reads any more is not generated."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

from llmops_components.serving.predictor.generation import Generation, Piece

_receive: ContextVar[Receive | None] = ContextVar("receive", default=None)


class ClientWatch:
    """Lets :func:`unless_disconnected` see the client of a request, in whatever route it is answered.

    Args:
        app: The application behind; it reads the request's body before it asks for texts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = _receive.set(receive)
        try:
            await self.app(scope, receive, send)
        finally:
            _receive.reset(token)


async def unless_disconnected(generations: list[Generation]) -> list[Piece] | None:
    """The answers of all generations, or None when the client went away; whatever ends this, the rows are given up.

    Args:
        generations: One per prompt.
    """
    answer = asyncio.gather(*(generation.whole() for generation in generations))
    waited: list[asyncio.Future] = [answer]
    if (receive := _receive.get()) is not None:
        waited.append(asyncio.ensure_future(receive()))  # after the body only http.disconnect can come
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        for each in waited:
            each.cancel()
        for generation in generations:
            generation.cancel()
