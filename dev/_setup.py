"""Makes the two virtual environments of this checkout, with nothing but the standard library and pip."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from _locks import write_locks  # noqa: E402

from airflow_provider_llmops.cli.environments import (  # noqa: E402
    Environment,
    check_machine,
)
from airflow_provider_llmops.cli.installer import (  # noqa: E402
    Installer,
)
from airflow_provider_llmops.cli.machine import (  # noqa: E402
    SetupError,
    inspect_interpreter,
    interrupt_on_signals,
    locked,
)
from airflow_provider_llmops.cli.pins import (  # noqa: E402
    BUILD_LOCK,
    BY_HASH,
    DATA_PLANE_CONSTRAINTS,
    data_plane_steps,
    digest,
    locks,
    pin,
    why_unlocked,
)
from airflow_provider_llmops.cli.torch_builds import (  # noqa: E402
    CONTROL_PLANE_SIZE,
    CPU_INDEX,
    CPU_SIZE,
    CUDA_SIZE,
    Size,
    describe,
)

ENVIRONMENTS = REPOSITORY / ".venv"
LOCKS = REPOSITORY / "dev/locks"  # of the control plane, and of the data plane's test tools
# The setuptools that builds the project is in the environment already.
EDITABLE = ("--no-deps", "--no-build-isolation", "-e")
# Python compiles what is imported, when it is; to compile all 45,000 files takes a fifth of the time that pip takes. Where it
# is told to keep nothing of that, each process would compile Airflow or torch anew.
NOT_COMPILED = () if os.environ.get("PYTHONDONTWRITEBYTECODE") else ("--no-compile",)
SKIP_VARIABLE = "LLMOPS_SKIP_SETUP"


@dataclass(frozen=True)
class Plane(Environment):
    """One of the two environments.

    :param project: directory of the distribution that is installed into it, which is left where it is
    :param constraints: file with the versions
    :param bytes_needed: disk that it takes at least
    :param other_extras: extras of the project that are not installed, and whose versions are pinned all the same
    """

    project: Path
    constraints: Path
    bytes_needed: Size
    other_extras: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def log(self) -> Path:
        return ENVIRONMENTS / f"{self.name}-setup.log"

    def size(self) -> Size:
        return self.bytes_needed

    def inputs(self) -> Mapping[str, object]:
        """What is installed, and where from."""
        return {
            "inputs": digest([self.project / "pyproject.toml", self.constraints, *self.locks()]),
            "repository": str(REPOSITORY),
        }

    def locks(self) -> list[Path]:
        """The files that say what is installed, with digests."""
        return [LOCKS / "control-plane.txt"]

    def steps(self, build: str) -> list[tuple[str, list[str]]]:
        """Airflow, the provider and the tools."""
        airflow = pin(self.constraints, "apache-airflow")
        if why_unlocked():
            provider = [*NOT_COMPILED, "-c", str(self.constraints), "-e", f"{self.project}[dev]"]
            return [(f"{airflow}, provider, test tools", provider)]
        return [
            ("setuptools, to build what has no wheel", [*BY_HASH, "-r", str(BUILD_LOCK)]),
            (
                f"{airflow}, test tools, by hash",
                [*BY_HASH, *NOT_COMPILED, "-r", str(LOCKS / "control-plane.txt")],
            ),
            ("provider", [*EDITABLE, str(self.project)]),
        ]


class DataPlane(Plane):
    """The one with torch."""

    def torch(self) -> tuple[str, list[str]]:
        return pin(self.constraints, "torch"), []

    def locks(self) -> list[Path]:
        return [*locks(), LOCKS / "data-plane-tools.txt"]

    def steps(self, build: str) -> list[tuple[str, list[str]]]:
        """Everything that works on models and data."""
        components = ["-e", f"{self.project}[dev]"] if why_unlocked(build) else [*EDITABLE, str(self.project)]
        tools = [LOCKS / "data-plane-tools.txt"]
        return data_plane_steps(build, self.constraints, components, NOT_COMPILED, tools=tools)


PLANES = {
    "control": Plane(
        "control",
        "control plane (Airflow)",
        REPOSITORY,
        REPOSITORY / "dev/constraints/control-plane.txt",
        CONTROL_PLANE_SIZE,
        other_extras=("gs",),
    ),
    "data": DataPlane(
        "data", "data plane (models)", REPOSITORY / "kfp_components", DATA_PLANE_CONSTRAINTS, CPU_SIZE
    ),
}


def choose_interpreter(wanted: str | None = None) -> Path:
    """The Python that environments are made with: the one asked for, else that of existing ones, else this one."""
    if wanted:
        return inspect_interpreter(wanted)
    for plane in PLANES.values():
        stamped = plane.read_stamp().get("interpreter")
        if stamped and Path(str(stamped)).exists():
            return Path(str(stamped))
    # Inside a virtual environment, the interpreter that it was made from.
    return Path(sys.executable).resolve()


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
    busy = "Another set-up is running in this checkout; waiting for it."
    with locked(ENVIRONMENTS / ".lock", busy):
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
    """Write the constraints and the locks anew: what is installed, and what other extras would install beside it."""
    for plane in PLANES.values():
        lines = _ask_pip(plane, "freeze", "--exclude-editable").splitlines()
        # Without the build's name (torch==2.13.0+cpu), so that the pin holds for each build of that version.
        pins = [line.split("+")[0] for line in lines if "==" in line]
        if plane.other_extras:
            pins += _pins_of_other_extras(plane, pins)
        header = plane.constraints.read_text(encoding="utf-8").splitlines()[0]
        pins.sort(key=lambda pin: pin.partition("==")[0].lower())
        plane.constraints.write_text("\n".join([header, *pins]) + "\n", encoding="utf-8")
        print(f"{plane.constraints.relative_to(REPOSITORY)}: {len(pins)} packages")
    write_locks(PLANES["control"].python)


def _pins_of_other_extras(plane: Plane, pins: list[str]) -> list[str]:
    """What they would install beside what is installed, which stays as it is."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as installed:
        installed.write("\n".join(pins))
        installed.flush()
        wanted = f"{plane.project}[{','.join(plane.other_extras)}]"
        options = ("--dry-run", "--quiet", "--report", "-", "--constraint", installed.name)
        report = json.loads(_ask_pip(plane, "install", *options, wanted))
    found = [item["metadata"] for item in report["install"] if not item["is_direct"]]
    return [f"{metadata['name']}=={metadata['version']}" for metadata in found]


def _ask_pip(plane: Plane, *arguments: str) -> str:
    command = [plane.python, "-m", "pip", "--disable-pip-version-check", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        last = "\n".join(answer.stderr.splitlines()[-20:])
        raise SetupError(f"{plane.name}: pip {arguments[0]} failed:\n{last}")
    return answer.stdout


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
        epilog="pip takes its index and proxy from its own configuration. On Linux PyPI has the CUDA build of torch "
        f"alone, with which the data plane takes {describe(CUDA_SIZE)}; with PIP_EXTRA_INDEX_URL={CPU_INDEX} pip prefers "
        f"the CPU build: {describe(CPU_SIZE)}.",
    )
    parser.add_argument("--plane", choices=sorted(PLANES), help="only this one")
    parser.add_argument("--python", help="interpreter to make environments with (3.11 to 3.13)")
    parser.add_argument("--clean", action="store_true", help="delete the environments")
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="pin what is installed: write the constraints, and the locks with the digests of every file",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing if there is nothing to do")
    options = parser.parse_args(arguments)
    names = [options.plane] if options.plane else list(PLANES)
    interrupt_on_signals()
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
