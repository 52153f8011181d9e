"""The output of a failed step in the artifact store."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from executor_logs import leave_log

from airflow_provider_llmops.backends.pipelines.kubeflow import logs as kfp_logs
from airflow_provider_llmops.backends.pipelines.kubeflow.logs import StepOutput, read_failed_outputs

RECORDED = json.loads(
    (Path(__file__).parents[2] / "recorded" / "kfp-executor-inputs.json").read_text(encoding="utf-8")
)


def read_failed_output(roots, conn_id):
    """The likeliest one."""
    return next(iter(read_failed_outputs(roots, conn_id)), None)


@pytest.fixture
def write(tmp_path):
    """Writes what a step's attempt leaves; the later written is the younger."""
    written = []

    def write(place: str, content: str | bytes) -> str:
        path = tmp_path / "step" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        written.append(path)
        os.utime(path, (len(written), len(written)))
        return f"{tmp_path}/step/{place}"

    return write


@pytest.fixture
def roots(tmp_path):
    return [f"{tmp_path}/step", f"{tmp_path}/pipeline/step"]


def test_output_of_the_last_retry_is_read(write, roots):
    write("a/executor-logs-0", "first")
    write("a/executor-logs-10", "eleventh")
    place = write("a/executor-logs-9", "tenth")
    assert read_failed_output(roots, None) == StepOutput("eleventh", 11, place.replace("logs-9", "logs-10"))


def test_items_of_a_loop_that_succeeded_have_left_their_outputs(write, roots):
    write("a/executor-logs-0", "one failed")
    failed = write("b/executor-logs-0", "the last that failed")
    write("c/executor-logs-0", "done")
    write("c/model/weights", "1")
    assert [output.text for output in read_failed_outputs(roots, None)] == [
        "the last that failed",
        "one failed",
    ]
    assert read_failed_output(roots, None) == StepOutput("the last that failed", 1, failed)


def test_step_that_succeeded_is_not_blamed_for_what_it_printed(write, roots):
    write("a/executor-logs-0", "an error that it has handled")
    write("a/model/weights", "1")
    assert read_failed_outputs(roots, None, others_succeeded=1) == []
    assert read_failed_output(roots, None).text == "an error that it has handled"  # its own, if it is alone
    write("b/executor-logs-0", "done")
    write("b/model/weights", "1")
    assert read_failed_outputs(roots, None) == []


def test_output_may_be_of_a_step_that_succeeded_where_fewer_have_left_outputs(write, roots):
    write("a/executor-logs-0", "boom")
    write("b/executor-logs-0", "done")
    write("b/model/weights", "1")
    sure = [read_failed_outputs(roots, None, others_succeeded=count)[0].is_sure for count in (0, 1, 2)]
    assert sure == [True, True, False]


def test_what_was_written_before_the_run_went_on_is_left_out(write, roots):
    write("a/executor-logs-1", "second attempt of the round before")
    write("a/executor-logs-0", "first attempt since")
    assert read_failed_output(roots, None).text == "second attempt of the round before"
    since = datetime.fromtimestamp(1, UTC)
    assert read_failed_outputs(roots, None, since=since)[0].text == "first attempt since"
    assert read_failed_outputs(roots, None, since=datetime.fromtimestamp(2, UTC)) == []


def test_of_many_items_without_outputs_the_last_few_are_read(write, roots):
    for number in range(9):
        write(f"{number}/executor-logs-0", str(number))
    assert [output.text for output in read_failed_outputs(roots, None)] == ["8", "7", "6", "5", "4"]


def test_name_without_a_number_is_that_of_2_16_0(write, roots):
    place = write("a/executor-logs", "boom")
    assert read_failed_output(roots, None) == StepOutput("boom", None, place)


def test_place_that_the_connection_names_second_is_looked_at_where_the_first_has_none(write, roots):
    write("a/model/executor-logs-0", "an output of the step, which has that name")
    write("../pipeline/step/a/executor-logs-1", "here")
    assert read_failed_output(roots, None).text == "here"


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda each: each["component"])
def test_output_is_where_the_driver_of_a_real_server_puts_it(recorded, tmp_path):
    (artifact,) = recorded["executor_input"]["outputs"]["artifacts"]["executor-logs"]["artifacts"]
    root, pipeline, run_id, task, attempt, _ = artifact["uri"].rsplit("/", 5)
    path = leave_log(tmp_path, pipeline, run_id, task, "boom", attempt=attempt)
    assert str(path) == artifact["uri"].replace(root, str(tmp_path))
    assert (pipeline, task) == (f"{recorded['component']}-run", recorded["component"])
    assert read_failed_output([f"{tmp_path}/{pipeline}/{run_id}/{task}"], None) == StepOutput(
        "boom", 1, str(path)
    )


def test_nothing_is_there(roots):
    assert read_failed_output(roots, None) is None


def test_only_the_end_of_a_long_output_is_read(write, roots, monkeypatch):
    monkeypatch.setattr(kfp_logs, "TAIL_BYTES", 10)
    write("a/executor-logs-0", "0123456789\nabcd\nefghi")
    assert read_failed_output(roots, None).text == "efghi"
    write("a/executor-logs-0", b"\xff" + b"0123456789" * 3)
    assert read_failed_output(roots, None).text == ""
    write("a/executor-logs-0", b"")
    assert read_failed_output(roots, None).text == ""
    write("a/executor-logs-0", b"\xff12\n")
    assert read_failed_output(roots, None).text == "\ufffd12\n"
