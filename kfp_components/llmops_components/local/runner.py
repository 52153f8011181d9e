"""Carry out one pipeline run on this machine: ``python -m llmops_components.local.runner RUN_DIR``.

The process is started detached and outlives whoever started it. Its directory is its whole interface:

    request.json    run id, display name and arguments; written before the process starts
    pipeline.yaml   the compiled pipeline
    lock            locked (flock) from before the process starts until it is gone, however it goes
    log.txt         output of this process and of every step
    state.json      state, times, steps and error; written here, replaced as a whole
    artifacts/      pipeline root: PIPELINE/STEP/OUTPUT, where a step is named by the path of its task
    workspace/      the pipeline's workspace, if it asks for one
    tmp             link to the temporary directory of the run's processes, which goes when the run ends
    used, used-by/  who took something of the run, and when: see llmops_components.local.prune

The Airflow provider's local backend is the other side of this interface.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from llmops_components.errors import InputError
from llmops_components.local import queue
from llmops_components.local.pipeline import Pipeline, StepFailed
from llmops_components.local.prune import tidy_up_after
from llmops_components.local.prune.temporary import temporary_directory
from llmops_components.local.steps import StepRunner
from llmops_components.redaction import hide_in, redact, redacted
from llmops_components.state_files import PRIVATE_UMASK, read_json, unreadable, write_json

REQUEST_SHAPE = {"run_id": str, "display_name": str, "created_at": str, "arguments": {str: object}}


class Terminated(BaseException):
    """The process was asked to stop."""


class Termination:
    """Takes SIGTERM: the step that is under way gets it too, and may save what it has before the run ends.

    Its output is read until it is gone. A training whose pipe is closed dies of its next line instead of saving.
    """

    def __init__(self) -> None:
        self._in_step = self._asked = False

    def __call__(self, signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; the state still has to be written
        self._asked = True
        if not self._in_step:
            raise Terminated
        for process in psutil.Process().children(recursive=True):  # the step is below a shell
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()

    @contextlib.contextmanager
    def during_step(self) -> Iterator[None]:
        """While a step is under way."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
        if self._asked:
            raise Terminated


class RunState:
    """The run's ``state.json``, rewritten at each change.

    Args:
        directory: Directory of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self.value: dict[str, Any] = {
            "state": "RUNNING",
            "pid": os.getpid(),
            "started_at": _now(),
            "tasks": {},
        }
        self._write()

    def task(self, name: str, state: str) -> None:
        """Record the state of a step."""
        self.value["tasks"][name] = state
        self._write()

    def outputs(self, values: Mapping[str, Any]) -> None:
        """Record the pipeline's output parameters."""
        self.value["outputs"] = dict(values)

    def finish(self, state: str, error: Mapping[str, Any] | None = None) -> None:
        """Record how the run ended."""
        self.value |= {"state": state, "finished_at": _now(), "error": redacted(error) if error else None}
        self._write()

    def _write(self) -> None:
        write_json(self._path, self.value, private=True)


def run(directory: Path, slot: int | None = None) -> int:
    """Carry out the run whose directory is given, in a slot that it has inherited; returns the exit status."""
    termination = Termination()
    signal.signal(signal.SIGTERM, termination)
    state = RunState(directory)
    # Components read these; the shell line of a KFP step starts the first python3 on PATH.
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    os.environ["PYTHONUNBUFFERED"] = "1"
    try:
        if slot is not None:
            queue.take_slot(slot, directory)
        request = read_json(directory / "request.json", REQUEST_SHAPE)
        failure = _execute(directory, request, state, termination)
    except Terminated:
        state.finish(
            "FAILED", {"type": "Terminated", "message": "the run's process was terminated", "retryable": True}
        )
        return 143
    except Exception as error:
        reason = {
            "type": type(error).__name__,
            "message": redact(str(error)),
            "retryable": not isinstance(error, InputError),
        }
        state.finish("FAILED", {**reason, "traceback": None} if isinstance(error, InputError) else reason)
        raise
    if failure:
        state.finish("FAILED", failure)
        return 1
    state.finish("SUCCEEDED")
    return 0


def _execute(
    directory: Path, request: Mapping[str, Any], state: RunState, termination: Termination
) -> dict[str, Any] | None:
    """Run the pipeline; returns the failure, if any."""
    spec = read_json(directory / "pipeline.yaml")
    if not spec:
        raise unreadable(directory / "pipeline.yaml", "it is not there")
    name = spec["pipelineInfo"]["name"]
    artifacts = directory / "artifacts"
    workspace = directory / "workspace"
    if "{{$.workspace_path}}" in json.dumps(spec):
        workspace.mkdir()
    steps = StepRunner(
        artifacts / name, directory.parent.parent / "environments", state, termination.during_step
    )
    pipeline = Pipeline(
        spec,
        facts={
            "pipeline_job_name": request.get("display_name", name),
            "pipeline_job_resource_name": f"{name}-{request['run_id'][:5]}",
            "pipeline_job_uuid": request["run_id"],
            "pipeline_job_create_time_utc": request.get("created_at", ""),
            "pipeline_job_schedule_time_utc": request.get("created_at", ""),
            "pipeline_root": str(artifacts),
            "workspace_path": str(workspace),
        },
        run_step=steps.run,
        on_state=state.task,
    )
    try:
        state.outputs(pipeline.run(request["arguments"]))
    except StepFailed as error:
        return {"task": error.step, **error.reason}
    return None


def _start_next(root: Path) -> None:
    """Start the runs that wait. If they cannot be started, this run has not failed: their own state says why."""
    try:
        queue.start_next(root, int(os.environ.get("LLMOPS_SLOTS", "1")))
    except OSError as error:
        print(f"the runs that wait were not looked at: {error}", flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def main(argv: list[str]) -> int:
    """Carry out a run, stop what its steps have left, let those that wait go on, then give disk space back.

    Args:
        argv: Directory of the run, and ``--slot`` with the inherited descriptor of its slot.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser("llmops_components.local.runner")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--slot", type=int)
    options = parser.parse_args(argv)
    os.umask(PRIVATE_UMASK)
    started = time.monotonic()
    directory = options.directory.resolve()
    try:
        with temporary_directory(directory):
            status = run(directory, options.slot)
    except Exception as error:
        hide_in(error)  # its traceback goes to the log of the run
        raise
    finally:
        queue.stop_processes_of(directory)  # as the end of a pod does
        if options.slot is not None:
            os.close(options.slot)
        # After the slot is free: who comes in from here on sees that it is.
        _start_next(directory.parent.parent)
    print(
        f"run {directory.name} ended with status {status} after {time.monotonic() - started:.1f} s",
        flush=True,
    )
    tidy_up_after(directory)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
