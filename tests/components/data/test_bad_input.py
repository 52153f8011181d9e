"""What people's files hold: each line is taken as it was, or is told of with a reason, and none is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from llmops_components.data.files import read_rows
from llmops_components.data.preparation.prepare import prepare_dataset
from llmops_components.data.validation import reading, validate_dataset
from llmops_components.errors import DataError

GOOD = [
    '{"text": "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u05e9\u05dc\u05d5\u05dd \u202eabc"}',
    '{"text": "a\u2028b\u0085c\u2029"}',
    '{"text": "tab\\tbell\\u0007nul\\u0000"}',
    '{"text": "nested", "more": {"a": null, "b": [null, {"c": null}]}}',
    '{"text": "x", "more": [1, "two", null]}',
]
BAD = {
    b'{"text": "broken': "is not valid JSON: Unterminated string",
    '{"text": "caf\xe9"}'.encode("latin-1"): "is not UTF-8 at byte 14",
    b'{"text": "\\ud83d"}': "has half of a Unicode surrogate pair",
    b'{"text": NaN}': "is not usable JSON: NaN is not a JSON number",
    b'{"text": "raw\x01control"}': "is not valid JSON: Invalid control character",
    b"\xef\xbb\xbf" + b'{"text": "mark"}': "is not valid JSON: Unexpected UTF-8 BOM",
    b"[" * 5000: "is not usable JSON",
    b'{"text": null}': "text is null",
    b'{"text": ["a"]}': "text is a list, not text",
    b'{"text": " \\u2028 "}': "text is empty",
    b'"text"': "is not a JSON object but text",
}

NOT_READ = len(BAD) - 3  # the others are rows, of whatever worth
STEPS: list[dict[str, Any]] = [
    {"step": "normalise"},
    {"step": "redact_personal_data"},
    {"step": "filter_length", "max_characters": 1000},
    {"step": "filter_language", "languages": ["en"], "undecided": "keep"},
    {"step": "filter_repetition"},
    {
        "step": "filter_quality",
        "rules": ["gopher"],
        "limits": {"gopher_words_least": 1, "gopher_stop_words": None},
    },
    {"step": "drop_duplicates"},
    {"step": "drop_near_duplicates"},
    {"step": "split", "share": 0.5},
]


def validate(file: Path, *expectations: dict[str, Any]) -> Any:
    outputs = (file.parent / name for name in ("validated", "rejected", "result", "docs"))
    return validate_dataset(file, *outputs, expectations=expectations, max_rejected_fraction=1)


@pytest.mark.parametrize("chunk", [2, 20_000])
def test_every_line_is_accepted_as_it_was_or_rejected_with_its_reason(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(reading, "_CHUNK_ROWS", chunk)
    lines = [each.encode() for each in GOOD] + list(BAD)
    (tmp_path / "data").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n")
    report = validate(tmp_path / "data")
    assert (report.metrics["rows"], report.metrics["accepted_rows"]) == (len(lines), len(GOOD))
    assert (tmp_path / "validated").read_bytes().decode().split("\n")[:-1] == GOOD
    rejected = read_rows(tmp_path / "rejected")
    assert [row["line"] for row in rejected] == list(range(len(GOOD) + 1, len(lines) + 1))
    assert [row["row_id"] for row in rejected] == [f"data:{row['line']}" for row in rejected]
    for row, reason in zip(rejected, BAD.values(), strict=True):
        assert row["reasons"][0].startswith(reason)


def test_the_format_is_that_of_most_rows_whatever_the_first_are(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK_ROWS", 2)
    rows = [{"text": "a"}, {"text": "b"}, *({"prompt": str(i), "completion": "x"} for i in range(3))]
    (tmp_path / "data").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = validate(tmp_path / "data")
    assert report.details["dataset_format"] == "prompt_completion"
    assert [row["line"] for row in read_rows(tmp_path / "rejected")] == [1, 2]


def test_a_column_of_several_kinds_is_judged_value_by_value(tmp_path):
    rows = [{"text": str(i), "score": score} for i, score in enumerate([1, 0.5, "high", None, [2], 2**70])]
    (tmp_path / "data").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {"column": "score", "type_list": ["int", "float"]}
    report = validate(tmp_path / "data", {"type": "expect_column_values_to_be_in_type_list", "kwargs": kinds})
    assert not report.passed
    assert [row["line"] for row in read_rows(tmp_path / "rejected")] == [3, 5]
    with pytest.raises(DataError, match="expect_column_values_to_be_between cannot be judged: "):
        validate(
            tmp_path / "data",
            {"type": "expect_column_values_to_be_between", "kwargs": {"column": "score", "max_value": 3}},
        )


def test_of_a_very_long_value_only_the_start_is_told(tmp_path):
    (tmp_path / "data").write_text(json.dumps({"text": "word " * 400_000}) + "\n" + '{"text": "a"}\n')
    report = validate(
        tmp_path / "data",
        {"type": "expect_column_value_lengths_to_be_between", "kwargs": {"column": "text", "max_value": 9}},
    )
    assert report.metrics["rejected_rows"] == 1
    assert max(map(len, report.findings)) < 400
    assert (tmp_path / "result").stat().st_size + (tmp_path / "docs").stat().st_size < 100_000


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["step"])
def test_every_line_goes_through_a_step_or_stands_in_the_ledger(tmp_path, step):
    lines = [each.encode() for each in GOOD] + list(BAD)
    (tmp_path / "data").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n")
    outputs = [tmp_path / name for name in ("prepared", "held_out", "ledger", "manifest")]
    report = prepare_dataset({"data": tmp_path / "data"}, *outputs, steps=[step])
    kept = [each for name in outputs[:2] if name.stat().st_size for each in read_rows(name)]
    dropped = [each for each in read_rows(outputs[2]) if each["action"] == "dropped"]
    ids = [each["row_id"] for each in kept + dropped]
    assert sorted(ids, key=lambda each: int(each[5:])) == [f"data:{n + 1}" for n in range(len(lines))]
    assert (report.metrics["used"], report.metrics["rejected"]) == (len(kept), len(dropped))
    unread = {each["row_id"]: each for each in dropped if each["step"] == "read"}
    assert len(unread) == NOT_READ
    for number, (raw, reason) in enumerate(BAD.items(), start=len(GOOD) + 1):
        if found := unread.get(f"data:{number}"):
            assert found["reason"].startswith(reason)
            assert found["raw"] == raw.decode(errors="backslashreplace")


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_file_that_is_cut_off_is_an_error_and_no_shorter_dataset(tmp_path, compression):
    lines = "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(5000)).encode()
    with pa.CompressedOutputStream(str(tmp_path / "whole"), compression) as stream:
        stream.write(lines)
    (tmp_path / "data").write_bytes((tmp_path / "whole").read_bytes()[:-3])
    with pytest.raises(DataError, match="cannot be unpacked, it is cut off or damaged"):
        validate(tmp_path / "data")
    outputs = [tmp_path / name for name in ("prepared", "held_out", "ledger", "manifest")]
    with pytest.raises(DataError, match="cannot be unpacked, it is cut off or damaged"):
        prepare_dataset({"data": tmp_path / "data"}, *outputs, steps=STEPS[:1])
    assert not any(each.exists() for each in outputs)
