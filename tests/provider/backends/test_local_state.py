"""The files of runs on this machine: whatever is in them, a look tells of it and nobody else is harmed."""

from __future__ import annotations

import json
import os
import stat
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from broken_files import BROKEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planes import DATA_PYTHON

from airflow_provider_llmops.backends.pipelines.base import Run, RunRequest
from airflow_provider_llmops.backends.pipelines.local import LocalPipelineBackend
from airflow_provider_llmops.backends.pipelines.local_queue import lives, processes_of
from airflow_provider_llmops.backends.pipelines.local_records import StateRecord
from airflow_provider_llmops.exceptions import ApiUnavailableError, ResultError
from airflow_provider_llmops.state_files import StateFileError, read_record, why_not_written, write_json
from airflow_provider_llmops.states import RunState


def ended(backend: LocalPipelineBackend, number: int, fingerprint: str = "same") -> str:
    """A run that has succeeded; no process was needed for it."""
    run_id = str(uuid.UUID(int=number, version=5))
    directory = backend._runs / run_id
    directory.mkdir(parents=True)
    (directory / "lock").touch()
    now = datetime.now(UTC).isoformat()
    request = {"display_name": f"run {number}", "created_at": now, "labels": {"fingerprint": fingerprint}}
    write_json(directory / "request.json", request)
    write_json(directory / "state.json", {"state": "SUCCEEDED", "started_at": now, "outputs": {"x": 1}})
    return run_id


@pytest.mark.parametrize("how", BROKEN)
def test_run_whose_state_cannot_be_read_has_failed_and_says_which_file(how, backend):
    good, bad = ended(backend, 1), ended(backend, 2)
    BROKEN[how](backend._runs / bad / "state.json")
    run = backend.get(bad)
    assert (run.state, run.retryable) == (RunState.FAILED, True)
    assert run.error.startswith("StateFileError: state.json cannot be read: ")
    assert run.error.endswith(f"File: {backend._runs / bad / 'state.json'}")
    backend.cancel(bad)  # as a clear does
    assert backend.get(bad).state is RunState.FAILED
    assert backend.find_reusable("same").run_id == good


@pytest.mark.parametrize("how", BROKEN)
def test_run_whose_request_cannot_be_read_keeps_its_state_and_harms_no_other(how, backend):
    good, bad = ended(backend, 1), ended(backend, 2)
    BROKEN[how](backend._runs / bad / "request.json")
    assert (backend.get(bad).state, backend.get(bad).display_name) == (RunState.SUCCEEDED, bad)
    assert backend.find_reusable("same").run_id == good


@pytest.mark.parametrize(
    "state",
    [
        {"state": "BANANA"},
        {"state": ["SUCCEEDED"]},
        {"state": "FAILED", "error": "text"},
        {"state": "FAILED", "error": {"message": {"deep": 1}}},
        {"state": "SUCCEEDED", "tasks": ["a"]},
        {"state": "SUCCEEDED", "tasks": {"a": {"b": 1}}},
        {"state": "SUCCEEDED", "finished_at": "yesterday"},
        {"state": "SUCCEEDED", "outputs": "all of them"},
    ],
)
def test_state_of_wrong_types_is_a_failed_run(state, backend):
    bad = ended(backend, 1)
    write_json(backend._runs / bad / "state.json", state)
    with pytest.raises(ResultError, match=r"^The run's outputs cannot be read: state\.json cannot be read: "):
        backend.read_outputs(bad)
    run = backend.get(bad)
    assert run.state is RunState.FAILED
    assert run.error.startswith("StateFileError: state.json cannot be read: ")


@pytest.mark.parametrize("name", ["lock", "log.txt", "cancel", "used"])
@pytest.mark.parametrize("how", ["a directory", "a link to nothing", "a pipe", "NUL bytes"])
def test_what_lies_beside_the_state_keeps_nobody_from_reading_it(name, how, backend):
    run_id = ended(backend, 1)
    BROKEN[how](backend._runs / run_id / name)
    assert backend.get(run_id).state is RunState.SUCCEEDED
    assert backend.read_log(run_id, 0) == ([], 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
states = st.fixed_dictionaries(
    {},
    optional={
        "state": json_values | st.sampled_from(list(RunState)),
        **dict.fromkeys(("pid", "started_at", "finished_at", "tasks", "outputs"), json_values),
        "error": json_values | st.dictionaries(st.sampled_from(["type", "message", "task"]), json_values),
    },
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.binary(max_size=200)
    | states.map(json.dumps).map(str.encode)
    | json_values.map(repr).map(str.encode)
)
def test_any_state_file_is_a_record_or_an_error_that_names_it(content, tmp_path):
    file = tmp_path / "state.json"
    file.write_bytes(content)
    try:
        record = read_record(file, StateRecord)
    except StateFileError as error:
        assert str(error).startswith("state.json cannot be read: ")
    else:
        assert isinstance(record.state, RunState)
        write_json(file, record.model_dump(mode="json", exclude_none=True))
        assert read_record(file, StateRecord).state is record.state


def test_writing_leaves_the_former_file_where_it_fails(tmp_path):
    file = tmp_path / "state.json"
    write_json(file, {"state": "RUNNING"})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(file, {"state": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_json(tmp_path / "\udfff", {})
    assert json.loads(file.read_text()) == {"state": "RUNNING"}
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_full_disk_is_called_so_with_what_is_free(tmp_path):
    error = OSError(28, os.strerror(28))
    assert why_not_written(error, tmp_path / "a").startswith("the disk is full (")
    assert why_not_written(error, tmp_path / "a").endswith(" MiB are free)")
    assert why_not_written(PermissionError(13, "Permission denied"), tmp_path) == "Permission denied"


def test_check_says_when_nothing_can_be_written(root):
    root.mkdir()
    (root / "runs").write_text("in the way")
    with pytest.raises(ApiUnavailableError, match=r"^Runs cannot be written: File exists\. "):
        LocalPipelineBackend(python=DATA_PYTHON, root=root).check()


def waiting(backend: LocalPipelineBackend, toy_spec, number: int) -> str:
    return backend.submit(
        RunRequest(display_name=f"run {number}", pipeline=toy_spec.bind({"text": str(number)}))
    )


def test_runs_start_in_the_order_in_which_they_came_and_wait_without_a_process(
    backend, toy_spec, monkeypatch
):
    import fcntl

    from airflow_provider_llmops.backends.pipelines import local_queue

    started: list[str] = []
    monkeypatch.setattr(
        local_queue.subprocess, "Popen", lambda command, **_: started.append(Path(command[3]).name)
    )
    (backend._root / "slots").mkdir(parents=True)
    with (backend._root / "slots/0").open("w") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        run_ids = [waiting(backend, toy_spec, number) for number in range(30)]
        assert started == []
        assert [backend.get(run_id).ahead for run_id in run_ids] == list(range(30))
        backend.cancel(run_ids[3])
        assert backend.get(run_ids[3]).state is RunState.CANCELED
    backend._queue.go_on(backend._fail)
    assert started == run_ids[:3] + run_ids[4:]


def test_ticket_that_cannot_be_read_fails_its_run_alone(backend, toy_spec):
    import fcntl

    (backend._root / "slots").mkdir(parents=True)
    with (backend._root / "slots/0").open("w") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        first, second = (waiting(backend, toy_spec, number) for number in range(2))
        BROKEN["NUL bytes"](next((backend._root / "queue").glob(f"*.{first}")))
    runs: list[Run] = [backend.get(first), backend.get(second)]
    assert runs[0].state is RunState.FAILED
    assert "cannot be read: it holds NUL bytes alone, as after a power cut" in runs[0].error
    assert runs[1].state in (RunState.PENDING, RunState.RUNNING)
    backend.cancel(second)


def test_what_a_run_leaves_is_its_owners_alone(backend, toy_spec):
    import time

    former = os.umask(0o022)
    try:
        run_id = waiting(backend, toy_spec, 1)
        while not backend.get(run_id).state.is_terminal:
            time.sleep(0.1)
    finally:
        os.umask(former)
    open_to_others = [
        path.relative_to(backend._root)
        for path in backend._root.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert open_to_others == []


def test_killed_run_leaves_no_step_at_work_beside_the_next(backend, toy_spec):
    import signal
    import time

    def working(run_id):
        while not any(line.startswith("working on") for line in backend.read_log(run_id, 0)[0]):
            time.sleep(0.05)

    # A step that takes no notice of being asked to end.
    stubborn = RunRequest(display_name="1", pipeline=toy_spec.bind({"seconds": 600.0, "ending": "save"}))
    first = backend.submit(stubborn)
    working(first)
    left = processes_of(backend._runs / first)
    os.kill(json.loads((backend._runs / first / "state.json").read_text())["pid"], signal.SIGKILL)
    second = waiting(backend, toy_spec, 2)  # nobody has looked at the first since
    working(second)
    assert [process for process in left if lives(process)] == []
    backend.cancel(second)
