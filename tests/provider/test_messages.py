"""What the first 80 characters of an error say, which are all that a list of failed tasks shows."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import re
from pathlib import Path

import pytest
from comparisons import comparison
from comparisons import metric as of_metric

import airflow_provider_llmops
from airflow_provider_llmops import exceptions
from airflow_provider_llmops.backends.data_plane import DataPlane
from airflow_provider_llmops.backends.pipelines.artifacts import read_result
from airflow_provider_llmops.backends.pipelines.base import Run, server_of
from airflow_provider_llmops.backends.pipelines.ending import failure_of
from airflow_provider_llmops.backends.pipelines.local.backend import LocalPipelineBackend
from airflow_provider_llmops.exceptions import SHOWN_CHARACTERS, LLMOpsError, reason_first
from airflow_provider_llmops.http import request
from airflow_provider_llmops.operators.evaluation import QualityGateOperator
from airflow_provider_llmops.operators.kubeflow import KubeflowComponentOperator, KubeflowPipelineOperator
from airflow_provider_llmops.results import StageResult
from airflow_provider_llmops.sensors.pipeline_run import PipelineRunSensor
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.states import RunState
from airflow_provider_llmops.xcom import summary_of, table_of

RUN = "6b1f4a0e-6d57-4a3e-9a2e-0d6c2f1f7c55"
DEEP = "/srv/llmops/stacks/demo-20261126-101500/llmops/runs/" + RUN + "/artifacts/train-sft/model"
SOURCES = sorted(Path(airflow_provider_llmops.__file__).parent.rglob("*.py"))
PLACEHOLDER = "\0" * 20
FEWEST_LETTERS = 10


def template(node: ast.AST) -> str:
    """A message with its placeholders marked; empty if it is made elsewhere."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            template(part) if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return ""


def messages():
    errors = {name for name, value in vars(exceptions).items() if inspect.isclass(value)} | {"RefusedError"}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if getattr(node.func, "id", getattr(node.func, "attr", "")) in errors and (
                text := template(node.args[0])
            ):
                yield pytest.param(text, id=f"{source.name}:{node.lineno}")


@pytest.mark.parametrize("text", list(messages()))
def test_beginning_of_every_message_is_words_not_placeholders(text):
    letters = re.findall(r"[a-z]", text[:SHOWN_CHARACTERS], re.IGNORECASE)
    assert len(letters) >= min(FEWEST_LETTERS, len(re.findall(r"[a-z]", text, re.IGNORECASE))), text


@pytest.mark.parametrize(
    "kind",
    [each for each in vars(exceptions).values() if inspect.isclass(each) and issubclass(each, LLMOpsError)],
)
def test_every_error_puts_addresses_and_ids_behind_its_reason(kind):
    error = kind(f"Run {RUN} left nothing at {DEEP}.. Log: see there", "Log: /log.txt", None)
    assert str(error).split("\n") == [
        "Run 6b1f4a0e left nothing at .../model. Log: see there",
        f".../model: {DEEP}",
        f"6b1f4a0e: {RUN}",
        "Log: /log.txt",
    ]


def test_message_without_addresses_stays_as_it_is():
    for text in ("tiny", "look at /opt/x and http://mlflow:5000...", "a\nb", "x" * 90 + DEEP):
        assert reason_first(text) == text


def failed(**facts) -> Run:
    return Run(RUN, "dag.task token", RunState.FAILED, log_hint=f"{DEEP}/log.txt", **facts)


def of_result(text: str):
    return lambda: StageResult.parse(text, run_id=RUN, component_digest="", where=f"{DEEP}/result")


def of_run(run: Run):
    def fail():
        raise failure_of(LocalPipelineBackend(python=f"{DEEP}/python", root=DEEP), run, logging.getLogger())

    return fail


def of_gate(metric="rougeL"):
    rules = [{"metric": metric, "better_by": 0.05}]
    arguments = {"comparison": comparison(rougeL=of_metric(0.41, 0.52, error=0.02)), "rules": rules}

    class Ti:
        def xcom_push(self, **_):
            pass

    return lambda: QualityGateOperator(task_id="gate", **arguments).execute({"ti": Ti()})


def of_local(call):
    return lambda: call(LocalPipelineBackend(python=f"{DEEP}/python", root=DEEP))


CASES = {
    "rougeL 0.41 against 0.52, at least +0.05 asked for and -0.11 reached": of_gate(),
    "The evaluation compared no metric 'rouge'": of_gate(metric="rouge"),
    "CUDA out of memory: halve per_device_train_batch_size": of_run(
        failed(error="CUDA out of memory: halve per_device_train_batch_size", failed_steps=("train-sft",))
    ),
    "Step 'train-sft' failed; its log says why": of_run(failed(failed_steps=("train-sft",))),
    "The run is FAILED, and no step says why": of_run(failed()),
    "The run was cancelled": lambda: PipelineRunSensor(task_id="wait", run_id=RUN)._has_succeeded(
        Run(RUN, "name", RunState.CANCELED)
    ),
    "The result cannot be read": of_result("{"),
    "The result has schema version 7; this provider reads version 1": of_result('{"schema_version": 7}'),
    "The result lacks or garbles a field": of_result('{"schema_version": 1}'),
    "There is no such run": of_local(lambda backend: backend.get(RUN)),
    "To go on with a failed run needs a server of Kubeflow Pipelines": of_local(
        lambda backend: server_of(backend, "To go on with a failed run")
    ),
    "The data plane's interpreter does not exist": of_local(lambda backend: backend.check()),
    "The data plane cannot import the components": lambda: DataPlane("/bin/false").check(),
    "There is no file .../pipeline.yaml on this machine": lambda: PipelineSpec.load(f"{DEEP}/pipeline.yaml"),
    "pipeline.yaml, line 1, column 1: not valid YAML": lambda: PipelineSpec.parse(
        b"}", where=f"{DEEP}/pipeline.yaml"
    ),
    "One of pipeline (a file) and pipeline_name": lambda: KubeflowPipelineOperator(task_id="t").bind(),
    "No connection: [Errno 111]": lambda: request(f"http://127.0.0.1:9{DEEP}", timeout=1),
    "Not an http or https address": lambda: request(f"ftp://host{DEEP}", timeout=1),
    "There is no packaged component 'train_sftt'": lambda: PipelineSpec.packaged("train_sftt"),
}
CASES["Step train succeeded and left no result"] = lambda: read_result([f"file://{DEEP}"], RUN, "train", None)


@pytest.mark.parametrize("reason", CASES)
def test_reason_is_in_the_first_80_characters_and_places_are_behind_it(reason):
    with pytest.raises(LLMOpsError) as caught:
        CASES[reason]()
    shown = str(caught.value)[:SHOWN_CHARACTERS]
    assert reason[:SHOWN_CHARACTERS] in str(caught.value).split("\n")[0]
    assert reason[:40] in shown
    assert RUN not in shown.split("\n")[0]
    assert not re.search(r"/\S{24}", shown.split("\n")[0])
    assert not re.search(r"(?<!\.)\.\.(\s|$)", str(caught.value))


def test_component_of_several_steps_is_refused_by_what_it_is(tmp_path):
    ir = json.loads(json.dumps(PipelineSpec.packaged("train_sft").ir))
    tasks = ir["root"]["dag"]["tasks"]
    tasks["second"] = next(iter(tasks.values()))
    file = tmp_path / "pipeline.yaml"
    file.write_text(json.dumps(ir))
    with pytest.raises(LLMOpsError) as caught:
        KubeflowComponentOperator(task_id="t", component=str(file)).bind()
    assert str(caught.value).split("\n") == [
        "A pipeline of 2 steps is no component. Use KubeflowPipelineOperator.",
        f"Specification: {file}",
    ]


def test_findings_become_one_sentence():
    assert summary_of(["17 of 320 rows rejected.", "line 3: completion is empty.", "line 9: no prompt"]) == (
        "17 of 320 rows rejected: line 3: completion is empty; line 9: no prompt."
    )
    assert summary_of(["too few"]) == "too few."
    assert summary_of([]) == "The gate was not passed."
    assert summary_of([f"f{number}" for number in range(9)]) == "f0: f1; f2; f3; f4; f5; and 3 more findings."


def test_numbers_become_one_table():
    assert table_of({"rougeL": 0.41234567, "rows": 320}).split("\n") == [
        "rougeL      0.412346",
        "rows             320",
    ]
