import gzip
import hashlib
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from llmops_components.data.fetching import fetch_dataset
from llmops_components.data.files import read_lines
from llmops_components.errors import DataError, SettingError, UnavailableError
from object_store import DENIED, OTHER_REGION, SECRET_KEY, UNKNOWN_KEY, Cut, Refusal, object_store

ROWS = [{"prompt": f"question {number}", "completion": "مرحبا 👋"} for number in range(5)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(scope="module")
def store():
    with object_store() as store:
        store.make_bucket("raw-data")
        yield store


@pytest.fixture
def s3(store, monkeypatch):
    """A real client of S3 and a bucket, by the variables that a step has."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    return store.client()


@pytest.fixture
def fetch(tmp_path):
    def fetch(source):
        report = fetch_dataset(str(source), tmp_path / "out/dataset", tmp_path / "out/sources")
        return (
            report,
            (tmp_path / "out/dataset").read_bytes(),
            json.loads((tmp_path / "out/sources").read_text()),
        )

    return fetch


def test_one_file_is_copied_as_it_is(tmp_path, fetch):
    packed = gzip.compress(TEXT)
    file = tmp_path / "rows[1].jsonl.gz"
    file.write_bytes(packed)
    report, copied, sources = fetch(file)
    assert copied == packed
    digest = f"sha256:{hashlib.sha256(packed).hexdigest()}"
    assert sources["files"] == [{"address": str(file), "digest": digest, "bytes": len(packed)}]
    assert report.metrics == {"files": 1, "bytes": len(packed)}
    assert fetch(file.as_uri())[1] == packed


def test_directory_becomes_one_file_in_the_order_of_names(tmp_path, fetch):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "b.jsonl").write_bytes(TEXT)
    pa.parquet.write_table(pa.Table.from_pylist(ROWS[:2]), shards / "a.parquet")
    (shards / "c.csv").write_text('prompt,completion\n"two\nlines",yes\n')
    (shards / "_SUCCESS").write_text("")
    (shards / ".hidden").write_text("not json")
    report, _, sources = fetch(shards)
    rows = [line.row for line in read_lines(tmp_path / "out/dataset")]
    assert rows == [*ROWS[:2], *ROWS, {"prompt": "two\nlines", "completion": "yes"}]
    assert [(Path(each["address"]).name, each["rows"]) for each in sources["files"]] == [
        ("a.parquet", 2),
        ("b.jsonl", 5),
        ("c.csv", 1),
    ]
    assert report.metrics["rows"] == 8
    assert fetch(shards / "*.jsonl")[0].metrics["rows"] == 5


def test_lines_that_cannot_be_read_are_kept_and_stay_so(tmp_path, fetch):
    """Bytes in a table, which could be taken for text once they are shown, above all."""
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "a.jsonl").write_bytes(b'{"text": "\xff"}\n[1]\n{"text": NaN}\n{"text": "fine"}\n')
    table = pa.table({"text": pa.array([b"\xff\xfe"], pa.binary())})
    pa.parquet.write_table(table, shards / "b.parquet")
    report, _, _ = fetch(f"{shards}/")
    lines = list(read_lines(tmp_path / "out/dataset"))
    assert [line.row for line in lines] == [None, None, None, {"text": "fine"}, None]
    assert "bytes in text" in lines[-1].raw
    assert report.metrics["rows"] == 5


def test_first_line_that_is_no_row_does_not_decide_what_the_others_are(tmp_path, fetch):
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "a.json").write_text(
        '["text", {"text": "first"}]'
    )  # "text" alone would be the header of a table
    (shards / "b.jsonl").write_text('{"text": "second"}\n')
    fetch(shards)
    rows = [line.row for line in read_lines(tmp_path / "out/dataset")]
    assert rows == [None, {"text": "first"}, {"text": "second"}]


def test_source_without_rows_is_refused(tmp_path, fetch):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/a.csv").write_text("prompt,completion\n")
    (tmp_path / "shards/b.jsonl").write_text("")
    for source in (tmp_path / "shards", tmp_path / "shards/b.jsonl"):
        with pytest.raises(DataError, match="has no rows"):
            fetch(source)


def test_links_lead_where_they_lead_for_everybody(tmp_path, fetch):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/rows.jsonl").write_bytes(TEXT)
    (tmp_path / "rows.jsonl").write_text("another file\n")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/deep")
    assert fetch(f"{tmp_path}/link/../rows.jsonl")[1] == TEXT
    (tmp_path / "elsewhere/gone.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no file: .*gone\.jsonl"):
        fetch(tmp_path / "elsewhere")


def test_name_that_is_not_utf8_is_refused(tmp_path, fetch):
    (tmp_path / "shards").mkdir()
    (tmp_path / os.fsdecode(b"shards/\xff.jsonl")).write_bytes(TEXT)
    with pytest.raises(DataError, match=r"not UTF-8: .*xff\.jsonl"):
        fetch(tmp_path / "shards")


def test_bucket_is_read_as_a_directory_is(s3, tmp_path, fetch):
    for name in ("2", "1"):
        s3.put_object(Bucket="raw-data", Key=f"chat/day={name}.jsonl", Body=TEXT)
    report, copied, sources = fetch("s3://raw-data/chat/day=1.jsonl")
    assert copied == TEXT
    assert sources["files"][0]["address"] == "s3://raw-data/chat/day=1.jsonl"
    report, _, sources = fetch("s3://raw-data/chat/")
    assert [each["address"][-11:] for each in sources["files"]] == ["day=1.jsonl", "day=2.jsonl"]
    assert report.metrics["rows"] == 10


@pytest.mark.parametrize("key", ["none.jsonl", "none/", "chat/*.parquet"])
def test_what_is_not_in_the_bucket_is_named(s3, fetch, key):
    s3.put_object(Bucket="raw-data", Key="chat/1.jsonl", Body=TEXT)
    with pytest.raises(DataError, match="no file to fetch"):
        fetch(f"s3://raw-data/{key}")


def test_directory_of_a_bucket_needs_a_slash(s3, fetch):
    s3.put_object(Bucket="raw-data", Key="chat/1.jsonl", Body=TEXT)
    with pytest.raises(DataError, match="is a directory: write s3://raw-data/chat/ to"):
        fetch("s3://raw-data/chat")


def test_store_that_does_not_answer_may_be_asked_again(s3, fetch, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="cannot be read just now"):
        fetch("s3://raw-data/chat/run-403.jsonl")  # no status, but a name


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (DENIED, DataError, "^The source may not be read: .*ACCESS_DENIED"),
        (UNKNOWN_KEY, DataError, "^The source may not be read: "),
        (
            OTHER_REGION,
            SettingError,
            "^The source is not to be had there: .*'us-west-2'.* Check AWS_DEFAULT_REGION",
        ),
        (
            Refusal(400, "ExpiredToken"),
            SettingError,
            "^The source is not to be had there: .*AWS_SESSION_TOKEN",
        ),
        (Cut(), UnavailableError, "^The source cannot be read just now: "),
    ],
    ids=["denied", "unknown key", "other region", "expired token", "cut"],
)
def test_what_a_store_answers_is_said_first(s3, store, fetch, tmp_path, fault, kind, said):
    s3.put_object(Bucket="raw-data", Key="faults/1.jsonl", Body=TEXT)
    with store.failing(fault), pytest.raises(kind, match=said) as caught:
        fetch("s3://raw-data/faults/1.jsonl")
    assert SECRET_KEY not in str(caught.value)
    assert fetch("s3://raw-data/faults/1.jsonl")[1] == TEXT


@pytest.mark.parametrize("key", ["x.jsonl", "x/", "x/*.jsonl"])
def test_missing_bucket_is_named(s3, fetch, key):
    with pytest.raises(
        DataError, match=f"^There is no such bucket in that store: s3://nobody/{re.escape(key)}"
    ):
        fetch(f"s3://nobody/{key}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://AKIA:the-secret@raw-data/x", "has no login"),
        ("s3://raw-data", "is s3://bucket/key"),
        ("s3://raw-data/../x", "no empty parts"),
        ("ftp://host/x", "not read here"),
        ("https://host/x.jsonl", "not read here"),
        ("hf://org/name", "does not name a dataset"),
        ("", "Give the path"),
    ],
)
def test_address_that_makes_no_sense_is_refused(fetch, source, said):
    with pytest.raises(SettingError, match=said) as raised:
        fetch(source)
    assert "the-secret" not in str(raised.value)


def test_broken_shard_is_named_by_its_address(tmp_path, fetch):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/a.jsonl.gz").write_bytes(gzip.compress(TEXT)[:-9])
    with pytest.raises(DataError, match=r"cut off or damaged.*shards/a\.jsonl\.gz"):
        fetch(tmp_path / "shards")
