"""Code of others in a sandbox of Linux namespaces: what it is given, what it may use, and whether it can be had here at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from llmops_components.errors import SettingError

DISK_BYTES = 16 << 20
_HERE = Path(__file__).parent
_JAIL = _HERE / "jail.py"
_CODE = "/sandbox"
_CONFINED = "llmops_components.evaluation.tasks.confined"
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_DEVICES = ("/dev/null", "/dev/urandom")
_START_SECONDS = 60  # of a process on a busy machine
_MAX_STATUS = 4096


class SandboxError(Exception):
    """There is no sandbox to be had.

    Args:
        reason: What was refused.
    """


@dataclass(frozen=True)
class Bounds:
    """What a program may use.

    Args:
        seconds: Time, of the clock and of a processor.
        memory_mb: Memory of its one process, in MiB.
    """

    seconds: float = 10
    memory_mb: int = 512


class Sandbox:
    """A Python program that runs in a sandbox: to be used with ``with``, at whose end it is killed.

    Its standard streams are ``/dev/null``, its environment is empty, and of descriptors it has those alone that it is given.

    Args:
        call: Python that it runs; modules of ``confined`` can be imported.
        descriptors: File descriptors that it has, by the same numbers.
        bounds: What it may use.

    Raises:
        SandboxError: There is no sandbox to be had.
    """

    def __init__(self, call: str, descriptors: Sequence[int], bounds: Bounds) -> None:
        self._call = call
        self._descriptors = list(descriptors)
        self._bounds = bounds

    def __enter__(self) -> Self:
        self._root = tempfile.mkdtemp(prefix="sandbox-")
        read, status = os.pipe()
        python = os.path.realpath(sys.executable)
        try:
            given = {
                "root": self._root,
                "status": status,
                "keep": self._descriptors,
                "links": _links(),
                "files": _files(),
                "disk": DISK_BYTES,
                "memory": self._bounds.memory_mb << 20,
                "seconds": int(self._bounds.seconds) + 1,
                "command": [python, "-I", "-S", "-B", "-X", "utf8", "-c", self._call],
            }
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_JAIL), json.dumps(given)],
                pass_fds=[*self._descriptors, status],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={},
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(status)
        with os.fdopen(read, "rb") as pipe:
            refused = pipe.read(_MAX_STATUS)  # ends where the program starts
        if refused:
            self._end()
            raise SandboxError(refused.decode(errors="replace"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the first of each namespace takes the rest along
        self._process.wait()
        until = time.monotonic() + _START_SECONDS
        while Path(self._root).exists() and time.monotonic() < until:
            shutil.rmtree(self._root, ignore_errors=True)


def check_sandbox() -> None:
    """Raise :class:`SettingError` where there is no sandbox to be had."""
    if (reason := _refusal()) is not None:
        raise SettingError(
            f"code_tests runs code of models in a sandbox only, and there is none to be had here: {reason}. It needs Linux that lets this user "
            "make user, mount, process and network namespaces (unshare --user --map-root-user --net --pid --fork true tells). On Kubernetes "
            "give the step a seccomp profile that permits it, and nodes where user.max_user_namespaces is above 0; or leave the metric out."
        )


@cache
def _refusal() -> str | None:
    if not sys.platform.startswith("linux"):
        return f"this is {sys.platform}"
    read, write = os.pipe()
    try:
        with Sandbox(f"import os; os.write({write}, b'ok')", [write], Bounds()):
            os.close(write)
            write = -1
            said = os.read(read, 2)
    except SandboxError as error:
        return str(error)
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    return None if said == b"ok" else "Python does not start in it"


@cache
def _files() -> dict[str, str]:
    """What of this machine a program sees, by place."""
    python = os.path.realpath(sys.executable)
    found = {each: each for each in _LIBRARIES if Path(each).is_dir() and not Path(each).is_symlink()}
    found |= {each: each for each in (*_DEVICES, "/etc/ld.so.cache") if Path(each).exists()}
    libraries = os.path.realpath(Path(sys.base_prefix) / "lib")
    if not any(libraries == each or libraries.startswith(each + "/") for each in found):
        found[libraries] = libraries
    found[python] = python
    found[f"{_CODE}/{_CONFINED.replace('.', '/')}"] = str(
        _HERE / "confined"
    )  # and nothing else of the package
    return found


@cache
def _links() -> dict[str, str]:
    """Where system libraries are reached by a link."""
    return {each: str(Path(each).readlink()) for each in _LIBRARIES if Path(each).is_symlink()}


def calling(module: str, function: str, *args: int) -> str:
    """Python that calls a function of ``confined``.

    Args:
        module: Its module.
        function: Its name.
        args: Its arguments.
    """
    return f"import sys; sys.path.insert(0, {_CODE!r}); from {_CONFINED}.{module} import {function}; {function}({', '.join(map(str, args))})"
