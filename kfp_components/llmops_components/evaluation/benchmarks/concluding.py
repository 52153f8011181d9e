"""What follows from scores of tasks: the comparison with another model's, the page, and what the step says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmops_components.comparison import Comparison
from llmops_components.data.files import read_rows, write_output
from llmops_components.errors import DataError, SettingError, named
from llmops_components.evaluation.about import About
from llmops_components.evaluation.benchmarks.samples import Measured, Measures
from llmops_components.evaluation.clock import Clock
from llmops_components.evaluation.comparing import comparison_of
from llmops_components.evaluation.facts import BenchmarkFacts
from llmops_components.evaluation.further import FurtherModel, FurtherScores, GivenModel, read_models
from llmops_components.evaluation.slices import MAX_COMPARED
from llmops_components.evaluation.statistics import PairedComparison, Scores, compare, record
from llmops_components.redaction import redacted
from llmops_components.results import StepReport

TASK = "task"
_SAME = ("task", "subtask", "sample", "digest")
_AGAIN = "Pass the scores of run_benchmarks with the same tasks, num_fewshot, limit, chat_template and seed."


@dataclass(frozen=True)
class Benchmarked:
    """What is known once all tasks were asked.

    Args:
        lines: The lines of the scores file.
        measures: What is compared.
        facts: Who answered.
        about: What was run.
        findings: What has to be known of it.
        further: Further models, which the page shows.
    """

    lines: Sequence[Mapping[str, Any]]
    measures: Measures
    facts: BenchmarkFacts
    about: About
    findings: Sequence[str]
    further: Sequence[GivenModel] = ()


def check_room(measures: Measures) -> None:
    """Raise :class:`SettingError` where a result has no room for so many metrics and tasks.

    Args:
        measures: What is compared.
    """
    count = len(measures.all) + sum(map(len, measures.by_task.values()))
    if count > MAX_COMPARED:
        raise SettingError(
            f"{len(measures.by_task)} tasks with {len(measures.all)} metrics are {count} figures with those of all tasks together, and a result "
            f"has room for {MAX_COMPARED}. Name fewer metrics as metric_names, such as ['acc'], or fewer tasks."
        )


def read_baseline(
    path: str | os.PathLike[str] | None, lines: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The scores of another model on the same samples, asked in the same way.

    Args:
        path: The file; None for none.
        lines: The model's lines.
        names: The metrics.

    Raises:
        DataError: It is of other samples, of samples that were asked otherwise, or lacks a metric.
    """
    if path is None:
        return []
    found = read_rows(path)
    if len(found) != len(lines):
        raise DataError(
            f"Scores {os.fspath(path)} are of {len(found)} samples, and the tasks have {len(lines)}. {_AGAIN}"
        )
    for number, (theirs, ours) in enumerate(zip(found, lines, strict=True), start=1):
        _check_line(f"Scores {os.fspath(path)}, row {number}", theirs, ours, names)
    return found


def read_further(
    further_scores: FurtherScores | None, lines: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[GivenModel]:
    """The scores of further models on the same samples, of which some may be missing.

    Args:
        further_scores: The files, by the names of their models.
        lines: The model's lines.
        names: The metrics.

    Raises:
        SettingError: The names cannot be told apart, or are too many.
        DataError: As for :func:`read_baseline`.
    """
    return read_models(further_scores, lines, _AGAIN, partial(_check_line, names=names))


def _check_line(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise :class:`DataError` for a line of another sample, of one that was asked otherwise, or without a metric."""
    if different := [key for key in _SAME if theirs.get(key) != ours[key]]:
        why = "was asked otherwise" if different == ["digest"] else "is another sample"
        raise DataError(f"{what} {why}. {_AGAIN}")
    if missing := [name for name in names if name in ours and name not in theirs]:
        raise DataError(f"{what} has no {missing[0]}. {_AGAIN}")


def scores_of(lines: Sequence[Mapping[str, Any]], measured: Measured) -> Scores:
    """The scores by a metric, of all samples; those of tasks that do not have it have none.

    Args:
        lines: Lines of a scores file.
        measured: The metric.

    Raises:
        DataError: A line has something else there.
    """
    values: list[tuple[float, float] | None] = []
    for number, line in enumerate(lines, start=1):
        value = line.get(measured.name)
        sums = (line.get("sums") or {}).get(measured.name)
        found = value if measured.combine is None or value is None else sums
        pair = found if isinstance(found, list) else [found, 1.0]
        if value is None:
            values.append(None)
        elif len(pair) == 2 and all(isinstance(each, int | float) for each in pair):
            values.append((float(pair[0]), float(pair[1])))
        else:
            raise DataError(
                f"Row {number} of the scores has no number for {measured.name}. Pass them on as run_benchmarks wrote them."
            )
    return measured.scores(values)


def conclude(
    done: Benchmarked,
    baseline_scores: str | os.PathLike[str] | None,
    clock: Clock,
    *,
    scores: str | os.PathLike[str],
    report: str | os.PathLike[str],
    report_json: str | os.PathLike[str] | None = None,
    report_markdown: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Compare scores with another model's, and report.

    Args:
        done: What is known.
        baseline_scores: The scores of another model; None for none.
        clock: Times of what went before.
        scores: Output file, one JSON line a sample.
        report: Output file, an HTML page.
        report_json: Output file, the page's figures as JSON; None for none.
        report_markdown: Output file, the page as Markdown; None for none.
    """
    from llmops_components.evaluation.report.content import Content
    from llmops_components.evaluation.report.written import write_report
    from llmops_components.tracking.evaluation import EvaluationRun, log_evaluation

    lines, measures = done.lines, done.measures.all
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_output(scores, text.encode("utf-8", "backslashreplace").decode())
    baseline = read_baseline(baseline_scores, lines, list(measures))
    ours = {name: scores_of(lines, each) for name, each in measures.items()}
    theirs = {name: scores_of(baseline, each) for name, each in measures.items() if baseline}
    compared = {name: compare(ours[name], each) for name, each in theirs.items()}
    comparison = _comparison(done, ours, theirs, compared)
    having = {name: np.isin([line[TASK] for line in lines], _tasks_with(name, done)) for name in measures}
    further = [
        FurtherModel.of(
            each,
            {name: scores_of(each.answers, measured) for name, measured in measures.items()},
            ours,
            having,
        )
        for each in done.further
    ]
    clock.lap("compare")
    values = {
        f"{task}/{name}": each.candidate.value
        for task, metrics in comparison.slices[TASK].items()
        for name, each in metrics.items()
        if each.candidate is not None
    }
    figures: dict[str, float | int] = {**values, "samples": len(lines)}
    for name, value in values.items():
        print(f"{name:<40}{value:>9.4f}", flush=True)
    found = [
        *_unscored(comparison, lines),
        *done.findings,
        *(line for each in done.further for line in each.findings()),
    ]
    content = Content(
        samples=lines,
        ours=ours,
        theirs=theirs,
        compared=compared,
        comparison=comparison,
        facts=done.facts,
        about=done.about,
        baseline=baseline,
        further=further,
        metrics={name: each.described for name, each in measures.items()},
        labels={key: [str(line[key]) for line in lines] for key in (TASK, "subtask")},
        seconds=clock.seconds,
        findings=redacted(found),
    )
    write_report(content, report, report_json, report_markdown)
    files = {"evaluation.html": report, "evaluation.json": report_json, "evaluation.md": report_markdown}
    run = EvaluationRun(
        component=done.about.component,
        identity={**done.about.identity, "metrics": list(measures)},
        params=done.about.identity,
        metrics=figures,
        comparison=comparison,
        files={name: Path(path) for name, path in files.items() if path is not None},
        model_digest=done.about.model_digest,
        dataset_digest=done.about.dataset_digest,
    )
    tracked, not_logged = log_evaluation(done.about.tracking, run)
    return StepReport(
        metrics=figures,
        details={
            "rows_unscored": {
                f"{task}/{name}": each.rows_unscored
                for task, metrics in comparison.slices[TASK].items()
                for name, each in metrics.items()
                if each.rows_unscored
            },
            **({"further_models": {each.name: each.told() for each in done.further}} if further else {}),
            "tracking": tracked,
            "seconds": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
        },
        findings=[*found, *([not_logged] if not_logged else [])],
        comparison=comparison,
    )


def _comparison(
    done: Benchmarked,
    ours: Mapping[str, Scores],
    theirs: Mapping[str, Scores],
    compared: Mapping[str, PairedComparison],
) -> Comparison:
    """Each metric over the samples of the tasks that have it, and over those of each task."""
    tasks = np.array([line[TASK] for line in done.lines])
    by_task = done.measures.by_task

    def part(name: str, those: Sequence[str]) -> Any:
        chosen = np.isin(tasks, list(those))
        return record(ours[name][chosen], theirs[name][chosen] if theirs else None)

    whole = comparison_of({}, theirs, compared)
    return whole.model_copy(
        update={
            "metrics": {name: part(name, _tasks_with(name, done)) for name in ours},
            "slices": {
                TASK: {
                    task: {name: part(name, [task]) for name in metrics} for task, metrics in by_task.items()
                }
            },
        }
    )


def _tasks_with(name: str, done: Benchmarked) -> list[str]:
    """The tasks that have a metric."""
    return [task for task, metrics in done.measures.by_task.items() if name in metrics]


def _unscored(comparison: Comparison, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each metric of a task that has no score for some samples."""
    found = []
    for task, metrics in comparison.slices[TASK].items():
        for name, each in metrics.items():
            if not each.rows_unscored:
                continue
            rows = [line for line in lines if line[TASK] == task and name in line.get("unscored", {})]
            found.append(
                f"{name} of {task} has no score for {each.rows_unscored} of {each.rows_scored + each.rows_unscored} samples: row "
                f"{named([line['row'] for line in rows])}. The first: {rows[0]['unscored'][name]}; they are left out of the aggregate."
            )
    return found
