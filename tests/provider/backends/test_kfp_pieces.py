"""Pieces of the Kubeflow backend that need no server."""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import unquote

from airflow_provider_llmops.backends.pipelines.kubeflow.filters import filter_of, predicate
from airflow_provider_llmops.backends.pipelines.kubeflow.pages import artifact_page, run_page
from airflow_provider_llmops.backends.pipelines.kubeflow.places import StepPlaces, root_of
from airflow_provider_llmops.backends.pipelines.kubeflow.settings import KfpSettings

SETTINGS = KfpSettings(
    conn_id="kubeflow_default", endpoint="http://kfp:8888/", pipeline_root="s3://bucket/root"
)


def test_step_may_have_written_below_its_pipelines_name_in_each_of_its_forms():
    places = StepPlaces("s3://bucket/root/?region=x", "train", "r1", namespace="team")
    assert places.of("for-loop-2/1/sft") == [
        "s3://bucket/root/train/r1/sft",
        "s3://bucket/root/pipeline/train/r1/sft",
        "s3://bucket/root/namespace/team/pipeline/train/r1/sft",
    ]
    assert StepPlaces("s3://b", "p", "r", namespace=None).of("a") == ["s3://b/p/r/a", "s3://b/pipeline/p/r/a"]


def test_run_says_where_it_writes_unless_that_is_on_this_machine():
    for root, expected in (
        ("gs://other/x", "gs://other/x"),
        ("", "s3://bucket/root"),
        ("file:///etc", "s3://bucket/root"),
    ):
        assert root_of({"runtime_config": {"pipeline_root": root}}, SETTINGS) == expected
    assert root_of({}, SETTINGS) == "s3://bucket/root"


def test_pages_are_below_the_web_interface():
    assert run_page(SETTINGS, "r1") == "http://kfp:8888/#/runs/details/r1"
    at_home = replace(SETTINGS, ui_url="https://ui/pipeline", namespace="a b")
    assert artifact_page(at_home, "gs://b/m x") == "https://ui/pipeline/artifacts/gcs/b/m%20x?namespace=a%20b"
    assert artifact_page(SETTINGS, "hf://org/model") == ""


def test_filter_is_encoded_once_more_than_the_request_is():
    asked = predicate("state", "EQUALS", string_value="SUCCEEDED")
    assert json.loads(unquote(filter_of(asked))) == {"predicates": [asked]}
