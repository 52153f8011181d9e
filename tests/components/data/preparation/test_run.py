"""Rows through steps: every row is written or in the ledger, and the same bytes come out however the work is shared."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from llmops_components.data.preparation import run as running
from llmops_components.data.preparation.declared import read_steps
from llmops_components.data.preparation.pool import BrokenWorkerError
from llmops_components.data.preparation.row import HELD_OUT, Row
from llmops_components.data.preparation.run import Source, Tally, run
from llmops_components.data.preparation.spool import Keys, Rows
from llmops_components.data.preparation.step import (
    KEPT,
    Changed,
    Dropped,
    Inputs,
    Outcome,
    Repeated,
    RowStep,
    Sent,
    Several,
    Verdict,
    WholeStep,
)
from llmops_components.errors import DataError, UnavailableError


@dataclass(kw_only=True)
class Each(RowStep):
    """What happens to a row depends on its text alone."""

    step: ClassVar[str] = "each"
    main: int = field(default_factory=os.getpid)

    def start(self, inputs: Inputs) -> Callable[[Row], Outcome]:
        def judge(row: Row) -> Outcome:
            text = row.value["text"]
            if text.startswith("die"):
                os.kill(os.getpid(), signal.SIGKILL)
            if text.startswith("stop"):
                os.kill(self.main, signal.SIGTERM)
            if text.startswith("fail"):
                raise ValueError("as it was told to")
            if text.startswith("drop"):
                return Dropped("told to", 0.5)
            if text.startswith("secret"):
                return Dropped("has a secret", withheld=True)
            if text.startswith("change"):
                return Changed({"text": text.removeprefix("change ")}, "shortened")
            if text.startswith("split"):
                return Several(tuple({"text": each} for each in text.split()[1:]), "its words")
            return KEPT

        return judge


@dataclass(kw_only=True)
class All(WholeStep):
    """The last row twice, the first to the other side, and one that repeats the second dropped."""

    step: ClassVar[str] = "all"

    def start(self, inputs: Inputs) -> Callable[[Row], bytes]:
        return lambda row: row.value["text"].encode()

    def decide(self, keys: Keys, rows: Rows) -> Mapping[int, Verdict]:
        assert [row.value["text"].encode() for row in rows] == list(keys)
        verdicts: dict[int, Verdict] = {0: Sent(HELD_OUT), len(rows) - 1: Repeated(2, "for its weight")}
        for index in range(2, len(rows) - 1):
            if keys[index] == keys[1]:
                verdicts[index] = Dropped("again", kept=1, similarity=1.0)
        return verdicts


TEXTS = ["first", "same", "drop me", "secret key", "change same", "split a b same", "\u2028 ä", "last"]


def write_texts(file: Path, texts) -> Path:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def outputs_in(directory: Path) -> dict[str, Path]:
    return {name: directory / name for name in ("prepared", "held_out", "ledger")}


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_bytes().decode().split("\n") if line]


def test_every_row_is_written_or_in_the_ledger(tmp_path: Path):
    file = write_texts(tmp_path / "a.jsonl", TEXTS)
    with file.open("ab") as handle:
        handle.write(b'{"text": "cut o\n')
    out = outputs_in(tmp_path / "out")
    tally = run([Source(file, "a.jsonl")], [Each(), All()], out)
    assert lines_of(out["held_out"]) == [{"row_id": "a.jsonl:1", "text": "first"}]
    assert lines_of(out["prepared"]) == [
        {"row_id": "a.jsonl:2", "text": "same"},
        {"row_id": "a.jsonl:6#1.2", "text": "b"},
        {"row_id": "a.jsonl:6", "text": "a"},
        {"row_id": "a.jsonl:7", "text": "\u2028 ä"},
        {"row_id": "a.jsonl:8", "text": "last"},
        {"row_id": "a.jsonl:8#2.2", "text": "last"},
    ]
    nothing = {"score": None, "kept_row_id": None, "similarity": None}
    each, both = {**nothing, "step": "each", "position": 1}, {**nothing, "step": "all", "position": 2}
    again = {"reason": "again", "kept_row_id": "a.jsonl:2", "similarity": 1.0, "row": {"text": "same"}}
    broken = "is not valid JSON: Unterminated string starting at (column 10)"
    found = lines_of(out["ledger"])
    assert found == [
        {
            **each,
            "action": "dropped",
            "reason": "told to",
            "row_id": "a.jsonl:3",
            "score": 0.5,
            "row": {"text": "drop me"},
        },
        {**each, "action": "dropped", "reason": "has a secret", "row_id": "a.jsonl:4"},
        {**each, "action": "changed", "reason": "shortened", "row_id": "a.jsonl:5"},
        {**each, "action": "added", "reason": "its words", "row_id": "a.jsonl:6#1.2"},
        {**each, "action": "added", "reason": "its words", "row_id": "a.jsonl:6#1.3"},
        {
            **nothing,
            "step": "read",
            "position": 0,
            "action": "dropped",
            "reason": broken,
            "row_id": "a.jsonl:9",
            "raw": '{"text": "cut o',
        },
        {**both, "action": "dropped", "row_id": "a.jsonl:5", **again},
        {**both, "action": "dropped", "row_id": "a.jsonl:6#1.3", **again},
        {**both, "action": "added", "reason": "for its weight", "row_id": "a.jsonl:8#2.2"},
    ]
    assert (tally.rows, tally.used, tally.rejected) == ({"a.jsonl": 9}, 5, 4)
    assert (tally.repeated, tally.added, tally.added_used) == (1, 2, 2)
    assert tally.outputs == {"prepared": 6, "held_out": 1}
    assert [
        (step.rows, step.changed, step.dropped, step.repeated, step.added, step.dropped_added)
        for step in tally.steps
    ] == [
        (0, 0, 1, 0, 0, 0),
        (8, 1, 2, 0, 2, 0),
        (6, 0, 1, 1, 0, 1),
    ]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["held_out", "ledger", "prepared"]


def test_same_bytes_whatever_the_number_of_processes_and_the_size_of_batches(tmp_path: Path):
    sources = [
        Source(
            write_texts(
                tmp_path / name, [*TEXTS[:-1], "change change x", *(f"{name} {n}" for n in range(50))]
            ),
            name,
        )
        for name in ("a", "b")
    ]
    written = []
    for processes, batch_rows in ((1, 1000), (1, 1), (2, 7)):
        out = outputs_in(tmp_path / f"{processes}-{batch_rows}")
        run(sources, [Each(), All(), Each()], out, processes=processes, batch_rows=batch_rows)
        written.append({name: file.read_bytes() for name, file in out.items()})
    assert written[0] == written[1] == written[2]
    assert written[0]["ledger"].count(b"\n") > 10


@pytest.mark.parametrize("processes", [1, 2])
def test_error_of_a_step_names_step_and_row_and_leaves_nothing_behind(tmp_path: Path, processes):
    file = write_texts(tmp_path / "rows", ["fine", "fail"])
    with pytest.raises(
        RuntimeError, match=r"^Step 1 \(each\) failed at row rows:2: ValueError: as it was told to"
    ):
        run([Source(file, "rows")], [Each()], outputs_in(tmp_path / "out"), processes=processes)
    assert list((tmp_path / "out").iterdir()) == []


def test_process_that_dies_is_an_error_that_names_its_rows(tmp_path: Path):
    file = write_texts(tmp_path / "rows", ["a", "b", "die", "c", "d"])
    with pytest.raises(BrokenWorkerError, match=r"was ended by SIGKILL, with rows rows:3 to rows:4 \(2\)"):
        run([Source(file, "rows")], [Each()], outputs_in(tmp_path / "out"), processes=2, batch_rows=2)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_ends_the_processes_and_leaves_nothing_behind(tmp_path: Path, processes):
    file = write_texts(tmp_path / "rows", ["a", "stop", *"bcdefgh"])
    with pytest.raises(
        UnavailableError, match="Stopped by SIGTERM while rows were prepared; nothing was written"
    ):
        run(
            [Source(file, "rows")],
            [Each(), All()],
            outputs_in(tmp_path / "out"),
            processes=processes,
            batch_rows=1,
        )
    assert list((tmp_path / "out").iterdir()) == []
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_nothing_left_and_nothing_there_are_told_apart(tmp_path: Path):
    out = outputs_in(tmp_path / "out")
    with pytest.raises(DataError, match=r"Nothing is left of 2 rows, .*step 1 \(each\) dropped 2: told to\."):
        run([Source(write_texts(tmp_path / "rows", ["drop 1", "drop 2"]), "rows")], [Each(), All()], out)
    with pytest.raises(DataError, match="The dataset has no rows: rows"):
        run([Source(write_texts(tmp_path / "rows", []), "rows")], [Each(), All()], out)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("step", "setting"), [("filter_length", {"max_words": 9}), ("drop_duplicates", {})])
def test_fields_that_no_row_has_are_an_error_and_those_of_some_are_not(tmp_path: Path, step, setting):
    file = write_texts(tmp_path / "rows", ["a", "b"])

    def prepare(*fields: str) -> int:
        steps = read_steps([{"step": step, "fields": fields, **setting}])
        return run([Source(file, "rows")], steps, outputs_in(tmp_path / "out"), batch_rows=1).used

    assert prepare("txet", "text") == 2
    with pytest.raises(
        DataError, match=rf"^No row has what step 1 \({step}\) looks at, txet, so nothing was written"
    ):
        prepare("txet")


def test_id_of_an_earlier_preparation_is_kept(tmp_path: Path):
    (tmp_path / "rows").write_text(
        '{"row_id": "raw.jsonl:7", "text": "a"}\n{"text": "b", "row_id": "x:1", "source_row_id": "raw:9"}\n'
    )
    out = outputs_in(tmp_path)
    run([Source(tmp_path / "rows", "rows")], [Each()], out)
    assert lines_of(out["prepared"]) == [
        {"row_id": "rows:1", "text": "a", "source_row_id": "raw.jsonl:7"},
        {"row_id": "rows:2", "text": "b", "source_row_id": "raw:9"},
    ]


@pytest.mark.parametrize(("used", "added"), [(1, 0), (3, 0), (2, 1)])
def test_rows_that_do_not_add_up_are_an_error(used, added):
    tally = Tally({"rows": 2}, running.Ledger([]).counts, used=used, added_used=added)
    with pytest.raises(RuntimeError, match=f"Rows were lost or doubled: 2 were read, {used} written"):
        tally.check()


def test_duplicates_name_the_row_that_is_kept(tmp_path: Path):
    for name, rows in {
        "a": [{"text": "x", "n": 1}, {"n": 1, "text": "x"}, {"text": "x", "n": 2}],
        "b": [{"text": "x", "n": 2}, {"other": 1}, {"other": 2}],
    }.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [Source(tmp_path / name, name) for name in "ab"]

    def dropped(**settings) -> list[tuple[str, str]]:
        out = outputs_in(tmp_path / "out")
        run(sources, read_steps([{"step": "drop_duplicates", **settings}]), out)
        return [(entry["row_id"], entry["kept_row_id"]) for entry in lines_of(out["ledger"])]

    assert dropped() == [("a:2", "a:1"), ("b:1", "a:3")]
    assert dropped(within="source") == [("a:2", "a:1")]
    assert dropped(fields=["text"]) == [("a:2", "a:1"), ("a:3", "a:1"), ("b:1", "a:1")]
