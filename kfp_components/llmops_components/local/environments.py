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
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from llmops_components.errors import ComponentError, InputError, SettingError, UnavailableError
from llmops_components.json_text import parse_json
from llmops_components.redaction import redact
from llmops_components.state_files import write_json
from llmops_components.uris import file_path

# A step's own kfp is its harness: nothing else of the data plane imports it while a step runs.
_HARNESS = {"kfp", "kfp-pipeline-spec", "kfp-server-api"}
_INSTALL = re.compile(r"-m\s+pip\s+install\s+(?P<arguments>(?:'[^']*'|\"[^\"]*\"|[^'\"&|;\n)])+)")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY = re.compile(r"\?[^\s'\"#?]*=[^\s'\"#]*")
_QUIET = {"--quiet", "-q", "--no-warn-script-location", "--user"}
_UNREACHABLE = (
    "connection broken",
    "connection error",
    "name resolution",
    "network is unreachable",
    "timed out",
    "proxyerror",
    "connection refused",
    "no space left",
    "too many requests",
    "internal server error",
    "service unavailable",
    "bad gateway",
)
_LINES_OF_PIP = 3


class PackagesUnavailable(UnavailableError):
    """The packages of a step cannot be had right now."""


class PackagesRefused(InputError):
    """The packages of a step do not exist, contradict each other, or cannot be built here."""


class DataPlaneChanged(InputError):
    """A step has written to the environment that all runs start from."""


def without_secrets(text: str) -> str:
    """Text without users, passwords and query strings of the addresses in it."""
    return redact(_QUERY.sub("", _CREDENTIALS.sub("", text)))


def is_written_for_data_plane(command: Sequence[str]) -> bool:
    """Whether a step installs nothing and uses this package: it may start what goes on in the data plane after it."""
    return _start_of_component(command) == 0 and any("llmops_components" in part for part in command)


def installs_of(command: Sequence[str]) -> list[list[str]]:
    """Arguments of each ``pip install`` that a step's command carries out before the component itself.

    Args:
        command: The command as compiled.

    Returns:
        ``[]`` for a step that installs nothing.
    """
    found = []
    for script in command[: _start_of_component(command)]:
        for match in _INSTALL.finditer(script):
            arguments = [word for word in shlex.split(match["arguments"]) if word not in _QUIET]
            if arguments not in found:  # "install X || install X --user" is one wish
                found.append(arguments)
    return found


def without_installs(command: Sequence[str]) -> list[str]:
    """The command that is left when its packages are there."""
    return list(command[_start_of_component(command) :])


def _start_of_component(command: Sequence[str]) -> int:
    """Where the part begins that runs the component: the shell whose script starts KFP's executor."""
    for index, part in enumerate(command):
        if "kfp.dsl.executor_main" in part:
            return max(index - 2, 0)
    return 0


def snapshot() -> dict[str, str]:
    """What is installed in the data plane, and when; cheap enough to be asked after every step."""
    found = {}
    for directory in _site_packages():
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.endswith((".dist-info", ".egg-info", ".egg-link")):
                    found[entry.name] = str(entry.stat().st_mtime_ns)
    return found


def check_unchanged(before: Mapping[str, str], step: str) -> None:
    """Raise :class:`DataPlaneChanged` if packages were installed or removed since.

    Args:
        before: An earlier :func:`snapshot`.
        step: The step that ran since.
    """
    after = snapshot()
    gone = sorted(_label(name) for name in before.keys() - after.keys())
    new = sorted(_label(name) for name, changed in after.items() if before.get(name) != changed)
    if gone or new:
        raise DataPlaneChanged(
            f"The data plane's packages were changed while step {step} ran: "
            f"{'; '.join(filter(None, [gone and 'gone: ' + ', '.join(gone), new and 'new: ' + ', '.join(new)]))}. "
            f"Every run starts from {sys.prefix}: put it right (dev/setup does), and let the step name its packages in "
            "packages_to_install instead of installing them there. If somebody else changed it, clear the task."
        )


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
        if _is_satisfied(installs):
            return Environment(_site_packages(), [Path(sys.executable).parent])
        self._root.mkdir(parents=True, exist_ok=True)
        directory = self._root / _key(installs)
        while True:
            lock = self._locked(directory, fcntl.LOCK_SH, step)
            if (facts := _facts(directory)) is not None:
                (directory / "used").touch()
                on_top = facts["on_top_of_data_plane"]
                return Environment(
                    [_packages_in(directory), *(_site_packages() if on_top else [])],
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
        wanted = _wanted(installs)
        print(f"{step}: making an environment with {wanted}; later runs use it again", flush=True)
        began = time.monotonic()
        on_top = importlib.util.find_spec("pip") is not None
        if on_top:
            self._install(directory, installs, step, on_top=True)
            if replaced := _replaced(directory):
                print(
                    f"{step}: it stands alone, because it would replace {replaced} of the data plane",
                    flush=True,
                )
                on_top = False
        if not on_top:
            self._install(directory, installs, step, on_top=False)
        packages = sorted(f"{name}=={version}" for name, version in _distributions(directory).items())
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
            _make_venv(directory, _site_packages() if on_top else [])
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
                raise _refusal(output, _wanted([arguments]), step)


def _refusal(log: str, wanted: str, step: str) -> ComponentError:
    """What pip said, as an error that a retry may or may not help against."""
    lines = [without_secrets(line.strip()) for line in log.splitlines() if line.strip()]
    errors = [line.partition(":")[2].strip() for line in lines if line.startswith("ERROR:")]
    unreachable = [line for line in lines if any(sign in line.lower() for sign in _UNREACHABLE)]
    if unreachable:
        reason = (
            unreachable[-1]
            .rpartition("after connection broken by ")[2]
            .partition("')': ")[0]
            .rpartition(">: ")[2]
        )
        return PackagesUnavailable(
            f"{wanted} cannot be installed for step {step}: the package index does not answer ({reason:.300}). Give this "
            "machine a way to it (PIP_INDEX_URL, a proxy, or PIP_FIND_LINKS with the wheels), or name packages that the data "
            "plane has."
        )
    reason = " ".join((errors or lines or ["pip gave no reason"])[-_LINES_OF_PIP:])
    return PackagesRefused(
        f"{wanted} cannot be installed for step {step}: {reason:.600} Correct packages_to_install of the component, or the "
        "index that it names."
    )


def _is_satisfied(installs: Sequence[Sequence[str]]) -> bool:
    """Whether the data plane has all of it as it is."""
    for arguments in installs:
        for word in arguments:
            if word == "--no-deps":
                continue
            try:
                requirement = Requirement(word)
                if requirement.marker and not requirement.marker.evaluate():
                    continue
                version = importlib.metadata.version(requirement.name)
            except (InvalidRequirement, importlib.metadata.PackageNotFoundError):
                return False
            if (
                requirement.url
                or requirement.extras
                or not requirement.specifier.contains(version, prereleases=True)
            ):
                return False
    return True


def _wanted(installs: Sequence[Sequence[str]]) -> str:
    """The packages' names, for people."""
    words = []
    for arguments in installs:
        for index, word in enumerate(arguments):
            is_value = index > 0 and arguments[index - 1].startswith("-") and "=" not in arguments[index - 1]
            if word.startswith("-") or (is_value and arguments[index - 1] != "--no-deps"):
                continue
            with contextlib.suppress(InvalidRequirement):
                requirement = Requirement(word)
                if requirement.marker and not requirement.marker.evaluate():
                    continue
            words.append(without_secrets(word))
    return ", ".join(words) or "its packages"


def _key(installs: Sequence[Sequence[str]]) -> str:
    """Name of the environment: the same for the same wish, Python, index and data plane; no secret takes part.

    What the wish names on this machine has to be unchanged, too.
    """
    settings = {
        name: without_secrets(value)
        for name, value in os.environ.items()
        if name.startswith("PIP_")
        and name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_PRE")
    }
    facts = [
        [[without_secrets(word) for word in arguments] for arguments in installs],
        settings,
        sys.version,
        sysconfig.get_platform(),
        sys.prefix,
        sorted(snapshot()),
    ]
    paths = (_path_in(word) for arguments in installs for word in arguments)
    facts += [state for path in paths if path and (state := _state_of(path))]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def _path_in(word: str) -> Path | None:
    """What an argument of ``pip install`` names on this machine: a wheel, a source tree, a file of requirements."""
    path = word.partition("=")[2] if word.startswith("-") else word
    with contextlib.suppress(
        SettingError, OSError, RuntimeError, ValueError
    ):  # no path, whatever it looks like
        if (at := word.lower().find("file:/")) >= 0:
            address = re.split(r"[?#]| ;", word[at:])[0]  # where the path ends for pip
            path = file_path(address, "packages_to_install")
        elif not (os.sep in path or path.startswith(".") or path.endswith((".whl", ".gz", ".zip", ".txt"))):
            return None  # the name of a package
        found = Path(re.sub(r"\[[^\]]*\]$", "", path.strip())).expanduser()  # without extras
        return found if path and found.exists() else None
    return None


def _state_of(path: Path) -> list[list[object]]:
    """Size and time of each file below a path that an installation may read and does not make itself."""
    if path.is_dir():
        if not any((path / name).is_file() for name in ("pyproject.toml", "setup.py")):
            return []  # a folder with wheels for many: a new one there changes nothing
        files = []
        for directory, below, names in os.walk(path):
            below[:] = [
                name
                for name in below
                if name not in ("build", "__pycache__")
                and not name.startswith(".")
                and not name.endswith(".egg-info")
            ]
            files += [Path(directory, name) for name in names]
    else:
        files = [path]
    state: list[list[object]] = []
    for file in sorted(files):
        with contextlib.suppress(OSError):  # gone since
            status = file.stat()
            state.append([str(file), status.st_size, status.st_mtime_ns])
    return state


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
        (_packages_in(directory) / "_below.pth").write_text("".join(lines))
    elif pip and pip.origin:  # a copy is there at once; ensurepip takes seconds
        source = Path(pip.origin).parent
        for path in (source, *source.parent.glob("pip-*.dist-info")):
            shutil.copytree(path, _packages_in(directory) / path.name)


def _packages_in(directory: Path) -> Path:
    return directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _site_packages() -> list[Path]:
    """The data plane's."""
    return list(dict.fromkeys(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")))


def _distributions(directory: Path) -> dict[str, str]:
    """Names and versions in an environment alone, without what lies below it."""
    found = importlib.metadata.distributions(path=[str(_packages_in(directory))])
    return {canonicalize_name(one.name): one.version for one in found}


def _replaced(directory: Path) -> str:
    """Packages of the data plane that an environment on top of it holds in another version."""
    names = []
    for name, version in _distributions(directory).items():
        if name not in _HARNESS:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                names.append(f"{name} {importlib.metadata.version(name)} by {version}")
    return ", ".join(sorted(names))


def _label(name: str) -> str:
    return " ".join(name.rsplit(".", 1)[0].split("-")[:2])
