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
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from airflow_provider_llmops import uris
from airflow_provider_llmops.backends.data_plane import DataPlane
from airflow_provider_llmops.backends.pipelines import artifacts as artifact_store
from airflow_provider_llmops.backends.pipelines.base import Run, RunRequest
from airflow_provider_llmops.backends.pipelines.local.limits import kubernetes_settings, require_runnable
from airflow_provider_llmops.backends.pipelines.local.queue import (
    ORPHAN_GRACE_SECONDS,
    RUN_DIR_VARIABLE,
    LocalQueue,
    Ticket,
    is_locked,
    processes_of,
    stop,
    ticket,
)
from airflow_provider_llmops.backends.pipelines.local.records import RequestRecord, StateRecord, StepError
from airflow_provider_llmops.backends.pipelines.pages import page_address
from airflow_provider_llmops.exceptions import (
    ApiUnavailableError,
    ConfigurationError,
    LLMOpsError,
    ResultError,
    RunNotFoundError,
)
from airflow_provider_llmops.results import MAX_RESULT_BYTES
from airflow_provider_llmops.specs import allowed_code
from airflow_provider_llmops.specs.ir import translate_imports
from airflow_provider_llmops.specs.placeholders import refuse_placeholders
from airflow_provider_llmops.state_files import (
    RecordT,
    StateFileError,
    private_directory,
    read_content,
    read_record,
    why_not_written,
    why_unusable,
    write_json,
    write_private,
)
from airflow_provider_llmops.states import RunState

if TYPE_CHECKING:
    from airflow_provider_llmops.specs.pipeline import BoundPipeline

DEFAULT_SLOTS = 1
MIN_FREE_BYTES = 512 * 1024 * 1024
LOG_CHUNK_BYTES = 256 * 1024
CHECKED_BYTES = 64 * 1024
NO_ROOM_BYTES = 1024 * 1024
TERMINATE_GRACE_SECONDS = 20.0  # a training finishes its step and saves a checkpoint
CHECKPOINTS_VARIABLE = "LLMOPS_CHECKPOINTS"
RETENTION_VARIABLE = "LLMOPS_RETENTION_DAYS"

_IMPORTED = replace(uris.ANY_ARTIFACT, exists=False)
_DIRECTORIES = ("runs", "checkpoints", "environments", "models")  # an earlier release let others read them
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
        self._queue = LocalQueue(self._root, slots)
        self._of_waiting: dict[str, RequestRecord] = {}
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
        """Prepare the run's directory and let it wait for its turn, which is at once where a slot is free.

        The id is derived from the display name and the directory appears by one rename, so the same display name
        never starts twice.
        """
        self._data_plane.require()
        require_runnable(
            request.pipeline
        )  # whoever has not placed it: the command of a container must not run here
        _refuse_unreadable("The run's name", request.display_name)
        for name, value in request.pipeline.parameters.items():
            _refuse_unreadable(f"Parameter {name!r}", value)
        run_id = self._id_of(request.display_name)
        directory = self._runs / run_id
        known = self._how_to_start(directory, request)
        try:
            self._check_space()
            self._note_use(request.pipeline.parameters)
            for part in ("root", "components", "deploymentSpec"):  # importers have addresses of their own
                self._note_use(request.pipeline.spec.get(part), is_needed=False)
            aside = self._runs / f".{run_id}.{os.getpid()}"
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
            with (aside / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    aside.rename(directory)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    shutil.rmtree(aside)
                    return run_id
                try:
                    self._queue.enter(run_id, known)
                except OSError:
                    shutil.rmtree(directory, ignore_errors=True)  # nobody would ever start it
                    raise
            self._queue.go_on(self._fail, patient=True)
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

    def get(self, run_id: str) -> Run:
        """Read the run's directory; a process that vanished without a last word is a failed run."""
        directory = self._directory(run_id)
        with _naming_troubles(run_id, directory):
            state, ahead = self._look(directory)
            if ahead is not None:  # who should have started the next one may have been killed
                self._queue.go_on(self._fail)
                state, ahead = self._look(directory)
            return self._describe(directory, state, ahead)

    def _look(self, directory: Path) -> tuple[StateRecord, int | None]:
        """State of a run, and how many are to be started before it if it waits."""
        for look in (1, 2):  # a run may begin, or end, between two of these questions
            try:
                state = read_record(directory / "state.json", StateRecord)
            except StateFileError as error:
                return self._bury(directory, StateRecord(), str(error)), None
            if state.state.is_terminal or self._is_alive(directory):
                break
            if (ahead := self._queue.ahead_of(directory.name)) is not None:
                return state, ahead
            if look == 2:
                return self._bury(directory, state), None
        return state, None

    def find(self, display_name: str) -> Run | None:
        """Look the run up: its id follows from its name."""
        run_id = self._id_of(display_name)
        return self.get(run_id) if (self._runs / run_id).is_dir() else None

    def find_reusable(self, fingerprint: str) -> Run | None:
        """The newest successful run with that fingerprint among its labels."""
        directories = [path for path in self._runs.glob("[!.]*") if _RUN_ID.fullmatch(path.name)]
        for directory in sorted(directories, key=_changed_at, reverse=True):
            with suppress(
                StateFileError, OSError, LLMOpsError
            ):  # a broken or vanished one is none to be taken
                request = read_record(directory / "request.json", RequestRecord)
                state = read_record(directory / "state.json", StateRecord)
                if request.labels.get("fingerprint") == fingerprint and state.state is RunState.SUCCEEDED:
                    self._note_use(str(directory))
                    return self.get(directory.name)
        return None

    def cancel(self, run_id: str, patience: float | None = None) -> None:
        """Note the wish, ask the run's processes to end, and kill what is left after a grace time."""
        directory = self._directory(run_id)
        if self.get(run_id).state.is_terminal:
            return
        with _naming_troubles(run_id, directory):
            (directory / "cancel").touch(mode=0o600)
            self._queue.leave(run_id)
        grace = TERMINATE_GRACE_SECONDS if patience is None else min(patience, TERMINATE_GRACE_SECONDS)
        ends_at = time.monotonic() + grace
        stop(processes_of(directory), grace)
        # A process that was just being born when the others were listed is found on the second look.
        stop(processes_of(directory), max(ends_at - time.monotonic(), 0.0))
        self.get(run_id)  # records the end of what had to be killed

    def read_log(self, run_id: str, offset: int) -> tuple[list[str], int]:
        """Complete lines from ``offset`` on; a line that is still being written is left for the next call."""
        try:
            file = os.open(self._directory(run_id) / "log.txt", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(file, "rb") as log:
                log.seek(offset)
                chunk = log.read(LOG_CHUNK_BYTES)
        except OSError:
            return [], offset
        end = chunk.rfind(b"\n") + 1
        if end == 0 and len(chunk) == LOG_CHUNK_BYTES:
            end = len(chunk)  # one line longer than a chunk: pass it on in pieces rather than stand still
        return chunk[:end].decode("utf-8", errors="replace").splitlines(), offset + end

    def read_result(self, run_id: str, pipeline: str, task: str) -> tuple[str, str]:
        """The step's ``result`` output below the run's pipeline root."""
        artifacts = self._directory(run_id) / "artifacts"
        for path in artifacts.glob(f"*/{task}/result"):
            try:
                return read_content(path, MAX_RESULT_BYTES).decode("utf-8", errors="replace"), str(path)
            except (StateFileError, OSError) as error:
                raise ResultError(
                    f"The result of step {task} cannot be read: {error}. Clear the task to run the component again.",
                    f"Run: {run_id}",
                    f"Result: {path}",
                ) from error
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
        directory = self._directory(run_id)
        try:
            return read_record(directory / "state.json", StateRecord).outputs
        except StateFileError as error:
            raise ResultError(f"The run's outputs cannot be read: {error}", f"Run: {run_id}") from error

    def input_digest(self, uri: str) -> str | None:
        """What the component that made the file said of it, or its time and size."""
        return artifact_store.input_digest(uri, None)

    def run_url(self, run_id: str) -> str:
        """Nothing: there is no web interface."""
        return ""

    def page_url(self, uri: str, conn_id: str) -> str:
        """A page that Airflow's web server shows, see :mod:`airflow_provider_llmops.pages`."""
        return page_address(uri, conn_id, self._root)

    def check(self) -> str:
        """Start the interpreter, make sure that the components can be imported, and that a run can be written."""
        version = self._data_plane.check()
        self._check_space()
        self._check_writing()
        return f"local backend ready: Python {version} at {self._data_plane.python}, runs in {self._runs}"

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
        return str(self._checkpoints / request.attempts_key) if request.attempts_key else None

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

    def _bury(self, directory: Path, state: StateRecord, unreadable: str | None = None) -> StateRecord:
        """Record the end of a run whose process is gone without having done so, and stop what it left behind.

        :param unreadable: why its state cannot be read, if that is so
        """
        stop(processes_of(directory), ORPHAN_GRACE_SECONDS)
        with suppress(OSError):
            shutil.rmtree((directory / "tmp").readlink())
            (directory / "tmp").unlink()
        if unreadable:
            message = unreadable
        elif shutil.disk_usage(directory).free < NO_ROOM_BYTES:
            message = "the disk is full, and the run could not write how it went on. Delete what is no longer needed"
        elif state.started_at is not None:
            message = "the run's process disappeared (killed, or the machine was restarted)"
        else:
            message = "the run was prepared but its process never started working"
        ended = self._end(directory, state, "StateFileError" if unreadable else "Killed", message)
        self._queue.go_on(self._fail)  # as its process would have seen to
        return ended

    def _fail(self, directory: Path, message: str) -> None:
        """Record that a run which waited cannot be started."""
        self._end(directory, StateRecord(), "NotStarted", message)

    @staticmethod
    def _end(directory: Path, state: StateRecord, kind: str, message: str) -> StateRecord:
        canceled = (directory / "cancel").exists()
        ended = state.model_copy(
            update={
                "state": RunState.CANCELED if canceled else RunState.FAILED,
                "finished_at": datetime.now(UTC),
                "error": None if canceled else StepError(type=kind, message=message, retryable=True),
            }
        )
        with suppress(OSError):  # a full disk must not hide the verdict; the next look comes to the same one
            write_json(directory / "state.json", ended.model_dump(mode="json", exclude_none=True))
        return ended

    def _describe(self, directory: Path, state: StateRecord, ahead: int | None) -> Run:
        if ahead is None or (request := self._of_waiting.get(directory.name)) is None:
            request = _read_or_empty(directory / "request.json", RequestRecord)
        if ahead is not None:  # it is looked at often, and written once
            self._of_waiting[directory.name] = request
        value = state.state
        if (directory / "cancel").exists():
            if not value.is_terminal:
                value = RunState.CANCELING
            elif not value.is_successful:
                value = RunState.CANCELED
        error = state.error
        text = None
        if error and not value.is_canceled:
            # What a component raises on purpose says all in its message.
            is_raised_on_purpose = "traceback" in error.model_fields_set and error.traceback is None
            text = error.message if is_raised_on_purpose else f"{error.type}: {error.message}"
        return Run(
            run_id=directory.name,
            display_name=request.display_name or directory.name,
            state=value,
            tasks=state.tasks,
            ahead=ahead,
            error=text,
            failed_steps=(error.task,) if error and text and error.task else (),
            retryable=error.retryable if error else True,
            created_at=request.created_at,
            finished_at=state.finished_at,
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
        return is_locked(directory / "lock")

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

    def _check_writing(self) -> None:
        """Write what a run begins with, and remove it."""
        try:
            private_directory(self._runs)
            probe = self._runs / f".check.{uuid.uuid4().hex}"
            write_private(probe, b"\0" * CHECKED_BYTES)
            probe.unlink()
        except OSError as error:
            raise ApiUnavailableError(
                f"Runs cannot be written: {why_not_written(error, self._runs)}. Give the directory to this user and make room in "
                "it, or choose another 'root' in the connection's extra.",
                f"Directory: {self._runs}",
            ) from error


def _refuse_unreadable(what: str, value: Any) -> None:
    """Refuse what the run's process would be given and could not read."""
    refuse_placeholders(what, value)
    if why := why_unusable(value):
        raise ConfigurationError(f"{what} cannot be handed to the run: {why}. Give it another value.")


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
        with _open_log(log) as handle:
            handle.writelines(lines)


def _open_log(path: Path) -> TextIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "a", encoding="utf-8")


def _changed_at(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _read_or_empty(path: Path, model: type[RecordT]) -> RecordT:
    with suppress(StateFileError):
        return read_record(path, model)
    return model()


@contextmanager
def _naming_troubles(run_id: str, directory: Path) -> Iterator[None]:
    """What the system refuses at this moment is no verdict on a run."""
    try:
        yield
    except OSError as error:
        raise ApiUnavailableError(
            f"The run cannot be looked at: {why_not_written(error, directory)}. Check the disk and the permissions there.",
            f"Run: {run_id}",
            f"Directory: {directory}",
        ) from error
