"""Addresses given as text where the data plane reads files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from llmops_components.data.sources import open_source
from llmops_components.errors import ModelError, SettingError
from llmops_components.models.directory import check_model_directory
from llmops_components.models.embeddings import find_embedding_model
from llmops_components.models.importing import import_base_model
from llmops_components.paths import local_path


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/a%20b.jsonl", "/data/a%20b.jsonl"),
        ("file:///data/a%20b%23.jsonl", "/data/a b#.jsonl"),
        ("FILE://localhost/data/a?b#c", "/data/a?b#c"),
        ("rows.jsonl", "rows.jsonl"),
        (Path("/data"), "/data"),
    ],
)
def test_path_or_file_address_is_a_path(address, path):
    assert local_path(address, "dataset") == Path(path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "s3://bucket/x",
            "dataset has the scheme s3://, which is not read here: 's3://bucket/x'. Give a path or file:///path, or hf://x.",
        ),
        ("GS://bucket/x", "dataset has the scheme gs://"),
        ("file://server/x", "dataset names the host 'server'; a file URL has three slashes"),
    ],
)
def test_other_schemes_and_hosts_are_refused_by_name(address, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        local_path(address, "dataset", also=", or hf://x")


def test_every_argument_that_takes_an_address_refuses_other_schemes(tmp_path):
    with pytest.raises(SettingError, match=r"^dataset has the scheme s3://"):
        open_source("s3://bucket/x.jsonl", ("language_modeling",))
    with pytest.raises(SettingError, match=r"^embedding_model has the scheme s3://.*, or package://name"):
        find_embedding_model("s3://bucket/x")
    with pytest.raises(SettingError, match=r"^Unknown scheme 's3'"):
        import_base_model(tmp_path / "model", source="s3://bucket/x")


def test_dataset_may_be_a_file_address(tmp_path):
    rows = tmp_path / "rows 1.jsonl"
    rows.write_text(json.dumps({"text": "hello"}) + "\n")
    source = open_source(f"file://{tmp_path}/rows%201.jsonl", ("language_modeling",))
    assert source.rows == [{"text": "hello"}]


def test_file_in_place_of_a_model_directory_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model.safetensors is a file, and a model is a directory"):
        check_model_directory(tmp_path / "model.safetensors")
