"""Rows from files through declared steps to files, with the count of every row."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from llmops_components.data.files import read_lines
from llmops_components.data.preparation.ledger import Ledger, StepCounts
from llmops_components.data.preparation.pool import Crew, Processes, ThisProcess
from llmops_components.data.preparation.records import body_of, head_of, record_of, record_of_line, row_of
from llmops_components.data.preparation.row import SIDES, Row
from llmops_components.data.preparation.spool import Spool
from llmops_components.data.preparation.step import Dropped, Inputs, Repeated, RowStep, Sent, Step, WholeStep
from llmops_components.data.preparation.worker import Result, Segment, Worker
from llmops_components.data.versions.digest import ContentDigest
from llmops_components.errors import DataError, UnavailableError
from llmops_components.processes import handling_sigterm

BATCH_ROWS = 256
_BATCH_BYTES = 1 << 20
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Source:
    """A file of rows.

    Args:
        path: The file.
        name: What it is called in ids of rows.
    """

    path: str | os.PathLike[str]
    name: str


@dataclass
class Tally:
    """What a run came to.

    Args:
        rows: Lines that were read, by source.
        steps: What each step did; the first is the reading.
        outputs: Rows in each output.
        used: Source rows that were written.
        added_used: Repeats and added rows that were written.
        contents: Digest of each output.
    """

    rows: dict[str, int]
    steps: list[StepCounts]
    outputs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    used: int = 0
    added_used: int = 0
    contents: dict[str, ContentDigest] = field(
        default_factory=lambda: {side: ContentDigest() for side in SIDES}
    )

    @property
    def repeated(self) -> int:
        """Further copies that steps made of rows."""
        return sum(step.repeated for step in self.steps)

    @property
    def added(self) -> int:
        """Other rows that steps made."""
        return sum(step.added for step in self.steps)

    @property
    def rejected(self) -> int:
        """Source rows that were dropped."""
        return sum(step.dropped for step in self.steps)

    def check(self) -> None:
        """Raise unless each row that was read, or added, was written or dropped, once."""
        read, added = sum(self.rows.values()), self.added + self.repeated
        dropped_added = sum(step.dropped_added for step in self.steps)
        if read != self.used + self.rejected or added != self.added_used + dropped_added:
            raise RuntimeError(
                f"Rows were lost or doubled: {read} were read, {self.used} written and {self.rejected} rejected; {added} were "
                f"added, {self.added_used} of these written and {dropped_added} rejected. This is an error of prepare_dataset: "
                "nothing was written."
            )


def run(
    sources: Sequence[Source],
    steps: Sequence[Step],
    outputs: Mapping[str, str | os.PathLike[str]],
    *,
    inputs: Inputs | None = None,
    processes: int = 1,
    batch_rows: int = BATCH_ROWS,
) -> Tally:
    """Take rows through steps.

    The outputs are the same bytes whatever the number of processes and the size of batches. They are there when all is done,
    or not at all.

    Args:
        sources: Files of rows, whose names differ.
        steps: The steps.
        outputs: Files to write: ``prepared``, ``held_out`` and ``ledger``.
        inputs: What steps need besides, by name.
        processes: How many processes judge rows; 1 judges them in this one.
        batch_rows: How many rows are handed to a process at once.

    Raises:
        DataError: A file cannot be read, there are no rows, or none is left.
        BrokenWorkerError: A process has died.
    """
    names = [step.step for step in steps]
    segments = _segments(steps)
    worker = Worker(names, segments, inputs or {})
    tally = Tally({source.name: 0 for source in sources}, Ledger(names).counts)
    with ExitStack() as stack:
        stack.enter_context(handling_sigterm(_interrupt))
        files = stack.enter_context(_written_together(outputs))
        # On the disk of the outputs: what is in memory elsewhere, /tmp, may be too small.
        beside = tempfile.TemporaryDirectory(
            prefix=".prepare-", dir=Path(outputs["ledger"]).parent, ignore_cleanup_errors=True
        )
        scratch = Path(stack.enter_context(beside))
        crew: Crew = ThisProcess(worker) if processes == 1 else Processes(worker, processes)
        stack.callback(crew.close)
        records = _watched(_read(sources, tally), "reading")
        for number, segment in enumerate(segments):
            spool = Spool(scratch, str(number)) if segment.whole is not None else None
            # Apart until the segment ends: the entries of the barrier before it, which are written meanwhile, come first.
            with tempfile.TemporaryFile(dir=scratch) as entries:
                for result in crew.carry_out(number, _batches(records, batch_rows)):
                    entries.writelines(result.ledger)
                    _collect(result, spool, files, tally)
                entries.seek(0)
                shutil.copyfileobj(entries, files["ledger"])
            if spool is not None and segment.whole is not None:
                position = segment.first + len(segment.steps)
                decided = _decided(segment.whole, position, spool, names, files["ledger"], tally)
                records = _watched(decided, f"after step {position} ({segment.whole.step})")
        tally.check()
        _refuse_absent_fields(steps, tally)
        _refuse_nothing(tally)
    return tally


def _interrupt(*_: Any) -> None:
    raise UnavailableError(
        "Stopped by SIGTERM while rows were prepared; nothing was written. Run it again: it starts from the beginning."
    )


def _segments(steps: Sequence[Step]) -> list[Segment]:
    found, between, first = [], [], 1
    for position, step in enumerate(steps, start=1):
        if isinstance(step, WholeStep):
            found.append(Segment(first, tuple(between), step))
            between, first = [], position + 1
        else:
            assert isinstance(step, RowStep)
            between.append(step)
    return [*found, Segment(first, tuple(between))]


def _read(sources: Sequence[Source], tally: Tally) -> Iterator[bytes]:
    for source in sources:
        for line in read_lines(source.path):
            tally.rows[source.name] += 1
            yield record_of_line(source.name, line)


def _batches(records: Iterable[bytes], rows: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record)
        if len(batch) >= rows or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _collect(result: Result, spool: Spool | None, files: Mapping[str, BinaryIO], tally: Tally) -> None:
    for total, counts in zip(tally.steps, result.counts, strict=True):
        total.add(counts)
    if spool is not None:
        spool.add(result.records, result.keys)
    for side, lines in result.written.items():
        files[side].writelines(lines)
        tally.outputs[side] += len(lines)
    tally.used += result.rows[0]
    tally.added_used += result.rows[1]
    for side, content in result.contents.items():
        tally.contents[side].merge(content)


def _decided(
    step: WholeStep, position: int, spool: Spool, names: list[str], file: BinaryIO, tally: Tally
) -> Iterator[bytes]:
    """The records that go on after a barrier."""
    keys, rows = spool.read()
    verdicts = step.decide(keys, rows) if len(rows) else {}
    ledger = Ledger(names)
    try:
        for index, record in enumerate(spool.records()):
            match verdicts.get(index):
                case None:
                    yield record
                case Dropped() as verdict:
                    row = row_of(record)
                    assert isinstance(row, Row)
                    kept = None if verdict.kept is None else rows.row_id(verdict.kept)
                    ledger.dropped(position, row, verdict, kept)
                case Sent(side):
                    yield record_of(replace(head_of(record), side=side), body_of(record))
                case Repeated(times, reason):
                    yield record
                    for each in range(2, times + 1):
                        new = ledger.added(position, head_of(record), each, reason, is_copy=True)
                        yield record_of(new, body_of(record))
            file.writelines(ledger.lines)
            ledger.lines.clear()
    finally:
        spool.remove()
    tally.steps[position].add(ledger.counts[position])


def _refuse_absent_fields(steps: Sequence[Step], tally: Tally) -> None:
    """A step whose fields are in no row has looked at nothing, and would pass for one that found nothing."""
    for position, (step, counts) in enumerate(zip(steps, tally.steps[1:], strict=True), start=1):
        if step.named_fields and counts.rows and not counts.with_fields:
            raise DataError(
                f"No row has what step {position} ({step.step}) looks at, {', '.join(step.named_fields)}, so nothing was written. "
                f"Correct its fields, or leave it out. It got {counts.rows} rows."
            )


def _refuse_nothing(tally: Tally) -> None:
    if empty := [name for name, rows in tally.rows.items() if not rows]:
        raise DataError(
            f"The dataset has no rows: {', '.join(empty)}. Leave it out, or check the step or partition that it comes from."
        )
    if not tally.used:
        reasons = [
            f"step {position} ({step.name}) dropped {count}: {reason}"
            for position, step in enumerate(tally.steps)
            for reason, count in step.reasons.most_common(3)
        ]
        raise DataError(
            f"Nothing is left of {tally.rejected} rows, so nothing was written: {'; '.join(reasons[:8])}. Loosen these steps, or "
            "look at the rows."
        )


@contextmanager
def _written_together(outputs: Mapping[str, str | os.PathLike[str]]) -> Iterator[dict[str, BinaryIO]]:
    """Files that take their places when all went well; else nothing of them is left."""
    asides = {}
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for name, path in outputs.items():
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            asides[name] = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.tmp")
            stack.callback(_unlink, asides[name])
            files[name] = stack.enter_context(asides[name].open("wb"))
        yield files
        for name, path in outputs.items():
            files[name].close()
            asides[name].replace(path)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _watched(records: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The same records, with a line of the log every ten seconds."""
    start = last = time.monotonic()
    for count, record in enumerate(records, start=1):
        yield record
        if count % BATCH_ROWS == 0 and (now := time.monotonic()) - last > _PROGRESS_SECONDS:
            last = now
            rate = count / (now - start)
            print(f"prepared {count:,} rows  {where}  {rate:,.0f} rows/s", flush=True)
