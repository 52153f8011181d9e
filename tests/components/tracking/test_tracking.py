"""One MLflow run for a training: nested, resumed, ended as it ended, and never in the training's way."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest
from llmops_components.errors import SettingError, TrainingInterrupted
from llmops_components.redaction import flat, is_secret_name, redact, redacted, without_paths
from llmops_components.results import digest_of
from llmops_components.tracking import sender as sending
from llmops_components.tracking.pictures import draw_curves
from llmops_components.tracking.run import track
from llmops_components.tracking.settings import Tracking
from llmops_components.training.methods.sft import train_sft
from llmops_components.training.survival import run_training
from mlflow_server import Door, free_port
from tiny_training import losses, newest_checkpoint, sft_trainer
from transformers import TrainerCallback

RUN = {
    "component": "train_sft",
    "dataset": {"digest": "sha256:" + "ab" * 32, "rows": 32, "format": "prompt_completion"},
    "base_model": {"digest": "sha256:" + "cd" * 32, "provenance": {"license": "apache-2.0"}},
    "training_args": {"learning_rate": 0.01, "hub_token": "hf_" + "x" * 30, "seed": None},
    "peft_args": {},
}
SAVES = {"save_strategy": "steps", "save_steps": 100}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.05)


@pytest.fixture
def server(mlflow_port) -> int:
    return mlflow_port


@pytest.fixture
def client(server):
    import mlflow

    address = f"http://127.0.0.1:{server}"
    return mlflow.MlflowClient(address, address)


@pytest.fixture
def settings(server, request) -> dict[str, str]:
    name = request.node.name
    return {
        "tracking_uri": f"http://127.0.0.1:{server}",
        "experiment": f"test {name}",
        "parent": f"post_training/{name}",
    }


def train(tiny_model, directory, tracker, *, callbacks=(), **training_args):
    trainer = sft_trainer(tiny_model, directory, callbacks=[*callbacks, tracker.callback], **training_args)
    run_training(trainer, newest_checkpoint(directory))
    return trainer


def points(client, run_id: str, name: str = "loss") -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, name))


def test_training_is_one_run_under_the_run_of_its_dag(tiny_model, tmp_path, client, settings):
    trainers, ids = {}, {}
    for name in ("sft", "dpo"):
        named = settings | {"run_name": name, "tags": {"airflow.bundle_version": "c0ffee"}}
        with track(RUN, tracking=named, checkpoints=tmp_path / name) as tracker:
            trainers[name] = train(tiny_model, tmp_path / name, tracker, max_steps=6, **SAVES)
            tracker.metrics({"tokens_per_second": 123.0})
            (tmp_path / "README.md").write_text("# card")
            tracker.file(tmp_path / "README.md")
        ids[name] = tracker.details()["run_id"]
        experiment = tracker.details()["experiment_id"]
        assert tracker.details()["url"] == (
            f"{settings['tracking_uri']}/#/experiments/{experiment}/runs/{ids[name]}"
        )

    runs = {run.info.run_id: run for run in client.search_runs([experiment])}
    (parent,) = (run for run in runs.values() if run.info.run_id not in ids.values())
    assert parent.info.run_name == settings["parent"]
    assert parent.info.status == "FINISHED"
    assert len(runs) == 3
    sft = runs[ids["sft"]]
    assert (sft.info.run_name, sft.info.status) == ("sft", "FINISHED")
    assert sft.data.tags["airflow.bundle_version"] == "c0ffee"
    assert [runs[i].data.tags["mlflow.parentRunId"] for i in ids.values()] == [parent.info.run_id] * 2
    assert sft.data.params == {
        "component": "train_sft",
        "dataset.digest": RUN["dataset"]["digest"],
        "dataset.rows": "32",
        "dataset.format": "prompt_completion",
        "base_model.digest": RUN["base_model"]["digest"],
        "base_model.provenance.license": "apache-2.0",
        "training_args.learning_rate": "0.01",
        "training_args.hub_token": "***",
    }
    assert sft.data.tags["llmops.component"] == "train_sft"
    assert sft.data.tags["llmops.dataset.digest"] == RUN["dataset"]["digest"]
    assert sft.data.tags["llmops.base_model.digest"] == RUN["base_model"]["digest"]
    assert sft.data.tags["llmops.batch"] == "4 x 1 x 1 processes"
    assert [entry.dataset.digest for entry in sft.inputs.dataset_inputs] == ["ab" * 18]
    assert points(client, ids["sft"]) == losses(trainers["sft"].state.log_history)
    assert points(client, ids["sft"], "tokens_per_second") == [(6, 123.0)]
    assert sorted(file.path for file in client.list_artifacts(ids["sft"])) == [
        "README.md",
        "environment.json",
        "training_curves.png",
    ]
    picture = client.download_artifacts(ids["sft"], "training_curves.png", str(tmp_path))
    assert Path(picture).read_bytes().startswith(PNG)
    found = json.loads(
        Path(client.download_artifacts(ids["sft"], "environment.json", str(tmp_path))).read_text()
    )
    assert sorted(found) == ["device", "libraries", "platform", "processes", "python"]
    assert {"torch", "transformers", "trl"} < set(found["libraries"])


def test_every_trainer_is_tracked_with_its_card_and_what_it_used(
    tiny_model, sft_rows, tmp_path, client, settings
):
    def run(name: str, max_tokens: float):
        return train_sft(
            sft_rows,
            tiny_model,
            tmp_path / name,
            tmp_path / f"{name}-adapter",
            training_args={"bf16": False, "max_steps": 6, "logging_steps": 1, "learning_rate": 1e-2},
            checkpoints=tmp_path / "checkpoints",
            budget={"max_tokens": max_tokens, "price_per_device_hour": 2.0},
            tracking=settings,
        )

    stopped = run("first", 300)
    tags = client.get_run(stopped.details["tracking"]["run_id"]).data.tags
    assert tags["llmops.stopped_by"] == stopped.findings[0]
    report = run("model", 10**6)

    assert stopped.metrics["steps"] < 6
    tracked = report.details["tracking"]
    assert tracked == stopped.details["tracking"]
    found = client.get_run(tracked["run_id"])
    assert found.info.status == "FINISHED"
    assert found.data.params["component"] == "train_sft"
    assert found.data.params["training_args.learning_rate"] == "0.01"
    assert found.data.tags["llmops.dataset.digest"] == digest_of(sft_rows)[0]
    assert found.data.tags["llmops.base_model.digest"] == digest_of(tiny_model)[0]
    assert "llmops.stopped_by" not in found.data.tags
    assert points(client, tracked["run_id"]) == losses(
        json.loads((tmp_path / "model" / "training_log.json").read_text())
    )
    assert found.data.metrics["used_cost"] == report.details["budget"]["used"]["cost"]
    assert found.data.metrics["final_loss"] == report.metrics["final_loss"]
    card = client.download_artifacts(tracked["run_id"], "README.md", str(tmp_path))
    assert Path(card).read_bytes() == (tmp_path / "model" / "README.md").read_bytes()


def test_settings_that_are_wrong_make_no_run(tiny_model, sft_rows, tmp_path, client, settings):
    with pytest.raises(SettingError, match="did you mean 'learning_rate'"):
        train_sft(
            sft_rows,
            tiny_model,
            tmp_path / "model",
            tmp_path / "adapter",
            training_args={"lerning_rate": 1},
            tracking=settings,
        )
    assert client.get_experiment_by_name(settings["experiment"]) is None


def test_metrics_arrive_while_the_training_runs(tiny_model, tmp_path, client, settings):
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                deadline = time.monotonic() + 60
                while not seen and time.monotonic() < deadline:
                    if tracker.details():
                        seen.extend(points(client, tracker.details()["run_id"]))
                    time.sleep(0.05)

    with track(RUN, tracking=settings) as tracker:
        train(tiny_model, tmp_path, tracker, callbacks=[Look()], max_steps=6)
    assert seen != []
    assert len(points(client, tracker.details()["run_id"])) == 6


class SigtermAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_training_that_goes_on_goes_on_with_its_run(tiny_model, tmp_path, client, settings):
    with (
        pytest.raises(TrainingInterrupted),
        track(RUN, tracking=settings, checkpoints=tmp_path) as tracker,
    ):
        train(tiny_model, tmp_path, tracker, callbacks=[SigtermAt(4)], max_steps=10, **SAVES)
    first = tracker.details()["run_id"]
    stopped = client.get_run(first)
    assert stopped.info.status == "KILLED"
    assert stopped.data.tags["llmops.error"].startswith(
        "TrainingInterrupted: Training was stopped by SIGTERM after"
    )
    # A killed process has sent more than its last checkpoint knows of.
    client.log_metric(first, "loss", 9.0, step=6)

    changed = {**RUN, "peft_args": {"r": 8}}  # MLflow refuses to change a parameter
    with track(changed, tracking=settings, checkpoints=tmp_path) as tracker:
        trainer = train(tiny_model, tmp_path, tracker, max_steps=10, **SAVES)

    assert tracker.details()["run_id"] == first
    run = client.get_run(first)
    assert run.info.status == "FINISHED"
    assert "llmops.error" not in run.data.tags
    assert run.data.tags["llmops.resumed_at_step"] == "5"
    trace = dict(losses(trainer.state.log_history))
    assert points(client, first) == sorted((trace | {6: 9.0}).items())
    assert len(client.search_runs([run.info.experiment_id])) == 2


def test_steps_that_an_attempt_without_memory_had_made_are_there_once(tiny_model, tmp_path, client, settings):
    class NoMemoryAt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise MemoryError

    with track(RUN, tracking=settings) as tracker:
        with pytest.raises(MemoryError):
            train(tiny_model, tmp_path, tracker, callbacks=[NoMemoryAt()], max_steps=5)
        trainer = train(tiny_model, tmp_path, tracker, max_steps=5)
    assert points(client, tracker.details()["run_id"]) == sorted(losses(trainer.state.log_history))


def test_training_that_starts_anew_has_a_new_run(tiny_model, tmp_path, client, settings):
    ids = set()
    for name in ("a", "b"):
        with track(RUN, tracking=settings, checkpoints=tmp_path / name) as tracker:
            pass
        ids.add(tracker.details()["run_id"])
    assert len(ids) == 2


def test_failure_is_told_without_secrets(client, settings, monkeypatch, capsys):
    monkeypatch.setenv("STORE_PASSWORD", "correct-horse")
    secret = settings | {"tracking_uri": settings["tracking_uri"].replace("//", "//ann:pa55word@")}
    with pytest.raises(ValueError), track(RUN, tracking=secret) as tracker:
        raise ValueError("no access with correct-horse to s3://key:s3cret@bucket")

    run = client.get_run(tracker.details()["run_id"])
    assert run.info.status == "FAILED"
    assert run.data.tags["llmops.error"] == "ValueError: no access with *** to s3://***@bucket"
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).info.status == "FAILED"
    told = capsys.readouterr()
    everything = f"{told.out}{told.err}{run.to_dictionary()}{tracker.details()}"
    assert [word for word in ("pa55word", "correct-horse", "s3cret", "x" * 30) if word in everything] == []


def test_server_that_is_down_for_a_while_gets_everything_later(
    tiny_model, tmp_path, client, server, settings, monkeypatch
):
    door, refused = Door(server), threading.Event()
    begin = sending.Sender._begin

    def watched(self):
        try:
            return begin(self)
        except Exception:
            refused.set()
            raise

    class OpenAt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 7:
                assert refused.wait(60)
                door.open()

    monkeypatch.setattr(sending.Sender, "_begin", watched)

    down = settings | {"tracking_uri": f"http://127.0.0.1:{door.port}"}
    try:
        with track(RUN, tracking=down) as tracker:
            trainer = train(tiny_model, tmp_path, tracker, callbacks=[OpenAt()], max_steps=10)
    finally:
        door.shut()
    run_id = tracker.details()["run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert points(client, run_id) == losses(trainer.state.log_history)


def test_server_that_stays_down_costs_a_warning(tiny_model, tmp_path, capsys):
    address = f"http://ann:pa55word@127.0.0.1:{free_port()}"
    with track(RUN, tracking={"tracking_uri": address}) as tracker:
        trainer = train(tiny_model, tmp_path, tracker, max_steps=3)

    assert trainer.state.global_step == 3
    assert tracker.details() == {}
    told = capsys.readouterr().out
    assert "Warning: MLflow at http://127.0.0.1:" in told
    assert "did not answer, so " in told
    assert "pa55word" not in told


def test_server_that_goes_down_does_not_stop_the_training(tiny_model, tmp_path, server, settings, capsys):
    door = Door(server)
    door.open()

    class ShutAt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                door.shut()

    with track(RUN, tracking=settings | {"tracking_uri": f"http://127.0.0.1:{door.port}"}) as tracker:
        trainer = train(tiny_model, tmp_path, tracker, callbacks=[ShutAt()], max_steps=6)
    assert trainer.state.global_step == 6
    assert "The training is not affected" in capsys.readouterr().out


def test_trainings_that_begin_together_end_under_one_run_of_the_dag(client, settings):
    experiment = client.create_experiment(settings["experiment"])
    senders = [sending.Sender(Tracking(**settings), settings["tracking_uri"], RUN, None) for _ in range(4)]
    together = threading.Barrier(len(senders))

    def begin(sender):
        sender._experiment_id = experiment
        together.wait()
        sender._find_parent(client)

    threads = [threading.Thread(target=begin, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sender in senders:  # as each does at its end
        sender._find_parent(client)

    (run,) = client.search_runs([experiment])
    assert [sender._parent_id for sender in senders] == [run.info.run_id] * len(senders)


def test_nothing_happens_without_settings_or_in_another_process(tiny_model, tmp_path, monkeypatch, settings):
    before = threading.active_count()
    with track(RUN) as tracker:
        train(tiny_model, tmp_path, tracker, max_steps=2)
        tracker.metrics({"a": 1.0})
        tracker.file(tmp_path)
        assert threading.active_count() == before
    assert tracker.details() == {}
    assert [step for step, _ in losses(tracker.log_history)] == [1, 2]

    monkeypatch.setenv("RANK", "1")
    with track(RUN, tracking=settings):
        assert threading.active_count() == before


def test_settings_come_from_the_caller_or_the_environment(monkeypatch):
    assert Tracking.find() is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert Tracking.find() == Tracking("http://mlflow:5000")
    assert Tracking.find({"parent": "x/y"}) == Tracking("http://mlflow:5000", parent="x/y")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tracking_url": "http://x"}, r"Unknown tracking: 'tracking_url' \(did you mean 'tracking_uri'\?\)"),
        ({"tracking_uri": 5}, "tracking_uri is not a text"),
        ({"tracking_uri": "http://x", "parent": "a' or '1"}, "parent is dag_id/run_id, without quotes"),
    ],
)
def test_wrong_settings_are_named(given, message):
    with pytest.raises(SettingError, match=message):
        Tracking.find(given)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("hub_token", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("password", True),
        ("openai_api_key", True),
        ("openai_key", True),
        ("key", False),
        ("eos_token", False),
        ("max_tokens", False),
        ("tokenizer", False),
    ],
)
def test_which_settings_are_secret(name, secret):
    assert is_secret_name(name) is secret


def test_secrets_are_found_however_deep_they_lie():
    settings = {
        "rewards": [{"name": "judge", "api_key": "qwerty", "url": "https://ann:pa55word@host"}],
        "r": 8,
    }
    hidden = {"rewards": [{"name": "judge", "api_key": "***", "url": "https://***@host"}], "r": 8}
    assert redacted(settings) == hidden
    assert flat(settings) == {"rewards": str(hidden["rewards"]), "r": "8"}


def test_texts_are_scrubbed(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "qwertyuiop")
    text = (
        "qwertyuiop at http://a:b@host/x with hf_" + "a" * 20 + " and Bearer abcdefghij; s3://bucket/x stays"
    )
    assert redact(text) == "*** at http://***@host/x with *** and ***; s3://bucket/x stays"
    assert (
        redact("x" * 60_000) == "x" * 60_000
    )  # minutes, with a pattern that tries again from each character
    assert redact("x" * 40 + "postgresql+psycopg2://me:pw@db") == "x" * 40 + "postgresql+psycopg2://***@db"
    paths = "/home/ann/data/rows.jsonl, file:///mnt/models/base/ and https://arxiv.org/abs/2305.18290, a/b, 1/2, n/a"
    assert without_paths(paths) == "rows.jsonl, base and https://arxiv.org/abs/2305.18290, a/b, 1/2, n/a"


def test_picture_is_the_same_for_the_same_log(tmp_path):
    log = [{"step": step, "loss": 2 / step, "eval_loss": 3 / step} for step in range(1, 9)]
    assert draw_curves(log, tmp_path / "one.png", title="x") is True
    assert draw_curves(log, tmp_path / "two.png", title="x") is True
    first = (tmp_path / "one.png").read_bytes()
    assert first.startswith(PNG)
    assert first == (tmp_path / "two.png").read_bytes()
    assert draw_curves(log[:4], tmp_path / "two.png", title="x") is True
    assert first != (tmp_path / "two.png").read_bytes()


def test_log_without_curves_gives_no_picture(tmp_path):
    assert draw_curves([], tmp_path / "none.png", title="x") is False
    assert draw_curves([{"step": 1, "loss": float("nan")}], tmp_path / "none.png", title="x") is False
    assert not (tmp_path / "none.png").exists()
