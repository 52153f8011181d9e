"""A server that speaks OpenAI's API, in a process of its own: it answers each question after a while, as many at a time as come."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def _serve(
    sock: socket.socket, seconds: float, path: str, says: Callable[[str], str], usage: dict[str, int]
) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        await asyncio.sleep(seconds)
        message = {"role": "assistant", "content": says(asked["messages"][-1]["content"])}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": asked["model"],
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
                "usage": usage,
            }
        )

    app = web.Application()
    app.router.add_post(f"{path}/chat/completions", answer)
    web.run_app(app, sock=sock, print=None, handle_signals=False)


@contextmanager
def chat_server(
    seconds: float, path: str, says: Callable[[str], str], tokens: tuple[int, int]
) -> Iterator[str]:
    """Run one; gives its address, without the path.

    Args:
        seconds: How long an answer takes.
        path: Where the API is, such as ``/v1``.
        says: The answer to a question.
        tokens: Tokens of question and answer, as it tells them.
    """
    sock = socket.create_server(("127.0.0.1", 0), backlog=512)
    usage: dict[str, Any] = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
    arguments = (sock, seconds, path, says, usage | {"total_tokens": sum(tokens)})
    server = multiprocessing.get_context("fork").Process(target=_serve, args=arguments, daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.kill()
