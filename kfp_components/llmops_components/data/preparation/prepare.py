"""Prepare datasets by declared steps."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops_components.data.files import is_compressed
from llmops_components.data.preparation.declared import read_steps, settings_of
from llmops_components.data.preparation.ledger import StepCounts
from llmops_components.data.preparation.row import HELD_OUT, PREPARED
from llmops_components.data.preparation.run import Source, Tally, run
from llmops_components.data.preparation.step import Step
from llmops_components.data.versions.manifest import (
    file_record,
    make_manifest,
    source_record,
    step_record,
    write_manifest,
)
from llmops_components.dataset_manifest import Counts
from llmops_components.errors import SettingError, check_known, check_whole_number, named
from llmops_components.results import StepReport, digest_of
from llmops_components.uris import last_part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_PROCESSES = 64
_MANY_PROCESSES = 8  # the most that are taken unasked: what reads and writes is one process
_FEW_BYTES = 8 << 20  # less is done before a second process has started
ORIGIN = ("uri", "licence", "owner", "date", "digest")
_MAX_REASONS = 3  # of one step
_MAX_FINDINGS = 20


def prepare_dataset(
    datasets: Mapping[str, str | os.PathLike[str]],
    prepared: str | os.PathLike[str],
    held_out: str | os.PathLike[str],
    ledger: str | os.PathLike[str],
    manifest: str | os.PathLike[str],
    *,
    steps: Sequence[Mapping[str, Any]],
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
    evaluation_dataset: str | os.PathLike[str] | None = None,
    processes: int | None = None,
    origins: Mapping[str, Mapping[str, Any]] | None = None,
    dataset_name: str = "prepared",
) -> StepReport:
    """Take the rows of files through declared steps.

    Each row is written or rejected, and each that was rejected, changed or added is in the ledger. The same inputs and settings
    give the same bytes, whatever the number of processes.

    Args:
        datasets: Files of rows by name, in their order, see :mod:`~llmops_components.data.files`. A row's id is its file's name and
            its line in there: ``train.jsonl:17``.
        prepared: Output, the rows as JSON Lines, each with its ``row_id``.
        held_out: Output, the rows that a step has held out; empty where none does.
        ledger: Output, a JSON line for each row that was dropped, changed or added: ``step``, ``position``, ``action``, ``reason``,
            ``row_id``, ``score``, ``kept_row_id``, ``similarity``, and of a dropped one the ``row``, or the ``raw`` line.
        manifest: Output, sources, steps, counts and columns as JSON.
        steps: The steps, each an object with its name as ``step`` and its settings, see
            :mod:`~llmops_components.data.preparation.table`.
        tokenizer: Loads the tokenizer whose tokens a step counts, in each process that judges rows, so that it has to be one that pickle takes. See
            :func:`~llmops_components.models.loading.load_tokenizer`.
        evaluation_dataset: File of the evaluation rows that a step compares with.
        processes: How many processes judge rows; None for one a core, 8 at most, and for one where there is little to do.
        origins: Where each file came from, by name, for the manifest: ``uri``, ``licence``, ``owner``, ``date``, ``digest``, as far as they are known,
            see :func:`~llmops_components.data.versions.manifest.source_record`.
        dataset_name: What the data set is called, whatever the version.

    Returns:
        ``rows``, ``used`` and ``rejected`` rows, and what was ``added``, as metrics, and how many each step has dropped and changed.

    Raises:
        SettingError: A step or setting is wrong, or what a step needs is missing.
        DataError: A file cannot be read, there are no rows, or none is left.
        BrokenWorkerError: A process has died.
    """
    given = {"tokenizer": tokenizer, "evaluation": evaluation_dataset and Path(evaluation_dataset)}
    inputs = {each: value for each, value in given.items() if value is not None}
    declared = read_steps(steps, inputs)
    for name, origin in (origins or {}).items():
        source_record(name, **origin)  # refused before the work, and not after it
    if not datasets:
        raise SettingError("datasets is empty: give at least one file of rows.")
    if processes is not None:
        check_whole_number("processes", processes, 1, MAX_PROCESSES)
    sources = [Source(path, each) for each, path in datasets.items()]
    outputs = {PREPARED: prepared, HELD_OUT: held_out, "ledger": ledger}
    tally = run(sources, declared, outputs, inputs=inputs, processes=processes or _processes(sources))
    _write_manifest(manifest, dataset_name, sources, origins or {}, declared, outputs, tally)
    print(_told(tally), flush=True)
    return StepReport(metrics=_metrics(tally), details=_details(tally.steps), findings=_findings(tally))


def named_datasets(places: Sequence[tuple[str, str]], names: Sequence[str] | None = None) -> dict[str, str]:
    """Files by the names that ids of rows begin with.

    Args:
        places: Path and address of each.
        names: Their names; None for the last parts of their addresses.

    Raises:
        SettingError: There are more or fewer names than files, or two are the same.
    """
    names = [last_part(address) for _, address in places] if names is None else list(names)
    if len(names) != len(places):
        raise SettingError(f"names has {len(names)} names for {len(places)} data sets: give one for each.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingError(
            f"Two data sets are called {named(twice)}: ids of their rows would be the same. Give them different names by `names`."
        )
    return {name: path for name, (path, _) in zip(names, places, strict=True)}


def origins_of(
    datasets: Mapping[str, str], addresses: Sequence[str], told: Sequence[Mapping[str, Any]] | None
) -> dict[str, dict[str, Any]]:
    """What is known of each file's origin, by its name.

    Args:
        datasets: The files by name.
        addresses: Their addresses, for those of which nothing is told.
        told: What the caller says of each, in their order.

    Raises:
        SettingError: It is told of more or fewer files, or something else is told.
    """
    if told is None:
        return {name: {"uri": address} for name, address in zip(datasets, addresses, strict=True)}
    if len(told) != len(datasets):
        raise SettingError(
            f"sources says something of {len(told)} data sets, and there are {len(datasets)}: give one object for each."
        )
    for number, each in enumerate(told, start=1):
        if not isinstance(each, Mapping):
            raise SettingError(
                f"sources has {each!r:.60} for data set {number}; give an object with {', '.join(ORIGIN)}."
            )
        check_known(each, ORIGIN, f"of data set {number} in sources")
    return {name: dict(each) for name, each in zip(datasets, told, strict=True)}


def _processes(sources: Sequence[Source]) -> int:
    """How many processes are worth it."""
    sizes = [Path(source.path).stat().st_size for source in sources if Path(source.path).is_file()]
    packed = any(is_compressed(source.path) for source in sources if Path(source.path).is_file())
    if sum(sizes) * (10 if packed else 1) < _FEW_BYTES:
        return 1
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        _MANY_PROCESSES,
    )


def _write_manifest(
    path: str | os.PathLike[str],
    name: str,
    sources: Sequence[Source],
    origins: Mapping[str, Mapping[str, Any]],
    steps: Sequence[Step],
    outputs: Mapping[str, str | os.PathLike[str]],
    tally: Tally,
) -> None:
    written = make_manifest(
        name,
        [
            file_record(outputs[side], side, content.content())
            for side, content in tally.contents.items()
            if tally.outputs[side]
        ],
        sources=[
            source_record(
                source.name,
                **{"digest": digest_of(source.path)[0], **origins.get(source.name, {})},
                rows=tally.rows[source.name],
            )
            for source in sources
        ],
        steps=[
            step_record(
                step.step,
                settings_of(step),
                step.libraries,
                dropped=count.dropped + count.dropped_added,
                changed=count.changed,
                repeated=count.repeated,
                added=count.added,
            )
            for step, count in zip(steps, tally.steps[1:], strict=True)
        ],
        counts=Counts(
            rows_in=sum(tally.rows.values()),
            used=tally.used,
            rejected=tally.rejected,
            repeated=tally.repeated,
            added=tally.added,
        ),
    )
    write_manifest(path, written)


def _metrics(tally: Tally) -> dict[str, float | int]:
    return {
        "rows": sum(tally.rows.values()),
        "used": tally.used,
        "rejected": tally.rejected,
        "changed": sum(step.changed for step in tally.steps),
        "repeated": tally.repeated,
        "added": tally.added,
        "prepared_rows": tally.outputs[PREPARED],
        "held_out_rows": tally.outputs[HELD_OUT],
    }


def _details(steps: Sequence[StepCounts]) -> dict[str, Any]:
    return {
        "steps": [
            {
                "position": position,
                "step": step.name,
                "rows": step.rows,
                "dropped": step.dropped,
                "changed": step.changed,
                "repeated": step.repeated,
                "added": step.added,
            }
            for position, step in enumerate(steps)
            if position
        ]
    }


def _findings(tally: Tally) -> list[str]:
    found = [
        f"step {position} ({step.name}): {count:,} rows dropped: {reason}"
        for position, step in enumerate(tally.steps)
        for reason, count in step.reasons.most_common(_MAX_REASONS)
    ]
    if len(found) > _MAX_FINDINGS:
        found = [
            *found[: _MAX_FINDINGS - 1],
            f"{len(found) - _MAX_FINDINGS + 1} more reasons are in the ledger",
        ]
    return found


def _told(tally: Tally) -> str:
    rows = sum(tally.rows.values())
    further = f", {tally.outputs[HELD_OUT]:,} of them held out" if tally.outputs[HELD_OUT] else ""
    made = (
        f"; {tally.repeated + tally.added:,} more by repeats and steps"
        if tally.repeated + tally.added
        else ""
    )
    return f"prepared {rows:,} rows: {tally.used:,} used{further}, {tally.rejected:,} rejected{made}"
