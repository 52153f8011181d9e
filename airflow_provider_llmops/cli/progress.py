"""What is seen of an installation."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Sequence

from airflow_provider_llmops.cli.environments import Environment


class Progress:
    """What the user sees of it: a line for each part, and on a terminal one that is written over meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def show_activity(self, seconds: float, running: Sequence[Environment]) -> None:
        """On a terminal, show the last words of each environment's pip, which takes minutes and says nothing that one would want.

        :param seconds: since the start
        :param running: the environments that something is installed into
        """
        if not sys.stdout.isatty():
            return
        doing = []
        for environment in running:
            lines = environment.log.read_text(encoding="utf-8", errors="replace").splitlines()
            words = next((line.split() for line in reversed(lines) if line.strip()), [])
            doing.append(f"{environment.name}: {' '.join(words[:2])}")
        width = shutil.get_terminal_size().columns - 1
        with self._lock:
            print(f"\r\x1b[K{f'  {seconds:4.0f} s  ' + '   '.join(doing)}"[: width + 4], end="", flush=True)

    def say(self, line: str) -> None:
        """Print a line that stays.

        :param line: the line
        """
        with self._lock:
            self.clear_line()
            print(line, flush=True)

    @staticmethod
    def clear_line() -> None:
        """Take the line away that is written over."""
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)
