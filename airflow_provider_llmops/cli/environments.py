"""Virtual environments: where one is, what it is made from, whether that is what it should be made from now.

With nothing but the standard library and pip."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_llmops.cli.machine import SetupError, check_disk
from airflow_provider_llmops.cli.pins import unlocked
from airflow_provider_llmops.cli.torch_builds import Size

STAMP = ".setup-stamp.json"
# Raised when the way in which environments are made changes, so that existing ones are brought up to date.
STEPS_VERSION = 2


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
        return made | unlocked()

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


def empty(directory: Path) -> None:
    """Make a directory, or delete what is in it."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_machine(interpreter: Path, environments: Sequence[Environment]) -> None:
    """Look for what would make the installation fail half-way.

    :raises SetupError: saying what is missing.
    """
    if subprocess.run(
        [interpreter, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL, check=False
    ).returncode:
        raise SetupError(f"{interpreter} has no venv module. On Debian and Ubuntu: apt install python3-venv.")
    check_disk([(each.directory, each.size()) for each in environments if not each.python.exists()])
