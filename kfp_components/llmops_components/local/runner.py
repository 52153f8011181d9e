"""Carry out one pipeline run on this machine: ``python -m llmops_components.local.runner RUN_DIR``.

The process is started detached and outlives whoever started it. Its directory is its whole interface:

    request.json    run id, display name and arguments; written before the process starts
    pipeline.yaml   the compiled pipeline
    lock            locked (flock) from before the process starts until it is gone, however it goes
    log.txt         output of this process and of every step
    state.json      state, times, steps and error; written here, replaced as a whole
    artifacts/      pipeline root: the outputs of the steps
    tmp             link to the temporary directory of the run's processes, which goes when the run ends
    used, used-by/  who took something of the run, and when: see llmops_components.local.prune

The Airflow provider's local backend is the other side of this interface.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil

from llmops_components.local import prune
from llmops_components.results import write_json

_ERROR_FILE = "error.json"
_SLOT_POLL_SECONDS = 0.1
_EXCEPTION_LINE = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning)): (.*)$")


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

    def finish(self, state: str, error: Mapping[str, Any] | None = None) -> None:
        """Record how the run ended."""
        self.value |= {"state": state, "finished_at": _now(), "error": dict(error) if error else None}
        self._write()

    def _write(self) -> None:
        write_json(self._path, self.value)


def run(directory: Path) -> int:
    """Carry out the run whose directory is given; returns the exit status."""
    termination = Termination()
    signal.signal(signal.SIGTERM, termination)
    slot = _wait_for_slot(directory.parent.parent / "slots", int(os.environ.get("LLMOPS_SLOTS", "1")))
    try:
        return _run_in_slot(directory, termination)
    finally:
        slot.close()


def _run_in_slot(directory: Path, termination: Termination) -> int:
    state = RunState(directory)
    # Components read these; the shell line of a KFP step starts the first python3 on PATH.
    os.environ["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    os.environ["LLMOPS_ERROR_FILE"] = str(directory / _ERROR_FILE)
    os.environ["PYTHONUNBUFFERED"] = "1"
    try:
        request = json.loads((directory / "request.json").read_text(encoding="utf-8"))
        failure = _execute(directory, request["arguments"], state, termination)
    except Terminated:
        state.finish(
            "FAILED", {"type": "Terminated", "message": "the run's process was terminated", "retryable": True}
        )
        return 143
    except Exception as error:
        state.finish("FAILED", {"type": type(error).__name__, "message": str(error), "retryable": True})
        raise
    if failure:
        state.finish("FAILED", failure)
        return 1
    state.finish("SUCCEEDED")
    return 0


def _wait_for_slot(directory: Path, slots: int) -> IO[str]:
    """Wait for a turn on this machine; the run is pending meanwhile.

    Training and generation each use every core. Two at a time do not share them, they fight over them: on two cores,
    generation beside a training run was measured at a fiftieth of its speed.
    """
    directory.mkdir(exist_ok=True)
    said = False
    while True:
        for number in range(max(slots, 1)):
            slot = (directory / str(number)).open("w")
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return slot
            except BlockingIOError:
                slot.close()
        if not said:
            print("waiting for another run on this machine to end", flush=True)
            said = True
        time.sleep(_SLOT_POLL_SECONDS)


def _execute(
    directory: Path, arguments: dict[str, Any], state: RunState, termination: Termination
) -> dict[str, Any] | None:
    """Run the pipeline with ``kfp.local``; returns the failure, if any."""
    from kfp import components, local
    from kfp.local import logging_utils, subprocess_task_handler

    warnings.filterwarnings("ignore", message="You may be attemping to run a task that uses custom")
    exit_codes: dict[str, int] = {}

    # kfp.local tells success from failure and nothing more. The exit status says whether a step was killed, its start
    # and end are what a user watches, and its log should hold what the step says rather than what KFP says of it.
    def run_step(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        task = full_command[full_command.index("--function_to_execute") + 1].replace("_", "-")
        state.task(task, "RUNNING")
        print(f"{task}: started", flush=True)
        with (
            termination.during_step(),
            subprocess.Popen(
                full_command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, **(env_vars or {})},
            ) as process,
        ):
            for line in _without_executor_chatter(process.stdout or ()):
                print(line, end="", flush=True)
        exit_codes[task] = process.returncode
        state.task(task, "SUCCEEDED" if process.returncode == 0 else "FAILED")
        return process.returncode

    if not hasattr(subprocess_task_handler, "run_local_subprocess"):
        raise RuntimeError(
            "this version of kfp starts local steps in another way; install the one in the constraints"
        )
    subprocess_task_handler.run_local_subprocess = run_step
    logging_utils.color_text = lambda text, color: text
    logging_utils.local_logger_context = contextlib.nullcontext
    logging_utils.indented_print = contextlib.nullcontext
    logging_utils.print_horizontal_line = lambda: None
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(directory / "artifacts"),
        raise_on_error=True,
    )
    pipeline = components.load_component_from_file(str(directory / "pipeline.yaml"))
    try:
        pipeline(**arguments)
    except RuntimeError as error:
        return _failure(directory, exit_codes, str(error))
    return None


def _failure(directory: Path, exit_codes: Mapping[str, int], fallback: str) -> dict[str, Any]:
    """Say which step failed and why, in order of trust: its own words, its signal, the end of its log."""
    task = next((name for name, code in exit_codes.items() if code != 0), None)
    try:
        reported = json.loads((directory / _ERROR_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        reported = None
    if reported:
        return {"task": task, **reported}
    code = exit_codes.get(task, 0) if task else 0
    if code < 0 or code > 128:
        number = -code if code < 0 else code - 128
        name = (
            signal.Signals(number).name if number in {s.value for s in signal.Signals} else f"signal {number}"
        )
        hint = " (out of memory? the kernel's log tells)" if name == "SIGKILL" else ""
        return {
            "task": task,
            "type": "Killed",
            "message": f"the step's process was killed by {name}{hint}",
            "retryable": True,
        }
    lines = (directory / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    for line in reversed(lines):
        if match := _EXCEPTION_LINE.match(line):
            return {"task": task, "type": match[1], "message": match[2], "retryable": True}
    return {"task": task, "type": "RuntimeError", "message": fallback, "retryable": True}


def _without_executor_chatter(lines: Iterable[str]) -> Iterator[str]:
    """Leave out what KFP's executor prints around a step, its whole input as indented JSON above all."""
    in_dump = False
    for line in lines:
        if line.startswith("[KFP Executor "):
            in_dump = line.rstrip().endswith("Got executor_input:")
        elif in_dump:
            in_dump = line.rstrip() != "}"
        else:
            yield line


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


if __name__ == "__main__":
    started = time.monotonic()
    run_directory = Path(sys.argv[1]).resolve()
    with prune.temporary_directory(run_directory):
        status = run(run_directory)
    print(
        f"run {run_directory.name} ended with status {status} after {time.monotonic() - started:.1f} s",
        flush=True,
    )
    prune.tidy_up_after(run_directory)
    raise SystemExit(status)
