"""What the demo reads from a run, and how it tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import _demo
import _progress
import pytest
from _demo import Outcome
from _progress import Progress
from comparisons import comparison, metric


class FakeApi:
    """The calls of the REST client that the demo makes, answered from a table of states."""

    def __init__(self, rounds: list[dict[str, str | None]], xcoms: dict[str, Any] | None = None) -> None:
        self.rounds, self.xcoms = rounds, xcoms or {}

    def tasks(self, dag_id: str) -> dict[str, list[str]]:
        return {"report": [], "train": ["report"], "prepare": ["train"]}

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        times = {"start_date": "2026-01-01T00:00:00Z", "end_date": "2026-01-01T00:00:02.5Z"}
        states = self.rounds.pop(0)
        return [
            {"task_id": task_id, "state": state, "try_number": 1, **times}
            for task_id, state in states.items()
        ]

    def log_entries(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> list[dict[str, Any]]:
        ours, airflow = "airflow_provider_llmops.triggers", "airflow.sdk.execution_time"
        return [
            {"event": "::group::Pre Execute"},
            {"event": "step 3/40  loss 1.250", "logger": ours},
            {"event": "checkpoint saved", "logger": ours},
            {"event": "Pausing task as DEFERRED. ", "logger": airflow},
        ]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        return self.xcoms.get(task_id if key == "return_value" else f"{task_id}.{key}")


def test_without_a_terminal_each_change_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    rounds: list[dict[str, str | None]] = [
        {"prepare": "queued", "train": None, "report": None},
        {"prepare": "running", "train": None, "report": None},
        {"prepare": "deferred", "train": None, "report": None},
        {"prepare": "running", "train": None, "report": None},
        {"prepare": "success", "train": "failed", "report": "upstream_failed"},
    ]
    progress = Progress(FakeApi(list(rounds)), "dag", "run")  # type: ignore[arg-type]
    for _ in rounds:
        progress.update()
    lines = [line.split(maxsplit=2)[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "prepare              running         2.5 s",
        "prepare              success         2.5 s",
        "train                failed          2.5 s",
    ]
    assert progress.has_failed()


def test_table_lists_tasks_in_the_order_they_run_with_the_latest_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: dict[str, str | None] = {"prepare": "success", "train": "deferred", "report": "skipped"}
    progress = Progress(FakeApi([states]), "dag", "run")  # type: ignore[arg-type]
    progress.update()
    console = _progress.Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(progress.table())
    assert [line.rstrip() for line in console.export_text().splitlines()[:3]] == [
        "✓  prepare     2.5 s",
        "▶  train       2.5 s  step 3/40  loss 1.250",
        "-  report      2.5 s  not needed here",
    ]


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A model server that answers with the question that it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer({"data": [{"id": "helper"}]} if self.path == "/openai/v1/models" else None)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Authorization"] == "Bearer the-key"
            text = f"{request['model']} was asked: {request['messages'][-1]['content']}"
            self.answer({"choices": [{"message": {"content": text}}]})

        def answer(self, body: object) -> None:
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_page_that_is_shown_says_what_the_gate_has_decided(tmp_path: Path) -> None:
    """It is the one that the registration keeps, asked for as MLflow serves it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/get-artifact?path=evaluation.html&run_uuid=abc"
            self.send_response(200 if known and self.headers["Authorization"] else 404)
            self.end_headers()
            self.wfile.write(b"<p>passed</p>")

        def log_message(self, *arguments: object) -> None:
            pass

    page = tmp_path / "report.html"
    page.write_text("<p>No gate has decided yet</p>")
    outcome = Outcome(
        succeeded=True, stack=str(tmp_path), files={"Report": str(page)}, model={"run_id": "abd"}
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        _demo._keep_decided_page(address, ("admin", "word"), outcome)
        assert page.read_text() == "<p>No gate has decided yet</p>"
        outcome.model["run_id"] = "abc"
        _demo._keep_decided_page(address, ("admin", "word"), outcome)
        assert page.read_text() == "<p>passed</p>"
    finally:
        server.shutdown()
        server.server_close()


STEP = {
    "outcome": "pass",
    "findings": ["The canary kept to every limit with 9 requests."],
    "rules": {"metric": "rougeL"},
    "evidence": {
        "canary": {"requests": 9, "errors": 0, "p50_seconds": 0.5, "p95_seconds": 0.75},
        "stable": {"requests": 12, "errors": 1, "p50_seconds": 1.5, "p95_seconds": 2.5},
        "answers": {"candidate": 0.9, "baseline": 0.25, "rows": 8},
    },
}


def test_a_step_of_the_canary_is_told_in_a_line() -> None:
    requests = "9 and 12 requests of canary and stable, 0 and 1 errors"
    assert _demo._told(STEP) == f"{requests}, 95% within 0.75 and 2.50 s, rougeL 0.900 and 0.250"
    nobody = {"requests": 0, "errors": 0, "p50_seconds": None, "p95_seconds": None}
    unseen = {"rules": {}, "evidence": {"canary": nobody, "stable": nobody}}
    assert _demo._told(unseen) == "0 and 0 requests of canary and stable, 0 and 0 errors"
    assert _demo._told({"rules": {}, "evidence": {}}) == "nothing was compared"
    unscored = {"candidate": None, "baseline": None, "rows": 8}
    told = _demo._told({**STEP, "evidence": {**STEP["evidence"], "answers": unscored}})  # type: ignore[dict-item]
    assert told.endswith(" and 2.50 s, rougeL no score and no score")


def test_collects_metrics_model_endpoint_and_the_first_question_whose_answer_changed(
    tmp_path: Path, endpoint: str
) -> None:
    page = tmp_path / "artifact"
    page.write_text("<p>report</p>")

    def scores(name: str, answers: list[str]) -> dict[str, Any]:
        rows = [
            {
                "prompt": [{"role": "user", "content": f"question {i}"}],
                "reference": f"reference {i}",
                "answer": answer,
            }
            for i, answer in enumerate(answers)
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return {"scores": {"uri": str(path)}, "report": {"uri": str(page)}}

    compared = comparison(rougeL=metric(0.4, 0.1, rows=2), reward=metric(None, rows=2))
    model = {"name": "helper", "version": "2", "alias": "candidate"}
    xcoms = {
        "evaluate_base": {"artifacts": scores("base", ["same", "before"])},
        "evaluate_tuned": {"artifacts": scores("tuned", ["same ", "after"]), "comparison": compared},
        "register_model": {"details": model},
        "deploy_model": {"url": endpoint},
        "deploy_model.decisions": [STEP],
        "smoke_test": [{"prompt": "a list", "answer": "as AskModelOperator pushes"}],
    }
    outcome = Outcome(
        succeeded=True,
        stack=str(tmp_path),
        tasks={task_id: {} for task_id in [*xcoms, "validate_train"] if "." not in task_id},
    )
    _demo._collect(FakeApi([], xcoms), "run", outcome, "the-key")  # type: ignore[arg-type]
    assert outcome.metrics == {"rougeL": {"base": 0.1, "tuned": 0.4, "change": 0.3}}
    assert outcome.model == model
    assert outcome.endpoint == endpoint
    assert outcome.canary == [STEP]
    assert outcome.files == {"Report": str(tmp_path / "report.html")}
    assert (tmp_path / "report.html").read_text() == "<p>report</p>"
    assert outcome.question == {
        "question": "question 1",
        "reference": "reference 1",
        "before": "before",
        "after": "after",
        "endpoint": "helper was asked: question 1",
    }


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("max_steps=60", ("max_steps", 60)),
        ("base_model=hf://a/b", ("base_model", "hf://a/b")),
        ("revision=null", ("revision", None)),
    ],
)
def test_params_are_json_where_they_can_be(text: str, pair: tuple[str, Any]) -> None:
    assert _demo._options(["--param", text]).param == [pair]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """What the demo says before it has made anything."""
    assert _demo.main([*arguments]) == 2
    return capsys.readouterr().err.splitlines()


def test_params_are_checked_by_name_type_and_range_before_airflow_is_started(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_demo, "STACKS", tmp_path)
    params = ["max_step=3", "train_rows=1", "lora_rank=many", "learning_rate=2e-4"]
    said = refusal(capsys, "--method", "dpo", *(f"--param={param}" for param in params))
    assert said[:-1] == [
        "dev/demo: post_training has no parameter 'max_step' (did you mean 'max_steps'?)",
        "train_rows: 1 is less than the minimum of 16",
        "lora_rank: 'many' is not of type 'integer'",
    ]
    assert said[-1].startswith("Its parameters: algorithm, approval, ")
    assert list(tmp_path.iterdir()) == []


def test_dag_that_cannot_be_read_is_said_with_its_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "post_training.py").write_text("from airflow.sdk import DAG, Nothing  # no such name\n")
    said = refusal(capsys, "--dags", str(tmp_path), "--method", "dpo")
    assert said[0] == f"dev/demo: There is no DAG post_training in {tmp_path}."
    assert any("cannot import name 'Nothing'" in line for line in said)


def test_param_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _demo._options(["--param", "max_steps"])
    assert "'max_steps' is not KEY=VALUE" in capsys.readouterr().err


def test_two_demos_in_the_same_second_get_directories_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_demo, "STACKS", tmp_path)
    assert len({_demo._fresh_directory() for _ in range(3)}) == 3
