"""Logs of services: they stay small, nothing gets lost, and the end of one is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmops_components.serving.detached import logs, processes

WRITER = """
import os, sys
from pathlib import Path
from llmops_components.serving.detached.logs import rotate

log = Path("log.txt")
for number in range(12):
    os.write(1 + number % 2, f"line {number}\\n".encode())
    rotate(log, max_bytes=20)
"""


def test_a_large_log_is_begun_anew_and_the_last_lines_are_found_across_both(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("ab") as log:
        subprocess.run([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=log, stderr=log, check=True)

    lines = [f"line {number}" for number in range(12)]
    found = {path.name: path.read_text().splitlines() for path in tmp_path.iterdir()}
    assert found == {"log.txt": [], "log.txt.1": lines[9:], "log.txt.2": lines[6:9]}
    assert processes.log_tail(tmp_path, 5).splitlines() == lines[-5:]
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("log.txt")} == {0}


FAILS_ONCE = """
import os, resource
from pathlib import Path
from llmops_components.serving.detached.logs import rotate

log, (soft, hard) = Path("log.txt"), resource.getrlimit(resource.RLIMIT_NOFILE)
os.write(1, b"first\\n")
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
try:
    rotate(log, max_bytes=5)
except OSError as error:
    os.write(1, error.strerror.encode() + b"\\n")
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
rotate(log, max_bytes=5)
os.write(1, b"second\\n")
"""


def test_a_log_that_cannot_be_begun_anew_for_a_moment_is_begun_anew_afterwards(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("ab") as log:
        subprocess.run([sys.executable, "-c", FAILS_ONCE], cwd=tmp_path, stdout=log, stderr=log, check=True)
    found = {path.name: path.read_text().splitlines() for path in tmp_path.iterdir()}
    assert found == {"log.txt": ["second"], "log.txt.1": ["first", "Too many open files"]}


def test_a_file_that_output_does_not_go_to_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "log.txt"
    other.write_text("x" * 100)
    assert not logs.rotate(other, max_bytes=0)
    assert not logs.rotate(tmp_path / "none.txt", max_bytes=0)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]
