"""What is removed from a local root, what is kept, and why."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from broken_files import BROKEN
from llmops_components.errors import UnavailableError
from llmops_components.local.prune import prune, runs, tidy_up
from llmops_components.local.prune.versions import Version, read_versions
from llmops_components.models.store import MIN_BYTES, store_once
from llmops_components.serving.local.uses import note_use


def ago(days):
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "runs").mkdir(parents=True)
    return root


def make_run(root, *, days=40.0, arguments=None, checkpoints=None, results=(), weights=None):
    run = root / "runs" / str(uuid.uuid4())
    step = run / "artifacts" / "train-run" / "train"
    step.mkdir(parents=True)
    request = {"display_name": "dag.train", "created_at": ago(days), "arguments": arguments or {}}
    (run / "request.json").write_text(json.dumps(request | {"checkpoints": checkpoints}))
    (run / "state.json").write_text(json.dumps({"state": "SUCCEEDED", "finished_at": ago(days)}))
    (run / "lock").touch()
    for number, result in enumerate(results):
        (step.parent / str(number)).mkdir()
        (step.parent / str(number) / "result").write_text(json.dumps(result))
    if weights:
        (step / "model").mkdir()
        (step / "model" / "model.safetensors").write_bytes(weights)
        store_once(step / "model", root / "models")
    return run


@contextmanager
def alive(run):
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kept(items):
    return {item.path: item.kept for item in items}


def run_prune(root, days=30.0, **options):
    return kept(prune(root, days=days, **options))


def test_old_runs_go_and_young_ones_stay(root):
    old, young = make_run(root, days=31), make_run(root, days=29)
    assert run_prune(root) == {old: None, young: "younger"}
    assert list((root / "runs").iterdir()) == [young]


def test_dry_run_says_the_same_and_removes_nothing(root):
    shared = b"a" * MIN_BYTES
    runs = [
        make_run(root, weights=shared),
        make_run(root, weights=shared),
        make_run(root, days=1, weights=b"b" * MIN_BYTES),
    ]
    before = sorted(root.rglob("*"))
    dry = prune(root, days=30, dry_run=True)
    assert [path for path in sorted(root.rglob("*")) if path != root / ".prune.lock"] == before
    wet = prune(root, days=30)
    assert [(item.path, item.kept, item.bytes) for item in dry] == [
        (item.path, item.kept, item.bytes) for item in wet
    ]
    assert list((root / "runs").iterdir()) == [runs[2]]
    # The shared file is given back once, by the last of its links.
    assert sum(item.bytes for item in wet if item.kept is None) < 2 * MIN_BYTES + 100_000
    assert sum(item.bytes for item in wet if item.kept is None and item.kind == "model") == MIN_BYTES


def test_stored_model_stays_while_a_run_has_it(root):
    weights = b"a" * MIN_BYTES
    old, young = make_run(root, weights=weights), make_run(root, days=1, weights=weights)
    (stored,) = (root / "models").iterdir()
    assert run_prune(root) == {old: None, young: "younger", stored: "1 link in runs"}
    assert next(young.rglob("model.safetensors")).read_bytes() == weights
    assert run_prune(root, days=0) == {young: None, stored: None}
    assert list((root / "models").iterdir()) == []


def test_run_that_lives_stays_and_so_does_what_it_takes(root):
    data, running, other = make_run(root), make_run(root, days=35), make_run(root)
    arguments = {
        "dataset_uri": f"{data}/artifacts/x/y",
        "nested": [{"deep": f"file://{quote(str(other))}/z"}],
    }
    (running / "request.json").write_text(json.dumps({"created_at": ago(35), "arguments": arguments}))
    with alive(running):
        assert run_prune(root, days=0) == {
            data: f"the run {running.name}, which is under way",
            running: "it runs",
            other: f"the run {running.name}, which is under way",
        }
    assert set(run_prune(root, days=0).values()) == {None}


def test_run_that_waits_for_its_turn_stays_and_so_does_what_it_takes(root):
    data = make_run(root)
    checkpoints = root / "checkpoints" / "0123456789ab"
    checkpoints.mkdir(parents=True)
    os.utime(checkpoints, (time.time() - 9 * 86400,) * 2)
    waiting = make_run(root, arguments={"uri": f"{data}/artifacts/x"}, checkpoints=str(checkpoints))
    (waiting / "state.json").unlink()
    ticket = root / "queue" / f"{1:020d}.{waiting.name}"
    ticket.parent.mkdir()
    ticket.write_text("{}")
    assert run_prune(root, days=0) == {
        data: f"the run {waiting.name}, which is under way",
        waiting: "it waits for its turn",
        checkpoints: "a run under way",
    }
    ticket.unlink()
    assert run_prune(root, days=0) == {data: None, waiting: None, checkpoints: None}


def test_run_that_is_let_in_while_others_are_looked_at_stays(root, monkeypatch):
    run = make_run(root)
    last_used = runs.last_used

    def let_in(*arguments):
        (root / "queue").mkdir(exist_ok=True)
        (root / "queue" / f"{1:020d}.{run.name}").write_text("{}")
        return last_used(*arguments)

    monkeypatch.setattr(runs, "last_used", let_in)
    monkeypatch.setattr(runs, "why_runs_stay", lambda *_: {})
    assert run_prune(root) == {run: "it waits for its turn"}
    assert run.is_dir()


def test_run_whose_use_was_noted_is_as_young_as_its_last_use(root):
    run = make_run(root)
    (run / "used").touch()
    assert run_prune(root) == {run: "younger"}


def test_run_that_somebody_begins_to_use_meanwhile_stays(root, monkeypatch):
    run = make_run(root)
    rename = Path.rename

    def touched_before(self, target):
        if self == run:
            (run / "used").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", touched_before)
    assert run_prune(root) == {run: "somebody has begun to use it"}
    assert (run / "request.json").is_file()


@pytest.mark.parametrize(
    "use",
    [
        lambda run: (run / "used").touch(),
        lambda run: note_use(
            run / "artifacts/model", run.parents[1] / "services/default/bot/revisions/00001"
        ),
    ],
    ids=["task", "service"],
)
def test_run_that_somebody_begins_to_use_while_others_are_looked_at_stays(root, monkeypatch, use):
    run = make_run(root)
    references = runs.why_runs_stay

    def touched_after(*given):
        found = references(*given)
        use(run)
        return found

    monkeypatch.setattr(runs, "why_runs_stay", touched_after)
    assert run_prune(root) == {run: "somebody has begun to use it"}
    assert (run / "request.json").is_file()


def test_what_a_service_serves_stays(root, tmp_path):
    served, former, elsewhere, freed = (make_run(root) for _ in range(4))
    revisions = root / "services/default/bot/revisions"
    for name, run in (("00001", former), ("00002", served)):
        (revisions / name).mkdir(parents=True)
        manifest = {"spec": {"predictor": {"model": {"storageUri": f"file://{run}/artifacts/model"}}}}
        (revisions / name / "manifest.json").write_text(json.dumps(manifest))
        (revisions / name / "facts.json").write_text("{}")
        (revisions / name / "state.json").write_text('{"state": "STOPPED"}')
    routes = {"routes": [{"revision": "00002", "url": "http://x", "weight": 100}]}
    (revisions.parent / "routes.json").write_text(json.dumps(routes))
    other = tmp_path / "other root/services/default/bot/revisions/00001"
    other.mkdir(parents=True)
    note_use(elsewhere / "artifacts", other)
    note_use(freed / "artifacts", tmp_path / "deleted")
    (freed / "used").unlink()  # long ago
    assert run_prune(root) == {
        revisions / "00001": "younger",
        revisions / "00002": "it has the service's traffic",
        former: "the service default/bot",
        served: "the service default/bot",
        elsewhere: f"the service in {other}",
        freed: None,
    }
    old = time.time() - 40 * 24 * 3600
    os.utime(revisions / "00001/state.json", (old, old))
    found = run_prune(root)
    assert (found[revisions / "00001"], found[former], found[served]) == (
        None,
        None,
        "the service default/bot",
    )
    assert sorted(path.name for path in revisions.iterdir()) == ["00002"]
    (revisions.parent / "routes.json").write_text('{"routes')
    os.utime(revisions / "00002/state.json", (old, old))
    assert run_prune(root)[revisions / "00002"] == "it has the service's traffic"


def registration(version, **artifacts):
    details = {"name": "bot", "version": version}
    return {"component": "register_model", "details": details, "artifacts": artifacts}


def test_what_was_registered_stays_with_its_data_and_its_report(root):
    model, report = make_run(root), make_run(root)
    arguments = {"model_uri": f"{model}/artifacts/model", "report_uri": f"{report}/artifacts/report"}
    registered = make_run(root, arguments=arguments, results=[registration("3")])
    plain = make_run(root)
    why = "bot version 3 in MLflow"
    assert run_prune(root) == {model: why, report: why, registered: why, plain: None}


def test_what_mlflow_no_longer_has_goes_and_what_it_refers_to_stays(root):
    deleted = make_run(root, results=[registration("3")])
    digest = "sha256:" + "a" * 64
    made = make_run(root, results=[{"component": "train_sft", "artifacts": {"model": {"digest": digest}}}])
    by_path = make_run(root)
    versions = [
        Version("bot", "4", "models:/m-1", {digest}),
        Version("own", "1", f"file://{by_path}/artifacts/model"),
    ]
    assert run_prune(root, versions=versions) == {
        deleted: None,
        made: "bot version 4 in MLflow",
        by_path: "own version 1 in MLflow",
    }


def test_of_several_runs_that_made_what_is_registered_the_last_is_enough(root):
    digest = "sha256:" + "a" * 64
    results = [{"component": "import_base_model", "artifacts": {"model": {"digest": digest}}}]
    first, last, other = (make_run(root, days=days, results=results) for days in (60, 40, 50))
    versions = [Version("bot", "4", "models:/m-1", {digest})]
    why = "bot version 4 in MLflow"
    assert run_prune(root, dry_run=True, versions=versions) == {first: None, last: why, other: None}
    registered = make_run(root, arguments={"model_uri": f"{first}/artifacts"}, results=[registration("4")])
    found = run_prune(root, versions=versions)
    assert found == {first: why, last: None, other: None, registered: why}


def test_checkpoints_stay_for_a_week_and_for_a_run_that_lives(root):
    names = {"old": "a" * 12, "recent": "b" * 12, "used": "c" * 12, "mine": "llama-tuned"}
    directories = {name: root / "checkpoints" / directory for name, directory in names.items()}
    for directory in directories.values():
        (directory / "checkpoint-1").mkdir(parents=True)
    for name, days in (("old", 8), ("recent", 6), ("used", 9), ("mine", 40)):
        for path in (directories[name] / "checkpoint-1", directories[name]):
            os.utime(path, (0, time.time() - days * 24 * 3600))
    with alive(make_run(root, days=1, checkpoints=str(directories["used"]))):
        found = run_prune(root, days=1.5)
    assert {name: found[path] for name, path in directories.items()} == {
        "old": None,
        "recent": "younger",
        "used": "a run under way",
        "mine": "not of this program: another name",
    }


def test_environment_stays_while_a_step_uses_it(root):
    for name in ("used", "free", "fresh", "half", "foreign"):
        directory = root / "environments" / name
        directory.mkdir(parents=True)
        files = [directory / "environment.json", directory / "used", directory.with_name(f"{name}.lock")]
        for file in {"half": files[2:], "foreign": []}.get(name, files):
            file.write_text("{}")
            if name != "fresh":
                os.utime(file, (0, time.time() - 40 * 24 * 3600))
    with (root / "environments/used.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        found = run_prune(root)
    assert {path.name: why for path, why in found.items()} == {
        "used": "a step uses it",
        "free": None,
        "fresh": "younger",
        "half": None,  # its making was killed
        "foreign": "not of this program: neither environment.json nor a lock",
    }
    left = {path.name for path in (root / "environments").iterdir()}
    assert left == {"used", "used.lock", "fresh", "fresh.lock", "foreign"}


def test_foreign_files_and_links_are_left_alone(root, tmp_path):
    outside = make_run(tmp_path / "elsewhere")
    (root / "runs" / str(uuid.uuid4())).symlink_to(outside)
    (root / "runs" / "notes").mkdir()
    (root / "runs" / "README").write_text("mine")
    (root / "runs" / str(uuid.UUID(int=0))).mkdir()
    (root / "mine").mkdir()
    (root / "models").symlink_to(tmp_path / "elsewhere")
    old = make_run(root)
    (old / "artifacts" / "link").symlink_to(outside)
    before = sorted(path for path in (tmp_path / "elsewhere").rglob("*"))
    found = run_prune(root, days=0)
    assert found.pop(old) is None
    assert {why.partition(":")[0] for why in found.values()} == {"not of this program"}
    assert len(found) == 5
    assert all(os.path.lexists(path) for path in found)
    assert sorted(path for path in (tmp_path / "elsewhere").rglob("*")) == before


@pytest.mark.parametrize(
    "content",
    ['["a"]', '{"artifacts": ["a"]}', '{"artifacts": {"a": 1}, "details": null}', "[" * 100_000, "\xff"],
)
def test_output_of_a_user_that_is_called_result_stops_nothing(root, content):
    step = make_run(root) / "artifacts/mine/step"
    step.mkdir(parents=True)
    (step / "result").write_text(content, encoding="latin-1")
    (step.parent / "result").write_text('{"component": "register_model", "details": "x"}')
    assert set(run_prune(root).values()) == {None}


@pytest.mark.parametrize("name", ["request.json", "state.json"])
def test_run_that_cannot_be_read_stays_with_what_it_takes_and_the_others_go(root, name):
    broken, taken, other = make_run(root), make_run(root), make_run(root)
    arguments = json.dumps({"arguments": {"dataset_uri": f"{taken}/artifacts/x"}, "checkpoints": "x"})
    (broken / "request.json").write_text(arguments)
    (broken / name).write_text(arguments[:-1] if name == "request.json" else '{"state')
    why = f"not of this program: {name} cannot be read"
    with alive(broken):
        found = run_prune(root)
    assert found == {broken: why, taken: f"the run {broken.name}, which is under way", other: None}
    assert run_prune(root) == {broken: why, taken: None}


def test_submission_that_died_half_way_goes_after_a_day(root):
    names = [f".{uuid.uuid4()}.123", f".removed-{uuid.uuid4()}"]
    for name in names:
        (root / "runs" / name).mkdir()
    os.utime(root / "runs" / names[0], (0, time.time() - 2 * 24 * 3600))
    found = run_prune(root, days=0)
    assert found == {root / "runs" / names[0]: None, root / "runs" / names[1]: "younger"}


def test_run_that_never_began_is_as_old_as_its_request(root):
    run = make_run(root)
    (run / "state.json").unlink()
    assert run_prune(root) == {run: None}


def test_temporary_directory_of_a_killed_run_goes_whatever_its_age(root, tmp_path):
    run, living = make_run(root, days=1), make_run(root, days=1)
    for each in (run, living):
        (tmp_path / each.name).mkdir()
        (each / "tmp").symlink_to(tmp_path / each.name)
    with alive(living):
        run_prune(root)
    assert [(tmp_path / each.name).exists() for each in (run, living)] == [False, True]


def test_without_an_age_only_what_is_of_no_use_goes(root):
    run = make_run(root, days=400, weights=b"a" * MIN_BYTES)
    (root / "models" / ("0" * 64)).write_bytes(b"left by a run that was deleted by hand")
    assert [item.path.name for item in tidy_up(root, None)] == ["0" * 64]
    assert run.is_dir()
    assert tidy_up(root, 30) == []  # an hour has not passed
    (root / ".tidied").unlink()
    assert [item.kind for item in tidy_up(root, 30)] == ["run", "model"]


def test_two_at_a_time_are_refused(root):
    with (root / ".prune.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="Another process prunes"):
            run_prune(root)


def test_command_prints_what_it_found(root):
    run = make_run(root)
    command = [sys.executable, "-m", "llmops_components.local.prune", "--root", str(root), "--older-than"]
    answer = json.loads(subprocess.run([*command, "30", "--dry-run"], capture_output=True, check=True).stdout)
    (item,) = answer["items"]
    assert (item["kind"], item["path"], item["kept"], round(item["days"])) == ("run", str(run), None, 40)
    failed = subprocess.run([*command, "-1"], capture_output=True, check=False)
    assert failed.returncode == 1
    assert "from 0 on" in json.loads(failed.stdout)["error"]["message"]


def test_mlflow_says_which_versions_there_are(mlflow_port):
    import mlflow

    uri = f"http://127.0.0.1:{mlflow_port}"
    client = mlflow.MlflowClient(uri, uri)
    client.create_registered_model("pruned")
    digest = "sha256:" + "b" * 64
    tags = {"llmops.model.digest": digest, "dag": "x"}
    client.create_model_version("pruned", "s3://bucket/x", tags=tags)
    found = [each for each in read_versions(uri) if each.name == "pruned"]
    assert found == [Version("pruned", "1", "s3://bucket/x", {digest})]


@pytest.mark.parametrize("name", ["request.json", "state.json", "lock"])
@pytest.mark.parametrize("how", BROKEN)
def test_broken_neighbour_keeps_nobody_from_tidying_up(root, how, name):
    broken, old, young = make_run(root), make_run(root), make_run(root, days=1.0)
    BROKEN[how](broken / name)
    run_prune(root)
    assert not old.exists()
    assert young.exists()
    if name != "lock":
        assert broken.exists()  # nobody can tell how old it is, or whether it is in use
