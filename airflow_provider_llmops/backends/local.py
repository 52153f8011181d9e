"""Pipeline runs on this machine: each run is a detached process of the data plane's interpreter.

A run's directory is the whole interface to its process, and survives the worker that started it. It is described
where it is carried out, in ``llmops_components.local.runner``. The process holds a lock on the directory's ``lock`` file
from before its first instruction until it is gone, so a run that is alive can be told from one that died without
asking for process ids, which are reused.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops import allowed_code, uris
from airflow_provider_llmops.backends import artifact_store
from airflow_provider_llmops.backends.base import Run, RunRequest, Wait, parse_time
from airflow_provider_llmops.backends.data_plane import DataPlane
from airflow_provider_llmops.backends.local_limits import kubernetes_settings, require_runnable
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    ResultError,
    RunNotFoundError,
)
from airflow_provider_llmops.ir import translate_imports
from airflow_provider_llmops.pages.address import page_address
from airflow_provider_llmops.spec_placeholders import refuse_placeholders
from airflow_provider_llmops.states import RunState

if TYPE_CHECKING:
    import psutil

    from airflow_provider_llmops.specs import BoundPipeline

DEFAULT_SLOTS = 1
MIN_FREE_BYTES = 512 * 1024 * 1024
LOG_CHUNK_BYTES = 256 * 1024
TERMINATE_GRACE_SECONDS = 20.0  # a training finishes its step and saves a checkpoint
ORPHAN_GRACE_SECONDS = 5.0  # without the run's process nobody reads what a step writes, and it dies of that
RUN_DIR_VARIABLE = "LLMOPS_RUN_DIR"
CHECKPOINTS_VARIABLE = "LLMOPS_CHECKPOINTS"
RETENTION_VARIABLE = "LLMOPS_RETENTION_DAYS"

_IMPORTED = replace(uris.ANY_ARTIFACT, exists=False)
_RUNNER_MODULE = "llmops_components.local.runner"
_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMESPACE = uuid.UUID("6b1f4a0e-6d57-4a3e-9a2e-0d6c2f1f7c55")


class LocalPipelineBackend:
    """Carries out runs in detached processes of the data plane's interpreter.

    :param python: interpreter of the data plane's environment
    :param root: directory that holds ``runs/``
    :param slots: runs at a time; the others are pending. Each uses every core, so one is right for most machines.
    :param retention: days after which what nobody uses goes; ``None`` keeps everything
    """

    waits_in_one_stream = False  # a look at a directory costs nothing
    poll_interval = 1.0
    image: str | None = None  # there are no containers here

    def __init__(
        self,
        *,
        python: str | os.PathLike[str],
        root: str | os.PathLike[str],
        slots: int = DEFAULT_SLOTS,
        retention: float | None = None,
    ) -> None:
        self._data_plane = DataPlane(python)
        self._root = Path(root)
        self._slots = slots
        self._retention = retention
        self._runs = self._root / "runs"
        self._checkpoints = self._root / "checkpoints"

    def place(self, pipeline: BoundPipeline, addresses: Mapping[str, uris.Address]) -> BoundPipeline:
        """Make paths of addresses; what cannot run or be read on this machine is refused before anything starts."""
        require_runnable(pipeline)
        parameters = dict(pipeline.parameters)
        for parameter, name in pipeline.artifact_parameters.items():
            expected = addresses.get(name, uris.ANY_ARTIFACT)
            parameters[parameter] = uris.on_this_machine(name, parameters[parameter], expected)
        for name, expected in addresses.items():
            # Without text there is none: a template may render to nothing.
            if isinstance(address := parameters.get(name), str) and address:
                uris.on_this_machine(name, address, expected)
        spec = copy.deepcopy(pipeline.spec)
        translate_imports(spec, parameters, _import_here)
        return replace(pipeline, spec=spec, parameters=parameters)

    def submit(self, request: RunRequest) -> str:
        """Prepare the run's directory, then start its process.

        The id is derived from the display name and the directory appears by one rename, so the same display name
        never starts twice.
        """
        self._data_plane.require()
        require_runnable(
            request.pipeline
        )  # whoever has not placed it: the command of a container must not run here
        refuse_placeholders("The run's name", request.display_name)
        for name, value in request.pipeline.parameters.items():
            refuse_placeholders(f"Parameter {name!r}", value)
        run_id = self._id_of(request.display_name)
        directory = self._runs / run_id
        try:
            self._check_space()
            self._note_use(request.pipeline.parameters)
            for part in ("root", "components", "deploymentSpec"):  # importers have addresses of their own
                self._note_use(request.pipeline.spec.get(part), is_needed=False)
            aside = self._runs / f".{run_id}.{os.getpid()}"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            _write_json(aside / "pipeline.yaml", request.pipeline.spec)  # JSON is YAML
            _note_settings(aside / "log.txt", request.pipeline.platform)
            _write_json(
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
            with (aside / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    aside.rename(directory)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    shutil.rmtree(aside)
                    return run_id
                self._start(directory, lock.fileno(), request)
        except OSError as error:
            raise ApiUnavailableError(
                f"The run cannot be started: {error.strerror or error}. Check the disk and the permissions there, or choose "
                "another 'root' in the connection's extra.",
                f"Run: {request.display_name}",
                f"Directory: {directory}",
            ) from error
        return run_id

    def get(self, run_id: str) -> Run:
        """Read the run's directory; a process that vanished without a last word is a failed run."""
        directory = self._directory(run_id)
        state = _read_json(directory / "state.json")
        if not RunState(state.get("state", RunState.PENDING)).is_terminal and not self._is_alive(directory):
            state = _read_json(directory / "state.json")  # it may have ended between the two looks
            if not RunState(state.get("state", RunState.PENDING)).is_terminal:
                state = self._bury(directory, state)
        return self._describe(directory, state)

    def find(self, display_name: str) -> Run | None:
        """Look the run up: its id follows from its name."""
        run_id = self._id_of(display_name)
        return self.get(run_id) if (self._runs / run_id).is_dir() else None

    def find_version(self, pipeline: str, version: str | None) -> dict[str, str]:
        """Not offered: there is no server."""
        raise ConfigurationError(
            f"Pipeline {pipeline!r} was asked for by its name on a server, and the connection is local. Pass the compiled "
            "file as 'pipeline', or give the connection a host."
        )

    def read_version(self, version: Mapping[str, str]) -> dict[str, Any]:
        """Not offered: there is no server."""
        raise ConfigurationError("The connection is local: there are no versions on a server.")

    def find_reusable(self, fingerprint: str) -> Run | None:
        """The newest successful run with that fingerprint among its labels."""
        directories = [path for path in self._runs.glob("[!.]*") if path.is_dir()]
        for directory in sorted(directories, key=lambda path: path.stat().st_mtime, reverse=True):
            if _read_json(directory / "request.json").get("labels", {}).get("fingerprint") == fingerprint:
                run = self.get(directory.name)
                if run.state is RunState.SUCCEEDED:
                    self._note_use(str(directory))
                    return run
        return None

    def cancel(self, run_id: str, patience: float | None = None) -> None:
        """Note the wish, ask the run's processes to end, and kill what is left after a grace time."""
        directory = self._directory(run_id)
        if self.get(run_id).state.is_terminal:
            return
        (directory / "cancel").touch()
        grace = TERMINATE_GRACE_SECONDS if patience is None else min(patience, TERMINATE_GRACE_SECONDS)
        ends_at = time.monotonic() + grace
        _stop(_processes_of(directory), grace)
        # A process that was just being born when the others were listed is found on the second look.
        _stop(_processes_of(directory), max(ends_at - time.monotonic(), 0.0))
        self.get(run_id)  # records the end of what had to be killed

    def retry(self, run_id: str) -> None:
        """Not offered: a run starts with its first step."""
        raise ConfigurationError(
            "The local backend cannot go on with a failed run. Start a new one.",
            f"Run: {run_id}",
        )

    def read_log(self, run_id: str, offset: int) -> tuple[list[str], int]:
        """Complete lines from ``offset`` on; a line that is still being written is left for the next call."""
        try:
            with (self._directory(run_id) / "log.txt").open("rb") as log:
                log.seek(offset)
                chunk = log.read(LOG_CHUNK_BYTES)
        except FileNotFoundError:
            return [], offset
        end = chunk.rfind(b"\n") + 1
        if end == 0 and len(chunk) == LOG_CHUNK_BYTES:
            end = len(chunk)  # one line longer than a chunk: pass it on in pieces rather than stand still
        return chunk[:end].decode("utf-8", errors="replace").splitlines(), offset + end

    def read_result(self, run_id: str, pipeline: str, task: str) -> tuple[str, str]:
        """The step's ``result`` output below the run's pipeline root."""
        artifacts = self._directory(run_id) / "artifacts"
        for path in artifacts.glob(f"*/{task}/result"):
            return path.read_text(encoding="utf-8", errors="replace"), str(path)
        raise ResultError(
            f"Step {task} succeeded and left no result. The component in the data plane's environment does not belong to "
            "this provider, or the directory was cleaned. Clear the task to run it again.",
            f"Run: {run_id}",
            f"Looked below: {artifacts}",
        )

    def list_outputs(self, run_id: str, pipeline: str, task: str) -> dict[str, str]:
        """Path of each output of a step."""
        return {path.name: str(path) for path in (self._directory(run_id) / "artifacts").glob(f"*/{task}/*")}

    def read_outputs(self, run_id: str) -> dict[str, Any]:
        """Output parameters of the pipeline, as the run left them."""
        outputs: dict[str, Any] = _read_json(self._directory(run_id) / "state.json").get("outputs", {})
        return outputs

    def input_digest(self, uri: str) -> str | None:
        """What the component that made the file said of it, or its time and size."""
        return artifact_store.input_digest(uri, None)

    def run_url(self, run_id: str) -> str:
        """Nothing: there is no web interface."""
        return ""

    def page_url(self, uri: str, conn_id: str) -> str:
        """A page that Airflow's web server shows, see :mod:`airflow_provider_llmops.pages`."""
        return page_address(uri, conn_id, self._root)

    def why_waiting(self, run_id: str) -> list[Wait]:
        """Nothing: the run's log says when it waits for others."""
        return []

    def explain_failure(self, run: Run) -> Run:
        """As it is: its steps report why they fail, and the run's log has been passed on."""
        return run

    def check(self) -> str:
        """Start the interpreter and make sure that the components can be imported."""
        version = self._data_plane.check()
        self._check_space()
        return f"local backend ready: Python {version} at {self._data_plane.python}, runs in {self._runs}"

    def _start(self, directory: Path, lock_fd: int, request: RunRequest) -> None:
        own = {RETENTION_VARIABLE: str(self._retention)} if self._retention is not None else {}
        if names := allowed_code.allowed_names():
            also = os.environ.get(allowed_code.ENVIRONMENT, "").split(",")
            own[allowed_code.ENVIRONMENT] = ",".join([*names, *filter(None, also)])
        if checkpoints := self._checkpoints_of(request):
            own[CHECKPOINTS_VARIABLE] = checkpoints
        with (directory / "log.txt").open("ab") as log:
            subprocess.Popen(
                [self._data_plane.python, "-m", _RUNNER_MODULE, directory],
                cwd=directory,
                env=self._data_plane.environment(
                    {
                        **own,
                        **request.environment,
                        RUN_DIR_VARIABLE: str(directory),
                        "LLMOPS_ROOT": str(self._root),
                        "LLMOPS_SLOTS": str(self._slots),
                    }
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock_fd],
                start_new_session=True,
            )

    def _checkpoints_of(self, request: RunRequest) -> str | None:
        """What a retry of a training goes on from, unless that has a place of its own. Success removes it."""
        return str(self._checkpoints / request.lineage) if request.lineage else None

    def _note_use(self, value: Any, *, is_needed: bool = True) -> None:
        """Let the runs that paths and addresses belong to be as young as their last use.

        :param value: a path, an address, or lists and dictionaries with them
        :param is_needed: whether what is gone is an error; a default may be that another value takes the place of
        """
        if isinstance(value, dict | list | tuple):
            for part in value.values() if isinstance(value, dict) else value:
                self._note_use(part, is_needed=is_needed)
        if not isinstance(value, str):
            return
        path = value
        if uris.scheme_of(value) == "file":
            with suppress(ConfigurationError):  # of another machine
                path = uris.file_path(value, "an address")
        if not Path(path).is_relative_to(self._runs):
            return
        inside = Path(path).relative_to(self._runs).parts
        if not inside or not _RUN_ID.fullmatch(inside[0]):
            return  # the directory of all runs, or something that a user has there
        try:
            (self._runs / inside[0] / "used").touch()
        except FileNotFoundError:
            if is_needed:
                raise ConfigurationError(
                    f"{value} was removed a moment ago, with its run, which nobody had used for long. Run the task again that "
                    "made it."
                ) from None

    def _bury(self, directory: Path, state: Mapping[str, Any]) -> dict[str, Any]:
        """Record the end of a run whose process is gone without having done so, and stop what it left behind."""
        _stop(_processes_of(directory), ORPHAN_GRACE_SECONDS)
        with suppress(OSError):
            shutil.rmtree((directory / "tmp").readlink())
            (directory / "tmp").unlink()
        canceled = (directory / "cancel").exists()
        started = "started_at" in state
        message = (
            "the run's process disappeared (killed, or the machine was restarted)"
            if started
            else "the run was prepared but its process never started working"
        )
        ended = {
            **state,
            "state": RunState.CANCELED if canceled else RunState.FAILED,
            "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "error": None if canceled else {"type": "Killed", "message": message, "retryable": True},
        }
        with suppress(OSError):  # a full disk must not hide the verdict; the next look comes to the same one
            _write_json(directory / "state.json", ended)
        return ended

    def _describe(self, directory: Path, state: Mapping[str, Any]) -> Run:
        request = _read_json(directory / "request.json")
        value = RunState(state.get("state", RunState.PENDING))
        if (directory / "cancel").exists():
            if not value.is_terminal:
                value = RunState.CANCELING
            elif not value.is_successful:
                value = RunState.CANCELED
        error = state.get("error")
        text = None
        if error and not value.is_canceled:
            # What a component raises on purpose says all in its message.
            is_raised_on_purpose = "traceback" in error and error["traceback"] is None
            text = error["message"] if is_raised_on_purpose else f"{error['type']}: {error['message']}"
        return Run(
            run_id=directory.name,
            display_name=request.get("display_name", directory.name),
            state=value,
            tasks=state.get("tasks", {}),
            error=text,
            failed_steps=(error["task"],) if error and text and error.get("task") else (),
            retryable=error.get("retryable", True) if error else True,
            created_at=parse_time(request.get("created_at")),
            finished_at=parse_time(state.get("finished_at")),
            log_hint=str(directory / "log.txt"),
        )

    def _directory(self, run_id: str) -> Path:
        try:
            valid = str(uuid.UUID(run_id)) == run_id  # the only form that becomes a path
        except ValueError:
            valid = False
        directory = self._runs / run_id
        if not valid or not directory.is_dir():
            raise RunNotFoundError(
                "There is no such run: it was deleted, or the connection's 'root' was changed.",
                f"Run: {run_id}",
                f"Directory: {self._runs}",
            )
        return directory

    @staticmethod
    def _id_of(display_name: str) -> str:
        return str(uuid.uuid5(_NAMESPACE, display_name))

    @staticmethod
    def _is_alive(directory: Path) -> bool:
        with (directory / "lock").open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _check_space(self) -> None:
        """Refuse to start a run that is bound to fail half-way."""
        existing = next(parent for parent in [self._runs, *self._runs.parents] if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < MIN_FREE_BYTES:
            raise ApiUnavailableError(
                f"Only {free // 2**20} MiB are free for runs, at least {MIN_FREE_BYTES // 2**20} MiB are needed. Delete old "
                "runs, or choose another 'root' in the connection's extra.",
                f"Directory: {self._runs}",
            )


def _import_here(step: str, address: str) -> str:
    if not uris.scheme_of(address):
        return address  # a path that an earlier step may make
    return uris.on_this_machine(f"The importer {step}", address, _IMPORTED)


def _note_settings(log: Path, platform: Mapping[str, Any] | None) -> None:
    """Say which settings of Kubernetes a step may miss."""
    lines = [
        f"{name}: {', '.join(settings)} of the platform specification has no effect on the local backend\n"
        for name, settings in kubernetes_settings(platform).items()
    ]
    if lines:
        log.write_text("".join(lines), encoding="utf-8")


def _processes_of(directory: Path) -> list[psutil.Process]:
    """Every process that was started for a run, its grandchildren in sessions of their own included."""
    import psutil

    found = []
    for process in psutil.process_iter():
        # Gone since it was listed, or somebody else's.
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
            if process.environ().get(RUN_DIR_VARIABLE) == str(directory):
                found.append(process)
    return found


def _stop(processes: list[psutil.Process], grace: float) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=grace)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return value


def _write_json(path: Path, value: Any) -> None:
    """Write the file as a whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(value, indent=1), encoding="utf-8")
    aside.replace(path)
