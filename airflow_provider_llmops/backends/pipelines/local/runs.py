"""The directories of the runs on this machine: which is whose, whether there is room for another, and who was used last."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from airflow_provider_llmops import uris
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, RunNotFoundError
from airflow_provider_llmops.state_files import private_directory, why_not_written, write_private

MIN_FREE_BYTES = 512 * 1024 * 1024
CHECKED_BYTES = 64 * 1024
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMESPACE = uuid.UUID("6b1f4a0e-6d57-4a3e-9a2e-0d6c2f1f7c55")


def run_id_of(display_name: str) -> str:
    """The id of a run: it follows from its name, so that the same name never starts two.

    :param display_name: the run's name
    """
    return str(uuid.uuid5(_NAMESPACE, display_name))


class RunDirectories:
    """The directories of runs, each under its id.

    :param path: the directory that holds them, which may not be there yet
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def of(self, run_id: str) -> Path:
        """The directory of a run.

        :param run_id: the run
        :raises RunNotFoundError: there is none
        """
        try:
            is_id = str(uuid.UUID(run_id)) == run_id  # the only form that becomes a path
        except ValueError:
            is_id = False
        directory = self.path / run_id
        if not is_id or not directory.is_dir():
            raise RunNotFoundError(
                "There is no such run: it was deleted, or the connection's 'root' was changed.",
                f"Run: {run_id}",
                f"Directory: {self.path}",
            )
        return directory

    def newest_first(self) -> list[Path]:
        """The directories of all runs, the last changed first."""
        directories = [path for path in self.path.glob("[!.]*") if _RUN_ID.fullmatch(path.name)]
        return sorted(directories, key=_changed_at, reverse=True)

    def note_use(self, value: Any, *, is_needed: bool = True) -> None:
        """Let the runs that paths and addresses belong to be as young as their last use.

        :param value: a path, an address, or lists and dictionaries with them
        :param is_needed: whether what is gone is an error; a default may be that another value takes the place of
        :raises ConfigurationError: a run that is needed is gone
        """
        if isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                self.note_use(part, is_needed=is_needed)
        if not isinstance(value, str):
            return
        path = value
        if uris.scheme_of(value) == "file":
            with suppress(ConfigurationError):  # of another machine
                path = uris.file_path(value, "an address")
        if not Path(path).is_relative_to(self.path):
            return
        inside = Path(path).relative_to(self.path).parts
        if not inside or not _RUN_ID.fullmatch(inside[0]):
            return  # the directory of all runs, or something that a user has there
        try:
            (self.path / inside[0] / "used").touch()
        except FileNotFoundError:
            if is_needed:
                raise ConfigurationError(
                    f"{value} was removed a moment ago, with its run, which nobody had used for long. Run the task again that "
                    "made it."
                ) from None

    def check_space(self) -> None:
        """Refuse to start a run that is bound to fail half-way.

        :raises ApiUnavailableError: the disk is almost full
        """
        existing = next(parent for parent in [self.path, *self.path.parents] if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < MIN_FREE_BYTES:
            raise ApiUnavailableError(
                f"Only {free // 2**20} MiB are free for runs, at least {MIN_FREE_BYTES // 2**20} MiB are needed. Delete old "
                "runs, or choose another 'root' in the connection's extra.",
                f"Directory: {self.path}",
            )

    def check_writing(self) -> None:
        """Write what a run begins with, and remove it.

        :raises ApiUnavailableError: it cannot be written
        """
        try:
            private_directory(self.path)
            probe = self.path / f".check.{uuid.uuid4().hex}"
            write_private(probe, b"\0" * CHECKED_BYTES)
            probe.unlink()
        except OSError as error:
            raise ApiUnavailableError(
                f"Runs cannot be written: {why_not_written(error, self.path)}. Give the directory to this user and make room in "
                "it, or choose another 'root' in the connection's extra.",
                f"Directory: {self.path}",
            ) from error


@contextmanager
def looking_at(directory: Path) -> Iterator[None]:
    """Say which run it is that the system lets nobody look at: what it refuses at this moment is no verdict on the run.

    :param directory: of the run
    :raises ApiUnavailableError: the system refuses something
    """
    try:
        yield
    except OSError as error:
        raise ApiUnavailableError(
            f"The run cannot be looked at: {why_not_written(error, directory)}. Check the disk and the permissions there.",
            f"Run: {directory.name}",
            f"Directory: {directory}",
        ) from error


def _changed_at(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
