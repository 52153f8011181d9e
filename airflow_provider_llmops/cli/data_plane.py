"""``llmops data-plane create``: the environment that trains, evaluates and serves, without a checkout."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from airflow_provider_llmops.cli import CommandError
from airflow_provider_llmops.cli.environments import Environment, check_machine
from airflow_provider_llmops.cli.installer import Installer
from airflow_provider_llmops.cli.machine import (
    SetupError,
    inspect_interpreter,
    interrupt_on_signals,
    locked,
    without_credentials,
)
from airflow_provider_llmops.cli.pins import (
    DATA_PLANE_CONSTRAINTS,
    SAMPLE_MODELS,
    data_plane_steps,
    digest,
    locks,
    pin,
    why_unlocked,
)
from airflow_provider_llmops.cli.torch_builds import CPU_INDEX, CPU_SIZE, CUDA_SIZE, Size, describe

COMPONENTS = "llmops-components"
# Connections of the local backends, which need the interpreter of the data plane.
CONNECTION_TYPES = ("kubeflow", "kserve")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command with its own subcommand."""
    parser = commands.add_parser("data-plane", help="the environment that trains, evaluates and serves")
    create = parser.add_subparsers(title="commands", required=True, metavar="COMMAND").add_parser(
        "create",
        help="make it, or bring it up to date",
        description="Make a virtual environment with the components that belong to this provider, in the versions that they "
        "are tested with, and print the connections to set. Run it again to go on with one that was interrupted, or to bring it "
        "up to date; with nothing to do it says so at once.",
        epilog="pip takes its index and proxy from its own configuration, too. On Linux PyPI has the CUDA build of torch "
        f"alone: {describe(CUDA_SIZE)}. The CPU build (--cpu) takes {describe(CPU_SIZE)}.",
    )
    create.add_argument("path", type=Path, metavar="PATH", help="directory of the environment")
    create.add_argument("--cpu", action="store_true", help=f"PyTorch's CPU build, from {CPU_INDEX}")
    create.add_argument(
        "--sample-models",
        action="store_true",
        help=f"the models of the example DAGs too: {', '.join(SAMPLE_MODELS)}",
    )
    create.add_argument("--python", default=sys.executable, help="interpreter to make it with (3.11 to 3.13)")
    create.add_argument(
        "--components",
        metavar="REQUIREMENT",
        help=f"what to install instead of {COMPONENTS} in the version of this provider: a wheel, or a requirement such "
        f"as '{COMPONENTS}[deepspeed]'",
    )
    for name, what in (
        ("--index-url", "index instead of PyPI"),
        ("--extra-index-url", "further index (repeat)"),
        ("--find-links", "folder or page with wheels, such as that of the components (repeat)"),
    ):
        create.add_argument(name, action="append", default=[], metavar="URL", help=what)
    return parser


def run(options: argparse.Namespace) -> int:
    """Make the environment and print what to do with it."""
    interrupt_on_signals()
    plane = InstalledDataPlane.from_options(options)
    try:
        interpreter = inspect_interpreter(options.python)
        _refuse_foreign(plane.directory)
        if plane.is_current(interpreter):
            print(f"Up to date: {plane.directory}.")
        else:
            _make(plane, interpreter)
    except SetupError as error:
        raise CommandError(f"{error}{_hint(str(error))}") from None
    except OSError as error:
        raise CommandError(f"{error.strerror}: {error.filename}") from None
    print(_connections(plane.python))
    return 0


@dataclass(frozen=True)
class InstalledDataPlane(Environment):
    """A data plane made of packages.

    :param path: where it is
    :param components: requirement for the components
    :param sources: options of pip that say where packages come from
    :param sample_models: whether the models of the examples are installed
    """

    path: Path
    components: str
    sources: tuple[str, ...]
    sample_models: bool

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> InstalledDataPlane:
        """The data plane that the options of the command ask for."""
        components = options.components or _own_components()
        if Path(components).exists():
            components = str(Path(components).resolve())
        folders = [str(Path(link).resolve()) if Path(link).exists() else link for link in options.find_links]
        indexes = [*options.extra_index_url, *([CPU_INDEX] if options.cpu else [])]
        sources = [
            *(part for url in options.index_url[-1:] for part in ("--index-url", url)),
            *(part for url in indexes for part in ("--extra-index-url", url)),
            *(part for folder in folders for part in ("--find-links", folder)),
        ]
        path = Path(os.path.abspath(options.path.expanduser()))  # noqa: PTH100 (a link stays a link)
        return cls("data", "data plane", path, components, tuple(sources), options.sample_models)

    @property
    def directory(self) -> Path:
        return self.path

    @property
    def log(self) -> Path:
        return self.path.with_name(f"{self.path.name}-setup.log")

    def size(self) -> Size:
        return CPU_SIZE

    def torch(self) -> tuple[str, Sequence[str]]:
        return pin(DATA_PLANE_CONSTRAINTS, "torch"), self.sources

    def steps(self, build: str) -> list[tuple[str, list[str]]]:
        """The same as in a checkout, of packages."""
        ours = [self.components]
        if not why_unlocked(build):
            # What was asked for instead may need more than the lock has.
            others = ["-c", str(DATA_PLANE_CONSTRAINTS)]
            ours += ["--no-deps"] if self.components == _own_components() else others
        steps = data_plane_steps(
            build, DATA_PLANE_CONSTRAINTS, ours, self.sources, sample_models=self.sample_models
        )
        if Path(self.components).is_file():
            # pip leaves what is installed in the wheel's version as it is, and a wheel may have been built anew.
            steps.append((Path(self.components).name, ["--no-deps", "--force-reinstall", self.components]))
        return steps

    def inputs(self) -> Mapping[str, object]:
        """Versions and components; where they came from does not matter once they are there."""
        found = {
            "versions": digest([DATA_PLANE_CONSTRAINTS, *locks()]),
            "components": without_credentials(self.components),
            "sample_models": self.sample_models,
        }
        if Path(self.components).is_file():
            found["wheel"] = digest([Path(self.components)])
        return found


def _own_components() -> str:
    return f"{COMPONENTS}=={version('airflow-provider-llmops')}"


def _make(plane: InstalledDataPlane, interpreter: Path) -> None:
    started = time.monotonic()
    check_machine(interpreter, [plane])
    plane.path.parent.mkdir(parents=True, exist_ok=True)
    with locked(plane.log, f"Another command is making {plane.path}; waiting for it."):
        if not plane.is_current(interpreter):
            print(f"Making the data plane in {plane.path} with {interpreter}, which takes some minutes.")
            print(f"pip's output: {plane.log}", flush=True)
            Installer(interpreter).install([plane])
    print(f"Ready after {time.monotonic() - started:.0f} s.")


def _refuse_foreign(directory: Path) -> None:
    """Refuse a directory that this command has not made, since it empties what it makes anew."""
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not InstalledDataPlane("data", "", directory, "", (), False).read_stamp():
        raise CommandError(
            f"{directory} is not empty, and not a data plane that this command has made. Name a new directory: the data "
            "plane needs an environment of its own, apart from Airflow's."
        )


def _hint(error: str) -> str:
    if f"No matching distribution found for {COMPONENTS}" not in error:
        return ""
    return (
        f"\nThe index has no {COMPONENTS} of this version. Build the wheel in a checkout (python -m pip wheel --no-deps "
        "--wheel-dir wheels ./kfp_components) and add --find-links wheels, or name it with --components."
    )


def _connections(python: Path) -> str:
    """What makes Airflow use the environment."""
    extra = {"python": str(python)}
    connections = {
        f"{conn_type}_default": json.dumps({"conn_type": conn_type, "extra": extra})
        for conn_type in CONNECTION_TYPES
    }
    add = [
        f"  airflow connections add {name} --conn-json {shlex.quote(text)}"
        for name, text in connections.items()
    ]
    export = [
        f"  export AIRFLOW_CONN_{name.upper()}={shlex.quote(text)}" for name, text in connections.items()
    ]
    return "\n".join(
        [
            "",
            "Connections that run and serve here:",
            *add,
            "or, in the environment of all of Airflow's processes:",
            *export,
        ]
    )
