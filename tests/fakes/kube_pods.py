"""As much of a Kubernetes API server as reading the logs of a run's failed pods needs, over HTTP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class FakePods:
    """Pods with logs.

    :param logs: log of each pod's main container; pods fail in this order
    :param label: the label that all pods have
    """

    def __init__(self, logs: dict[str, str], label: str) -> None:
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = parse_qs(url.query)
                fake.requests.append((url.path, query))
                parts = url.path.split("/")
                if url.path.endswith("/pods"):
                    wanted = query["labelSelector"] == [label] and query["fieldSelector"] == [
                        "status.phase=Failed"
                    ]
                    items = [_pod(name, minute) for minute, name in enumerate(logs)] if wanted else []
                    self._answer("application/json", json.dumps({"kind": "PodList", "items": items}))
                elif parts[-1] == "log" and query["container"] == ["main"]:
                    lines = logs[parts[-2]].splitlines()[-int(query["tailLines"][0]) :]
                    self._answer("text/plain", "\n".join(lines) + "\n")
                else:
                    self.send_error(404)

            def _answer(self, kind: str, text: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> FakePods:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def connection(self) -> str:
        """An Airflow connection to it, as JSON."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}}
            ],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": json.dumps(config)}})


def _pod(name: str, minute: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z"},
        "status": {"phase": "Failed"},
    }
