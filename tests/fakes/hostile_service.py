"""A server over real sockets that speaks OpenAI's chat API as badly as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Does:
    """What the server does with one question.

    Args:
        status: HTTP status.
        body: What it sends: JSON, or bytes as they are; an answer when None.
        headers: Further headers.
        seconds: How long it waits before.
        sends: Share of the body that is sent before the connection is cut.
    """

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0
    sends: float = 1


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, behave: Callable[[str, int], Does]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.behave = behave
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["input"] if "input" in body else body["messages"][-1]["content"]
        if isinstance(prompt, list):
            prompt = json.dumps(prompt)
        with self.server.lock:
            self.server.asked[prompt] += 1
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
            nth = self.server.asked[prompt]
            self.server.headers.append(dict(self.headers))
            self.server.bodies.append(body)
        try:
            self._do(self.server.behave(prompt, nth), prompt)
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def _do(self, does: Does, prompt: str) -> None:
        time.sleep(does.seconds)
        made = answer_to(prompt) if does.body is None else does.body
        content = made if isinstance(made, bytes) else json.dumps(made).encode()
        if does.sends < 1:
            self.close_connection = True
        if not does.sends:
            return
        self.send_response(does.status)
        for name, value in {"Content-Length": str(len(content)), **does.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: int(len(content) * does.sends)])

    def log_message(self, *_: Any) -> None:
        pass


def answer_to(prompt: str, text: str | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"re: {prompt}" if text is None else text}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


@contextmanager
def hostile_service(behave: Callable[[str, int], Does] | None = None, *, port: int = 0) -> Iterator[Server]:
    """A server that does with the nth time of a question what it is told; it answers where it is told nothing."""
    server = Server(port, behave or (lambda prompt, nth: Does()))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
