"""Metrics by a judge, against a scripted OpenAI-compatible server over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_service import Does, answer_to, hostile_service
from llmops_components.errors import SettingError
from llmops_components.evaluation.judge.memory import Memory
from llmops_components.evaluation.judge.settings import JudgeSettings
from llmops_components.evaluation.metrics.plan import plan_metrics
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.evaluation.scored import Given, Scored, arguments_of, score_rows
from llmops_components.inference import pool
from llmops_components.inference.pool import ServiceGoneError, ServiceRefusesError
from scripted_judge import verdict

OF_ROWS = [name for name, metric in METRICS.items() if metric.takes and metric.ragas]
POLITE = {"prompt": "Is this polite? {response}", "bounds": [0, 1]}
SCORE = json.dumps({"reason": "so it is", "value": 0.25})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_FIRST_DELAY_SECONDS", 0.01)
    for name in ("LLMOPS_CHECKPOINTS", "LLMOPS_JUDGE_KEY", "LLMOPS_JUDGE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def rows_of(count: int) -> tuple[list[dict[str, Any]], list[Given]]:
    rows = [
        {
            "prompt": f"What colour is thing {i}?",
            "reference": f"Thing {i} is blue.",
            "retrieved_contexts": ["Things are blue.", f"Thing {i + 1} is red."],
            "reference_contexts": ["Things are blue."],
            "reference_topics": ["colours"],
            "reference_tool_calls": [{"name": "look", "args": {"x": i % 2}}],
            "rubrics": {"score1_description": "bad", "score5_description": "good"},
        }
        for i in range(count)
    ]
    call = {"function": {"name": "look", "arguments": '{"x": 0}'}}
    return rows, [Given(f"It is blue {i}.", tool_calls=[call]) for i in range(count)]


class Polite:
    """One question a row: whether its answer is polite."""

    def __init__(self, directory: Path, url: str, count: int = 6, **settings: Any) -> None:
        self.directory = directory
        self.settings = JudgeSettings.of(
            {"url": f"{url}/v1", "model_name": "judge", "concurrency": 4} | settings
        )
        self.plan = plan_metrics(["polite"], metric_args={"polite": POLITE}, judge=self.settings)
        self.rows, self.given = rows_of(count)

    def score(self) -> Scored:
        with Memory(self.directory / "judge.jsonl", outlives=True) as memory:
            return score_rows(self.plan, self.rows, self.given, judge=self.settings, memory=memory)

    def values(self) -> list[float | None]:
        self.scored = self.score()
        values = self.scored.scores["polite"].values.tolist()
        return [None if value != value else value for value in values]


def says(text: str = SCORE, **more: Any) -> Does:
    body = answer_to("", text)
    body["choices"][0] |= more
    return Does(body=body)


def is_about(prompt: str, number: int) -> bool:
    return f"It is blue {number}." in prompt


def test_scores_are_those_of_ragas_called_directly_to_the_last_digit(tmp_path):
    import openai
    from ragas.embeddings import OpenAIEmbeddings
    from ragas.llms import llm_factory
    from ragas.metrics import collections

    rows, given = rows_of(2)
    with hostile_service(verdict) as server:
        settings = JudgeSettings.of(
            {"url": f"{server.url}/v1", "model_name": "judge", "embeddings": {"model_name": "e"}}
        )
        plan = plan_metrics(OF_ROWS, judge=settings)
        with Memory(tmp_path / "judge.jsonl", outlives=True) as memory:
            scored = score_rows(plan, rows, given, judge=settings, memory=memory)

        async def directly() -> dict[str, list[float]]:
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x")
            parts = {
                "judge": ("llm", llm_factory("judge", client=client)),
                "embeddings": ("embeddings", OpenAIEmbeddings(client=client, model="e")),
            }
            found: dict[str, list[float]] = {}
            for name in OF_ROWS:
                metric = METRICS[name]
                scorer = getattr(collections, str(metric.ragas))(**dict(parts[need] for need in metric.needs))
                for row, answer in zip(rows, given, strict=True):
                    all_of_it = arguments_of(row, answer)
                    if metric.takes_messages:
                        all_of_it["user_input"] = all_of_it["messages"]
                    result = await scorer.ascore(**{name: all_of_it[name] for name in metric.takes})
                    found.setdefault(name, []).append(float(result.value))
            return found

        expected = asyncio.run(directly())
    assert {name: scored.scores[name].values.tolist() for name in OF_ROWS} == expected
    assert not any(scored.reasons.values())
    assert len({tuple(values) for values in expected.values()}) > len(OF_ROWS) / 2  # it is no constant
    assert scored.judge is not None
    asked = [name for name in OF_ROWS if "judge" in METRICS[name].needs]
    assert list(scored.judge["prompts"]) == asked == [name for name in scored.prompts if scored.prompts[name]]
    assert "{response}" in scored.prompts["rubrics_score"][0]


FAULTS = {
    "malformed": (says("It is rather polite."), 3, "the judge did not answer as asked, 3 times: "),
    "another form": (
        says('{"reason": "x"}'),
        3,
        "the judge did not answer as asked, 3 times: value: Field required",
    ),
    "out of bounds": (says('{"reason": "x", "value": 7}'), 1, "polite failed: ValueError: the judge gave 7"),
    "declined": (
        says(message={"role": "assistant", "content": None, "refusal": "I cannot judge."}),
        1,
        "the model declines to answer: I cannot judge.",
    ),
    "filtered": (says("", finish_reason="content_filter"), 1, "the judge's answer was filtered"),
    "cut off": (says('{"reason": "because', finish_reason="length"), 1, "the judge's answer was cut off"),
    "refused": (
        Does(400, {"error": {"message": "too long"}}),
        2,
        "the judge's server refused the question: HTTP 400: too long",
    ),
    "too late": (Does(seconds=1.5), 2, "the judge took too long: no whole answer within 1 s"),
    "failing": (Does(500, {"error": "oops"}), 2, "the judge gave no answer: HTTP 500: oops"),
}
KINDS = {"another form": "malformed", "out of bounds": "failed", "filtered": "declined", "cut off": "cut_off"}
KINDS |= {"too late": "timed_out", "failing": "unavailable"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_without_a_verdict_is_unscored_with_the_reason_and_counted_by_kind(fault, tmp_path):
    does, times, reason = FAULTS[fault]
    asked: list[str] = []

    def behave(prompt: str, nth: int) -> Does:
        about = is_about(prompt, 3) or "That is not what was asked for" in prompt
        asked.extend([prompt] * about)
        return does if about else says()

    with hostile_service(behave) as server:
        more = {} if fault != "refused" else {"response_format": "json_schema"}
        judge = Polite(tmp_path, server.url, limits={"attempts": 2, "request_seconds": 1}, **more)
        assert judge.values() == [0.25, 0.25, 0.25, None, 0.25, 0.25]
    assert list(judge.scored.reasons["polite"]) == [3]
    assert judge.scored.reasons["polite"][3].startswith(reason)
    assert judge.scored.kinds == {"polite": {KINDS.get(fault, fault): 1}}
    assert len(asked) == (1 if fault == "refused" else times)


def test_a_judge_that_answers_as_asked_the_second_time_is_heard_and_told_what_was_wrong(tmp_path):
    wrong = says('<think>{1}</think>```json\n{"reason": "x", "value": "high"}\n```')
    right = says('<think>{1}</think>```json\n{"reason": "x", "value": 0.5}\n```')
    with hostile_service(lambda prompt, nth: right if "That is not what" in prompt else wrong) as server:
        judge = Polite(tmp_path, server.url, count=1)
        assert judge.values() == [0.5]
        again = server.bodies[-1]["messages"]
    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    assert again[2]["content"].startswith(
        "That is not what was asked for: value: Input should be a valid number"
    )
    assert judge.scored.judge is not None and judge.scored.judge["asked_again"] == 1


def test_a_server_that_takes_no_schema_is_asked_in_words_and_found_out_once(tmp_path):
    def behave(prompt: str, nth: int) -> Does:
        return says() if "JSON schema" in prompt else Does(400, {"error": {"message": "response_format?"}})

    with hostile_service(behave) as server:
        judge = Polite(tmp_path, server.url)
        assert judge.values() == [0.25] * 6
        assert ["response_format" in body for body in server.bodies].count(True) == 1
        assert len(server.bodies) == 7


def test_a_busy_judge_is_asked_again_when_it_says_and_by_no_more_at_a_time_than_allowed(tmp_path):
    times: list[float] = []

    def behave(prompt: str, nth: int) -> Does:
        if is_about(prompt, 0):
            times.append(time.monotonic())
            if nth == 1:
                return Does(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.5"})
        return says()

    with hostile_service(behave) as server:
        judge = Polite(tmp_path, server.url, count=12, concurrency=3)
        assert judge.values() == [0.25] * 12
        assert server.most_busy <= 3
    assert times[1] - times[0] >= 0.5


@pytest.mark.parametrize(
    "limit", [{"max_tokens_total": 20}, {"max_cost": 0.02, "price": {"input": 1000, "output": 500}}]
)
def test_a_limit_stops_cleanly_and_counts_what_was_spent_before(limit, tmp_path):
    """Each answer takes five tokens, or 0.004."""
    with hostile_service(lambda prompt, nth: says()) as server:
        judge = Polite(tmp_path, server.url, count=12, concurrency=1, **limit)
        values = judge.values()
        heard = len(server.bodies)
        assert judge.values() == values and len(server.bodies) == heard  # another attempt may not spend more
    assert values == [0.25] * heard + [None] * (12 - heard) and heard in (4, 5)
    reasons = judge.scored.reasons["polite"]
    assert {reason.partition(":")[0] for reason in reasons.values()} == {"the judge's limit is reached"}
    assert judge.scored.kinds == {"polite": {"limit": 12 - heard}}
    assert judge.scored.judge is not None
    assert judge.scored.judge["prompt_tokens"] == 3 * heard
    if "price" in limit:
        assert judge.scored.judge["cost"] == pytest.approx(0.004 * heard)


def test_a_limit_of_tokens_that_nobody_counts_is_refused(tmp_path):
    body = answer_to("", SCORE)
    del body["usage"]
    with hostile_service(lambda prompt, nth: Does(body=body)) as server:
        with pytest.raises(SettingError, match="does not say how many tokens an answer takes"):
            Polite(tmp_path, server.url, max_tokens_total=100).score()
        judge = Polite(tmp_path, server.url)
        assert judge.values() == [0.25] * 6
    assert judge.scored.judge is not None and judge.scored.judge["answers_without_usage"] == 6


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "The judge refuses to be asked: HTTP 404: no, thanks"),
        (401, "Give it in LLMOPS_JUDGE_KEY, or a file"),
    ],
)
def test_a_judge_that_refuses_everybody_is_an_error_of_the_settings(status, message, tmp_path):
    with (
        hostile_service(lambda prompt, nth: Does(status, {"error": {"message": "no, thanks"}})) as server,
        pytest.raises(ServiceRefusesError, match=message),
    ):
        Polite(tmp_path, server.url).score()


@pytest.mark.parametrize(("count", "limit", "most"), [(6, 100, 12), (40, 5, 14)])
def test_a_judge_that_refuses_every_question_ends_it_as_an_error(count, limit, most, tmp_path):
    refused = Does(400, {"error": {"message": "max_tokens is not supported"}})
    with hostile_service(lambda prompt, nth: refused) as server:
        judge = Polite(tmp_path, server.url, count=count, limits={"refused_in_a_row": limit})
        with pytest.raises(
            ServiceRefusesError, match="The judge refuses to be asked: HTTP 400: max_tokens is not"
        ):
            judge.score()
        assert len(server.bodies) <= most


def test_a_judge_is_asked_no_longer_than_it_may_be(tmp_path):
    with hostile_service(lambda prompt, nth: Does(body=answer_to("", SCORE), seconds=0.2)) as server:
        judge = Polite(tmp_path, server.url, count=40, concurrency=1, limits={"run_minutes": 0.02})
        values = judge.values()
    assert 0 < values.count(0.25) < 20
    assert "run_minutes is 0.02" in judge.scored.reasons["polite"][39]


def test_the_judges_key_goes_to_no_other_host(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_JUDGE_KEY", "judge-key")
    rows, given = rows_of(1)
    with hostile_service(verdict) as server, hostile_service(verdict) as other:
        settings = JudgeSettings.of(
            {
                "url": f"{server.url}/v1",
                "model_name": "j",
                "embeddings": {"url": f"{other.url}/v1", "model_name": "e"},
            }
        )
        plan = plan_metrics(["answer_relevancy"], judge=settings)
        with Memory(tmp_path / "judge.jsonl", outlives=True) as memory:
            score_rows(plan, rows, given, judge=settings, memory=memory)
        assert {headers.get("Authorization") for headers in server.headers} == {"Bearer judge-key"}
        assert other.headers and {headers.get("Authorization") for headers in other.headers} == {None}


def test_the_key_of_the_judge_is_its_own_and_is_nowhere_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_JUDGE_KEY", "judge-key")
    monkeypatch.setenv("LLMOPS_SERVICE_KEY", "service-key")
    with hostile_service(lambda prompt, nth: says()) as server:
        judge = Polite(tmp_path, server.url)
        judge.values()
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer judge-key"}
    assert "judge-key" not in (tmp_path / "judge.jsonl").read_text() + json.dumps(judge.scored.judge)


def test_errors_that_ragas_swallows_leave_no_score_of_half_the_judges(tmp_path):
    """Answer accuracy asks twice, and takes the other verdict where one fails."""

    def behave(prompt: str, nth: int) -> Does:
        return (
            Does(400, {"error": "too long"}) if '"user_answer": "Thing 0' in prompt else verdict(prompt, nth)
        )

    rows, given = rows_of(2)
    with hostile_service(behave) as server:
        settings = JudgeSettings.of(
            {"url": f"{server.url}/v1", "model_name": "judge", "response_format": "prompt"}
        )
        plan = plan_metrics(["answer_accuracy"], judge=settings)
        with Memory(tmp_path / "judge.jsonl", outlives=True) as memory:
            scored = score_rows(plan, rows, given, judge=settings, memory=memory)
    assert np.isnan(scored.scores["answer_accuracy"].values).tolist() == [True, False]
    assert scored.reasons["answer_accuracy"] == {
        0: "the judge's server refused the question: HTTP 400: too long"
    }


def test_what_a_row_lacks_is_told_and_nobody_is_asked(tmp_path):
    with hostile_service(lambda prompt, nth: says()) as server:
        judge = Polite(tmp_path, server.url, count=2)
        judge.given = [Given(None, "HTTP 400: too long"), Given("")]
        assert judge.values() == [None, None]
        assert server.bodies == []
    assert judge.scored.reasons["polite"] == {0: "HTTP 400: too long", 1: "the row has no answer"}


def test_the_same_question_of_two_rows_is_asked_once_and_twice_of_one_row_it_is_asked_twice(tmp_path):
    """A metric that asks the same again wants another answer: answer relevancy asks three times."""
    rows, given = rows_of(2)
    given = [given[0], given[0]]
    with hostile_service(verdict) as server:
        settings = JudgeSettings.of(
            {"url": f"{server.url}/v1", "model_name": "judge", "embeddings": {"model_name": "e"}}
        )
        plan = plan_metrics(["answer_relevancy"], judge=settings)
        with Memory(tmp_path / "judge.jsonl", outlives=True) as memory:
            score_rows(plan, rows, given, judge=settings, memory=memory)
        assert sum("messages" in body for body in server.bodies) == 3


KILLED = """
import sys
sys.path[:0] = [{here!r}, {fakes!r}]
from pathlib import Path
from test_judge import Polite
Polite(Path(sys.argv[1]), sys.argv[2], count=40).score()
"""


def test_a_killed_evaluation_asks_no_question_twice(tmp_path):
    with hostile_service(lambda prompt, nth: Does(body=answer_to("", SCORE), seconds=0.1)) as server:
        here = Path(__file__).parent
        code = KILLED.format(here=str(here), fakes=str(here.parents[1] / "fakes"))
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), server.url], env=dict(os.environ)
        )
        deadline = time.monotonic() + 60
        while len(server.bodies) < 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)
        known = len((tmp_path / "judge.jsonl").read_text().splitlines()) - 1
        judge = Polite(tmp_path, server.url, count=40)
        assert judge.values() == [0.25] * 40
        assert 4 <= known < 40
        assert judge.scored.judge is not None
        assert judge.scored.judge["questions"] == 40 - known
        assert judge.scored.judge["answers_known_from_before"] == known
        assert len(server.bodies) <= 40 + 4  # those that were on their way


def test_a_judge_that_dies_in_the_middle_leaves_rows_unscored_and_is_not_asked_any_more(tmp_path):
    dead: list[str] = []

    def behave(prompt: str, nth: int) -> Does:
        if len(dead) or is_about(prompt, 3):
            dead.append(prompt)
            return Does(503, {"error": "gone"}, {"Retry-After": "600"})
        return says()

    with hostile_service(behave) as server:
        judge = Polite(tmp_path, server.url, count=9, concurrency=1, limits={"outage_seconds": 60})
        values = judge.values()
        assert len(server.bodies) < 9
        assert isinstance(judge.scored.stopped, ServiceGoneError)
        assert values[3] is None and values.count(None) == len(values) - values.count(0.25)
        kinds = judge.scored.kinds["polite"]
        assert kinds == {"unavailable": values.count(None)}
        dead.clear()
        server.behave = lambda prompt, nth: says()
        before = len(server.bodies)
        assert judge.values() == [0.25] * 9
        assert len(server.bodies) - before == values.count(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://x/v1"}, "judge has no model_name"),
        ({"url": "http://x/v1", "model_name": "m", "modell": 1}, "judge: 'modell'|modell"),
        ({"url": "http://a:b@x/v1", "model_name": "m"}, "url has a login in it"),
        ({"url": "http://x/v1", "model_name": "m", "max_cost": 1}, "max_cost is given and no price"),
        ({"url": "http://x/v1", "model_name": "m", "price": {"input": 1}}, "price is"),
        ({"url": "http://x/v1", "model_name": "m", "max_tokens_total": 0}, "max_tokens_total is 0"),
        ({"url": "http://x/v1", "model_name": "m", "asks": 11}, "asks is 11"),
        ({"url": "http://x/v1", "model_name": "m", "request": {"messages": []}}, "request has 'messages'"),
        ({"url": "http://x/v1", "model_name": "m", "embeddings": {}}, "model_name is ''"),
        ({"url": "http://x/v1", "model_name": "m", "request": "x"}, "request is 'x'. Give an object"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        JudgeSettings.of(settings)


JUDGE = JudgeSettings.of({"url": "http://127.0.0.1:1/v1", "model_name": "m"})


@pytest.mark.parametrize(
    ("names", "args", "judge", "message"),
    [
        (["faithfulness"], {}, None, "'faithfulness' cannot be computed: no judge was given. Pass judge"),
        (["rougeL"], {}, JUDGE, "A judge is given, and none of the metrics asks one"),
        (["rougeL"], {"rougeL": {"x": 1}}, None, "rougeL takes no arguments"),
        (["rougeL"], {"rouge1": {}}, None, "metric_args has 'rouge1', which is not among the metrics"),
        (["polite"], {"polite": {"prompt": "Polite?"}}, JUDGE, "names nothing of a row"),
        (["polite"], {"polite": {"prompt": "{response.__class__}"}}, JUDGE, "response.__class__"),
        (
            ["polite"],
            {"polite": {"prompt": "{response}", "values": {"yes": 1}}},
            JUDGE,
            "give bounds such as",
        ),
        (["polite"], {"polite": {"prompt": "{response}", "bounds": [1, 0]}}, JUDGE, "give bounds such as"),
        (["politeness"], {}, JUDGE, "politeness"),
        (["rougeL"], "polite", None, "metric_args is 'polite'. Give an object by metric"),
        (["p"], {"p": {"prompt": "{response}", "bounds": [float("nan"), 1]}}, JUDGE, "give bounds such as"),
        (["answer"], {"answer": {"prompt": "{response}"}}, JUDGE, "answer is the name of a column"),
        (
            ["judge_cost"],
            {"judge_cost": {"prompt": "{response}"}},
            JUDGE,
            "judge_cost is the name of a column",
        ),
        (
            ["rubrics_score"],
            {"rubrics_score": {"rubrics": {"score7_description": "best"}}},
            JUDGE,
            "score1_description to score5_description",
        ),
    ],
)
def test_metrics_that_cannot_be_computed_are_refused_before_anything_runs(names, args, judge, message):
    with pytest.raises(SettingError, match=message):
        plan_metrics(names, metric_args=args, judge=judge)


def test_arguments_of_a_metric_reach_its_class_and_unknown_ones_are_refused(tmp_path):
    rows, given = rows_of(3)
    with hostile_service(verdict) as server:
        settings = JudgeSettings.of({"url": f"{server.url}/v1", "model_name": "judge"})

        def scored(**args: Any) -> Scored:
            plan = plan_metrics(
                ["factual_correctness"], metric_args={"factual_correctness": args}, judge=settings
            )
            with Memory(tmp_path / "judge.jsonl", outlives=True) as memory:
                return score_rows(plan, rows, given, judge=settings, memory=memory)

        recall, precision = (
            scored(mode=mode).scores["factual_correctness"].values.tolist()
            for mode in ("recall", "precision")
        )
        assert recall != precision
        with pytest.raises(SettingError, match="modus"):
            scored(modus="recall")


def test_a_verdict_in_words_counts_the_number_that_the_author_gave_it(tmp_path):
    def behave(prompt: str, nth: int) -> Does:
        return says(json.dumps({"reason": "x", "value": "no" if is_about(prompt, 1) else "yes"}))

    rows, given = rows_of(2)
    with hostile_service(behave) as server:
        settings = JudgeSettings.of({"url": f"{server.url}/v1", "model_name": "judge"})
        args = {"polite": {"prompt": "{user_input} {response}", "values": {"yes": 4, "no": -1}}}
        plan = plan_metrics(["polite"], metric_args=args, judge=settings)
        assert (plan.metric("polite").worst, plan.metric("polite").best) == (-1, 4)
        with Memory(tmp_path / "judge.jsonl", outlives=True) as memory:
            scored = score_rows(plan, rows, given, judge=settings, memory=memory)
    assert scored.scores["polite"].values.tolist() == [4, -1]
