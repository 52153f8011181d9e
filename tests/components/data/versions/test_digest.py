"""The digest of rows: of the rows alone, and of all of them."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from llmops_components.data.versions import Content, ContentDigest, content_digest, content_of
from llmops_components.data.versions.digest import canonical
from llmops_components.errors import DataError

ROWS = [
    {"text": "ä\u2028\U0001f600 \"\\\n\x07", "score": 1.5, "tags": ["a", None], "more": {"b": 1, "a": 2}},
    {"text": "שלום", "score": 2, "tags": [], "more": {"a": 1e-7}},
    {"text": "a", "score": -0.0, "tags": None, "more": None},
]  # fmt: skip
# Of these rows, on any machine: another value means that what was published before is not recognised any more.
KNOWN = "rows1:aea8338be13025c2c2196223836b1479ca746a611120721561a616039e94f6df"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def digest_of(rows):
    digest = ContentDigest()
    for row in rows:
        digest.add(row)
    return digest.content().digest


def test_same_rows_have_one_digest_in_every_format_and_order(tmp_path):
    lines = write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "rows.gz").write_bytes(gzip.compress(lines.read_bytes()))
    (tmp_path / "array.json").write_text(json.dumps(ROWS, indent=2))
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    digests = {content_digest(tmp_path / name) for name in ("rows.jsonl", "rows.gz", "array.json", "rows.parquet")}  # fmt: skip
    digests |= {digest_of(order) for order in itertools.permutations(ROWS)}
    assert digests == {KNOWN}


def test_digest_is_the_one_that_its_definition_gives(tmp_path):
    """Written down again by json, whose sorting of keys and escapes are its own, and by sums of plain integers."""
    plain = [
        {"text": ROWS[0]["text"], "score": 1.5, "tags": ["a", None], "more": {"a": 2, "b": 1}},
        {"text": "שלום", "score": 2, "tags": [], "more": {"a": 1e-7}},
        {"text": "a", "score": 0},
    ]
    sums = [0] * 1024
    for row in plain:
        text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        told = hashlib.shake_128(text.encode()).digest(2048)
        for place in range(1024):
            sums[place] += int.from_bytes(told[2 * place : 2 * place + 2], "little")
    told = b"llmops rows 1\n" + (3).to_bytes(8, "little") + b"".join(each.to_bytes(8, "little") for each in sums)  # fmt: skip
    assert digest_of(ROWS) == f"rows1:{hashlib.sha256(told).hexdigest()}"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 0.0}, {"a": -0.0}, True),
        ({"a": 1, "b": None}, {"a": 1}, True),
        ({"a": {"b": None, "c": 1}}, {"a": {"c": 1}}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1e22}, {"a": 10**22}, True),
        ({"a": 2**53}, {"a": 2**53 + 1}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 0.1}, {"a": float(np.float32(0.1))}, False),
        ({"a": ["x", None]}, {"a": ["x"]}, False),
        ({"a": []}, {}, False),
        ({"a": "\u00e9"}, {"a": "e\u0301"}, False),
        ({"a": "x "}, {"a": "x"}, False),
        ({"a": "null"}, {"a": None}, False),
        ({"a": '1","b":"2'}, {"a": "1", "b": "2"}, False),
    ],
)
def test_what_makes_two_rows_the_same(one, other, same):
    assert (digest_of([one]) == digest_of([other])) is same
    assert (canonical(one) == canonical(other)) is same


def test_repeats_count_and_no_number_of_them_cancels_out():
    one, two = {"a": 1}, {"a": 2}
    assert len({digest_of([one] * n + [two] * m) for n in range(3) for m in range(3)}) == 9
    full = 1 << 16  # where the sums of LtHash itself start again
    assert digest_of([one] * full) != digest_of([two] * full)


def test_parts_read_by_several_processes_are_put_together():
    whole, parts = ContentDigest(), [ContentDigest() for _ in range(3)]
    for number in range(1500):
        row = {"n": number, "text" if number % 3 else "other": "x"}
        whole.add(row)
        parts[number % 2].add(row)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].content() == whole.content()
    assert whole.content().columns == {"n": {"number": 1500}, "other": {"string": 500}, "text": {"string": 1000}}  # fmt: skip


def test_content_tells_rows_and_types_of_columns(tmp_path):
    rows = [*ROWS, {"text": True, "score": {}}]
    assert content_of(write(tmp_path / "rows", rows)) == Content(
        digest_of(rows),
        4,
        {
            "more": {"object": 2},
            "score": {"number": 3, "object": 1},
            "tags": {"array": 2},
            "text": {"boolean": 1, "string": 3},
        },
    )


def test_row_without_an_end_of_nesting_has_no_digest(tmp_path):
    (tmp_path / "rows").write_text(f'{{"deep": {"[" * 800}{"]" * 800}}}')
    with pytest.raises(DataError, match=r"nested too deeply for a digest \(fields deep\)"):
        content_digest(tmp_path / "rows")


def test_file_with_a_broken_line_or_without_rows_has_no_digest(tmp_path):
    (tmp_path / "rows").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match=r"^A digest is of rows, and line 2 is not valid JSON: .*Dataset: "):
        content_digest(tmp_path / "rows")
    (tmp_path / "rows").write_text("\n")
    with pytest.raises(DataError, match=r"^The dataset has no rows: "):
        content_digest(tmp_path / "rows")
