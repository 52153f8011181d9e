"""Environments for steps that bring packages of their own; the data plane's own is never written to.

The KFP compiler puts ``pip install`` in front of a component. In a container that changes the container; here it would change
the environment that every run and every service starts from. So what a step installs goes into an environment of its own:

    ROOT/KEY/                    a virtual environment, made once for all steps that ask for the same
    ROOT/KEY/environment.json    what it holds; there when it is complete
    ROOT/KEY/used                touched whenever a step starts in it
    ROOT/KEY.lock                flock: exclusive while it is made or removed, shared while a step uses it

It lies on top of the data plane's packages, unless that would replace one of them by another version: a mixture that nobody
has tested. Then it stands alone. What a step installs while it runs goes into a layer of the step, and is gone with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from llmops_components.json_text import parse_json
from llmops_components.local.environment_keys import key_of
from llmops_components.local.installed import (
    data_plane_directories,
    distributions,
    packages_in,
    packages_replaced,
)
from llmops_components.local.installs import is_satisfied, names_wanted, without_secrets
from llmops_components.local.pip_refusals import PackagesUnavailable, pip_refusal
from llmops_components.state_files import write_json


@dataclass
class Environment:
    """Where the packages of a step are.

    Args:
        site_packages: Directories, the first one wins.
        programs: Directories with programs.
        lock: Keeps it from being removed.
    """

    site_packages: list[Path] = field(default_factory=list)
    programs: list[Path] = field(default_factory=list)
    lock: IO[str] | None = None

    def close(self) -> None:
        """Let go of it."""
        if self.lock:
            self.lock.close()

    def layer(self, directory: Path) -> dict[str, str]:
        """Make a layer for one step on top of it; what the step installs goes there.

        Args:
            directory: Where; removed by the caller when the step is over.

        Returns:
            Variables of the step's process that make it the current environment.
        """
        _make_venv(directory, self.site_packages)
        programs = directory / "bin"
        for name in ("pip", "pip3"):
            (programs / name).write_text(
                f'#!/bin/sh\nexec {shlex.quote(str(programs / "python3"))} -m pip "$@"\n'
            )
            (programs / name).chmod(0o755)
        path = [str(programs), *map(str, self.programs), os.environ.get("PATH", os.defpath)]
        return {
            "PATH": os.pathsep.join(path),
            "VIRTUAL_ENV": str(directory),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }


class Environments:
    """The environments below a directory.

    Args:
        root: The directory.
        run: Runs a command with certain variables, and gives its exit status and its output; may be interrupted.
    """

    def __init__(
        self, root: Path, run: Callable[[Sequence[str], Mapping[str, str]], tuple[int, str]]
    ) -> None:
        self._root = root
        self._run = run

    def provide(self, installs: Sequence[Sequence[str]], step: str) -> Environment:
        """The environment with certain packages, made if need be.

        Args:
            installs: Arguments of each ``pip install``, in order.
            step: The step that needs it, for the log and for messages.

        Raises:
            PackagesUnavailable: The packages cannot be had right now.
            PackagesRefused: They will not be had with a retry either.
        """
        if is_satisfied(installs):
            return Environment(data_plane_directories(), [Path(sys.executable).parent])
        self._root.mkdir(parents=True, exist_ok=True)
        directory = self._root / key_of(installs)
        while True:
            lock = self._locked(directory, fcntl.LOCK_SH, step)
            if (facts := _facts(directory)) is not None:
                (directory / "used").touch()
                on_top = facts["on_top_of_data_plane"]
                return Environment(
                    [packages_in(directory), *(data_plane_directories() if on_top else [])],
                    [directory / "bin", *([Path(sys.executable).parent] if on_top else [])],
                    lock,
                )
            lock.close()
            with self._locked(directory, fcntl.LOCK_EX, step):
                if _facts(directory) is None:
                    self._make(directory, installs, step)

    def _locked(self, directory: Path, kind: int, step: str) -> IO[str]:
        """The environment's lock, of a file that still is where others look for it."""
        path = directory.with_name(f"{directory.name}.lock")
        while True:
            lock = path.open("w")
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{step}: waiting for another run to make or use {directory.name}", flush=True)
                fcntl.flock(lock, kind)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
                    return lock
            lock.close()  # it was removed with its environment while this waited

    def _make(self, directory: Path, installs: Sequence[Sequence[str]], step: str) -> None:
        wanted = names_wanted(installs)
        print(f"{step}: making an environment with {wanted}; later runs use it again", flush=True)
        began = time.monotonic()
        on_top = importlib.util.find_spec("pip") is not None
        if on_top:
            self._install(directory, installs, step, on_top=True)
            if replaced := packages_replaced(directory):
                print(
                    f"{step}: it stands alone, because it would replace {replaced} of the data plane",
                    flush=True,
                )
                on_top = False
        if not on_top:
            self._install(directory, installs, step, on_top=False)
        packages = sorted(f"{name}=={version}" for name, version in distributions(directory).items())
        write_json(
            directory / "environment.json",
            {
                "requirements": [[without_secrets(word) for word in words] for words in installs],
                "packages": packages,
                "on_top_of_data_plane": on_top,
                "seconds": round(time.monotonic() - began, 1),
            },
        )
        place = "on top of the data plane's" if on_top else "which stand alone"
        print(
            f"{step}: environment made in {time.monotonic() - began:.1f} s: {len(packages)} packages, {place}",
            flush=True,
        )

    def _install(
        self, directory: Path, installs: Sequence[Sequence[str]], step: str, *, on_top: bool
    ) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        try:
            _make_venv(directory, data_plane_directories() if on_top else [])
        except (OSError, subprocess.CalledProcessError) as error:
            raise PackagesUnavailable(
                f"The environment of step {step} cannot be made in {directory}: {error}."
            ) from error
        programs = directory / "bin"
        variables = {
            **os.environ,
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
            "VIRTUAL_ENV": str(directory),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_REQUIRE_VIRTUALENV": "1",
            "PIP_USER": "0",
        }
        for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"):
            variables.pop(name, None)
        if variables.get("PIP_RETRIES") == "0":  # then pip does not say that nobody answered
            variables["PIP_RETRIES"] = "1"
        for arguments in installs:
            status, output = self._run(
                [str(programs / "python3"), "-m", "pip", "install", *arguments], variables
            )
            if status != 0:
                raise pip_refusal(output, names_wanted([arguments]), step)


def _facts(directory: Path) -> dict[str, bool] | None:
    """What a complete environment says of itself; ``None`` if it is not, or its interpreter is gone."""
    try:
        facts: dict[str, bool] = parse_json((directory / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if os.access(directory / "bin" / "python3", os.X_OK) else None


def _make_venv(directory: Path, below: Sequence[Path]) -> None:
    """A virtual environment, on top of other packages or alone with pip."""
    pip = importlib.util.find_spec("pip")
    venv.EnvBuilder(symlinks=True, with_pip=not below and pip is None).create(directory)
    # Not the bare paths: packages installed in place are found by .pth files of those directories.
    lines = [f"import site; site.addsitedir({str(path)!r})\n" for path in below]
    if lines:
        (packages_in(directory) / "_below.pth").write_text("".join(lines))
    elif pip and pip.origin:  # a copy is there at once; ensurepip takes seconds
        source = Path(pip.origin).parent
        for path in (source, *source.parent.glob("pip-*.dist-info")):
            shutil.copytree(path, packages_in(directory) / path.name)
