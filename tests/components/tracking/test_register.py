"""Registering a model with a real MLflow server, and what happens when there is none."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from comparisons import comparison, metric
from llmops_components.errors import ModelError, SettingError, UnavailableError
from llmops_components.models.compression.compress import compress_model
from llmops_components.models.compression.methods import compressed_layers
from llmops_components.results import digest_of
from llmops_components.tracking.client import DAG_RUN_TAG, past_proxies
from llmops_components.tracking.register import COMPRESSION_TAG, MODEL_DIGEST_TAG, register_model
from mlflow_server import free_port


@pytest.fixture
def checkpoint(tmp_path, tiny_model):
    """A copy of the tiny model, with the pickled leftovers that a trainer leaves in such a directory."""
    directory = tmp_path / "model"
    shutil.copytree(tiny_model, directory)
    (directory / "training_args.bin").write_bytes(b"not even a pickle")
    return directory


def test_run_lies_where_the_trainings_of_the_same_dag_run_do(server, client, checkpoint):
    experiment_id = client.create_experiment("nested")
    client.create_run(experiment_id, run_name="other", tags={DAG_RUN_TAG: "dag/other"})
    above = client.create_run(experiment_id, run_name="dag/run", tags={DAG_RUN_TAG: "dag/run"}).info.run_id

    def register(name: str, **options):
        report = register_model(
            checkpoint, model_name=name, tracking_uri=server, experiment="nested", **options
        )
        return client.get_run(report.details["run_id"]).data.tags.get("mlflow.parentRunId")

    assert register("below", parent="dag/run") == above
    assert register("untracked", parent="dag/without-trainings") is None
    assert register("alone") is None
    assert "mlflow.parentRunId" not in client.get_model_version("below", "1").tags
    with pytest.raises(SettingError, match="parent is dag_id/run_id, without quotes"):
        register("wrong", parent="dag/it's")


def test_server_on_this_machine_is_asked_past_the_proxy_of_the_environment(server, checkpoint, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # nobody listens
    monkeypatch.setenv("no_proxy", "example.org")
    assert register_model(checkpoint, model_name="past-proxies", tracking_uri=server).details["run_id"]
    assert os.environ["no_proxy"] == "example.org"
    assert past_proxies("http://mlflow.example:5000") == {}


DECISION = {
    "outcome": "pass",
    "findings": ["rougeL 0.5, at least 0.4 asked for and 0.5 reached."],
    "rules": {"confidence": 0.95, "rules": [{"metric": "rougeL", "at_least": 0.4}]},
    "evidence": {"rules": []},
}
COMPARISON = comparison(rouge_l=metric(rows=3))


def test_the_page_that_is_kept_says_what_the_gate_has_decided(server, client, checkpoint, tmp_path):
    from kfp.dsl import HTML, Artifact, Model
    from llmops_components.evaluation.report.decided import undecided_yet
    from llmops_components.kfp.register_model import register_model as component

    page = tmp_path / "page.html"
    page.write_text(f"<h1>Model evaluation</h1>{undecided_yet('Better in rougeL.')}<p>fine</p>")
    for outcome, title in (("undecided", "Undecided: there is not enough evidence"), ("pass", "Passed")):
        outputs = {name: tmp_path / outcome / name for name in ("registration", "signature", "result")}
        outputs["registration"].parent.mkdir()
        component.python_func(
            model=Model(uri=str(checkpoint)),
            report=HTML(uri=str(page)),
            model_name="decided",
            tracking_uri=server,
            experiment="decided",
            decision={**DECISION, "outcome": outcome},
            **{name: Artifact(uri=str(path)) for name, path in outputs.items()},
        )
        run_id = json.loads(outputs["registration"].read_text())["run_id"]
        kept = Path(client.download_artifacts(run_id, "evaluation.html", str(tmp_path / outcome))).read_text()
        assert f"<h2>{title}</h2>" in kept and "<p>fine</p>" in kept
        assert "No gate has decided yet" not in kept
    assert "No gate has decided yet" in page.read_text()


def test_run_and_version_say_how_the_model_was_made(server, client, checkpoint, tmp_path):
    dataset, page, folder = tmp_path / "dataset", tmp_path / "page", tmp_path / "scores"
    dataset.write_text('{"text": "a"}\n')
    page.write_text("<p>fine</p>")
    folder.mkdir()
    (folder / "all.jsonl").write_text("{}\n")

    report = register_model(
        checkpoint,
        model_name="made",
        tracking_uri=server + "/",
        experiment="how-it-was-made",
        run_name="first",
        alias="candidate",
        as_of="2026-11-25",
        params_to_log={"training_args": {"max_steps": 40, "optim": "x" * 7000}, "targets": ["q", "v"]},
        model_metrics={"rouge_l": 0.5, "rows": 3},
        comparison=COMPARISON,
        decision=DECISION,
        tags={"llmops.component.train_sft.digest": "sha256:11"},
        datasets={"train": dataset},
        artifacts={"reports/evaluation.html": page, "scores": folder},
    )

    details = report.details
    run = client.get_run(details["run_id"])
    version = client.get_model_version("made", "1")
    data_digest, model_digest = digest_of(dataset)[0], digest_of(checkpoint)[0]
    assert details == {
        "name": "made",
        "version": "1",
        "alias": "candidate",
        "alias_moved": True,
        "alias_version": "1",
        "alias_note": "Alias 'candidate' has moved to version 1 for the first time.",
        "as_of": "2026-11-25",
        "model_uri": "models:/made/1",
        "run_id": version.run_id,
        "experiment_id": client.get_experiment_by_name("how-it-was-made").experiment_id,
        "model_digest": model_digest,
        "reused": False,
        "signed_by": None,
        "signed_at": None,
        "links": {
            "model_version": f"{server}/#/models/made/versions/1",
            "run": f"{server}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}",
        },
    }
    assert report.metrics == {"model_bytes": digest_of(checkpoint)[1]}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params == {
        "training_args.max_steps": "40",
        "training_args.optim": "x" * 6000,
        "targets": "['q', 'v']",
    }
    assert run.data.metrics == {"rouge_l": 0.5, "rows": 3.0}
    kept = client.download_artifacts(run.info.run_id, "comparison.json", str(tmp_path))
    assert json.loads(Path(kept).read_text()) == COMPARISON
    kept = client.download_artifacts(run.info.run_id, "decision.json", str(tmp_path))
    assert json.loads(Path(kept).read_text()) == DECISION
    tags = {
        "llmops.component.train_sft.digest": "sha256:11",
        "llmops.dataset.train.digest": data_digest,
        MODEL_DIGEST_TAG: model_digest,
    }
    assert version.tags == {
        **tags,
        "llmops.decision": "pass",
        "llmops.as_of": "2026-11-25",
        "llmops.alias.candidate": "moved 2026-11-25",
    }
    assert (tags | {"llmops.decision": "pass"}).items() <= run.data.tags.items()
    assert [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs] == [
        ("train", data_digest[7:43])
    ]
    assert [entry.path for entry in client.list_artifacts(run.info.run_id, "reports")] == [
        "reports/evaluation.html"
    ]
    assert [entry.path for entry in client.list_artifacts(run.info.run_id, "scores")] == ["scores/all.jsonl"]
    assert client.get_model_version_by_alias("made", "candidate").version == "1"


def test_registered_model_loads_with_the_same_weights_and_without_pickled_files(
    server, checkpoint, tmp_path, monkeypatch
):
    import mlflow
    import torch
    from safetensors.torch import load_file

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    model_uri = register_model(checkpoint, model_name="loads", tracking_uri=server).details["model_uri"]
    local = Path(
        mlflow.artifacts.download_artifacts(model_uri, dst_path=str(tmp_path / "down"), tracking_uri=server)
    )
    assert [path.name for path in local.rglob("*.bin")] == []
    pipeline = mlflow.transformers.load_model(str(local))
    answer = pipeline([{"role": "user", "content": "What colour is the sky?"}], max_new_tokens=2)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"
    saved = load_file(checkpoint / "model.safetensors")
    loaded = pipeline.model.state_dict()
    assert all(torch.equal(weight, loaded[name]) for name, weight in saved.items())


def test_compressed_model_is_registered_with_how_it_was_compressed_and_loads(
    server, client, tiny_model, tmp_path, monkeypatch
):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    compress_model(tiny_model, tmp_path / "small")
    details = register_model(tmp_path / "small", model_name="small", tracking_uri=server).details
    assert client.get_model_version("small", "1").tags[COMPRESSION_TAG] == "int8"
    assert client.get_run(details["run_id"]).data.tags[COMPRESSION_TAG] == "int8"
    local = mlflow.artifacts.download_artifacts(
        details["model_uri"], dst_path=str(tmp_path / "down"), tracking_uri=server
    )
    assert "torchao==" in (Path(local) / "requirements.txt").read_text()
    loaded = mlflow.transformers.load_model(local).model
    assert len(list(compressed_layers(loaded))) == 14


def test_same_model_again_reuses_version_and_moves_alias_another_model_gets_its_own(
    server, client, checkpoint
):
    first = register_model(
        checkpoint, model_name="twice", tracking_uri=server, experiment="twice", alias="candidate"
    )
    again = register_model(
        checkpoint, model_name="twice", tracking_uri=server, experiment="twice", alias="champion"
    )
    assert again.details == {
        **first.details,
        "alias": "champion",
        "alias_note": "Alias 'champion' has moved to version 1 for the first time.",
        "reused": True,
    }
    assert client.get_registered_model("twice").aliases == {"candidate": "1", "champion": "1"}

    baselines = []
    for decision in (
        {**DECISION, "baseline": "twice version 7"},
        {**DECISION, "outcome": "undecided"},
    ):
        register_model(
            checkpoint, model_name="twice", tracking_uri=server, experiment="twice", decision=decision
        )
        tags = client.get_model_version("twice", "1").tags
        assert tags["llmops.decision"] == decision["outcome"]
        baselines.append(tags.get("llmops.decision.baseline"))
    assert baselines == ["twice version 7", None]  # the later decision takes the place of the earlier one

    (checkpoint / "generation_config.json").write_text('{"do_sample": true}')
    other = register_model(
        checkpoint, model_name="twice", tracking_uri=server, experiment="twice", alias="champion"
    )
    assert (other.details["version"], other.details["reused"]) == ("2", False)
    assert client.get_registered_model("twice").aliases == {"candidate": "1", "champion": "2"}
    assert len(client.search_runs([first.details["experiment_id"]])) == 2


def test_sqlite_keeps_its_files_beside_the_database_and_not_in_the_working_directory(
    checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "step").mkdir()
    monkeypatch.chdir(tmp_path / "step")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store/mlflow.db")
    (tmp_path / "store").mkdir()
    report = register_model(checkpoint, model_name="local", alias=None)
    assert (report.details["version"], report.details["alias"], report.details["links"]) == ("1", None, {})
    assert list((tmp_path / "step").iterdir()) == []
    assert list((tmp_path / "store" / "mlartifacts").rglob("model.safetensors")) != []


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request with ``status`` and remembers the credentials that it was given."""

    status = 503
    seen: list[str | None] = []

    def do_POST(self):
        self.seen.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    """Starts servers that refuse with a status; yields a function from status to (address, requests seen)."""
    started = []

    def start(status):
        handler = type("Handler", (Refusing,), {"status": status, "seen": []})
        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        started.append(httpd)
        return f"127.0.0.1:{httpd.server_port}", handler.seen

    yield start
    for httpd in started:
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")


def test_unavailable_server_is_retried_and_then_named(checkpoint, refusing, impatient):
    host, seen = refusing(503)
    with pytest.raises(
        UnavailableError, match=f"MLflow at http://{host} did not answer after retries"
    ) as raised:
        register_model(checkpoint, model_name="m", tracking_uri=f"http://{host}")
    assert len(seen) == 3
    assert raised.value.retryable


def test_closed_port_is_named_without_the_credentials_of_the_address(checkpoint, impatient, capfd):
    port = free_port()
    before = dict(os.environ)
    with pytest.raises(UnavailableError) as raised:
        register_model(
            checkpoint, model_name="m", tracking_uri=f"http://anna:s3cret@127.0.0.1:{port}/?token=t0ken"
        )
    assert str(raised.value) == (
        f"MLflow at http://127.0.0.1:{port} did not answer after retries (0 s): Connection refused. Check that the "
        "server runs and that tracking_uri is its address, then run this step again."
    )
    output = "".join(capfd.readouterr())
    assert "s3cret" not in output and "t0ken" not in output
    assert raised.value.__cause__ is None and raised.value.__suppress_context__
    assert dict(os.environ) == before


def test_another_server_that_the_process_uses_stays_the_current_one(checkpoint, impatient, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it, and this takes it back at the end
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:2")
    try:
        with pytest.raises(UnavailableError):
            register_model(checkpoint, model_name="m", tracking_uri="http://127.0.0.1:1")
        assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:2"
    finally:
        mlflow.set_tracking_uri(before)


def test_refused_credentials_are_the_callers_to_change(checkpoint, refusing, impatient):
    host, seen = refusing(401)
    with pytest.raises(SettingError, match=r"refuses access.*MLFLOW_TRACKING_USERNAME") as raised:
        register_model(checkpoint, model_name="m", tracking_uri=f"http://anna:s3%40cret@{host}")
    assert seen == ["Basic YW5uYTpzM0BjcmV0"]  # anna:s3@cret
    assert "cret" not in str(raised.value)


def test_a_server_that_is_not_mlflow_is_told(checkpoint, refusing, impatient):
    host, _ = refusing(404)
    with pytest.raises(SettingError, match="Is this the address of an MLflow server"):
        register_model(checkpoint, model_name="m", tracking_uri=f"http://{host}")


def test_no_address_is_an_error_instead_of_a_local_directory(checkpoint, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SettingError, match="tracking_uri is not given and MLFLOW_TRACKING_URI is not set"):
        register_model(checkpoint, model_name="m")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name": "a/b"}, "model_name is 'a/b'"),
        ({"model_name": "x' or '1'='1"}, "model_name is"),
        ({"model_name": ""}, "model_name is ''"),
        ({"alias": "latest"}, "alias is 'latest'"),
        ({"alias": "V12"}, "alias is 'V12'"),
        ({"alias": "my alias"}, "alias is 'my alias'"),
        (
            {"model_metrics": {"loss": float("nan")}},
            r"model_metrics\['loss'\] is nan; a metric is a finite number",
        ),
        ({"model_metrics": {"loss": "low"}}, r"model_metrics\['loss'\] is 'low'"),
        ({"comparison": {"rouge_l": 0.5}}, "comparison is not one of evaluate_model"),
        (
            {"comparison": {**COMPARISON, "schema_version": 1}},
            r"it has schema version 1; version 2 is read here",
        ),
        ({"decision": {"outcome": "pass"}}, "without findings and rules and evidence"),
        ({"decision": {**DECISION, "outcome": "passed"}}, r"decision is none of a gate \(outcome 'passed'\)"),
        ({"decision": "pass"}, "decision is none of a gate"),
        ({"decision": {**DECISION, "baseline": 3}}, "what the model was compared with as 3"),
        ({"decision": {**DECISION, "baseline": ""}}, "a baseline of 1 to 500 characters"),
        ({"artifacts": {"../up": "."}}, "artifacts has the name '../up'"),
        (
            {"datasets": {"train": "/does/not/exist"}},
            r"datasets\['train'\] is /does/not/exist, which does not exist",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_sent(checkpoint, settings, message):
    with pytest.raises(SettingError, match=message):
        register_model(checkpoint, **{"model_name": "m", "tracking_uri": "http://127.0.0.1:1", **settings})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: shutil.rmtree(path), "does not exist"),
        (lambda path: (path / "config.json").unlink(), "has no config.json"),
        (
            lambda path: (path / "config.json").rename(path / "adapter_config.json"),
            "It holds an adapter: merge it",
        ),
        (
            lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
            r"pytorch_model\.bin is a pickle, which is never loaded",
        ),
        (lambda path: (path / "tokenizer.json").unlink(), "has no tokenizer"),
    ],
)
def test_a_directory_that_is_no_model_is_refused(checkpoint, change, message):
    change(checkpoint)
    with pytest.raises(ModelError, match=message):
        register_model(checkpoint, model_name="m", tracking_uri="http://127.0.0.1:1")


def test_a_directory_without_weights_is_refused(checkpoint):
    for path in (checkpoint / "model.safetensors", checkpoint / "training_args.bin"):
        path.unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors weights\. Save model and tokenizer"):
        register_model(checkpoint, model_name="m", tracking_uri="http://127.0.0.1:1")
