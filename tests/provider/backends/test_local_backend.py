"""The local pipeline backend: detached processes, and what becomes of them."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from planes import DATA_PYTHON, REPO

from airflow_provider_llmops.backends.data_plane import DataPlane
from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.local import backend as local
from airflow_provider_llmops.backends.pipelines.local import runs
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.backends.pipelines.local.processes import processes_of
from airflow_provider_llmops.backends.pipelines.local.reading import is_alive
from airflow_provider_llmops.exceptions import ApiUnavailableError, ConfigurationError, ResultError
from airflow_provider_llmops.states import RunState

TIMEOUT_SECONDS = 30


def wait_until(condition, timeout=TIMEOUT_SECONDS):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


def finished(backend, run_id):
    return wait_until(lambda: (run := backend.get(run_id)).state.is_terminal and run)


def working(backend, run_id):
    """Wait until the component itself is at work, not just the run's process."""
    wait_until(lambda: any(line.startswith("working on") for line in backend.read_log(run_id, 0)[0]))
    return backend.get(run_id)


def request(toy_spec, name="toy run", environment=None, **arguments):
    return RunRequest(display_name=name, pipeline=toy_spec.bind(arguments), environment=environment or {})


def result_of(backend, run_id):
    return json.loads(backend.read_result(run_id, "toy-run", "toy")[0])


def test_run_succeeds_and_leaves_state_log_and_result(backend, toy_spec):
    before = datetime.now(UTC) - timedelta(seconds=1)
    run_id = backend.submit(request(toy_spec, text="hallo"))
    run = finished(backend, run_id)
    assert (run.state, run.error, dict(run.tasks)) == (RunState.SUCCEEDED, None, {"toy": "SUCCEEDED"})
    assert before < run.created_at < run.finished_at
    lines, _ = backend.read_log(run_id, 0)
    assert lines[:3] == ["toy: started", "working on hallo", lines[2]]
    assert lines[2].startswith("toy finished in ")
    result = result_of(backend, run_id)
    assert result["metrics"] == {"length": 5}
    assert Path(result["artifacts"]["echo"]["uri"]).read_text() == "hallo"


def test_artifact_input_is_given_as_a_path(backend, toy_spec, tmp_path):
    (tmp_path / "source.txt").write_text("from a file")
    run_id = backend.submit(request(toy_spec, source=str(tmp_path / "source.txt")))
    assert finished(backend, run_id).state.is_successful
    assert Path(result_of(backend, run_id)["artifacts"]["echo"]["uri"]).read_text() == "from a file"


def test_same_display_name_never_starts_twice(backend, toy_spec):
    first = backend.submit(request(toy_spec, name="one", seconds=0.5))
    assert backend.submit(request(toy_spec, name="one", seconds=0.5)) == first
    assert backend.find("one").run_id == first
    assert backend.find("another") is None
    finished(backend, first)
    assert backend.read_log(first, 0)[0].count("toy: started") == 1


def test_run_outlives_the_process_that_submitted_it(toy_spec, root, backend, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(toy_spec.ir))
    script = f"""
import json, os, signal
from airflow_provider_llmops.backends.pipelines.base import RunRequest
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.specs.pipeline import BoundPipeline
spec = json.load(open({str(tmp_path / "spec.json")!r}))
backend = LocalPipelineBackend(python={str(DATA_PYTHON)!r}, root={str(root)!r})
backend.submit(RunRequest(display_name="orphan", pipeline=BoundPipeline(spec, {{"seconds": 1.0}})))
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, cwd=REPO)
    assert died.returncode == -signal.SIGKILL
    run = backend.find("orphan")
    assert not run.state.is_terminal
    assert finished(backend, run.run_id).state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    ("ending", "error", "retryable"),
    [
        ("refuse", "row 3: completion is empty", False),
        ("crash", "RuntimeError: something broke", True),
        (
            "sigkill",
            "Killed: the step's process was killed by SIGKILL (out of memory? the kernel's log tells)",
            True,
        ),
    ],
)
def test_failure_names_the_step_and_its_error(backend, toy_spec, ending, error, retryable):
    run = finished(backend, backend.submit(request(toy_spec, ending=ending)))
    assert (run.state, run.error, run.retryable) == (RunState.FAILED, error, retryable)
    assert run.failed_steps == ("toy",)


def test_sigkill_of_the_component_process_is_a_failed_run(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=60))
    working(backend, run_id)
    component = max(processes_of(Path(backend._runs / run_id)), key=lambda p: len(p.parents()))
    component.kill()
    run = finished(backend, run_id)
    assert run.state is RunState.FAILED
    assert "killed by SIGKILL" in run.error


def test_sigkill_of_the_run_process_is_a_failed_run_and_its_children_are_stopped(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=60))
    working(backend, run_id)
    directory = backend._runs / run_id
    os.kill(json.loads((directory / "state.json").read_text())["pid"], signal.SIGKILL)
    run = finished(backend, run_id)
    assert run.state is RunState.FAILED
    assert run.error == "Killed: the run's process disappeared (killed, or the machine was restarted)"
    assert processes_of(directory) == []
    assert backend.get(run_id) == run


def test_cancel_stops_every_process_within_ten_seconds(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=60))
    working(backend, run_id)
    processes = processes_of(backend._runs / run_id)
    assert len(processes) >= 2
    started = time.monotonic()
    backend.cancel(run_id)
    assert time.monotonic() - started < 10
    assert [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert backend.get(run_id).state is RunState.CANCELED
    assert backend.get(run_id).error is None


def test_step_that_saves_when_it_is_stopped_has_the_time_and_is_heard(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=7.0, ending="save"))
    working(backend, run_id)
    backend.cancel(run_id)

    run = backend.get(run_id)
    assert run.state is RunState.CANCELED
    assert backend.read_log(run_id, 0)[0][-3:-1] == ["saved 100 %", "stopped by SIGTERM"]


def test_step_that_saves_has_it_too_when_only_the_run_is_terminated(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=2.0, ending="save"))
    working(backend, run_id)
    directory = backend._runs / run_id
    os.kill(json.loads((directory / "state.json").read_text())["pid"], signal.SIGTERM)

    run = finished(backend, run_id)
    assert (run.state, run.retryable) == (RunState.FAILED, True)
    assert "saved 100 %" in backend.read_log(run_id, 0)[0]


def test_step_that_does_not_end_is_killed_after_the_grace(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=60.0, ending="save"))
    working(backend, run_id)
    started = time.monotonic()
    backend.cancel(run_id, patience=0.5)

    assert time.monotonic() - started < 10
    assert backend.get(run_id).state is RunState.CANCELED
    assert processes_of(backend._runs / run_id) == []


def test_cancel_of_a_finished_run_changes_nothing(backend, toy_spec):
    run_id = backend.submit(request(toy_spec))
    run = finished(backend, run_id)
    backend.cancel(run_id)
    assert backend.get(run_id) == run


def test_run_prepared_but_never_started_is_failed(backend, toy_spec, monkeypatch):
    monkeypatch.setattr(backend._queue, "enter", lambda *_: None)
    run = backend.get(backend.submit(request(toy_spec)))
    assert run.state is RunState.FAILED
    assert run.error == "Killed: the run was prepared but its process never started working"


def test_steps_do_not_see_airflows_secrets(backend, toy_spec, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "mysql://user:password@host")
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "key")
    run_id = backend.submit(request(toy_spec, environment={"MLFLOW_TRACKING_TOKEN": "hush"}))
    finished(backend, run_id)
    variables = result_of(backend, run_id)["details"]["variables"]
    assert [name for name in variables if "AIRFLOW" in name] == []
    assert "MLFLOW_TRACKING_TOKEN" in variables
    stored = [path for path in (backend._runs / run_id).rglob("*") if path.is_file()]
    assert [path for path in stored if b"hush" in path.read_bytes()] == []


def test_two_looks_for_processes_share_one_grace(backend, toy_spec, monkeypatch):
    clock, graces = [100.0], []

    def stop(processes, grace):
        graces.append(grace)
        clock[0] += 15.0

    run_id = backend.submit(request(toy_spec, seconds=60))
    with monkeypatch.context() as patch:
        patch.setattr(local, "stop", stop)
        patch.setattr(local.time, "monotonic", lambda: clock[0])
        backend.cancel(run_id)
    assert graces == [20.0, 5.0]
    backend.cancel(run_id)


@pytest.mark.parametrize("key", [None, "abc123"])
def test_steps_know_where_a_retry_looks_for_checkpoints(backend, toy_spec, key):
    run_id = backend.submit(replace(request(toy_spec), attempts_key=key))
    finished(backend, run_id)
    variables = result_of(backend, run_id)["details"]["variables"]
    assert ("LLMOPS_CHECKPOINTS" in variables) == (key is not None)


def test_checkpoints_that_nobody_went_on_from_are_removed_after_a_while(backend, toy_spec):
    old, young = (backend._root / "checkpoints" / name for name in ("a" * 12, "b" * 12))
    for directory in (old, young):
        (directory / "checkpoint-1").mkdir(parents=True)
    for path in (old / "checkpoint-1", old):
        os.utime(path, (0, time.time() - 8 * 24 * 3600))
    finished(backend, backend.submit(replace(request(toy_spec), attempts_key="abc123")))
    wait_until(lambda: not old.exists())
    assert young.exists()


def aged(backend, toy_spec, name, days=40.0):
    """A run that ended some days ago."""
    run_id = backend.submit(request(toy_spec, name=name))
    finished(backend, run_id)
    directory = backend._runs / run_id
    wait_until(lambda: not is_alive(directory))
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    for name, key in (("request.json", "created_at"), ("state.json", "finished_at")):
        file = directory / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: then}))
    return run_id


def test_retention_removes_what_nobody_used_when_a_run_ends(root, toy_spec, backend):
    old, used, taken = (aged(backend, toy_spec, name) for name in ("old", "used", "taken"))
    recent = aged(backend, toy_spec, "recent", days=20.0)
    (root / ".tidied").unlink()
    keeping = LocalPipelineBackend(python=DATA_PYTHON, root=root, retention=30)
    echo = keeping.list_outputs(used, "toy-run", "toy")["echo"]
    assert keeping.find_reusable("") is None
    run_id = keeping.submit(request(toy_spec, name="another", source=echo))
    finished(keeping, run_id)
    wait_until(lambda: not is_alive(root / "runs" / run_id))
    left = {path.name for path in (root / "runs").iterdir()}
    assert left == {used, recent, run_id}
    assert keeping.read_log(run_id, 0)[0][-1].startswith("tidied up: 2 of kind run, ")
    assert {old, taken} & left == set()


def test_runs_tidy_up_once_an_hour(root, toy_spec, backend):
    aged(backend, toy_spec, "old")
    keeping = LocalPipelineBackend(python=DATA_PYTHON, root=root, retention=30)
    run_id = keeping.submit(request(toy_spec, name="another"))
    finished(keeping, run_id)
    wait_until(lambda: not is_alive(root / "runs" / run_id))
    assert len(list((root / "runs").iterdir())) == 2


def test_input_that_was_removed_a_moment_ago_is_named(backend, toy_spec):
    gone = str(backend._runs / "6b1f4a0e-6d57-4a3e-9a2e-0d6c2f1f7c55" / "artifacts/x")
    with pytest.raises(
        ConfigurationError, match=r"(?s)^\.\.\./x was removed a moment ago.*: /.*/artifacts/x$"
    ):
        backend.submit(request(toy_spec, source=gone))


def test_use_is_noted_of_addresses_lists_and_importers(backend, toy_spec, monkeypatch):
    runs = [backend._runs / str(uuid.UUID(int=number)) for number in range(5)]
    for run in runs:
        run.mkdir(parents=True)
        (run / "lock").touch()
    (backend._runs / "mine").mkdir()
    spec = copy.deepcopy(request(toy_spec).pipeline.spec)
    spec["deploymentSpec"]["executors"]["more"] = {
        "importer": {"artifactUri": {"constant": f"file://{runs[3]}/x"}}
    }
    spec["root"]["defaults"] = [f"{runs[4]}/x", f"{backend._runs}/{uuid.UUID(int=9)}/x"]
    values = [f"{runs[0]}/x", {"deep": [f"file://{runs[1]}/x%20y", f"file:{runs[2]}"]}]
    others = [str(backend._runs), f"{backend._runs}/mine/x", "file://elsewhere/x", 1, None]
    asked = request(toy_spec)
    asked = replace(
        asked, pipeline=replace(asked.pipeline, spec=spec, parameters={"any": [*values, *others]})
    )
    monkeypatch.setattr(backend._queue, "enter", lambda *_: None)
    backend.submit(asked)
    assert [(run / "used").exists() for run in runs] == [True] * 5
    (backend._runs / "mine").rmdir()  # which is empty


def temporary(backend, run_id):
    return (backend._runs / run_id / "tmp").readlink()


def test_temporary_directory_goes_with_its_run(backend, toy_spec, monkeypatch, tmp_path):
    system = tmp_path / "system"
    system.mkdir()
    monkeypatch.setenv("TMPDIR", str(system))
    run_id = backend.submit(request(toy_spec, seconds=0.5))
    working(backend, run_id)
    assert list(system.iterdir()) == [temporary(backend, run_id)]
    assert list(temporary(backend, run_id).rglob("ephemeral_component.py"))
    finished(backend, run_id)
    wait_until(lambda: list(system.iterdir()) == [])
    assert not (backend._runs / run_id / "tmp").is_symlink()


def test_temporary_directory_goes_when_its_run_was_killed(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=60))
    working(backend, run_id)
    directory = temporary(backend, run_id)
    os.kill(json.loads((backend._runs / run_id / "state.json").read_text())["pid"], signal.SIGKILL)
    assert finished(backend, run_id).state is RunState.FAILED
    assert not directory.exists()


def test_temporary_directory_goes_when_its_run_was_cancelled(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, seconds=60))
    working(backend, run_id)
    directory = temporary(backend, run_id)
    backend.cancel(run_id)
    assert not directory.exists()


@pytest.mark.parametrize(("inherited", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_a_step_do_not_spin_unless_asked_to(inherited, expected, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if inherited:
        monkeypatch.setenv("OMP_WAIT_POLICY", inherited)
    assert DataPlane.environment({})["OMP_WAIT_POLICY"] == expected


def test_runs_beyond_the_slots_wait_and_can_be_cancelled_while_they_do(backend, toy_spec):
    first = backend.submit(request(toy_spec, name="first", seconds=60))
    working(backend, first)
    second, third = (backend.submit(request(toy_spec, name=name)) for name in ("second", "third"))
    wait_until(lambda: backend.read_log(third, 0)[0] == ["waiting for another run on this machine to end"])
    assert {backend.get(run_id).state for run_id in (second, third)} == {RunState.PENDING}
    backend.cancel(second)
    assert backend.get(second).state is RunState.CANCELED
    backend.cancel(first)
    assert finished(backend, third).state is RunState.SUCCEEDED


def test_log_is_read_in_whole_lines_from_an_offset(backend, toy_spec):
    run_id = backend.submit(request(toy_spec))
    finished(backend, run_id)
    log = backend._runs / run_id / "log.txt"
    log.write_bytes("eins\nzwei\nünvollst".encode())
    assert backend.read_log(run_id, 0) == (["eins", "zwei"], 10)
    assert backend.read_log(run_id, 10) == ([], 10)
    with log.open("ab") as handle:
        handle.write("ändig\n".encode())
    assert backend.read_log(run_id, 10)[0] == ["ünvollständig"]


def test_missing_result_is_named(backend, toy_spec):
    run_id = backend.submit(request(toy_spec, ending="no_result"))
    assert finished(backend, run_id).state.is_successful
    with pytest.raises(ResultError, match=f"^Step toy succeeded and left no result(?s:.*){run_id}"):
        backend.read_result(run_id, "toy-run", "toy")


def test_no_disk_space_is_refused_before_anything_starts(backend, toy_spec, monkeypatch, root):
    free = runs.MIN_FREE_BYTES - 1
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(ApiUnavailableError, match=r"^Only 511 MiB are free for runs, at least 512 MiB"):
        backend.submit(request(toy_spec))
    assert not (root / "runs").exists()


def test_directory_that_cannot_be_written_is_named(toy_spec, tmp_path):
    (tmp_path / "file").write_text("in the way")
    backend = LocalPipelineBackend(python=DATA_PYTHON, root=tmp_path / "file")
    with pytest.raises(
        ApiUnavailableError,
        match=r"^The run cannot be started: Not a directory(?s:.*)toy run(?s:.*)/file/runs/",
    ):
        backend.submit(request(toy_spec))


def test_interpreter_that_does_not_exist_is_named(toy_spec, root):
    backend = LocalPipelineBackend(python="/nowhere/python", root=root)
    with pytest.raises(
        ConfigurationError, match=r"^The data plane's interpreter does not exist(?s:.*)/nowhere/python"
    ):
        backend.submit(request(toy_spec))


@pytest.mark.parametrize("run_id", ["../../etc", "", "6b1f4a0e-6d57-4a3e-9a2e-0d6c2f1f7c55"])
def test_unknown_or_malicious_run_id_is_refused(backend, run_id):
    with pytest.raises(ConfigurationError, match=r"^There is no such run"):
        backend.get(run_id)


def test_check_tells_a_good_interpreter_from_a_bare_one(backend, root):
    assert backend.check().startswith("local backend ready: Python 3.")
    bare = LocalPipelineBackend(python="/usr/bin/env", root=root)
    with pytest.raises(ConfigurationError, match="cannot import the components"):
        bare.check()
