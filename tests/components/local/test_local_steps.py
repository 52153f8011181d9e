"""How a step ends that its component says nothing of."""

import contextlib
import sys

import pytest
from llmops_components.local import steps
from llmops_components.local.pipeline import Step, StepFailed


class States:
    def task(self, name, state):
        self.last = state


def run_step(tmp_path, script, *, states=None, **parameters):
    command = [sys.executable, "-c", f"{script}  # llmops_components kfp.dsl.executor_main"]
    runner = steps.StepRunner(
        tmp_path / "artifacts", tmp_path / "environments", states or States(), contextlib.nullcontext
    )
    container = {"command": command, "args": ["--executor_input", "{{$}}"]}
    return runner.run(Step("toy", {}, container, parameters, {}))


def test_inputs_too_large_for_a_command_line_fail_the_step_for_good(tmp_path):
    states = States()
    with pytest.raises(StepFailed, match="its inputs are too large for a command line") as failed:
        run_step(tmp_path, "", states=states, text="x" * 200_000)
    assert (failed.value.reason["retryable"], states.last) == (False, "FAILED")


def test_full_disk_fails_the_step_for_now(tmp_path, monkeypatch):
    class Full(States):
        def task(self, name, state):
            raise OSError(28, "No space left on device")

    with pytest.raises(StepFailed, match="The disk is full: ") as failed:
        run_step(tmp_path, "", states=Full())
    assert failed.value.reason["retryable"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit(-1)", "the step ended with status 255"),
        ("import sys; sys.exit(137)", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 15)", "killed by SIGTERM"),
    ],
)
def test_status_is_a_signal_only_where_there_is_one(tmp_path, script, message):
    with pytest.raises(StepFailed, match=message):
        run_step(tmp_path, script)
