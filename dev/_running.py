"""Commands of ``dev/test`` and ``dev/check``, in the checkout and with its environments ready."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from _setup import REPOSITORY, SKIP_VARIABLE
from _setup import main as set_up

# The models of the tests are tiny: more threads, or threads that spin while they wait, only get in each other's way.
TORCH_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def ready() -> int:
    """Bring the environments up to date; an exit status."""
    return 0 if os.environ.get(SKIP_VARIABLE) else set_up(["--quiet"])


def start(command: list[Any], **streams: Any) -> subprocess.Popen[bytes]:
    """Start a command in the checkout."""
    return subprocess.Popen(command, cwd=REPOSITORY, env=TORCH_ENVIRONMENT | os.environ, **streams)


def run(command: list[Any]) -> int:
    """Run a command in the checkout; its exit status."""
    process = start(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has sent it to the child too, which ends in its own way; wait for that.
            continue
