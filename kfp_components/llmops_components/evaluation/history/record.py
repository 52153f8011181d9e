"""Record the evaluation of a partition, hold it against the one before, and draw the trend of all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.comparison import Comparison, read_comparison
from llmops_components.data.files import read_rows
from llmops_components.data.partitions import check_partition
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation.history.records import History, Record
from llmops_components.evaluation.judge.memory import digest
from llmops_components.results import StepReport
from llmops_components.state_files import write_text

TREND_FILE = "trend.html"
_ROW = ("prompt", "reference")


def record_evaluation(
    scores: str | os.PathLike[str],
    trend: str | os.PathLike[str],
    *,
    history: str | os.PathLike[str],
    partition: str,
    comparison: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    title: str = "Evaluation by partition",
    tracking_uri: str | None = None,
    experiment: str = "llmops",
) -> StepReport:
    """Record the evaluation of a partition in a history, and compare it with the partition before where both are of the same rows.

    Nothing is answered or judged again: the scores of both are compared row by row. The same partition again replaces its own record and no other,
    so that partitions may be evaluated in any order, side by side, and again: the history is the same.

    Args:
        scores: ``scores`` of the evaluation.
        trend: Output file, an HTML page with a line for each metric. The directory has it, too, as ``trend.html``, of the newest state.
        history: Directory that outlives the step.
        partition: Key of the partition; keys are put in order as text.
        comparison: Output ``comparison`` of the evaluation.
        settings: How it was measured, such as the judge's model: partitions with other settings are not compared.
        title: Title of the page, and name of the run in MLflow.
        tracking_uri: Address of an MLflow server, whose run of this history gets the metrics, with the partition's date as the step; None to
            log nothing.
        experiment: Experiment of that run.

    Returns:
        Metrics: each metric's value by name, ``samples`` and ``partitions``. The comparison is with the partition before; without one of
        the same rows, metrics and settings what the model reaches, and a finding says why. Details: ``partition``, ``compared_with`` (None
        without one), ``rows_digest``, ``history``, and ``mlflow``, the run and the step, where that is asked for.

    Raises:
        DataError: Scores and comparison are not of one evaluation, or a record cannot be read.
        SettingError: An argument cannot be meant.
        UnavailableError: MLflow could not be reached; the record is kept.
    """
    from llmops_components.evaluation.history.changes import alone, check_scores
    from llmops_components.evaluation.history.series import log_partition, step_of

    check_partition(partition)
    if tracking_uri is not None:
        step_of(partition)
    if not isinstance(settings, Mapping | None):
        raise SettingError(f"settings is {settings!r:.60}. Give an object, such as the judge's model_name.")
    told = read_comparison(comparison)
    lines = read_rows(scores)
    metrics = {name: alone(metric) for name, metric in told.metrics.items()}
    check_scores(lines, metrics)
    rows_digest = f"sha256:{digest([{key: line.get(key) for key in _ROW} for line in lines])}"
    told = told.model_copy(
        update={
            "has_baseline": False,
            "metrics": metrics,
            "slices": {
                column: {
                    value: {name: alone(each) for name, each in found.items()}
                    for value, found in values.items()
                }
                for column, values in told.slices.items()
            },
        }
    )
    kept = History(history)
    record = Record(
        partition=partition,
        rows=len(lines),
        rows_digest=rows_digest,
        settings=dict(settings or {}),
        metrics=metrics,
    )
    kept.records()  # a file that is none may be somebody's questions, and the partition's record goes by the same name
    kept.put(record, lines)
    known = _draw(kept, trend, title)
    before = max(
        (each for each in known if each.partition < partition), key=lambda each: each.partition, default=None
    )
    told, compared, findings = _compared(kept, record, lines, told, before)
    logged = {}
    if tracking_uri is not None:
        logged["mlflow"] = log_partition(
            record, history=history, title=title, experiment=experiment, tracking_uri=tracking_uri
        )
    values = {name: each.candidate.value for name, each in metrics.items() if each.candidate is not None}
    for finding in findings:
        print(finding, flush=True)
    return StepReport(
        metrics={**values, "samples": len(lines), "partitions": len(known)},
        details={
            "partition": partition,
            "compared_with": compared,
            "rows_digest": rows_digest,
            "history": os.fspath(kept.directory),
            **logged,
        },
        findings=findings,
        comparison=told,
    )


def _compared(
    kept: History,
    record: Record,
    lines: Sequence[Mapping[str, Any]],
    told: Comparison,
    before: Record | None,
) -> tuple[Comparison, str | None, list[str]]:
    """The comparison with the partition before, which one that is, and what there is to say."""
    from llmops_components.evaluation.history.changes import compare_scores

    if before is None:
        return (
            told,
            None,
            [f"No partition before {record.partition} has a record: there is nothing to compare with."],
        )
    if others := record.differences(before):
        what = " and ".join(others)
        return (
            told,
            None,
            [
                f"{record.partition} is not compared with {before.partition}, the partition before: its {what} are others."
            ],
        )
    theirs = kept.scores(before.partition)
    if len(theirs) != len(lines):  # it was replaced meanwhile, or by hand
        raise DataError(
            f"The record of partition {before.partition} has {len(theirs)} rows and says {before.rows}. Evaluate it again. "
            f"History: {kept.directory}."
        )
    found, findings = compare_scores(told, lines, before.metrics, theirs)
    return found, before.partition, [f"Compared with {before.partition}, the partition before.", *findings]


def _draw(kept: History, trend: str | os.PathLike[str], title: str) -> list[Record]:
    """Draw the page, and draw it again where another partition has got its record meanwhile.

    Who writes the page last has looked at the records after that, and seen those of all who had written theirs: whoever comes later writes
    the page later.
    """
    from pathlib import Path

    from llmops_components.evaluation.history.page import render_trend

    drawn: list[Record] | None = None
    while (known := kept.records()) != drawn:
        page = render_trend(title, known)
        write_text(kept.directory / TREND_FILE, page)
        write_text(Path(trend), page)
        drawn = known
    return known
