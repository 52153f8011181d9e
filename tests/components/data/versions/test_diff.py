"""Two versions of a data set: what differs, and what does not."""

from __future__ import annotations

import json

import pytest
from llmops_components.data.versions import content_digest
from llmops_components.data.versions.__main__ import main
from llmops_components.data.versions.diff import compare_versions, diff_datasets
from llmops_components.errors import DataError, SettingError

OLD = [
    {"row_id": "a:1", "text": "one", "n": 1},
    {"row_id": "a:2", "text": "two"},
    {"row_id": "a:3", "text": "three"},
]
NEW = [
    {"row_id": "a:3", "text": "three"},
    {"row_id": "a:1", "text": "one | `x`\n# y", "n": 1.0, "m": True},
    {"row_id": "b:1", "text": "two"},
    {"row_id": "b:2", "text": "four!"},
]


@pytest.fixture
def compare(tmp_path):
    def run(old, new, **settings):
        for name, rows in (("old", old), ("new", new)):
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return compare_versions(tmp_path / "old", tmp_path / "new", **settings)

    return run


def without_ids(rows):
    return [{name: value for name, value in row.items() if name != "row_id"} for row in rows]


def test_ids_that_were_counted_anew_are_told_of(compare):
    rows = [{"row_id": f"a:{number}", "text": f"row {number}"} for number in range(5)]
    moved = [{**row, "row_id": f"a:{number + 1}"} for number, row in enumerate(rows)]
    found = compare(rows, [{"row_id": "a:0", "text": "new"}, *moved])
    assert (found["rows"]["changed"], found["rows"]["unchanged"]) == (5, 0)
    assert found["findings"][0].startswith("Rows were given other ids: 5 that count")


def test_rows_are_matched_by_their_ids(compare, tmp_path):
    found = compare(OLD, NEW)
    assert found == {
        "matched_by": "row_id",
        "same_rows": False,
        "digests": {"before": content_digest(tmp_path / "old"), "after": content_digest(tmp_path / "new")},
        "rows": {"before": 3, "after": 4, "added": 2, "removed": 1, "changed": 1, "unchanged": 1},
        "columns": {
            "m": {"before": {}, "after": {"boolean": 1}},
            "row_id": {"before": {"string": 3}, "after": {"string": 4}},
            "text": {"before": {"string": 3}, "after": {"string": 4}},
        },
        "lengths": {
            "text": {
                "before": {"rows": 3, "mean": 3.667, "least": 3, "p5": 3, "p25": 3, "p50": 3, "p75": 5, "p95": 5, "most": 5},
                "after": {"rows": 4, "mean": 6.5, "least": 3, "p5": 3, "p25": 3, "p50": 5, "p75": 5, "p95": 13, "most": 13},
            }
        },
        "examples": [
            {"kind": "changed", "row_id": "a:1", "before": {"text": "one"}, "after": {"text": NEW[1]["text"], "m": "true"}},
            {"kind": "removed", "row_id": "a:2", "before": {"row_id": "a:2", "text": "two"}, "after": None},
            {"kind": "added", "row_id": "b:1", "before": None, "after": {"row_id": "b:1", "text": "two"}},
            {"kind": "added", "row_id": "b:2", "before": None, "after": {"row_id": "b:2", "text": "four!"}},
        ],
        "findings": [
            "Rows were given other ids: 1 that count as changed, added or removed are in both, under another row_id, as where a line was added "
            "to their source."
        ],
    }  # fmt: skip


def test_rows_without_ids_are_matched_by_content_and_repeats_count(compare):
    found = compare([*without_ids(OLD), {"text": "two"}], without_ids(NEW))
    assert (found["matched_by"], found["findings"]) == ("content", [])
    assert found["rows"] == {"before": 4, "after": 4, "added": 2, "removed": 2, "changed": 0, "unchanged": 2}
    shown = [(each["kind"], (each["before"] or each["after"])["text"]) for each in found["examples"]]
    assert shown == [("removed", "one"), ("removed", "two"), ("added", NEW[1]["text"]), ("added", "four!")]


@pytest.mark.parametrize(
    "new",
    [
        [*NEW, NEW[0]],  # an id twice
        [*NEW, {"text": "no id"}],
        [*NEW, {"row_id": 7, "text": "a number"}],
        without_ids(NEW),
    ],
)
def test_ids_that_do_not_name_each_row_of_both_are_not_used_and_that_is_said(compare, new):
    found = compare(OLD, new)
    assert found["matched_by"] == "content"
    assert found["rows"]["unchanged"] == 2  # three, and two under another id
    (finding,) = found["findings"]
    assert finding.startswith("Rows are matched by content: row_id is not in every row of both")


def test_same_rows_in_another_order_have_no_difference(compare, tmp_path):
    found = compare(NEW, NEW[::-1])
    assert found["same_rows"] is True
    assert found["rows"] == {"before": 4, "after": 4, "added": 0, "removed": 0, "changed": 0, "unchanged": 4}
    assert (found["columns"], found["examples"]) == ({}, [])


def test_what_stands_in_a_row_is_no_markup_of_the_page(compare, tmp_path):
    compare(OLD, NEW)
    report = diff_datasets(
        tmp_path / "old", tmp_path / "new", tmp_path / "page", difference_json=tmp_path / "json", examples=1
    )
    page = (tmp_path / "page").read_text()
    assert "    + text: one | `x`\\n# y\n" in page
    assert "## Added: 1 of 2 rows" in page
    assert "| text" not in page and "| `text` | after | 4 | 6.5 |" in page
    assert report.metrics == {
        "rows_before": 3, "rows_after": 4, "rows_added": 2, "rows_removed": 1, "rows_changed": 1, "rows_unchanged": 1,
    }  # fmt: skip
    assert json.loads((tmp_path / "json").read_text())["rows"]["added"] == report.metrics["rows_added"]


def test_messages_are_measured_by_what_they_say(compare):
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": [{"type": "text", "text": "cde"}]}]  # fmt: skip
    found = compare([{"messages": chat, "tags": ["x"]}], [{"messages": chat[:1], "tags": ["x"]}])
    assert [found["lengths"]["messages"][when]["mean"] for when in ("before", "after")] == [6.0, 2.0]
    assert list(found["lengths"]) == ["messages"]


def test_what_cannot_be_compared_is_refused(compare, tmp_path, capsys):
    with pytest.raises(DataError, match=r"^The dataset has no rows: "):
        compare(OLD, [])
    with pytest.raises(SettingError, match=r"^examples "):
        compare(OLD, NEW, examples=201)
    (tmp_path / "new").write_text('{"a": 1}\n{\n')
    assert main([str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    told = json.loads(capsys.readouterr().out)["error"]["message"]
    assert told.startswith("Rows cannot be compared: line 2 is not valid JSON")
