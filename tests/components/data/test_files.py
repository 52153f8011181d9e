"""What a dataset file may be: read where it is plain what its rows are, refused by its name where not."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import json
import pickle
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from llmops_components.data.files import read_lines, read_rows, write_rows
from llmops_components.data.lines import Line
from llmops_components.errors import DataError

ROWS = [{"text": "a"}, {"text": "b \u00e4"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def test_rows_survive_being_written_and_read(tmp_path: Path):
    rows = [{"text": "ä\u2028\n"}, {"text": "\U0001f600"}]
    write_rows(tmp_path / "new" / "data", rows)
    assert read_rows(tmp_path / "new" / "data") == rows


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_no_problem(tmp_path: Path):
    file = tmp_path / "data"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "b"}')
    assert read_rows(file) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "a', "line 2 is not valid JSON: Unterminated string starting at (column 10)"),
        (b'{"text": "a"} x', "line 2 is not valid JSON: Extra data (column 15)"),
        (b"[1]", "line 2 is not a JSON object but a list"),
        (b"null", "line 2 is not a JSON object but null"),
        (b'{"text": NaN}', "line 2 is not usable JSON: NaN is not a JSON number"),
        (b'{"text": "\xff"}', "line 2 is not UTF-8 at byte 11 of the line"),
        (b'{"text": "\\ud83d"}', "line 2 has half of a Unicode surrogate pair (\\udXXX), which is not text"),
        (b"[" * 100_000, "line 2 is not usable JSON: maximum recursion depth exceeded"),
    ],
)
def test_unusable_lines_are_named_with_file_and_number(tmp_path: Path, line, problem):
    file = tmp_path / "data"
    file.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError) as raised:
        read_rows(file)
    assert str(raised.value).startswith(f"Rows cannot be used: {problem}")
    assert str(raised.value).endswith(f"Dataset: {file}.")


def test_both_halves_of_a_surrogate_pair_are_text(tmp_path: Path):
    (tmp_path / "data").write_bytes(b'{"text": "\\ud83d\\ude00"}\n')
    assert read_rows(tmp_path / "data") == [{"text": "\U0001f600"}]


def test_many_broken_lines_are_counted_not_listed(tmp_path: Path):
    (tmp_path / "data").write_text("x\n" * 7)
    with pytest.raises(DataError, match=r"line 5 is not valid JSON.*; and 2 more"):
        read_rows(tmp_path / "data")


def test_empty_missing_and_directory_are_told_apart(tmp_path: Path):
    (tmp_path / "empty").write_text("\n")
    for name, message in (("empty", "has no rows"), ("missing", "does not exist"), (".", "not a directory")):
        with pytest.raises(DataError, match=message):
            read_rows(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(LINES),
        gzip.compress(LINES[:15]) + gzip.compress(LINES[15:]),
        bz2.compress(LINES),
        pa.Codec("zstd").compress(LINES, asbytes=True),
        LINES.decode().encode("utf-16"),
        LINES.decode().encode("utf-32"),
        b"\xfe\xff" + LINES.decode().encode("utf-16-be"),
        json.dumps(ROWS).encode(),
        b"\xef\xbb\xbf \n" + json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
        gzip.compress(json.dumps(ROWS, indent=1).encode()),
        "text\na\nb \u00e4\n".encode(),
        ",text\n0,a\n1,b \u00e4\n".encode(),
        '"text"\r\n"a"\r\n"b \u00e4"\r\n'.encode(),
        gzip.compress("text\na\n\nb \u00e4\n".encode()),
    ],
    ids=str,
)
def test_same_rows_however_they_are_written(tmp_path: Path, content):
    (tmp_path / "data").write_bytes(content)
    lines = list(read_lines(tmp_path / "data"))
    assert [line.row for line in lines] == ROWS
    assert [json.loads(line.raw) for line in lines] == ROWS


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_cells_of_csv_are_text_but_for_labels_margins_and_messages(tmp_path: Path, delimiter):
    messages = [{"role": "user", "content": "Why,\n\nso?"}]
    header = ["prompt", "completion", "label", "margin", "chosen"]
    cells = [json.dumps(messages), "42", "True", "0.5", "007"]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    empty = ["p", "", "", "", ""]
    text = "\n".join(delimiter.join(each) for each in (header, quoted, empty, ["p", "two\nlines"]))
    (tmp_path / "data").write_text(text.replace("two\nlines", '"two\nlines"'))
    row = {"prompt": messages, "completion": "42", "label": True, "margin": 0.5, "chosen": "007"}
    assert [(line.number, line.row, line.problem) for line in read_lines(tmp_path / "data")] == [
        (2, row, None),
        (3, {"prompt": "p", "completion": "", "chosen": ""}, None),
        (5, None, "has 2 cells, and the header has 5"),
    ]


@pytest.mark.parametrize(
    "cell", ['{"a": 1}', '[{"a": 1}]', '[{"role": "user", "permission": 1}]', "[1, 2]", "[]"]
)
def test_answer_in_csv_that_is_json_but_no_messages_stays_text(tmp_path: Path, cell):
    quoted = cell.replace('"', '""')
    (tmp_path / "data").write_text(f'prompt,completion\np,"{quoted}"\n')
    assert read_rows(tmp_path / "data") == [{"prompt": "p", "completion": cell}]


def test_spaces_after_the_delimiters_of_csv_are_no_part_of_names_and_cells(tmp_path: Path):
    (tmp_path / "data").write_text('prompt, completion\na, "b, c"\nd,e\n')
    rows = [{"prompt": "a", "completion": "b, c"}, {"prompt": "d", "completion": "e"}]
    assert read_rows(tmp_path / "data") == rows
    (tmp_path / "data").write_text("Yes, indeed\n")
    with pytest.raises(DataError, match="line 1 is not valid JSON"):
        read_rows(tmp_path / "data")


def test_labels_and_margins_of_csv_are_text_where_no_trainer_reads_them(tmp_path: Path):
    (tmp_path / "data").write_text("text,label,margin\na,1,wide\nb,,\n")
    assert read_rows(tmp_path / "data") == [
        {"text": "a", "label": "1", "margin": "wide"},
        {"text": "b", "label": "", "margin": ""},
    ]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (b"p,much", "has 'much' as margin, not a number"),
        (b"p,1e999", "has '1e999' as margin, not a number"),
        (b"p\xff,1", "is not UTF-8"),
    ],
)
def test_unusable_row_of_csv_is_named(tmp_path: Path, cells, problem):
    (tmp_path / "data").write_bytes(b"chosen,margin\n" + cells + b"\n")
    assert [line.problem for line in read_lines(tmp_path / "data")] == [problem]


def test_csv_with_an_open_quote_is_an_error(tmp_path: Path):
    (tmp_path / "data").write_text('prompt,completion\na,"b\n')
    with pytest.raises(DataError, match="is CSV that cannot be read: line 2: unexpected end of data"):
        read_rows(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>\n<html>", "an HTML or XML page, perhaps of a login or an error"),
        (b'\n  <?xml version="1.0"?>', "an HTML or XML page, perhaps of a login or an error"),
        (pickle.dumps(ROWS), "a Python pickle, which could run code when it is read and so is never read"),
        (b"\x58\x00\x00\x00\x00\x00\x00\x00" + b'{"a": {}}', "a safetensors file, which holds a model"),
        (b"GGUF\x03\x00", "a GGUF file, which holds a model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS and not the file"),
        (b"ARROW1\x00\x00", "an Arrow file"),
        (b"\xff\xff\xff\xff\x10", "an Arrow stream"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
        (b"a" * 257 + b"ustar", "a tar archive"),
        (gzip.compress(b"a" * 257 + b"ustar"), "a tar archive"),
        (gzip.compress(b"PAR1"), "Parquet inside another compression"),
        (b"SQLite format 3\x00", "an SQLite database"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x89PNG\r\n", "a picture"),
        (LINES.decode().encode("utf-16-le"), "binary, or UTF-16 without a byte order mark"),
    ],
    ids=str,
)
def test_what_is_no_data_is_refused_by_name(tmp_path: Path, content, what):
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_rows(tmp_path / "data")
    assert str(raised.value).startswith(f"The dataset is {what}, not JSON Lines or Parquet: ")


def test_zip_archive_is_refused_by_name(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "data", "w") as archive:
        archive.writestr("rows.jsonl", LINES)
    with pytest.raises(DataError, match="is a ZIP archive or an Excel workbook"):
        read_rows(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            gzip.compress(LINES * 1000)[:-20],
            "The dataset cannot be unpacked, it is cut off or damaged (gzip: ",
        ),
        (b'[{"text": "a"},\n{"text": ', "The dataset is a JSON array that cannot be read: Expecting value"),
        (
            json.dumps({"version": 1, "data": ROWS}, indent=2).encode(),
            "The dataset is one JSON object written over several lines (fields version, data), not JSON Lines.",
        ),
        (
            "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
            "The dataset is JSON objects written over several lines (fields text), not JSON Lines.",
        ),
        (LINES.decode().encode("utf-16")[:-1], "The dataset is not readable UTF-16: "),
    ],
    ids=str,
)
def test_damaged_files_and_other_json_are_told_apart(tmp_path: Path, content, message):
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_rows(tmp_path / "data")
    assert str(raised.value).startswith(message)


def test_bad_elements_of_a_json_array_are_named_one_by_one(tmp_path: Path):
    (tmp_path / "data").write_text(
        '[{"text": "a"}, 3, {"score": NaN}, {"score": 1e999}, {"text": "\\ud83d"}]'
    )
    infinite = "has a number that is infinite or no number (NaN)"
    assert [(line.number, line.problem) for line in read_lines(tmp_path / "data")] == [
        (1, None),
        (2, "is not a JSON object but a number"),
        (3, infinite),
        (4, infinite),
        (5, "has half of a Unicode surrogate pair (\\udXXX), which is not text"),
    ]


def test_lines_of_lists_are_no_array(tmp_path: Path):
    (tmp_path / "data").write_text('[{"text": "a"}]\n[{"text": "b"}]\n')
    problem = "is not a JSON object but a list"
    assert [line.problem for line in read_lines(tmp_path / "data")] == [problem, problem]


def test_number_too_large_for_json_is_named(tmp_path: Path):
    (tmp_path / "data").write_text('{"text": "a", "score": 1e999}\n{"text": "b", "score": 1e99}\n')
    assert list(read_lines(tmp_path / "data")) == [
        Line(1, '{"text": "a", "score": 1e999}', problem="is not usable JSON: 1e999 is too large a number"),
        Line(2, '{"text": "b", "score": 1e99}', row={"text": "b", "score": 1e99}),
    ]


def test_types_that_only_parquet_has_become_those_of_json(tmp_path: Path):
    day = datetime.datetime(2026, 11, 26, 12, 30, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": pa.array([b"a", b"b"], pa.binary()),
            "when": pa.array([day, None], pa.timestamp("ns", tz="UTC")),
            "date": pa.array([day.date(), day.date()]),
            "score": pa.array([float("nan"), 0.5], pa.float32()),
            "price": pa.array([decimal.Decimal("1.50"), decimal.Decimal("2.25")]),
            "long": pa.array([decimal.Decimal("12345678901234567890.12"), None]),
            "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
            "took": pa.array([datetime.timedelta(seconds=61), None], pa.duration("s")),
            "nested": pa.array([[{"when": day.date(), "nan": float("nan")}], None]),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "data")
    lines = list(read_lines(tmp_path / "data"))
    assert [line.row for line in lines] == [
        {
            "text": "a",
            "when": "2026-11-26T12:30:00+00:00",
            "date": "2026-11-26",
            "price": 1.5,
            "long": "12345678901234567890.12",
            "map": {"a": 1},
            "took": "0:01:01",
            "nested": [{"when": "2026-11-26"}],
            "kind": "x",
        },
        {"text": "b", "date": "2026-11-26", "score": 0.5, "price": 2.25, "map": {}, "kind": "y"},
    ]
    assert [json.loads(line.raw) for line in lines] == [line.row for line in lines]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.array([float("inf"), 1.0]), "has an infinite number in extra"),
        (pa.array([{"a": float("-inf")}, {"a": 1.0}]), "has an infinite number in extra.a"),
        (pa.array([b"\xff\xd8", b"a"]), "has bytes in extra that are not text; only text is read"),
    ],
)
def test_what_json_cannot_hold_is_named_with_row_and_column(tmp_path: Path, column, problem):
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"], "extra": column}), tmp_path / "data")
    lines = list(read_lines(tmp_path / "data"))
    assert [line.problem for line in lines] == [problem, None]
    json.dumps([line.raw for line in lines], allow_nan=False)


def test_directory_of_datasets_is_told_how_to_write_a_file(tmp_path: Path):
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match=r"written by save_to_disk\(\): use Dataset.to_parquet"):
        read_rows(tmp_path)


def test_first_line_that_is_not_utf8_is_the_only_one_that_is_lost(tmp_path):
    """It was taken for an object that is written over several lines, and the whole file refused."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"text": "\xff"}\n{"text": "fine"}\n')
    assert [line.problem for line in read_lines(file)] == ["is not UTF-8 at byte 11 of the line", None]
