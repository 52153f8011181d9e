"""Addresses of artifacts: which path they name, and which of them a step on this machine can read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pipelines import nested, task

from airflow_provider_llmops import uris
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.data import ValidateDatasetOperator
from airflow_provider_llmops.operators.evaluation import EvaluateModelOperator
from airflow_provider_llmops.operators.kubeflow import KubeflowPipelineOperator
from airflow_provider_llmops.operators.registry import RegisterModelOperator
from airflow_provider_llmops.operators.training import (
    CompressModelOperator,
    DistillOperator,
    ImportBaseModelOperator,
    MergeAdapterOperator,
    TrainGRPOOperator,
    TrainSFTOperator,
)
from airflow_provider_llmops.specs.pipeline import PipelineSpec
from airflow_provider_llmops.uris import Address


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("s3://bucket/x", "s3"),
        ("S3://bucket/x", "s3"),
        ("minio://bucket/x", "minio"),
        ("file:///x", "file"),
        ("file:/x", "file"),
        ("/x", ""),
        ("x/y", ""),
        ("", ""),
        ("/runs/2026-01-01T00:00:00//x", ""),
    ],
)
def test_scheme_is_told_from_a_path(address, scheme):
    assert uris.scheme_of(address) == scheme


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("file:///data/a.jsonl", "/data/a.jsonl"),
        ("file://localhost/data/a.jsonl", "/data/a.jsonl"),
        ("file:/data/a.jsonl", "/data/a.jsonl"),
        ("FILE:///data/a%20b%23.jsonl", "/data/a b#.jsonl"),
        ("file:///data/a?b#c", "/data/a?b#c"),
        ("file:///data/100%25", "/data/100%"),
        ("file:///%C3%BC", "/ü"),
        ("file://LOCALHOST/x", "/x"),
        ("file:///", "/"),
    ],
)
def test_file_address_names_a_path(address, path):
    assert uris.file_path(address, "dataset") == path


@pytest.mark.parametrize("address", ["file://", "file://localhost"])
def test_file_address_without_a_path_is_refused(address):
    with pytest.raises(ConfigurationError, match=rf"^model names no path: it is '{address}'"):
        uris.file_path(address, "model")


def test_minio_is_s3_for_storage_libraries():
    assert uris.storage_address("minio://bucket/x") == "s3://bucket/x"
    assert uris.storage_address("gs://bucket/x") == "gs://bucket/x"


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "rows 1%.jsonl").write_text("{}\n")
    return tmp_path


def test_what_a_step_can_read_becomes_a_path(places):
    rows = str(places / "rows 1%.jsonl")
    encoded = f"file://{places}/rows%201%25.jsonl"
    assert uris.on_this_machine("dataset", rows, Address()) == rows
    assert uris.on_this_machine("dataset", encoded, Address(kind="file")) == rows
    assert uris.on_this_machine("model", str(places / "model"), Address(kind="directory")) == str(
        places / "model"
    )
    assert uris.on_this_machine("checkpoints", "/not/yet", Address(exists=False)) == "/not/yet"


@pytest.mark.parametrize("address", ["hf://datasets/org/name@main?split=train", "HF://org/name"])
def test_what_the_component_reads_itself_is_left_alone(address):
    assert uris.on_this_machine("dataset", address, Address(("hf",))) == address


@pytest.mark.parametrize(
    ("address", "expected", "message"),
    [
        (
            "s3://bucket/x",
            Address(),
            "dataset has the scheme s3://, which cannot be read on this machine: 's3://bucket/x'. Here it takes an absolute "
            "path or file:///. Copy it to this machine's disk, or use a connection with a host, a Kubeflow Pipelines server.",
        ),
        (
            "gs://bucket/x",
            Address(("hf",)),
            "scheme gs://, which cannot be read on this machine: 'gs://bucket/x'. Here it takes an absolute path or hf:// or "
            "file:///.",
        ),
        ("minio://bucket/x", Address(), "dataset has the scheme minio://"),
        ("https://example.com/x.jsonl", Address(), "dataset has the scheme https://"),
        ("oci://registry/x", Address(), "dataset has the scheme oci://"),
        ("hf://org/name", Address(), "dataset has the scheme hf://"),
        ("file://server/x", Address(), "dataset names the host 'server'; a file URL has three slashes"),
        ("rows.jsonl", Address(), "dataset is 'rows.jsonl', not an absolute path"),
        ("~/model", Address(), "If the worker's is meant, give {home}/model."),
        ("../x", Address(names=True), "dataset is '../x', not an absolute path"),
        ("", Address(), "dataset is '', not an absolute path"),
        (
            "{home}/models/x",
            Address(),
            "dataset does not exist on this machine: ",
        ),
        ("{home}/rows%201%25.jsonl", Address(), "dataset does not exist on this machine"),
        (
            "{home}/model",
            Address(kind="file"),
            "dataset is a directory, and a file is needed: ",
        ),
        (
            "{home}/rows 1%.jsonl",
            Address(kind="directory"),
            "dataset is a file, and a directory is needed: ",
        ),
        ("file:///a%00b", Address(), "dataset"),
        ("/" + 300 * "x", Address(), "dataset"),
    ],
)
def test_what_a_step_cannot_read_is_refused_by_name(places, address, expected, message):
    given = address.replace("{home}", str(places))
    with pytest.raises(ConfigurationError, match=re.escape(message.replace("{home}", str(places)))):
        uris.on_this_machine("dataset", given, expected)


REMOTE = "s3://bucket/x"


@pytest.mark.parametrize(
    ("operator", "arguments", "name"),
    [
        (ValidateDatasetOperator, {"dataset": REMOTE}, "dataset"),
        (ImportBaseModelOperator, {"source": REMOTE}, "source"),
        (TrainSFTOperator, {"dataset": "{rows}", "base_model": REMOTE}, "base_model"),
        (TrainSFTOperator, {"dataset": "{rows}", "base_model": "hf://org/name"}, "base_model"),
        (TrainSFTOperator, {"dataset": REMOTE, "base_model": "{model}"}, "dataset"),
        (
            TrainSFTOperator,
            {"dataset": "{rows}", "base_model": "{model}", "eval_dataset": REMOTE},
            "eval_dataset",
        ),
        (
            TrainSFTOperator,
            {"dataset": "{rows}", "base_model": "{model}", "checkpoints": REMOTE},
            "checkpoints",
        ),
        (
            TrainGRPOOperator,
            {"dataset": "{rows}", "base_model": "{model}", "reward_model": REMOTE},
            "reward_model",
        ),
        (DistillOperator, {"dataset": "{rows}", "base_model": "{model}", "teacher": REMOTE}, "teacher"),
        (MergeAdapterOperator, {"base_model": "{model}", "adapter": REMOTE}, "adapter"),
        (CompressModelOperator, {"base_model": "{model}", "dataset": REMOTE}, "dataset"),
        (EvaluateModelOperator, {"model": REMOTE, "dataset": "{rows}"}, "model"),
        (
            EvaluateModelOperator,
            {"model": "{model}", "dataset": "{rows}", "embedding_model": REMOTE},
            "embedding_model",
        ),
        (RegisterModelOperator, {"model": "{model}", "model_name": "m", "report": REMOTE}, "report"),
    ],
)
def test_every_address_is_checked_before_a_run_is_made(
    connections, monkeypatch, context, places, root, operator, arguments, name
):
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", '{"conn_type": "mlflow", "host": "http://127.0.0.1"}')
    have = {"{rows}": str(places / "rows 1%.jsonl"), "{model}": str(places / "model")}
    operator_ = operator(task_id="task", **{key: have.get(value, value) for key, value in arguments.items()})
    with pytest.raises(ConfigurationError) as error:
        operator_.execute(context)
    assert str(error.value).startswith(f"{name} has the scheme ")
    assert not (root / "runs").exists()


def importing(address):
    """A pipeline with an importer of its own, nested below another pipeline."""
    ir = nested()
    ir["components"]["comp-importer"] = {
        "executorLabel": "exec-importer",
        "inputDefinitions": {"parameters": {"uri": {"parameterType": "STRING"}}},
        "outputDefinitions": {"artifacts": {"artifact": {"artifactType": {"schemaTitle": "system.Dataset"}}}},
    }
    for executor in ir["deploymentSpec"]["executors"].values():
        executor["container"]["args"] = ["--executor_input", "{{$}}", "--function_to_execute", "step"]
        executor["container"]["command"] = ["python3", "-m", "kfp.dsl.executor_main", "def step(): ..."]
    ir["deploymentSpec"]["executors"]["exec-importer"] = {"importer": {"artifactUri": address}}
    return ir


def steps_of(ir):
    inner = next(component for component in ir["components"].values() if "dag" in component)
    return inner["dag"]["tasks"]


@pytest.mark.parametrize(
    ("source", "inputs"),
    [
        ({"constant": REMOTE}, {}),
        ({"runtimeParameter": "uri"}, {"uri": {"runtimeValue": {"constant": REMOTE}}}),
    ],
)
def test_importer_of_a_pipeline_is_checked_before_a_run_is_made(backend, source, inputs):
    ir = importing(source)
    steps_of(ir)["get-rows"] = task("comp-importer", parameters=inputs)
    spec = PipelineSpec(name="mine", ir=ir, digest="")
    with pytest.raises(ConfigurationError, match="The importer get-rows has the scheme s3://"):
        backend.place(spec.bind({}), {})


def test_importer_of_a_file_address_gets_its_path(backend):
    ir = importing({"runtimeParameter": "uri"})
    inputs = {"uri": {"runtimeValue": {"constant": "file:///data/a%20b"}}}
    steps_of(ir)["get-rows"] = task("comp-importer", parameters=inputs)
    bound = PipelineSpec(name="mine", ir=ir, digest="").bind({})
    placed = backend.place(bound, {})
    assert steps_of(placed.spec)["get-rows"]["inputs"]["parameters"] == {
        "uri": {"runtimeValue": {"constant": "/data/a b"}}
    }
    assert steps_of(bound.spec)["get-rows"]["inputs"]["parameters"] == inputs


def test_importer_of_a_parameter_is_checked_with_the_value_that_it_gets(backend):
    ir = importing({"runtimeParameter": "uri"})
    ir["root"]["inputDefinitions"] = {"parameters": {"where": {"parameterType": "STRING"}}}
    uri = {"uri": {"componentInputParameter": "where"}}
    ir["root"]["dag"]["tasks"]["get-rows"] = task("comp-importer", parameters=uri)
    spec = PipelineSpec(name="mine", ir=ir, digest="")
    with pytest.raises(ConfigurationError, match="The importer get-rows has the scheme gs://"):
        backend.place(spec.bind({"where": "gs://bucket/x"}), {})
    assert backend.place(spec.bind({"where": "/x"}), {}).parameters == {"where": "/x"}


def test_place_that_renders_to_nothing_is_none(backend, toy_spec):
    bound = toy_spec.bind({"text": ""})
    assert backend.place(bound, {"text": Address(kind="directory", exists=False)}).parameters == {"text": ""}


def test_artifact_of_a_component_of_ones_own_is_checked_too(connections, context, places, tmp_path, toy_spec):
    file = tmp_path / "toy.json"
    file.write_text(json.dumps(toy_spec.ir))
    operator = KubeflowPipelineOperator(
        task_id="task", pipeline=str(file), parameters={"source": "s3://bucket/rows"}
    )
    with pytest.raises(ConfigurationError, match=r"^source has the scheme s3://"):
        operator.execute(context)


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [
        ("mlflow.example.com", None, "http://mlflow.example.com"),
        ("mlflow.example.com", 5000, "http://mlflow.example.com:5000"),
        ("https://mlflow.example.com:8443/base/", 5000, "https://mlflow.example.com:8443/base"),
        ("[::1]", 80, "http://[::1]:80"),
        ("", None, None),
        ("ftp://mlflow.example.com", None, None),
        ("http://ann:pw@mlflow.example.com", None, None),
        ("http://mlflow.example.com?token=x", None, None),
        ("http://[::1", None, None),
        ("http://mlflow.example.com:x", None, None),
        ("http://mlflow example.com", None, None),
        ("http://mlflow.example.com\n", None, None),
    ],
)
def test_server_of_a_connection_has_one_address_or_none(host, port, address):
    assert uris.server_address(host, port, "http") == address


def test_addresses_are_taken_apart_in_one_place():
    """Other modules ask it, but for hosts with a scheme that an operator of Airflow allows, which are no addresses."""
    root = Path(uris.__file__).parent
    taken_apart = re.compile(r"\b(urlsplit|urlparse|unquote\w*)\b|partition\(\"://\"\)|removeprefix\(\"file:")
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if taken_apart.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"uris.py", "specs/hosts.py"}
