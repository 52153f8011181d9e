"""A server that answers queries as a real Prometheus has answered them, see ``tests/recorded/prometheus.json``."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

RECORDED = json.loads((Path(__file__).parents[1] / "recorded" / "prometheus.json").read_text())
VERSIONS = tuple(RECORDED["exchanges"])


class RecordedPrometheus:
    """Answers what was recorded, whatever time is asked for; anything else is an error, as a wrong expression is.

    :param version: of the Prometheus that was recorded
    """

    def __init__(self, version: str = VERSIONS[-1]) -> None:
        self.answers = {_query(path): body for path, body in RECORDED["exchanges"][version]}
        self.asked: list[dict[str, str]] = []
        self.keys: list[str | None] = []
        self.refusal: tuple[int, Any] | None = None
        """Status and body to answer everything with instead."""

    def __enter__(self) -> RecordedPrometheus:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(
                    {name: value for name, (value,) in parse_qs(urlsplit(self.path).query).items()}
                )
                fake.keys.append(self.headers.get("Authorization"))
                status, body = fake.refusal or fake._answer(self.path)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode() if isinstance(body, str) else json.dumps(body).encode())

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, Any]:
        query = _query(path)
        if query in self.answers:
            return 200, self.answers[query]
        return 400, {"status": "error", "errorType": "bad_data", "error": f"not recorded: {query}"}


def _query(path: str) -> str:
    return parse_qs(urlsplit(path).query)["query"][0]
