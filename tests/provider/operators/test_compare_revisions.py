"""Two revisions compared over the real local backends: one that answers as before, and one that answers rubbish."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from attempts import clear
from test_deploy_operator import deploy

from airflow_provider_llmops.backends.serving.manifest import inference_service
from airflow_provider_llmops.exceptions import QualityGateFailed
from airflow_provider_llmops.hooks.kserve import KServeHook
from airflow_provider_llmops.operators.evaluation import QualityGateOperator
from airflow_provider_llmops.operators.inference import CompareRevisionsOperator

pytestmark = pytest.mark.usefixtures("connections")


def test_revisions_of_a_service_are_compared_and_the_gate_decides(
    tiny_model, probing, context, service, backend
):
    probes, bad_model = probing
    facts = deploy(tiny_model, context)
    serving = KServeHook().backend
    bad, _ = serving.apply(inference_service("tiny", str(bad_model)))
    while not service().revisions[bad.revision].state.is_ready:
        time.sleep(0.2)
    serving.set_traffic("default", "tiny", {facts["revision"]: 99, bad.revision: 1})

    compare = CompareRevisionsOperator(
        task_id="compare",
        dataset=str(probes),
        url=facts["url"],
        model_name="tiny",
        revision=bad.revision,
        baseline_revision=facts["revision"],
        metric_names=["rougeL"],
        protocol="openai_completions",
        request={"max_tokens": 8, "temperature": 0},
        deferrable=False,
        poll_interval=0.1,
    )
    compare.execute(clear(context))
    pushed = context["ti"].xcom
    each = pushed["comparison"]["metrics"]["rougeL"]
    assert (each["baseline"], each["rows_scored"]) == (1.0, 6)  # the references are its own answers
    assert each["candidate"] < 0.5 and each["difference"]["high"] < 0
    rows = [json.loads(line) for line in Path(urlsplit(pushed["scores"]).path).read_text().splitlines()]
    assert [row["baseline_answer"] for row in rows] == [row["reference"] for row in rows]
    assert json.loads(Path(urlsplit(pushed["worst"]).path).read_text())["rows"]
    gate = QualityGateOperator(
        task_id="gate", comparison=pushed["comparison"], metric="rougeL", min_improvement=-0.02
    )
    with pytest.raises(QualityGateFailed, match=r"^rougeL 0\.\d+ against 1, at least -0\.02 asked for"):
        gate.execute(clear(context))
    answered = {name: each.answered.requests for name, each in service().revisions.items()}
    assert answered == {facts["revision"]: 6, bad.revision: 6}
