"""Datasets prepared as a step does it: counts, manifest, findings, and names of files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from llmops_components.data.preparation.prepare import named_datasets, origins_of, prepare_dataset
from llmops_components.data.versions.digest import content_digest
from llmops_components.data.versions.manifest import load_manifest
from llmops_components.errors import DataError, SettingError
from llmops_components.kfp.prepare_dataset import prepare_dataset as component
from llmops_components.results import StepReport, digest_of

STEPS = [
    {"step": "normalise"},
    {"step": "filter_length", "min_characters": 3},
    {"step": "drop_duplicates"},
    {"step": "split", "share": 0.25, "stratify": "kind"},
    {"step": "mix", "weights": {"a.jsonl": 1, "b.jsonl": 1}, "max_times": 2},
]


def write(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"text": text, "kind": "x"}) + "\n" for text in texts))
    return file


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, Path]:
    a = [*(f"a text {n}" for n in range(10)), "x", "a text 1", "a text\x00 2"]
    b = [f"b text {n}" for n in range(4)]
    return {name: write(tmp_path / name, texts) for name, texts in (("a.jsonl", a), ("b.jsonl", b))}


def prepare(datasets: dict[str, Path], out: Path, **settings) -> StepReport:
    outputs = [out / name for name in ("prepared", "held_out", "ledger", "manifest")]
    return prepare_dataset(datasets, *outputs, **{"steps": STEPS, **settings})


def test_report_and_manifest_count_every_row(datasets, tmp_path: Path):
    report = prepare(
        datasets,
        tmp_path / "out",
        origins={"a.jsonl": {"uri": "s3://bucket/a.jsonl", "licence": "Apache-2.0"}},
    )
    assert report.metrics == {
        "rows": 17,
        "used": 12,
        "rejected": 5,
        "changed": 1,
        "repeated": 4,
        "added": 0,
        "prepared_rows": 12,
        "held_out_rows": 4,
    } | {
        name: report.metrics[name]
        for name in ("used", "rejected", "repeated", "prepared_rows", "held_out_rows")
    }
    assert report.metrics["used"] + report.metrics["rejected"] == 17
    assert report.metrics["prepared_rows"] + report.metrics["held_out_rows"] == (
        report.metrics["used"] + report.metrics["repeated"]
    )
    assert [(each["step"], each["rows"], each["dropped"]) for each in report.details["steps"]][:4] == [
        ("normalise", 17, 0),
        ("filter_length", 17, 1),
        ("drop_duplicates", 16, 2),
        ("split", 14, 0),
    ]
    assert report.findings[:2] == [
        "step 2 (filter_length): 1 rows dropped: fewer characters than 3",
        "step 3 (drop_duplicates): 2 rows dropped: repeats another row",
    ]
    manifest = load_manifest(tmp_path / "out" / "manifest")
    assert manifest.counts.model_dump() == {
        "rows_in": 17,
        **{name: report.metrics[name] for name in ("used", "rejected", "repeated", "added")},
    }
    assert [(source.name, source.uri, source.rows) for source in manifest.sources] == [
        ("a.jsonl", "s3://bucket/a.jsonl", 13),
        ("b.jsonl", None, 4),
    ]
    assert [source.licence for source in manifest.sources] == ["Apache-2.0", None]
    assert manifest.sources[1].digest == digest_of(datasets["b.jsonl"])[0]
    assert [(file.name, file.digest) for file in manifest.files] == [
        (name, content_digest(tmp_path / "out" / name)) for name in ("prepared", "held_out")
    ]
    first = manifest.steps[0]
    assert (first.name, first.changed, set(first.libraries), first.settings["version"]) == (
        "normalise",
        1,
        {"ftfy"},
        1,
    )


def test_same_inputs_and_settings_give_the_same_bytes(datasets, tmp_path: Path):
    for number in (1, 2):
        prepare(datasets, tmp_path / str(number), processes=number)
    for name in ("prepared", "held_out", "ledger", "manifest"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_wrong_settings_are_refused_before_anything_is_read(tmp_path: Path):
    missing = {"a": tmp_path / "missing"}
    with pytest.raises(SettingError, match="Unknown step in steps, number 1: 'dedup'"):
        prepare(missing, tmp_path, steps=[{"step": "dedup"}])
    with pytest.raises(SettingError, match="processes must be a whole number from 1 to 64, got 0"):
        prepare(missing, tmp_path, processes=0)
    with pytest.raises(SettingError, match="datasets is empty"):
        prepare({}, tmp_path)
    with pytest.raises(DataError, match="The dataset does not exist"):
        prepare(missing, tmp_path)


def test_empty_dataset_among_others_is_named(datasets, tmp_path: Path):
    empty = write(tmp_path / "empty", [])
    with pytest.raises(DataError, match="The dataset has no rows: empty"):
        prepare({**datasets, "empty": empty}, tmp_path / "out", steps=STEPS[:1])
    assert list((tmp_path / "out").iterdir()) == []


def test_datasets_have_names_of_their_own():
    places = [("/1", "s3://bucket/train.jsonl"), ("/2", "hf://datasets/org/name?split=train")]
    assert named_datasets(places) == {"train.jsonl": "/1", "name": "/2"}
    assert named_datasets(places, ["x", "y"]) == {"x": "/1", "y": "/2"}
    with pytest.raises(SettingError, match="names has 1 names for 2 data sets"):
        named_datasets(places, ["x"])
    with pytest.raises(SettingError, match="Two data sets are called prepared"):
        named_datasets([("/1", "/run1/prepared"), ("/2", "/run2/prepared")])


def test_component_reads_numbers_that_kfp_has_made_fractions(datasets, tmp_path: Path):
    def artifact(path: Path) -> SimpleNamespace:
        return SimpleNamespace(path=str(path), uri=f"s3://bucket/{path.name}", metadata={})

    names = ("prepared", "held_out", "ledger", "manifest", "result")
    component.python_func(
        dataset=artifact(datasets["a.jsonl"]),
        dataset_3=artifact(datasets["b.jsonl"]),
        steps=[{"step": "filter_length", "min_characters": 3.0}],
        **{name: artifact(tmp_path / name) for name in names},
    )
    result = json.loads((tmp_path / "result").read_text())
    assert (result["metrics"]["rows"], result["metrics"]["rejected"]) == (17, 1)
    assert set(result["artifacts"]) == {"prepared", "held_out", "ledger", "manifest"}
    assert json.loads((tmp_path / "prepared").open().readline())["row_id"] == "a.jsonl:1"


def test_what_is_told_of_sources_stands_in_place_of_addresses_in_the_run():
    datasets = {"a": "/run/a", "b": "/run/b"}
    assert origins_of(datasets, ["file:///run/a", "file:///run/b"], None) == {
        "a": {"uri": "file:///run/a"},
        "b": {"uri": "file:///run/b"},
    }
    told = [{"uri": "s3://bucket/a", "owner": "team"}, {}]
    assert origins_of(datasets, ["file:///run/a", "file:///run/b"], told) == {"a": told[0], "b": {}}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([{}], "something of 1 data sets, and there are 2"),
        ([{"license": "MIT"}, {}], r"data set 1 in sources.*did you mean 'licence'"),
        ([{}, "MIT"], "'MIT' for data set 2"),
    ],
)
def test_what_cannot_be_told_of_sources_is_refused(told, said):
    with pytest.raises(SettingError, match=said):
        origins_of({"a": "/run/a", "b": "/run/b"}, ["a", "b"], told)


def test_source_that_cannot_be_kept_is_refused_before_the_work(datasets, tmp_path: Path):
    with pytest.raises(DataError, match=r"said of the source 'a\.jsonl' cannot be kept"):
        prepare(datasets, tmp_path / "out", origins={"a.jsonl": {"date": "yesterday"}})
    assert not (tmp_path / "out").exists()
