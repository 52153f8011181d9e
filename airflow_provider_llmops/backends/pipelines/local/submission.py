"""Submitting a run on this machine: its directory is made, complete, and it waits for its turn."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from airflow_provider_llmops.backends.data_plane import DataPlane
from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.local.limits import kubernetes_settings, require_runnable
from airflow_provider_llmops.backends.pipelines.local.processes import RUN_DIR_VARIABLE
from airflow_provider_llmops.backends.pipelines.local.queue import LocalQueue, Ticket, ticket
from airflow_provider_llmops.backends.pipelines.local.runs import RunDirectories, run_id_of
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError
from airflow_provider_llmops.specs import allowed_code
from airflow_provider_llmops.specs.placeholders import refuse_placeholders
from airflow_provider_llmops.state_files import (
    private_directory,
    why_not_written,
    why_unusable,
    write_json,
    write_private,
)

CHECKPOINTS_VARIABLE = "LLMOPS_CHECKPOINTS"
RETENTION_VARIABLE = "LLMOPS_RETENTION_DAYS"
_DIRECTORIES = ("runs", "checkpoints", "environments", "models")  # an earlier release let others read them
_RUNNER_MODULE = "llmops_components.local.runner"


class Submission:
    """Submits runs.

    :param data_plane: the interpreter that carries them out
    :param root: directory that holds ``runs/``
    :param runs: the runs' directories
    :param queue: in which they wait for their turn
    :param slots: runs at a time, for the process of a run that starts the next one
    :param retention: days after which what nobody uses goes; ``None`` keeps everything
    """

    def __init__(
        self,
        data_plane: DataPlane,
        root: Path,
        *,
        runs: RunDirectories,
        queue: LocalQueue,
        slots: int,
        retention: float | None,
    ) -> None:
        self._data_plane = data_plane
        self._root = root
        self._runs = runs
        self._queue = queue
        self._slots = slots
        self._retention = retention

    def submit(self, request: RunRequest) -> str:
        """Prepare the run's directory and let it wait for its turn, which is at once where a slot is free; return its id.

        The id is derived from the display name and the directory appears by one rename, so the same display name
        never starts twice.

        :param request: what to run
        """
        self._data_plane.require()
        # Also of who has not placed it: the command of a container must not run here.
        require_runnable(request.pipeline)
        _refuse_unreadable("The run's name", request.display_name)
        for name, value in request.pipeline.parameters.items():
            _refuse_unreadable(f"Parameter {name!r}", value)
        run_id = run_id_of(request.display_name)
        directory = self._runs.path / run_id
        known = self._how_to_start(directory, request)
        try:
            self._runs.check_space()
            self._note_uses(request)
            aside = self._prepare(run_id, request)
            if self._put_in_place(aside, directory, known):
                self._queue.go_on(patient=True)
                if self._queue.ahead_of(run_id) is not None:
                    with _open_log(directory / "log.txt") as log:
                        log.write("waiting for another run on this machine to end\n")
        except OSError as error:
            raise ApiUnavailableError(
                f"The run cannot be started: {why_not_written(error, directory)}. Check the disk and the permissions there, or choose "
                "another 'root' in the connection's extra.",
                f"Run: {request.display_name}",
                f"Directory: {directory}",
            ) from error
        return run_id

    def _note_uses(self, request: RunRequest) -> None:
        """Keep the runs whose outputs this one reads."""
        self._runs.note_use(request.pipeline.parameters)
        for part in ("root", "components", "deploymentSpec"):  # importers have addresses of their own
            self._runs.note_use(request.pipeline.spec.get(part), is_needed=False)

    def _prepare(self, run_id: str, request: RunRequest) -> Path:
        """Write the run's files into a directory that nobody looks at yet."""
        aside = self._runs.path / f".{run_id}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        for name in _DIRECTORIES:
            private_directory(self._root / name)
        aside.mkdir(mode=0o700)
        write_json(aside / "pipeline.yaml", request.pipeline.spec)  # JSON is YAML
        _note_settings(aside / "log.txt", request.pipeline.platform)
        write_json(
            aside / "request.json",
            {
                "run_id": run_id,
                "display_name": request.display_name,
                "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "arguments": request.pipeline.parameters,
                "labels": dict(request.labels),
                "checkpoints": self._checkpoints_of(request),
            },
        )
        write_private(aside / "lock", b"")
        return aside

    def _put_in_place(self, aside: Path, directory: Path, known: Ticket) -> bool:
        """Let the run wait for its turn; False if there is one of that name already."""
        with (aside / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                aside.rename(directory)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                shutil.rmtree(aside)
                return False
            try:
                self._queue.enter(directory.name, known)
            except OSError:
                shutil.rmtree(directory, ignore_errors=True)  # nobody would ever start it
                raise
        return True

    def _how_to_start(self, directory: Path, request: RunRequest) -> Ticket:
        own = {RETENTION_VARIABLE: str(self._retention)} if self._retention is not None else {}
        if names := allowed_code.allowed_names():
            also = os.environ.get(allowed_code.ENVIRONMENT, "").split(",")
            own[allowed_code.ENVIRONMENT] = ",".join([*names, *filter(None, also)])
        if checkpoints := self._checkpoints_of(request):
            own[CHECKPOINTS_VARIABLE] = checkpoints
        environment = self._data_plane.environment(
            {
                **own,
                **request.environment,
                RUN_DIR_VARIABLE: str(directory),
                "LLMOPS_ROOT": str(self._root),
                "LLMOPS_SLOTS": str(self._slots),
            }
        )
        try:
            return ticket([str(self._data_plane.python), "-m", _RUNNER_MODULE, str(directory)], environment)
        except ValueError as error:
            raise ConfigurationError(
                f"The run's process cannot be given what it needs: {error}. Correct it in the connection, or where the worker is "
                "started.",
                f"Run: {request.display_name}",
            ) from error

    def _checkpoints_of(self, request: RunRequest) -> str | None:
        """What a retry of a training goes on from, unless that has a place of its own. Success removes it."""
        return str(self._root / "checkpoints" / request.attempts_key) if request.attempts_key else None


def _refuse_unreadable(what: str, value: Any) -> None:
    """Refuse what the run's process would be given and could not read."""
    refuse_placeholders(what, value)
    if why := why_unusable(value):
        raise ConfigurationError(f"{what} cannot be handed to the run: {why}. Give it another value.")


def _note_settings(log: Path, platform: Mapping[str, Any] | None) -> None:
    """Say which settings of Kubernetes a step may miss."""
    lines = [
        f"{name}: {', '.join(settings)} of the platform specification has no effect on the local backend\n"
        for name, settings in kubernetes_settings(platform).items()
    ]
    if lines:
        with _open_log(log) as handle:
            handle.writelines(lines)


def _open_log(path: Path) -> TextIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "a", encoding="utf-8")
