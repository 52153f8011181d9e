"""A service evaluated: a scripted one over real sockets, and our predictor, which also judges."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_service import Does, Server, answer_to, hostile_service
from llmops_components.errors import DataError, SettingError, UnavailableError
from llmops_components.evaluation.evaluate import evaluate_model
from llmops_components.evaluation.service import evaluate_service
from llmops_components.inference import pool
from llmops_components.inference.pool import ServiceGoneError
from running_services import running_predictor
from scripted_judge import verdict
from tiny_model import write_rows

THINGS = {"apple": "red", "sky": "blue", "grass": "green", "coal": "black"}
ROWS = [
    {"prompt": f"What colour is the {thing}?", "reference": f"The {thing} is {colour}."}
    for thing, colour in THINGS.items()
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_FIRST_DELAY_SECONDS", 0.01)
    for name in ("LLMOPS_CHECKPOINTS", "LLMOPS_JUDGE_KEY", "LLMOPS_SERVICE_KEY"):
        monkeypatch.delenv(name, raising=False)


class Evaluation:
    def __init__(self, directory: Path, rows: list[dict[str, Any]] = ROWS) -> None:
        self.directory = directory
        self.dataset = write_rows(directory / "rows.jsonl", rows)

    def run(self, url: str, name: str = "model", **settings: Any):
        return evaluate_service(
            self.dataset,
            self.directory / f"{name}.jsonl",
            self.directory / f"{name}.html",
            url=url,
            **{"model_name": "m", "metric_names": ["rougeL", "exact_match"]} | settings,
        )

    def rows(self, name: str = "model") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.directory / f"{name}.jsonl").read_text().splitlines()]

    def page(self, name: str = "model") -> str:
        return (self.directory / f"{name}.html").read_text()


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    return Evaluation(tmp_path)


def knows(prompt: str, nth: int = 1) -> Does:
    """A service that knows the answer, and where it has looked it up."""
    thing = next((each for each in THINGS if each in prompt), "")
    text = f"The {thing} is {THINGS.get(thing)}."
    body = answer_to(prompt, text) | {
        "sources": [{"text": f"{thing}: {THINGS.get(thing)}"}, {"text": "Things have colours."}]
    }
    return Does(body=body)


def test_answers_are_scored_compared_and_reported_and_a_row_without_one_is_unscored_with_the_reason(
    evaluation,
):
    def fails(prompt: str, nth: int) -> Does:
        return Does(400, {"error": {"message": "too long"}}) if "sky" in prompt else knows(prompt)

    with hostile_service(lambda prompt, nth: Does(body=answer_to("", "The sky is blue."))) as server:
        evaluation.run(server.url, "base")
    with hostile_service(fails) as server:
        report = evaluation.run(server.url, baseline_scores=evaluation.directory / "base.jsonl")
        other = evaluation.run(server.url, "other", baseline_scores=evaluation.directory / "model.jsonl")
    found = evaluation.rows()
    assert [row["exact_match"] for row in found] == [1.0, None, 1.0, 1.0]
    assert found[1]["answer"] is None and found[1]["reason"] == "HTTP 400: too long"
    assert found[1]["unscored"] == dict.fromkeys(("rougeL", "exact_match"), "HTTP 400: too long")
    assert found[0]["seconds"] > 0 and found[0]["tokens"] == 2
    assert {name: report.metrics[name] for name in ("exact_match", "samples", "unanswered")} == {
        "exact_match": 1.0,
        "samples": 4,
        "unanswered": 1,
    }
    assert report.details["rows_unscored"] == {"rougeL": 1, "exact_match": 1}
    assert report.findings[0] == (
        "The service did not answer 1 of 4 rows, which have no score: row 2. The first: HTTP 400: too long"
    )
    assert report.comparison.metrics["exact_match"].rows_unscored == 1
    assert "[not answered: HTTP 400: too long]" in evaluation.page()
    assert f"m at {server.url}" in evaluation.page()
    assert not list(evaluation.directory.glob("*.answers"))
    assert other.comparison.metrics["exact_match"].rows_unscored == 1  # of model and baseline alike


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_an_answer_may_have_any_character_that_others_take_for_the_end_of_a_line(character, evaluation):
    answer = f"The sky{character}is blue."
    with hostile_service(lambda prompt, nth: Does(body=answer_to("", answer))) as server:
        assert evaluation.run(server.url).metrics["unanswered"] == 0
    lines = (evaluation.directory / "model.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["answer"] for line in lines if line] == [answer] * len(ROWS)


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "null", None])
def test_a_call_of_a_tool_that_is_none_is_another_one_than_expected(arguments, tmp_path):
    rows = [{**row, "reference_tool_calls": [{"name": "look", "args": {"x": 1}}]} for row in ROWS]
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    body = answer_to("", "")
    body["choices"][0]["message"] |= {"content": None, "tool_calls": [call]}
    with hostile_service(lambda prompt, nth: Does(body=body)) as server:
        report = Evaluation(tmp_path, rows).run(server.url, metric_names=["tool_call_accuracy"])
    assert report.metrics["tool_call_accuracy"] == 0
    bad = [{**rows[0], "reference_tool_calls": [{"name": "look", "args": "{bad"}]}]
    with pytest.raises(DataError, match="reference_tool_calls is"):
        Evaluation(tmp_path, bad).run("http://127.0.0.1:1", metric_names=["tool_call_accuracy"])


def test_slices_and_composites_are_compared_as_those_of_a_model_are(tmp_path):
    evaluation = Evaluation(tmp_path, [{**row, "kind": "ab"[i % 2]} for i, row in enumerate(ROWS)])
    with hostile_service(lambda prompt, nth: Does(body=answer_to("", "The sky is blue."))) as server:
        evaluation.run(server.url, "base")
    with hostile_service(knows) as server:
        report = evaluation.run(
            server.url,
            baseline_scores=tmp_path / "base.jsonl",
            composites={"both": {"rougeL": 0.5, "exact_match": 0.5}},
            slices=["kind"],
            slice_metrics=["exact_match"],
        )
    assert report.comparison.metrics["both"].candidate.value == 1.0
    kinds = report.comparison.slices["kind"]
    assert {name: kinds[name]["exact_match"].rows_scored for name in kinds} == {"a": 2, "b": 2}
    assert [kinds[name]["exact_match"].baseline.value for name in "ab"] == [0.0, 0.5]


def test_contexts_that_the_service_looks_up_are_judged_in_place_of_the_rows(tmp_path):
    evaluation = Evaluation(tmp_path, [{**row, "retrieved_contexts": ["of the row"]} for row in ROWS])

    def answers(prompt: str, nth: int) -> Does:
        does = knows(prompt)
        if "coal" in prompt:
            del does.body["sources"]
        return does

    with hostile_service(answers) as service, hostile_service(verdict) as judge:
        evaluation.run(
            service.url,
            contexts="sources.*.text",
            metric_names=["faithfulness", "context_recall"],
            judge={"url": f"{judge.url}/v1", "model_name": "judge"},
        )
        asked = "\n".join(judge.asked)
    assert "apple: red" in asked and "of the row" not in asked
    found = evaluation.rows()
    assert found[0]["retrieved_contexts"] == ["apple: red", "Things have colours."]
    assert all(isinstance(row["context_recall"], float) for row in found[:3])
    assert found[3]["unscored"] == dict.fromkeys(
        ("faithfulness", "context_recall"), "the row has no retrieved_contexts"
    )


def test_calls_of_tools_in_answers_are_compared_with_those_expected(tmp_path):
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "reference_tool_calls": [{"name": "look", "args": {"x": 1}}],
        }
        for row in ROWS[:2]
    ]

    def calls(prompt: str, nth: int) -> Does:
        body = answer_to(prompt)
        call = {
            "id": "1",
            "type": "function",
            "function": {"name": "look", "arguments": json.dumps({"x": int("sky" in prompt)})},
        }
        body["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
        return Does(body=body)

    evaluation = Evaluation(tmp_path, rows)
    with hostile_service(calls) as server:
        evaluation.run(server.url, metric_names=["tool_call_accuracy", "tool_call_f1"])
    assert [row["tool_call_accuracy"] for row in evaluation.rows()] == [0.0, 1.0]
    assert [row["tool_call_f1"] for row in evaluation.rows()] == [0.0, 1.0]
    assert evaluation.rows()[0]["tool_calls"][0]["function"]["name"] == "look"


def test_a_service_or_judge_that_dies_is_asked_nothing_twice_by_the_next_attempt(evaluation):
    settings = {
        "checkpoints": evaluation.directory / "kept",
        "limits": {"outage_seconds": 60},  # less than the gone want to be left alone
        "concurrency": 1,
        "metric_names": ["answer_accuracy"],
    }
    gone = Does(503, {"error": "gone"}, {"Retry-After": "600"})
    with hostile_service(knows) as service, hostile_service(verdict) as judge:

        def run():
            who = {
                "url": f"{judge.url}/v1",
                "model_name": "judge",
                "concurrency": 1,
                "limits": settings["limits"],
            }
            return evaluation.run(service.url, judge=who, **settings)

        def dies_at(server: Server, word: str, otherwise: Any) -> None:
            server.behave = lambda prompt, nth: gone if word in prompt else otherwise(prompt, nth)

        dies_at(service, "grass", knows)
        with pytest.raises(ServiceGoneError, match="gives no answers"):
            run()
        assert not judge.bodies
        service.behave = knows
        dies_at(judge, "The grass is", verdict)
        with pytest.raises(ServiceGoneError, match="gives no answers"):
            run()
        judge.behave = verdict
        report = run()
    assert report.metrics["unanswered"] == 0 and not report.findings
    assert [times for prompt, times in service.asked.items() if "grass" not in prompt] == [1, 1, 1]
    assert sum(times > 1 for times in judge.asked.values()) == 1  # the one that was asked in vain


@pytest.mark.parametrize(("minimum", "passes"), [(-1, True), (0.9, False)])
def test_a_judge_that_people_do_not_agree_with_enough_does_not_pass_and_everything_is_written(
    tmp_path, minimum, passes
):
    rows = [{**row, "human": number % 2} for number, row in enumerate(ROWS)] * 6

    def judges(prompt: str, nth: int) -> Does:
        return Does(body=answer_to("", json.dumps({"reason": "x", "value": float("sky" in prompt)})))

    evaluation = Evaluation(tmp_path, rows)
    with hostile_service(knows) as service, hostile_service(judges) as judge:
        report = evaluation.run(
            service.url,
            metric_names=["polite"],
            metric_args={"polite": {"prompt": "{response}", "bounds": [0, 1]}},
            judge={
                "url": f"{judge.url}/v1",
                "model_name": "judge",
                "labels": {"polite": {"column": "human", "threshold": 0.5, "min_kappa": minimum}},
            },
        )
    assert report.passed is passes
    assert report.details["agreement"]["polite"]["kappa"] == 0.5
    assert report.details["agreement"]["polite"]["rows"] == 24
    assert [line.partition(":")[0] for line in report.findings] == (
        [] if passes else ["The judge does not agree enough with people by polite"]
    )
    assert len(evaluation.rows()) == 24


def test_a_service_that_answers_nothing_is_no_evaluation(evaluation):
    with (
        hostile_service(lambda prompt, nth: Does(400, {"error": {"message": "no"}})) as server,
        pytest.raises(UnavailableError, match="The service has answered none of 4 rows: HTTP 400: no"),
    ):
        evaluation.run(server.url)


@pytest.mark.parametrize(
    ("rows", "settings", "error", "message"),
    [
        (ROWS, {"contexts": "a..b"}, SettingError, "'a..b' is no path into a reply"),
        (
            ROWS,
            {"metric_names": ["faithfulness"], "judge": {"url": "http://x/v1", "model_name": "j"}},
            DataError,
            "no retrieved_contexts",
        ),
        (ROWS, {"protocol": "grpc"}, SettingError, "grpc"),
        (
            [{**row, "response": "x"} for row in ROWS],
            {},
            DataError,
            "line 1: response is where the answers are written",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_asked(
    tmp_path, rows, settings, error, message
):
    with hostile_service(knows) as server:
        with pytest.raises(error, match=message):
            Evaluation(tmp_path, rows).run(server.url, **settings)
        assert not server.bodies


@pytest.fixture(scope="module")
def predictor(talkative_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for found in running_predictor(
        talkative_model, tmp_path_factory.mktemp("predictor"), "--model_name=org/tiny"
    ):
        yield found.url


def test_a_real_model_answers_and_judges_and_its_scores_are_those_of_its_directory(
    predictor, talkative_model, tmp_path
):
    """What a tiny model says as a judge is worth nothing; that it is bound to the form and read is the point."""
    evaluation = Evaluation(tmp_path, ROWS[:3])
    report = evaluation.run(
        predictor,
        model_name="org/tiny",
        protocol="openai",
        request={"max_tokens": 6, "temperature": 0},
        metric_names=["rougeL", "blue"],
        metric_args={"blue": {"prompt": "Blue? {response}", "values": {"yes": 1, "no": 0}}},
        judge={
            "url": predictor,
            "model_name": "org/tiny",
            "concurrency": 2,
            "request": {"max_tokens": 64, "temperature": 0},
        },
    )
    local = evaluate_model(
        talkative_model,
        evaluation.dataset,
        tmp_path / "local.jsonl",
        tmp_path / "local.html",
        metric_names=["rougeL"],
        generation_args={"max_new_tokens": 6},
    )
    assert [row["answer"] for row in evaluation.rows()] == [row["answer"] for row in evaluation.rows("local")]
    assert report.metrics["rougeL"] == local.metrics["rougeL"]
    judged = report.details["judge"]
    assert judged["questions"] >= 3 and judged["completion_tokens"] > 0
    for row in evaluation.rows():
        assert row["blue"] in (0.0, 1.0) or row["unscored"]["blue"].startswith("the judge")
