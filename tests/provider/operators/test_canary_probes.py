"""Canaries that are asked a probe set, over the real local backends: a bad model goes back, a good one comes in."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attempts import clear, retry
from test_canary import canary, carry_out, shares

from airflow_provider_llmops.delivery.probes import CanaryProbes
from airflow_provider_llmops.exceptions import QualityGateFailed
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.kinds.probes import ProbeRuns
from airflow_provider_llmops.operators.evaluation import QualityGateOperator
from airflow_provider_llmops.operators.inference import CompareRevisionsOperator
from airflow_provider_llmops.remote.intent import Intent

pytestmark = pytest.mark.usefixtures("connections")

ARGUMENTS = {
    "protocol": "openai_completions",
    "request": {"max_tokens": 8, "temperature": 0},
}


def probed(model, questions, **arguments):
    probes = {"dataset": str(questions), "min_difference": -0.1, "arguments": ARGUMENTS}
    settings = {"steps": [10], "min_requests": 6, "max_latency_ratio": None, "probes": probes}
    settings |= {"poll_interval": 1.0}  # a look costs more than the wait for the next one
    return canary(model, **{**settings, **arguments})


def compare_and_gate(questions, context):
    """The same comparison as tasks of its own, while both revisions have requests."""
    operator = CompareRevisionsOperator(
        task_id="compare",
        dataset=str(questions),
        url=KServeHook().get_service("tiny").url,
        model_name="tiny",
        revision="00002",
        baseline_revision="00001",
        metric_names=["rougeL"],
        **ARGUMENTS,
        deferrable=False,
        poll_interval=0.1,
    )
    operator.execute(context)
    pushed = context["ti"].xcom
    each = pushed["comparison"]["metrics"]["rougeL"]
    assert (each["baseline"]["value"], each["rows_scored"]) == (1.0, 6)  # the references are its own answers
    assert each["candidate"]["value"] < 0.5 and each["difference"]["value"] < 0
    rows = [json.loads(line) for line in Path(urlsplit(pushed["scores"]).path).read_text().splitlines()]
    assert [row["baseline_answer"] for row in rows] == [row["reference"] for row in rows]
    assert json.loads(Path(urlsplit(pushed["worst"]).path).read_text())["rows"]
    gate = QualityGateOperator(
        task_id="gate",
        comparison=pushed["comparison"],
        rules=[{"metric": "rougeL", "not_worse_by": 0.02}],
    )
    with pytest.raises(QualityGateFailed, match=r"^rougeL 0[.\d]* against 1, at least -0\.02 asked for"):
        gate.execute(context)


def test_a_model_that_answers_worse_goes_back_and_a_good_one_comes_in_without_any_users(
    tiny_model, probing, context, service, backend
):
    questions, bad_model = probing
    carry_out(canary(tiny_model), context)

    long = {"step_duration": timedelta(hours=1)}  # a breach does not wait for its end
    ti, store = context["ti"], context["task_state_store"]
    other = {
        **context,
        "ti": type(ti)(**{**vars(ti), "task_id": "compare", "xcom": {}}),
        "task_state_store": type(store)(),
    }
    with pytest.raises(
        QualityGateFailed,
        match=r"^The new revision was given up: The canary's answers are worse: rougeL 0[.\d]* against 1 of the stable revision on 6 "
        r"questions, -[01][.\d]*; at least -0.1 is asked for\.",
    ) as caught:
        carry_out(
            probed(bad_model, questions, **long),
            clear(context),
            lambda step: compare_and_gate(questions, other),
        )
    assert shares(service()) == {"00001": 100}
    assert not service().revisions["00002"].state.is_ready
    said = str(caught.value)
    assert "Serving as before: 00001 (100%)." in said
    assert said.count("\n  canary (") == said.count("\n  stable (1): ") == 3
    pushed = context["ti"].xcom
    (decision,) = pushed["decisions"]
    figures = decision["evidence"]["answers"]
    assert (decision["outcome"], figures["rows"], figures["rows_unscored"]) == ("fail", 6, 0)
    assert decision["rules"]["min_difference"] == -0.1
    assert pushed["report_url"].endswith("report.html")
    asked = {row["prompt"] for row in map(json.loads, questions.read_text().splitlines())}
    assert {row["prompt"] for row in figures["worst"]} <= asked

    good = probed(tiny_model, questions, predictor_args={"max_model_len": 256})
    carry_out(good, clear(context))
    assert shares(service()) == {"00003": 100}
    (decision,) = context["ti"].xcom["decisions"]
    evidence = decision["evidence"]
    assert (decision["outcome"], evidence["answers"]["difference"]) == ("pass", 0.0)
    assert (evidence["canary"]["requests"], evidence["stable"]["requests"]) == (6, 6)
    assert "worst" not in evidence["answers"]


def test_answers_are_compared_once_in_each_step_whichever_attempt_begins_it(context, backend, tmp_path):
    questions = tmp_path / "probes.jsonl"
    questions.write_text('{"prompt": "Why?", "reference": "Because."}\n')
    runs = ProbeRuns(CanaryProbes(str(questions), -0.1), KServeHook(), "tiny", logging.getLogger("test"))
    address = "http://127.0.0.1:9"  # nobody answers there

    def start(share):
        return runs.start(context, "00002", "00001", share, lambda name: (address, name))["run_id"]

    Intent.of(context, "default/tiny 1", former=None).store(context)
    first = start(10)
    retry(context)
    Intent.of(context, "default/tiny 2", former=Intent.load(context)).store(context)
    assert start(10) == first
    assert (other := start(50)) != first
    backend.cancel(first)
    again = start(10)
    assert again not in (first, other)  # one that has ended without a result is begun anew
    retry(context)
    Intent.of(context, "default/tiny 2", former=Intent.load(context)).store(context)
    assert start(10) == start(10) == again  # once
    clear(context)
    Intent.of(context, "default/tiny 3", former=None).store(context)
    assert start(50) != other
