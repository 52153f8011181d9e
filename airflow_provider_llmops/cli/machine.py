"""What the machine has to have: a Python, disk; and what a command of ours asks of it: locks, signals, files for the owner."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from airflow_provider_llmops.cli.torch_builds import Size

SUPPORTED_PYTHONS = ((3, 11), (3, 13))


class SetupError(Exception):
    """An environment cannot be made; the message is all that the user sees."""


def without_credentials(text: str) -> str:
    """Text without the users and passwords of the addresses in it, which those of an index may have."""
    return re.sub(r"(?<=://)[^/\s'\"]*@", "", text)


def for_the_owner(path: str, flags: int) -> int:
    """Open a file that nobody else may read, also if it was there before."""
    number = os.open(path, flags, 0o600)
    with suppress(PermissionError):  # another user's
        os.fchmod(number, 0o600)
    return number


def inspect_interpreter(wanted: str) -> Path:
    """The real path of a Python, once it is known to run and to be of a supported version."""
    code = "import os, sys; print(os.path.realpath(sys.executable), *sys.version_info[:2])"
    try:
        answer = subprocess.run([wanted, "-c", code], capture_output=True, text=True, check=False)
        path, major, minor = answer.stdout.rsplit(maxsplit=2)
    except (OSError, ValueError):
        raise SetupError(f"{wanted} is not a Python interpreter that runs.") from None
    oldest, newest = SUPPORTED_PYTHONS
    if not oldest <= (int(major), int(minor)) <= newest:
        raise SetupError(
            f"Python {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]} is needed; {wanted} is {major}.{minor}."
        )
    return Path(path)


def check_disk(needs: Sequence[tuple[Path, Size]], remark: str = "") -> None:
    """Compare what environments need with what is free, where they are and where pip downloads to.

    :param needs: directories of environments, each with what it takes
    :param remark: for the message
    :raises SetupError: when the disk is too small.
    """
    wanted: dict[int, tuple[Path, float]] = {}
    temporary = Path(tempfile.gettempdir())
    for directory, size in needs:
        place = next(path for path in (directory, *directory.parents) if path.is_dir())
        for path, amount in ((place, size.installed), (temporary, size.downloads)):
            first, total = wanted.get(path.stat().st_dev, (path, 0.0))
            wanted[path.stat().st_dev] = (first, total + amount)
    for path, amount in wanted.values():
        free = shutil.disk_usage(path).free
        if free < amount:
            what = "downloads of pip" if path == temporary else "virtual environments"
            raise SetupError(
                f"Too little disk: {what} need {amount / 1e9:.1f} GB in {path}; {free / 1e9:.1f} GB are free.{remark}"
            )


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock; say so once when somebody else has it."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(busy, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def interrupt_on_signals() -> None:
    """Make SIGTERM and SIGHUP what Ctrl-C is, so that what was started is stopped.

    SIGINT too: a shell has it ignored in what it starts in the background.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
