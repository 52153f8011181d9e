"""What is asked of a service: past every proxy where it is on this machine, and whether it asks for keys."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from llmops_components.errors import UnavailableError
from llmops_components.serving.http.asking import ask, is_open_to_all
from llmops_components.serving.local.controller import LocalServing


@contextmanager
def answering(*statuses: int, choice: object = None) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these, the last one ever after, and notes what it was asked."""
    left, seen = list(statuses), []
    content = json.dumps({"choices": [choice or {"text": "yes"}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append(self.path)
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


ASKING = """
import sys
from llmops_components.serving.http.asking import ask, is_open_to_all

print(ask(sys.argv[1], "m", "Hi", headers={"x-llmops-gateway": "secret"}), is_open_to_all(sys.argv[1]))
"""


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_no_proxy_sees_what_a_service_of_this_machine_is_asked(name: str) -> None:
    with answering(503) as (proxy, seen_by_proxy), answering(200) as (url, seen):
        # A process of its own: the environment's proxies are read when the module is imported.
        environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
        run = subprocess.run(
            [sys.executable, "-c", ASKING, f"{url.replace('127.0.0.1', name)}/openai/v1"],
            env=environment | {"http_proxy": proxy},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (run.stdout, run.stderr) == ("yes True\n", "")
    assert seen == ["/openai/v1/chat/completions", "/openai/v1/models"]
    assert seen_by_proxy == []


@pytest.mark.parametrize("choice", [{"message": {"content": None}}, {"message": None}, {"index": 0}])
def test_choice_without_text_is_no_answer(choice: object) -> None:
    with (
        answering(200, choice=choice) as (url, _),
        pytest.raises(UnavailableError, match="did not answer the smoke question with text"),
    ):
        ask(f"{url}/openai/v1", "m", "Hi")


@pytest.mark.parametrize(
    ("statuses", "is_open"),
    [
        ((200,), True),
        ((401,), False),
        ((403,), False),
        ((302,), False),
        ((404, 401), False),
        ((503, 200), True),
    ],
)
def test_a_service_is_open_where_it_answers_and_closed_where_it_asks_for_a_key(
    statuses: tuple[int, ...], is_open: bool
) -> None:
    with answering(*statuses) as (url, _):
        assert is_open_to_all(f"{url}/openai/v1") is is_open


@pytest.mark.parametrize("status", [404, 429, 503])
def test_what_a_service_does_not_tell_of_its_keys_is_no_answer(status: int) -> None:
    with (
        answering(status) as (url, _),
        pytest.raises(UnavailableError, match=f"^Cannot tell whether a key is needed: .* with HTTP {status}"),
    ):
        is_open_to_all(f"{url}/openai/v1", timeout_seconds=0.1)


def test_a_revision_that_is_gone_is_not_asked_whoever_has_its_port_now(tmp_path: Path) -> None:
    directory = tmp_path / "services/default/helper/revisions/00001"
    directory.mkdir(parents=True)
    with answering(200) as (url, seen):
        facts = {"digest": "d", "url": url, "model_name": "m"}
        (directory / "facts.json").write_text(json.dumps(facts))
        with pytest.raises(UnavailableError, match="The process that listened there is gone"):
            LocalServing(tmp_path).ask("helper", "00001", "Hello")
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert LocalServing(tmp_path).ask("helper", "00001", "Hello") == "yes"
    assert seen == ["/openai/v1/chat/completions"]
