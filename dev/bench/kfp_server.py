"""The fake API server of Kubeflow Pipelines in a process of its own, for benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FAKES = Path(__file__).resolve().parents[2] / "tests" / "fakes"


class KfpServer:
    """A running fake.

    :param url: its address
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Ask the fake itself, see ``tests/fakes/kfp_api/__main__.py``."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/fake/{path}", data, method=method)  # noqa: S310
        with urllib.request.urlopen(request) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
        return answer

    def requests(self, *, forget: bool = False) -> int:
        """Requests since the last time that they were forgotten."""
        return sum(self.control("DELETE" if forget else "GET", "requests")["counts"].values())


@contextmanager
def kfp_server() -> Iterator[KfpServer]:
    """A fake that lives as long as the block."""
    environment = {**os.environ, "PYTHONPATH": str(FAKES)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kfp_api"], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout is not None
    try:
        yield KfpServer(process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait()
