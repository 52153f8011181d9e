"""The backend for runs on this machine: each run is a detached process of the data plane's interpreter.

A run's directory is the whole interface to its process, and survives the worker that started it. It is described
where it is carried out, in ``llmops_components.local.runner``. The process holds a lock on the directory's ``lock`` file
from before its first instruction until it is gone, so a run that is alive can be told from one that died without
asking for process ids, which are reused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.backends.data_plane import DataPlane
from airflow_provider_llmops.backends.pipelines import artifacts as artifact_store
from airflow_provider_llmops.backends.pipelines.base import Run, RunRequest
from airflow_provider_llmops.backends.pipelines.local import outputs
from airflow_provider_llmops.backends.pipelines.local.limits import require_runnable
from airflow_provider_llmops.backends.pipelines.local.placing import place
from airflow_provider_llmops.backends.pipelines.local.processes import processes_of, stop
from airflow_provider_llmops.backends.pipelines.local.queue import LocalQueue
from airflow_provider_llmops.backends.pipelines.local.reading import RunReader
from airflow_provider_llmops.backends.pipelines.local.records import RequestRecord, StateRecord
from airflow_provider_llmops.backends.pipelines.local.runs import RunDirectories, looking_at, run_id_of
from airflow_provider_llmops.backends.pipelines.local.submission import Submission
from airflow_provider_llmops.backends.pipelines.pages import page_address
from airflow_provider_llmops.exceptions import LLMOpsError
from airflow_provider_llmops.state_files import StateFileError, read_record
from airflow_provider_llmops.states import RunState

if TYPE_CHECKING:
    from airflow_provider_llmops.specs.pipeline import BoundPipeline
    from airflow_provider_llmops.uris import Address

DEFAULT_SLOTS = 1
TERMINATE_GRACE_SECONDS = 20.0  # a training finishes its step and saves a checkpoint


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
        self._runs = self._root / "runs"
        self._directories = RunDirectories(self._runs)
        self._queue = LocalQueue(self._root, slots)
        self._reader = RunReader(self._queue)
        self._submission = Submission(
            self._data_plane,
            self._root,
            runs=self._directories,
            queue=self._queue,
            slots=slots,
            retention=retention,
        )

    def image_of(self, compiled: str, own: str | None = None) -> None:
        """None, whatever is named: steps are processes of the data plane's interpreter."""

    def pinned(self, image: str | None, run_id: str, task: str) -> str | None:
        """The image as it is: there are none."""
        return image

    def place(self, pipeline: BoundPipeline, addresses: Mapping[str, Address]) -> BoundPipeline:
        """Make paths of addresses; what cannot run or be read on this machine is refused before anything starts."""
        require_runnable(pipeline)
        return place(pipeline, addresses)

    def submit(self, request: RunRequest) -> str:
        """Prepare the run's directory and let it wait for its turn, which is at once where a slot is free."""
        return self._submission.submit(request)

    def get(self, run_id: str) -> Run:
        """Read the run's directory; a process that vanished without a last word is a failed run."""
        return self._reader.read(self._directories.of(run_id))

    def find(self, display_name: str) -> Run | None:
        """Look the run up: its id follows from its name."""
        run_id = run_id_of(display_name)
        return self.get(run_id) if (self._runs / run_id).is_dir() else None

    def find_reusable(self, fingerprint: str) -> Run | None:
        """The newest successful run with that fingerprint among its labels."""
        for directory in self._directories.newest_first():
            # A broken or vanished one is none to be taken.
            with suppress(StateFileError, OSError, LLMOpsError):
                request = read_record(directory / "request.json", RequestRecord)
                state = read_record(directory / "state.json", StateRecord)
                if request.labels.get("fingerprint") == fingerprint and state.state is RunState.SUCCEEDED:
                    self._directories.note_use(str(directory))
                    return self.get(directory.name)
        return None

    def cancel(self, run_id: str, patience: float | None = None) -> None:
        """Note the wish, ask the run's processes to end, and kill what is left after a grace time."""
        directory = self._directories.of(run_id)
        if self.get(run_id).state.is_terminal:
            return
        with looking_at(directory):
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
        return outputs.read_log(self._directories.of(run_id), offset)

    def read_result(self, run_id: str, pipeline: str, task: str) -> tuple[str, str]:
        """The step's ``result`` output below the run's pipeline root."""
        return outputs.read_result(self._directories.of(run_id), task)

    def list_outputs(self, run_id: str, pipeline: str, task: str) -> dict[str, str]:
        """Path of each output of a step."""
        return outputs.list_outputs(self._directories.of(run_id), task)

    def read_outputs(self, run_id: str) -> dict[str, Any]:
        """Output parameters of the pipeline, as the run left them."""
        return outputs.read_outputs(self._directories.of(run_id))

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
        self._directories.check_space()
        self._directories.check_writing()
        return f"local backend ready: Python {version} at {self._data_plane.python}, runs in {self._runs}"
