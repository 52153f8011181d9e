"""Manifests: what is none is refused, what is one is the same bytes each time."""

from __future__ import annotations

import copy
import json
from importlib.metadata import version

import pytest
from llmops_components.data.versions import (
    file_record,
    load_manifest,
    make_manifest,
    manifest_text,
    source_record,
    step_record,
    write_manifest,
)
from llmops_components.dataset_manifest import Counts, read_manifest
from llmops_components.errors import DataError
from manifests import BAD, GOOD, manifest


@pytest.mark.parametrize("value", GOOD)
def test_manifest_is_read_as_it_was_written(value):
    assert read_manifest(copy.deepcopy(value)).model_dump() == value


@pytest.mark.parametrize("why", BAD)
def test_what_is_no_manifest_is_refused_with_the_field(why):
    with pytest.raises(DataError, match=r"^That is no manifest of a data set \(") as raised:
        read_manifest(BAD[why])
    assert why in str(raised.value)


def made(directory, settings):
    (directory / "train.jsonl").write_text('{"text": "a", "n": 1}\n{"text": "b"}\n{"text": "b"}\n')
    (directory / "held_out.jsonl").write_text('{"text": 3}\n')
    return make_manifest(
        "letters",
        [file_record(directory / f"{name}.jsonl", name) for name in ("train", "held_out")],
        sources=[
            source_record("letters.csv", uri="https://me:pw@host/x?split=a", licence="MIT", date="2026-11-28")
        ],
        steps=[step_record("repeat", settings, ["numpy", "ftfy"], dropped=2, repeated=1)],
        counts=Counts(rows_in=5, used=3, rejected=2, repeated=1, added=0),
        quality={"accepted_share": 1},
    )


def test_same_inputs_and_settings_give_the_same_bytes(tmp_path):
    texts = []
    for place, settings in (("a", {"weight": 2.0, "by": {"x": 1, "y": 2}}), ("b", {"by": {"y": 2, "x": 1}, "weight": 2.0})):  # fmt: skip
        (tmp_path / place).mkdir()
        write_manifest(tmp_path / place / "manifest.json", made(tmp_path / place, settings))
        texts.append((tmp_path / place / "manifest.json").read_bytes())
    assert texts[0] == texts[1]
    read = load_manifest(tmp_path / "a" / "manifest.json")
    assert manifest_text(read).encode() == texts[0]
    assert read.sources[0].uri == "https://host/x"
    assert read.made_with == {"llmops-components": version("llmops-components")}
    assert read.steps[0].libraries == {"ftfy": version("ftfy"), "numpy": version("numpy")}
    assert [each.model_dump() for each in read.files[0].columns] == [
        {"name": "n", "types": {"number": 1}},
        {"name": "text", "types": {"string": 3}},
    ]


def test_other_settings_or_rows_give_another_manifest(tmp_path):
    one = made(tmp_path, {"weight": 2})
    assert manifest_text(one) != manifest_text(made(tmp_path, {"weight": 2.0}))
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    assert file_record(tmp_path / "train.jsonl", "train").digest != one.files[0].digest


def test_secrets_of_settings_are_not_kept(tmp_path):
    assert "hunter2" not in manifest_text(made(tmp_path, {"api_key": "hunter2"}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "The manifest cannot be read: Expecting value"),
        (b"[" * 100_000, "The manifest cannot be read: Nested more than 200 deep"),
        (b"\xff\xfe", "The manifest cannot be read: "),
        (b"[]", r"That is no manifest of a data set \(Input should be a valid dictionary"),
        (json.dumps({**manifest(), "rows": 1}).encode(), r"That is no manifest of a data set \(its rows are"),
    ],
)
def test_file_that_holds_no_manifest_is_refused(tmp_path, content, why):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=f"^{why}"):
        load_manifest(tmp_path / "manifest.json")
    with pytest.raises(DataError, match=r"^The manifest does not exist: "):
        load_manifest(tmp_path / "other.json")


def test_address_of_a_source_has_no_login_and_keeps_the_slash_of_a_directory():
    kept = [
        source_record("rows", uri=uri).uri
        for uri in ("s3://data/qa/", "https://me:secret@host/rows?sig=abcdef")
    ]
    assert kept == ["s3://data/qa/", "https://host/rows"]


def test_source_that_cannot_be_kept_names_its_field():
    with pytest.raises(DataError, match=r"^What is said of the source 'x' cannot be kept \(date: "):
        source_record("x", date="28.11.2026")


def test_counts_that_do_not_add_up_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="its rows are not as many as those used, repeated and added"):
        make_manifest(
            "a",
            [file_record(tmp_path / "a.jsonl", "a")],
            sources=[],
            counts=Counts(rows_in=2, used=2, rejected=0, repeated=0, added=0),
        )
