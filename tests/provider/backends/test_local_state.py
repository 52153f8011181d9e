"""The files of runs on this machine: whatever is in them, a look tells of it and nobody else is harmed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from broken_files import BROKEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planes import DATA_PYTHON

from airflow_provider_llmops.backends.pipelines.base import Run, RunRequest
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.backends.pipelines.local.processes import lives, processes_of
from airflow_provider_llmops.backends.pipelines.local.queue import ticket
from airflow_provider_llmops.backends.pipelines.local.records import StateRecord
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, ResultError
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


@contextmanager
def taken_slot(backend: LocalPipelineBackend) -> Iterator[None]:
    """Somebody works in the only slot."""
    (backend._root / "slots").mkdir(parents=True, exist_ok=True)
    with (backend._root / "slots/0").open("a") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        yield


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def waiting(backend: LocalPipelineBackend, toy_spec, number: int) -> str:
    return backend.submit(
        RunRequest(display_name=f"run {number}", pipeline=toy_spec.bind({"text": str(number)}))
    )


def test_runs_start_in_the_order_in_which_they_came_and_wait_without_a_process(backend, toy_spec):
    with taken_slot(backend):
        run_ids = [waiting(backend, toy_spec, number) for number in range(4)]
        assert [backend.get(run_id).ahead for run_id in run_ids] == list(range(4))
        assert [list(map(lives, processes_of(backend._runs / run_id))) for run_id in run_ids] == [[]] * 4
        backend.cancel(run_ids[1])
        assert backend.get(run_ids[1]).state is RunState.CANCELED
    expected = [run_ids[0], *run_ids[2:]]
    wait_until(lambda: backend.get(run_ids[3]).state.is_terminal)
    started = [read_record(backend._runs / run_id / "state.json", StateRecord) for run_id in expected]
    assert [each.state for each in started] == [RunState.SUCCEEDED] * 3
    assert sorted(started, key=lambda each: each.started_at) == started


def test_ticket_that_cannot_be_read_fails_its_run_alone(backend, toy_spec):
    with taken_slot(backend):
        first, second = (waiting(backend, toy_spec, number) for number in range(2))
        BROKEN["NUL bytes"](next((backend._root / "queue").glob(f"*.{first}")))
    runs: list[Run] = [backend.get(first), backend.get(second)]
    assert runs[0].state is RunState.FAILED
    assert "cannot be read: it holds NUL bytes alone, as after a power cut" in runs[0].error
    assert runs[1].state in (RunState.PENDING, RunState.RUNNING)
    backend.cancel(second)


def test_what_a_run_leaves_is_its_owners_alone(backend, toy_spec):
    before = os.umask(0o022)
    try:
        run_id = waiting(backend, toy_spec, 1)
    finally:
        os.umask(before)
    wait_until(lambda: backend.get(run_id).state.is_terminal)
    open_to_others = [
        path.relative_to(backend._root)
        for path in backend._root.rglob("*")
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    assert open_to_others == []


def test_killed_run_leaves_no_step_at_work_beside_the_next(backend, toy_spec):
    # A step that takes no notice of being asked to end.
    stubborn = RunRequest(display_name="1", pipeline=toy_spec.bind({"seconds": 600.0, "ending": "save"}))
    first = backend.submit(stubborn)
    wait_until(lambda: is_working(backend, first))
    left = processes_of(backend._runs / first)
    kill(backend, first)
    second = waiting(backend, toy_spec, 2)  # nobody has looked at the first since
    wait_until(lambda: is_working(backend, second))
    assert [process for process in left if lives(process)] == []
    backend.cancel(second)


def is_working(backend: LocalPipelineBackend, run_id: str) -> bool:
    return any(line.startswith("working on") for line in backend.read_log(run_id, 0)[0])


def kill(backend: LocalPipelineBackend, run_id: str) -> None:
    os.kill(json.loads((backend._runs / run_id / "state.json").read_text())["pid"], signal.SIGKILL)


def queued(backend: LocalPipelineBackend, number: int, command: Sequence[str], **environment: str) -> str:
    """A run that waits, whose process would be that command."""
    run_id = str(uuid.UUID(int=number, version=5))
    (backend._runs / run_id).mkdir(parents=True)
    (backend._runs / run_id / "lock").touch()
    write_json(backend._runs / run_id / "request.json", {"display_name": f"run {number}"})
    backend._queue.enter(run_id, ticket(command, environment))
    return run_id


def note(name: str) -> list[str]:
    """A command that notes that it was started."""
    return ["/bin/sh", "-c", f"touch started.{name}"]


def was_started(backend: LocalPipelineBackend, run_id: str, name: str = "x") -> bool:
    return (backend._runs / run_id / f"started.{name}").exists()


def tickets(backend: LocalPipelineBackend) -> list[str]:
    return sorted(path.name.partition(".")[2] for path in (backend._root / "queue").glob("0*"))


def test_a_look_at_a_run_costs_it_no_start(backend):
    run_ids = [queued(backend, number, note("x")) for number in range(5)]
    locks = [str(backend._runs / run_id / "lock") for run_id in run_ids]
    script = """
import sys
from pathlib import Path
from airflow_provider_llmops.backends.pipelines.local.processes import is_locked
print(flush=True)
while True:
    for path in sys.argv[1:]:
        is_locked(Path(path))
"""
    looker = subprocess.Popen([sys.executable, "-c", script, *locks], stdout=subprocess.PIPE)
    try:
        looker.stdout.readline()
        wait_until(lambda: backend._queue.go_on() or not tickets(backend))
        wait_until(lambda: all(was_started(backend, run_id) for run_id in run_ids))
    finally:
        looker.kill()
        looker.communicate()


def test_run_whose_lock_is_held_keeps_its_ticket_and_is_started_when_it_is_free(backend):
    run_id = queued(backend, 1, note("x"))
    with (backend._runs / run_id / "lock").open("a") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        backend._queue.go_on()
        assert (tickets(backend), was_started(backend, run_id)) == ([run_id], False)
    backend._queue.go_on()
    wait_until(lambda: was_started(backend, run_id))
    assert tickets(backend) == []


def test_whoever_looks_starts_the_first_one_that_nobody_looks_at(backend):
    first, second = (queued(backend, number, note("x")) for number in range(2))
    wait_until(lambda: backend.get(second).ahead is None)
    wait_until(lambda: was_started(backend, first) and was_started(backend, second))


def test_look_at_a_killed_run_starts_those_that_wait(backend, toy_spec):
    first = backend.submit(RunRequest(display_name="1", pipeline=toy_spec.bind({"seconds": 600.0})))
    wait_until(lambda: is_working(backend, first))
    second = queued(backend, 2, note("x"))
    kill(backend, first)
    wait_until(lambda: backend.get(first).state is RunState.FAILED)
    wait_until(lambda: was_started(backend, second))


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("what", ["slot", "ticket", "lock", "log.txt", "queue's lock"])
def test_whatever_a_file_of_the_queue_is_the_others_start(what, how, backend):
    (backend._root / "slots").mkdir(parents=True)
    bad, good = (queued(backend, number, note("x")) for number in range(2))
    run = backend._runs / bad
    places = {
        "slot": backend._root / "slots/0",
        "ticket": next((backend._root / "queue").glob(f"0*.{bad}")),
        "queue's lock": backend._root / "queue/lock",
    }
    BROKEN[how](places.get(what, run / what))
    if (what, how) == ("queue's lock", "a directory"):
        with pytest.raises(ApiUnavailableError, match=r"^The run cannot be looked at: Is a directory"):
            backend.get(good)
        (backend._root / "queue/lock").rmdir()
    wait_until(lambda: backend._queue.go_on(patient=True) or was_started(backend, good))
    wait_until(lambda: backend._queue.go_on(patient=True) or not tickets(backend))
    if what == "ticket":
        assert "cannot be read: " in backend.get(bad).error
    elif not was_started(backend, bad):
        wait_until(lambda: backend.get(bad).state.is_terminal)
        assert backend.get(bad).error.partition(": ")[0] in ("NotStarted", "Killed")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_fork_that_the_machine_refuses_costs_nobody_a_start(number, backend, monkeypatch):
    run_ids = [queued(backend, each, note("x")) for each in range(3)]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as refusing:
        refusing.setattr(subprocess, "Popen", refuse)
        for _ in range(2):
            backend._queue.go_on()
        assert [backend.get(run_id).state for run_id in run_ids] == [RunState.PENDING] * 3
    assert tickets(backend) == run_ids
    lines, _ = backend.read_log(run_ids[0], 0)
    assert lines == [f"waiting: its process cannot be started: [Errno {number}] {os.strerror(number)}"]
    wait_until(lambda: backend._queue.go_on() or not tickets(backend))


def test_runs_wait_for_an_interpreter_that_is_being_made_anew(backend, tmp_path):
    program = tmp_path / "python"
    run_ids = [queued(backend, number, [str(program)]) for number in range(2)]
    for _ in range(2):
        assert [backend.get(run_id).ahead for run_id in run_ids] == [0, 1]
    lines, _ = backend.read_log(run_ids[0], 0)
    assert lines == [f"waiting: {program} is not there, or cannot be started"]
    program.write_text("#!/bin/sh\ntouch started.x\n")
    program.chmod(0o700)
    wait_until(lambda: backend.get(run_ids[1]).ahead is None)
    wait_until(lambda: all(was_started(backend, run_id) for run_id in run_ids))


def test_what_no_process_can_be_given_fails_that_run_alone(backend):
    bad, good = queued(backend, 1, note("x")), queued(backend, 2, note("x"))
    path = next((backend._root / "queue").glob(f"0*.{bad}"))
    write_json(path, {"command": note("x"), "environment": {"A=B": "1"}})
    assert backend.get(bad).error == "NotStarted: illegal environment variable name"
    wait_until(lambda: backend._queue.go_on() or was_started(backend, good))


def test_environment_of_a_run_that_waits_need_not_be_unicode(backend):
    value = os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80")
    run_id = queued(backend, 1, ["/bin/sh", "-c", 'printf %s "$TEXT" > text; touch started.x'], TEXT=value)
    backend._queue.go_on()
    wait_until(lambda: was_started(backend, run_id))
    assert (backend._runs / run_id / "text").read_bytes() == b"caf\xe9 \xf0\x9f\x98\x80"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("half \ud800", "it has text that is no Unicode"),
        ([{"a": float("nan")}], r"0\.a is nan, which is no finite number"),
    ],
)
def test_argument_that_the_run_could_not_read_is_refused_before_anything_is_written(
    value, why, backend, toy_spec
):
    pipeline = replace(toy_spec.bind({}), parameters={"text": value})
    with pytest.raises(ConfigurationError, match=rf"^Parameter 'text' cannot be handed to the run: {why}\. "):
        backend.submit(RunRequest(display_name="1", pipeline=pipeline))
    assert not backend._runs.exists()


def test_variable_that_no_process_can_be_given_is_named_and_the_name_of_the_run_stays_free(backend, toy_spec):
    request = RunRequest(display_name="1", pipeline=toy_spec.bind({}), environment={"A": "x\0y"})
    with pytest.raises(ConfigurationError, match="variable 'A' of its environment: it has a NUL"):
        backend.submit(request)
    assert backend.find("1") is None


def test_run_that_could_not_be_let_in_leaves_its_name_free(backend, toy_spec):
    (backend._root / "queue/lock").mkdir(parents=True)
    with pytest.raises(ApiUnavailableError, match=r"^The run cannot be started: Is a directory"):
        waiting(backend, toy_spec, 1)
    assert backend.find("run 1") is None
    (backend._root / "queue/lock").rmdir()
    run_id = waiting(backend, toy_spec, 1)
    wait_until(lambda: backend.get(run_id).state is RunState.SUCCEEDED)


def test_what_a_killed_run_left_below_a_linked_root_is_stopped_by_the_next_runner(root, toy_spec):
    root.mkdir()
    link = root.with_name("link")
    link.symlink_to(root)
    backend = LocalPipelineBackend(python=DATA_PYTHON, root=link)
    first = backend.submit(RunRequest(display_name="1", pipeline=toy_spec.bind({"seconds": 600.0})))
    wait_until(lambda: is_working(backend, first))
    left = processes_of(backend._runs / first)
    assert len(left) >= 2
    assert {each.pid for each in processes_of(root / "runs" / first)} == {each.pid for each in left}
    kill(backend, first)
    second = waiting(backend, toy_spec, 2)
    wait_until(lambda: is_working(backend, second))
    assert [process for process in left if lives(process)] == []
    wait_until(lambda: backend.get(second).state.is_terminal)


def test_runner_that_ends_starts_the_next_one_that_nobody_looks_at(backend, toy_spec):
    first = backend.submit(RunRequest(display_name="1", pipeline=toy_spec.bind({"seconds": 2.0})))
    second = queued(backend, 2, note("x"))
    assert not was_started(backend, second)
    wait_until(lambda: was_started(backend, second))
    assert backend.get(first).state is RunState.SUCCEEDED
