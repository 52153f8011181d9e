import json
import threading

import pytest
from llmops_components.data.preparation.prepare import prepare_dataset
from llmops_components.data.versions.manifest import file_record, make_manifest, source_record, write_manifest
from llmops_components.data.versions.publish import publish_dataset
from llmops_components.dataset_manifest import PolicyVerdict
from llmops_components.errors import DataError, SettingError


@pytest.fixture
def made(tmp_path):
    """Writes a version as a preparation does: rows, rows held out, manifest."""

    def made(texts, held_out=(), **more):
        files = []
        for name, rows in (("prepared", texts), ("held_out", held_out)):
            path = tmp_path / name
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
            if rows:
                files.append(file_record(path, name))
        manifest = make_manifest("chats", files, sources=[source_record("raw.jsonl")], **more)
        write_manifest(tmp_path / "manifest", manifest)
        return manifest

    return made


@pytest.fixture
def publish(tmp_path):
    def publish(partition=None, **settings):
        settings = {"held_out": tmp_path / "held_out", **settings}
        return publish_dataset(
            tmp_path / "prepared",
            tmp_path / "manifest",
            tmp_path / "publication",
            catalog=tmp_path / "catalog",
            partition=partition,
            **settings,
        )

    return publish


def everything(directory):
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_ten_partitions_are_ten_versions_and_again_nothing_changes(tmp_path, made, publish):
    def backfill():
        found = []
        for day in range(1, 11):
            made([f"day {day % 5}, row {row}" for row in range(3)], [f"held out {day}"])
            found.append(publish(f"2026-11-{day:02}").details)
        return found

    first = backfill()
    assert len({each["version"] for each in first}) == 10
    assert all(each["is_new"] and each["before"] is None for each in first)
    before = everything(tmp_path / "catalog")
    assert len(before) == 10 * (3 + 1)
    again = backfill()
    assert everything(tmp_path / "catalog") == before
    assert [each | {"is_new": True} for each in again] == first
    assert not any(each["is_new"] for each in again)
    assert (tmp_path / "catalog/chats/versions" / first[0]["version"] / "held_out.jsonl").read_text() == (
        '{"text": "held out 1"}\n'
    )


def test_partition_that_changes_points_to_the_new_version_and_the_former_stays(tmp_path, made, publish):
    made(["one"])
    former = publish("2026-11-01").details
    made(["two"])
    now = publish("2026-11-01").details
    assert now["before"] == former["version"] != now["version"]
    pointer = json.loads((tmp_path / "catalog/chats/partitions/2026-11-01.json").read_text())
    assert pointer == {"version": now["version"], "partition": "2026-11-01"}
    assert (tmp_path / "catalog/chats/versions" / former["version"] / "prepared.jsonl").is_file()


def test_data_set_without_partitions_has_a_current_version(tmp_path, made, publish):
    made(["one"])
    details = publish(name="other").details
    assert json.loads((tmp_path / "catalog/other/current.json").read_text())["version"] == details["version"]
    assert details == json.loads((tmp_path / "publication").read_text())


def test_file_that_is_not_the_manifests_is_refused(tmp_path, made, publish):
    made(["one", "two"])
    (tmp_path / "prepared").write_text('{"text": "two"}\n{"text": "one"}\n')
    with pytest.raises(DataError, match="file prepared is not that of the manifest"):
        publish()
    made(["one"], ["two"])
    with pytest.raises(DataError, match="given are prepared"):
        publish(held_out=None)
    made(["one"])
    (tmp_path / "held_out").write_text('{"text": "two"}\n')
    with pytest.raises(DataError, match="given are held_out, prepared"):
        publish()
    assert not (tmp_path / "catalog").exists()


def test_published_version_that_was_changed_is_not_taken_for_what_it_was(tmp_path, made, publish):
    made(["one"])
    directory = tmp_path / "catalog/chats/versions" / publish().details["version"]
    (directory / "prepared.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(DataError, match="published version was changed"):
        publish()
    made(["two"])
    directory = tmp_path / "catalog/chats/versions" / publish().details["version"]
    (directory / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="published version was changed: its manifest"):
        publish()


def test_version_that_no_policy_lets_pass_is_not_published(tmp_path, made, publish):
    verdict = PolicyVerdict.model_validate(
        {
            "policy": "ours",
            "digest": f"sha256:{'0' * 64}",
            "outcome": "fail",
            "checks": [{"field": "licences", "outcome": "fail", "reason": "GPL-3.0 is not allowed"}],
        }
    )
    made(["one"], policy=verdict)
    report = publish()
    assert not report.passed
    assert report.findings == ["licences: GPL-3.0 is not allowed"]
    assert not (tmp_path / "catalog").exists()


def test_policy_decides_today_and_what_is_published_stays_the_version_that_it_is(
    tmp_path, made, publish, monkeypatch
):
    policy = tmp_path / "policy.yaml"
    policy.write_text("schema_version: 1\nname: ours\nmin_rows: 2\n")
    made(["one"])
    report = publish(policy=policy)
    assert not report.passed and "2" in report.findings[0]
    made(["one", "two"])
    version = publish(policy=policy).details["version"]
    policy.write_text("schema_version: 1\nname: ours, of tomorrow\nmin_rows: 1\n")
    again = publish(policy=policy).details
    assert (again["version"], again["is_new"]) == (version, False)


def test_manifest_of_another_partition_is_refused(made, publish):
    made(["one"], partition="2026-11-02")
    assert publish().details["partition"] == "2026-11-02"
    with pytest.raises(DataError, match="is of partition '2026-11-02'"):
        publish("2026-11-03")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101])
def test_name_that_is_no_directory_is_refused(made, publish, name):
    made(["one"])
    with pytest.raises(SettingError, match=r"^name is"):
        publish(name=name)


@pytest.mark.parametrize("partition", ["", "a\nb", "/x", "x" * 201])
def test_partition_that_cannot_be_a_file_is_refused(made, publish, partition):
    made(["one"])
    with pytest.raises(SettingError, match=r"^partition is"):
        publish(partition)


def test_two_who_publish_the_same_at_once_make_one_version(tmp_path, made, publish):
    made([f"row {row}" for row in range(2000)])
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(publish("p").details["version"])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert [path.name for path in (tmp_path / "catalog/chats/versions").iterdir()] == [found[0]]


def test_what_a_preparation_writes_can_be_published(tmp_path):
    """Its own names of files, with rows held out."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(50)), encoding="utf-8")
    prepared, held_out, manifest = (tmp_path / name for name in ("prepared", "held_out", "manifest"))
    steps = [{"step": "split", "share": 0.2}]
    prepare_dataset({"rows": rows}, prepared, held_out, tmp_path / "ledger", manifest, steps=steps)
    report = publish_dataset(
        prepared,
        manifest,
        tmp_path / "publication",
        catalog=tmp_path / "catalog",
        held_out=held_out,
        name="texts",
    )
    assert report.details["is_new"] and set(report.details["files"]) == {"prepared", "held_out"}
    assert report.metrics["rows"] == 50
