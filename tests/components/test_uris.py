"""Addresses given as text where the data plane reads files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from llmops_components import uris
from llmops_components.data.sources import open_source
from llmops_components.errors import ModelError, SettingError
from llmops_components.models.directory import check_model_directory
from llmops_components.models.embeddings import find_embedding_model
from llmops_components.models.importing import import_base_model
from llmops_components.uris import local_path


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/a%20b.jsonl", "/data/a%20b.jsonl"),
        ("file:///data/a%20b%23.jsonl", "/data/a b#.jsonl"),
        ("FILE://localhost/data/a?b#c", "/data/a?b#c"),
        ("file:/data/a", "/data/a"),
        ("file://LOCALHOST/data", "/data"),
        ("rows.jsonl", "rows.jsonl"),
        ("C:\\data", "C:\\data"),
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
        ("file://", "dataset names no path: it is 'file://'. A file URL is written as file:///path."),
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


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("hf://org/name", "org/name"),
        ("HF://datasets/org/name@main", "datasets/org/name@main"),
        ("org/name", None),
        ("/hf://x", None),
    ],
)
def test_name_on_the_hub_is_what_follows_its_scheme(address, name):
    assert uris.hub_name(address) == name


@pytest.mark.parametrize(
    ("address", "shown", "login"),
    [
        ("http://ann:p%40ss@mlflow.example:5000/x/", "http://mlflow.example:5000/x", ("ann", "p@ss")),
        ("http://mlflow.example/", "http://mlflow.example", None),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db", None),
        ("/data/mlruns/", "/data/mlruns/", None),
    ],
)
def test_login_of_a_server_is_not_in_the_address_that_is_shown(address, shown, login):
    assert uris.split_login(address, "tracking_uri") == (shown, login)


def test_what_is_no_address_has_neither_host_nor_login():
    assert uris.host_of("http://[::1/x") == ""
    assert uris.host_of("http://[::1]:5000/x") == "::1"
    with pytest.raises(SettingError, match=r"^tracking_uri is not an address"):
        uris.split_login("http://[::1/x", "tracking_uri")


def test_addresses_are_taken_apart_in_one_place():
    """Other modules ask it; one looks for paths in texts of any kind, one asks whether an answer is a whole address."""
    root = Path(uris.__file__).parent
    taken_apart = re.compile(
        r"\b(urlsplit|urlparse|unquote\w*)\b|partition\(\"://\"\)|(removeprefix|startswith)\(\(?\"\w+:/"
    )
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if taken_apart.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"uris.py", "local/prune/references.py", "evaluation/tasks/formats.py"}


@pytest.mark.parametrize("scheme", ["file://", "FILE://", "file://localhost", "file:"])
def test_every_spelling_of_a_file_address_is_understood(tmp_path, tiny_model, scheme):
    place = tmp_path / "a b#1"
    shutil.copytree(tiny_model, place)
    address = f"{scheme}{quote(str(place))}"
    report = import_base_model(tmp_path / "model", source=address, dtype="auto")
    assert (report.details["source"], report.metrics["parameters"] > 0) == (address, True)


def test_dataset_may_be_a_file_address(tmp_path):
    rows = tmp_path / "rows 1.jsonl"
    rows.write_text(json.dumps({"text": "hello"}) + "\n")
    source = open_source(f"file://{tmp_path}/rows%201.jsonl", ("language_modeling",))
    assert source.rows == [{"text": "hello"}]


def test_file_in_place_of_a_model_directory_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"model.safetensors is a file, and a model is a directory"):
        check_model_directory(tmp_path / "model.safetensors")
