"""Carry out one step: its inputs as KFP's executor reads them, its process, its outputs, and why it failed."""

from __future__ import annotations

import collections
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from llmops_components.errors import ComponentError
from llmops_components.local.environments import Environments
from llmops_components.local.inputs import Values
from llmops_components.local.installed import check_unchanged, snapshot
from llmops_components.local.installs import (
    installs_of,
    is_written_for_data_plane,
    without_installs,
    without_secrets,
)
from llmops_components.local.pipeline import Step, StepFailed
from llmops_components.local.values import fill, typed
from llmops_components.redaction import Redactor, redact
from llmops_components.state_files import ERROR_SHAPE, StateFileError, full_disk, is_full, read_json

ERROR_FILE_VARIABLE = "LLMOPS_ERROR_FILE"

_EXECUTOR_OUTPUT = "executor_output.json"
EXECUTOR_OUTPUT_SHAPE = {
    "parameterValues": {str: object},
    "artifacts": {str: {"artifacts": [{"name": str, "uri": str, "metadata": dict}]}},
}
_LINES_KEPT = 200
_PROGRESS = ("Collecting", "Downloading", "Building", "Installing")  # of what pip says
_EXCEPTION_LINE = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning))(?:: (.*))?$")


class States(Protocol):
    """Where the states of steps are recorded."""

    def task(self, name: str, state: str) -> None:
        """Record the state of a step."""


class StepRunner:
    """Carries out steps, one after the other.

    Args:
        artifacts: Directory for the outputs; each step has one of its own below it.
        root: Directory for the environments of steps with packages of their own.
        states: Is told the state of each step.
        during_step: While a process is under way; tells it when the run is told to end.
    """

    def __init__(
        self,
        artifacts: Path,
        root: Path,
        states: States,
        during_step: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._artifacts = artifacts
        self._states = states
        self._during_step = during_step
        self._environments = Environments(root, self._install)
        self._data_plane = snapshot()

    def run(self, step: Step) -> Values:
        """Carry out a step, again if it fails and was compiled so.

        Raises:
            StepFailed: It failed at every attempt, or in a way that a further one cannot help.
        """
        attempts = 1 + int(step.retry.get("maxRetryCount", 0))
        pauses = _pauses(step.retry)
        for attempt in range(1, attempts + 1):
            try:
                return self._attempt(step)
            except StepFailed as error:
                with suppress(OSError):  # a full disk: what runs in any case may make room
                    self._states.task(step.name, "FAILED")
                if attempt == attempts or not error.reason["retryable"]:
                    raise
                pause = next(pauses)
                print(
                    f"{step.name}: {error.reason['type']}: {error.reason['message']:.300}; attempt {attempt + 1} of "
                    f"{attempts} in {pause:g} s",
                    flush=True,
                )
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, step: Step) -> Values:
        try:
            return self._carry_out(step)
        except OSError as error:
            raise StepFailed(step.name, _reason_of_system(error)) from error

    def _carry_out(self, step: Step) -> Values:
        directory = self._artifacts / step.name
        shutil.rmtree(directory, ignore_errors=True)  # what an earlier attempt left
        directory.mkdir(parents=True)
        executor_input = _executor_input(step, directory)
        self._states.task(step.name, "PENDING")
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="step-")))
            try:
                variables = {
                    **_variables(step),
                    **self._place(step, scratch / "environment", stack),
                    "TMPDIR": str(scratch),
                    ERROR_FILE_VARIABLE: str(scratch / "error.json"),
                }
                self._states.task(step.name, "RUNNING")
                print(f"{step.name}: started", flush=True)
                status, last_lines = self._execute(_command(step, executor_input), variables)
                check_unchanged(self._data_plane, step.name)
                if status != 0:
                    raise StepFailed(step.name, _reason(status, scratch / "error.json", last_lines))
                outputs = _outputs(step, directory, executor_input)
            except ComponentError as error:
                raise StepFailed(
                    step.name,
                    _reason_of(error),
                ) from error
        self._states.task(step.name, "SUCCEEDED")
        return outputs

    def _place(self, step: Step, layer: Path, stack: ExitStack) -> dict[str, str]:
        """Variables that make the step's environment the current one."""
        command = step.container["command"]
        if is_written_for_data_plane(command):
            return {}
        environment = self._environments.provide(installs_of(command), step.name)
        stack.callback(environment.close)
        return environment.layer(layer)

    def _execute(self, command: Sequence[str], variables: Mapping[str, str]) -> tuple[int, Iterable[str]]:
        last_lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        with self._during_step(), _started(command, {**os.environ, **variables}) as process:
            for line in Redactor().lines(_without_executor_chatter(process.stdout or ())):
                print(line, end="", flush=True)
                last_lines.append(line)
        return process.returncode, last_lines

    def _install(self, command: Sequence[str], variables: Mapping[str, str]) -> tuple[int, str]:
        """Run pip, and pass on what shows that it goes on."""
        output = []
        with self._during_step(), _started(command, variables) as process:
            for line in process.stdout or ():
                output.append(line)
                if line.strip().startswith(_PROGRESS):
                    print(f"  {without_secrets(line.strip())}", flush=True)
        return process.returncode, "".join(output)


def _reason_of(error: ComponentError) -> dict[str, Any]:
    """An error raised on purpose, as a step reports its own."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "retryable": error.retryable,
        "traceback": None,
    }


def _reason_of_system(error: OSError) -> dict[str, Any]:
    """Why the operating system did not start a step."""
    if error.errno == errno.E2BIG:
        message = (
            "its inputs are too large for a command line, of which Linux takes 128 KiB at most. Hand large values on as "
            "artifacts, in files"
        )
        return {"type": "InputError", "message": message, "retryable": False}
    if is_full(error):
        message = full_disk(error, error.filename or tempfile.gettempdir())
        return {"type": "DiskFullError", "message": message, "retryable": True, "traceback": None}
    return {"type": type(error).__name__, "message": redact(str(error)), "retryable": True}


def _started(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(variables),
    )


def _pauses(retry: Mapping[str, Any]) -> Iterator[float]:
    """Seconds to wait before each further attempt, as Kubeflow Pipelines counts them."""
    pause = _seconds(retry.get("backoffDuration", "0s"))
    factor = float(retry.get("backoffFactor") or 2.0)
    longest = _seconds(retry.get("backoffMaxDuration", "3600s")) or 3600.0
    while True:
        yield min(pause, longest)
        pause *= factor


def _seconds(duration: str) -> float:
    return float(str(duration).removesuffix("s") or 0)


def _executor_input(step: Step, directory: Path) -> dict[str, Any]:
    outputs = step.component.get("outputDefinitions", {})
    return {
        "inputs": {
            "parameterValues": dict(step.parameters),
            "artifacts": {name: {"artifacts": found} for name, found in step.artifacts.items()},
        },
        "outputs": {
            "parameters": {
                name: {"outputFile": str(directory / name)} for name in outputs.get("parameters", {})
            },
            "artifacts": {
                name: {
                    "artifacts": [
                        {
                            "name": name,
                            "type": declared["artifactType"],
                            "uri": str(directory / name),
                            "metadata": {},
                        }
                    ]
                }
                for name, declared in outputs.get("artifacts", {}).items()
            },
            "outputFile": str(directory / _EXECUTOR_OUTPUT),
        },
    }


def _command(step: Step, executor_input: Mapping[str, Any]) -> list[str]:
    command = without_installs(step.container["command"])
    text = json.dumps(executor_input)
    return [*command, *(text if argument == "{{$}}" else argument for argument in step.container["args"])]


def _variables(step: Step) -> dict[str, str]:
    """The variables that the component was given; they may hold inputs."""

    def look(path: str, keys: list[str]) -> Any:
        return step.parameters.get(keys[0]) if path == "inputs.parameters" and keys else None

    given = step.container.get("env", ())
    return {variable["name"]: str(fill(variable.get("value", ""), look)) for variable in given}


def _outputs(step: Step, directory: Path, executor_input: Mapping[str, Any]) -> Values:
    """What the step left: what its function returned, and what it wrote to the paths that it was given."""
    left = read_json(directory / _EXECUTOR_OUTPUT, EXECUTOR_OUTPUT_SHAPE)
    outputs = Values()
    for name, declared in step.component.get("outputDefinitions", {}).get("parameters", {}).items():
        value = (left.get("parameterValues") or {}).get(name)
        path = directory / name
        if value is None and path.is_file():
            value = path.read_text(encoding="utf-8")
        if value is not None:
            outputs.parameters[name] = typed(value, declared, f"Step {step.name}: output {name!r}")
    for name, before in executor_input["outputs"]["artifacts"].items():
        artifact = dict(before["artifacts"][0])
        named = (left.get("artifacts") or {}).get(name) or {}
        for found in (named.get("artifacts") or [])[:1]:
            artifact |= found
        outputs.artifacts[name] = [artifact]
    return outputs


def _reason(status: int, error_file: Path, last_lines: Iterable[str]) -> dict[str, Any]:
    """Why a step failed, in order of trust: its own words, its signal, the end of its output."""
    with suppress(
        StateFileError
    ):  # it was killed while it wrote, or writes what it likes: the output says more
        reported = read_json(error_file, ERROR_SHAPE)
        if reported.get("type") and reported.get("message") is not None:
            return {"retryable": True, **reported}
    known = {one.value for one in signal.Signals}
    if status < 0 or status - 128 in known:  # a shell's own way to say it; 255 is an exit with -1
        number = -status if status < 0 else status - 128
        name = signal.Signals(number).name if number in known else f"signal {number}"
        hint = " (out of memory? the kernel's log tells)" if name == "SIGKILL" else ""
        return {
            "type": "Killed",
            "message": f"the step's process was killed by {name}{hint}",
            "retryable": True,
        }
    lines = [line.strip() for line in last_lines if line.strip(" ^~\n")]
    for index in range(len(lines) - 1, -1, -1):
        if match := _EXCEPTION_LINE.match(lines[index]):
            # "assert x" says more than a bare AssertionError after it.
            message = match[2] or (lines[index - 1] if index else "it gave no reason")
            return {"type": match[1], "message": message, "retryable": True}
    last = f": {lines[-1]:.300}" if lines else ""
    return {
        "type": "RuntimeError",
        "message": f"the step ended with status {status}{last}",
        "retryable": True,
    }


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
