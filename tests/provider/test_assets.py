"""Assets: their addresses, which Airflow checks, and the graph that the example DAGs make."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.dag_processing.collection import AssetModelOperation
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from planes import REPO

from airflow_provider_llmops.assets import (
    dataset_asset,
    drift_asset,
    evaluation_asset,
    model_asset,
    of_this_run,
    sanitize_uri,
    service_asset,
)
from airflow_provider_llmops.exceptions import ConfigurationError
from airflow_provider_llmops.operators.registry import RegisterModelOperator


def test_airflow_has_our_addresses_checked_by_us():
    assert ProvidersManagerTaskRuntime().asset_uri_handlers["llmops"] is sanitize_uri


@pytest.mark.parametrize(
    ("asset", "name", "uri"),
    [
        (dataset_asset("chats"), "dataset/chats", "llmops://dataset/chats"),
        (model_asset("Chat 2"), "model/Chat 2", "llmops://model/Chat%202"),
        (evaluation_asset("org/chat"), "evaluation/org/chat", "llmops://evaluation/org%2Fchat"),
        (service_asset("chat"), "service/default/chat", "llmops://service/default/chat"),
        (service_asset("chat", "team-a"), "service/team-a/chat", "llmops://service/team-a/chat"),
        (drift_asset("chats"), "drift/chats", "llmops://drift/chats"),
    ],
)
def test_asset_has_a_name_to_read_and_an_address(asset, name, uri):
    assert (asset.name, asset.uri, asset.normalized_uri) == (name, uri, uri)
    assert asset.group == name.partition("/")[0]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("LLMOPS://Model/chat/", "llmops://model/chat"),
        ("llmops://model/chat#part", "llmops://model/chat"),
        ("llmops://model/a b", "llmops://model/a%20b"),
        ("llmops://model/a%2fb", "llmops://model/a%2Fb"),
    ],
)
def test_address_is_kept_in_one_way_however_it_is_written(written, kept):
    assert Asset(uri=written).uri == kept


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("llmops://modle/chat", "The kind of an llmops:// asset is one of .*, and 'modle' is none"),
        ("llmops:///chat", "The kind of an llmops:// asset is one of .*, and '' is none"),
        ("llmops://me@model/chat", "The kind of an llmops:// asset is one of"),
        ("llmops://model", "The name of the model is missing"),
        ("llmops://service/default/", "The asset of a service is written as llmops://service/NAMESPACE/NAME"),
        ("llmops://service//chat", "The namespace of the service is missing"),
        ("llmops://model/a/b", "The asset of a model is written as llmops://model/NAME"),
        ("llmops://model/chat?version=3", "The query of an llmops:// asset is no part of its name"),
        ("llmops://model/%20chat", "The name of the model has blanks at an end"),
        ("llmops://model/a%00b", "The name of the model has .* characters that nobody sees"),
    ],
)
def test_address_that_names_nothing_is_refused(address, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        Asset(uri=address)


@pytest.mark.parametrize("name", ["", " ", None, " chat", "a\nb"])
def test_name_that_is_none_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"^The name of the model"):
        model_asset(name)


def test_what_is_told_is_what_the_task_has_made(context):
    """A run whose form names another model tells nobody who waits for the DAG's own."""
    mine, alias = Asset("mine"), AssetAlias("several")
    task = RegisterModelOperator(
        task_id="register", model="/m", model_name="x", outlets=[model_asset("chat"), mine, alias]
    )
    events = OutletEventAccessors()
    told = {**context, "outlet_events": events}
    task.tell_assets(told, {"code": {}})
    task._tell_version(told, {"name": "chat", "version": 1})
    assert task.outlets == [mine, alias, model_asset("chat")]
    assert events[model_asset("chat")].extra == {"code": {}, "model_name": "chat", "model_version": "1"}

    task._tell_version(told, {"name": "other", "version": 2})
    assert task.outlets == [mine, alias, model_asset("other")]
    assert events[model_asset("other")].extra == {"code": {}, "model_name": "other", "model_version": "2"}
    assert events[mine].extra == {"code": {}, "model_name": "other", "model_version": "2"}


def test_hook_names_what_the_parameter_names():
    task = SimpleNamespace(outlets=[Asset("mine"), evaluation_asset("default"), model_asset("default")])
    of_this_run(evaluation_asset, "model_name")({"task": task, "params": {"model_name": "chat"}})
    assert task.outlets == [Asset("mine"), model_asset("default"), evaluation_asset("chat")]


def collected(folder: Path) -> AssetModelOperation:
    """What Airflow's DAG processor keeps of DAGs: the assets that each is scheduled on, and those of each task."""
    bag = DagBag(folder)
    assert bag.import_errors == {}
    return AssetModelOperation.collect(
        {name: LazyDeserializedDAG.from_dag(dag) for name, dag in bag.dags.items()}
    )


def edges(graph: AssetModelOperation, dag_id: str) -> set[tuple[str, str]]:
    """From an asset to what reads it, and from a task to the asset that it tells."""
    return {
        *((asset.name, dag_id) for asset in graph.schedule_asset_references[dag_id]),
        *((asset.name, f"{dag_id}.{task}") for task, asset in graph.inlet_references[dag_id]),
        *((f"{dag_id}.{task}", asset.name) for task, asset in graph.outlet_references[dag_id]),
    }


def test_dags_of_the_page_are_started_by_what_they_say(tmp_path):
    page = (REPO / "docs" / "assets.md").read_text()
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)):
        (tmp_path / f"dag_{number}.py").write_text(code)
    graph = collected(tmp_path)
    assert edges(graph, "announce") == {("model/stdlib-helper", "announce")}
    assert edges(graph, "train_on_chats") == {
        ("dataset/chats", "train_on_chats"),
        ("dataset/chats", "train_on_chats.rows"),
        *trained("train_on_chats", "chat", "dataset/chats", *ALL_METHODS),
    }


def trained(dag_id: str, model: str, data: str, *methods: str) -> set[tuple[str, str]]:
    return {
        *((data, f"{dag_id}.train_{method}") for method in methods),
        (f"{dag_id}.prepare_data", "dataset/stdlib-docstrings"),
        (f"{dag_id}.evaluate_tuned", f"evaluation/{model}"),
        (f"{dag_id}.register_model", f"model/{model}"),
        (f"model/{model}", f"{dag_id}.deploy_model"),
        (f"{dag_id}.deploy_model", f"service/default/{model}"),
    }


ALL_METHODS = ("sft", "dpo", "kto", "reward", "grpo", "rloo")


def test_graph_leads_from_data_to_models_to_services():
    graph = collected(REPO / "dags")
    found = {name: edges(graph, name) for name in graph.outlet_references}
    assert [*graph.asset_aliases] == ["drift:drift/feedback"]
    helper, swept = "stdlib-helper", "stdlib-helper-sweep"
    samples = "dataset/stdlib-docstrings"
    assert found == {
        "data_quality": {("data_quality.publish", "dataset/chats")},
        "post_training": trained("post_training", helper, samples, *ALL_METHODS),
        "continual_learning": trained("continual_learning", helper, "dataset/feedback", "sft", "dpo", "kto")
        | {("continual_learning.prepare", "dataset/feedback")},
        "sweep": {
            ("sweep.prepare_data", samples),
            (samples, "sweep.train"),
            ("sweep.register_model", f"model/{swept}"),
        },
        "progressive_delivery": {
            edge
            for model in (helper, swept)
            for edge in (
                (f"model/{model}", "progressive_delivery"),
                (f"model/{model}", "progressive_delivery.canary"),
                ("progressive_delivery.canary", f"service/default/{model}"),
            )
        },
        "rag_evaluation": {("rag_evaluation.record", "evaluation/assistant")},
        "rollback": set(),
        **{
            name: trained(name, name, samples, *ALL_METHODS)
            for name in ("docstring-helper", "preferred-answers")
        },
    }
