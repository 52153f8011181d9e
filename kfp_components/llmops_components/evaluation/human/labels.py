"""What people have said of the pairs on a review sheet, read back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmops_components.data.files import read_lines, write_rows
from llmops_components.data.lines import Line, rejected_findings, rejected_line
from llmops_components.errors import DataError, SettingError
from llmops_components.evaluation import statistics
from llmops_components.evaluation.agreement import mean_pairwise_kappa
from llmops_components.evaluation.comparing import comparison_of
from llmops_components.evaluation.human.composed import HUMAN_PREFERENCE, composed
from llmops_components.evaluation.human.key import Item, Key
from llmops_components.results import StepReport

CHOICES = ("left", "right", "tie", "skip")
_TIE = 0.5
_LONGEST_NAME = 100
_ROUNDING = 1e-9  # 0.55 of 100 is a little more than 55


@dataclass(frozen=True)
class Label:
    """One judgement of one person.

    Args:
        line: Where it was read.
        file: In which file.
        item: The pair, by its name on the sheet.
        rater: Who has judged.
        choice: Which side, ``tie``, or ``skip``.
        comment: Why, in words; may be empty.
        at: When, as ISO 8601; may be empty.
    """

    line: Line
    file: str
    item: str
    rater: str
    choice: str
    comment: str
    at: str


def collect_human_labels(
    human_labels: str | os.PathLike[str],
    key: str | os.PathLike[str],
    judgements: str | os.PathLike[str],
    preferences: str | os.PathLike[str],
    rejected: str | os.PathLike[str],
    *,
    min_judged: float = 1.0,
    composites: Mapping[str, Mapping[str, float]] | None = None,
    scores: str | os.PathLike[str] | None = None,
    baseline_scores: str | os.PathLike[str] | None = None,
) -> StepReport:
    """Read what people have said of a review sheet.

    Several people may have judged the same pairs. Of two judgements of one person of the same pair the later one counts; the other one, and
    whatever cannot be used, is in ``rejected`` with its reason.

    Args:
        human_labels: The file that the sheet has given back, or a directory of several.
        key: ``key`` of the sheet, which says whose answer is whose.
        judgements: Output, a JSON line a judgement: row, prompt, both answers, rater, whose answer is ``preferred`` (``candidate``,
            ``baseline``, ``tie`` or ``skip``), comment.
        preferences: Output, rows with ``prompt``, ``chosen`` and ``rejected`` as trainings take them: a row for each pair of which more
            people prefer one side than the other.
        rejected: Output, a JSON line for each line that was not used: file, line, reasons, and the line as it was.
        min_judged: Share of the sheet's pairs, 0 to 1, of which somebody has said something other than "I cannot tell"; below it the gate is
            not passed.
        composites: Weighted sums of ``human_preference`` and of metrics, pair by pair, such as
            ``{"quality": {"human_preference": 0.7, "rougeL": 0.3}}``: each is compared as a metric is. A pair that nobody has judged has none.
        scores: ``scores`` of the evaluation that the sheet was made from; only composites need them.
        baseline_scores: Those of the model that it is compared with.

    Returns:
        ``human_preference`` is the share of pairs in which the model's answer is preferred, ties as half, the mean of several people; and
        counts. ``raters_kappa`` is the mean of Cohen's kappa over all pairs of people. The comparison has it against the baseline's share;
        pairs that nobody has judged are unscored.

    Raises:
        DataError: There is no file, the key is none, or no line can be used.
        SettingError: An argument cannot be meant.
    """
    if isinstance(min_judged, bool) or not isinstance(min_judged, int | float) or not 0 <= min_judged <= 1:
        raise SettingError(f"min_judged must be a number from 0 to 1, got {min_judged!r:.60}.")
    found = Key.read(key)
    taken, refused = _sorted_out(found, Path(human_labels))
    write_rows(rejected, refused)
    if not taken:
        first = f" The first line: {refused[0]['reasons'][0]}." if refused else ""
        raise DataError(
            f"There is no judgement of sheet {found.sheet} in {os.fspath(human_labels)}.{first} Give the file that the sheet has saved, and the key "
            "of the same sheet."
        )
    write_rows(judgements, (_judgement(found.items[each.item], each) for each in taken))
    values = _values(found, taken)
    write_rows(preferences, _preferences(found, values))
    both = composed([each.pair for each in found.items.values()], values, composites, scores, baseline_scores)
    return _report(found, taken, refused, both, min_judged)


def _files(labels: Path) -> list[Path]:
    if not labels.is_dir():
        return [labels]
    files = sorted(file for file in labels.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise DataError(
            f"There is no file with judgements in the directory {labels}. Put what the sheet has saved there."
        )
    return files


def _sorted_out(key: Key, labels: Path) -> tuple[list[Label], list[dict[str, Any]]]:
    """The judgements that count, and the lines that do not with the reason."""
    taken: dict[tuple[str, str], Label] = {}
    refused = []
    for file in _files(labels):
        for line in read_lines(file):
            label, problem = _read(key, file.name, line)
            if label is None:
                refused.append(rejected_line(line, str(problem), file=file.name))
                continue
            same = label.rater, label.item
            if (before := taken.get(same)) is not None:
                label, before = (label, before) if label.at >= before.at else (before, label)
                refused.append(
                    rejected_line(
                        before.line, f"{label.rater} has judged this pair again later", file=before.file
                    )
                )
            taken[same] = label
    return list(taken.values()), refused


def _read(key: Key, file: str, line: Line) -> tuple[Label | None, str | None]:
    row = line.row
    if row is None:
        return None, line.problem
    rater = row.get("rater")
    texts = {name: row.get(name, "") for name in ("comment", "at")}
    if row.get("sheet") != key.sheet:
        return None, f"is of another sheet: {row.get('sheet')!r:.60}, not {key.sheet}"
    if row.get("item") not in key.items:
        return None, f"is of a pair that is not on the sheet: {row.get('item')!r:.60}"
    if not isinstance(rater, str) or not rater.strip() or len(rater) > _LONGEST_NAME:
        return None, f"has no name of the person as rater: {rater!r:.60}"
    if row.get("choice") not in CHOICES:
        return None, f"has a choice that is none of {', '.join(CHOICES)}: {row.get('choice')!r:.60}"
    if wrong := [name for name, text in texts.items() if not isinstance(text, str)]:
        return None, f"has a {wrong[0]} that is no text"
    return Label(line, file, row["item"], rater.strip(), row["choice"], texts["comment"], texts["at"]), None


def _preferred(item: Item, choice: str) -> str:
    if choice not in ("left", "right"):
        return choice
    return item.left if choice == "left" else ("baseline" if item.left == "candidate" else "candidate")


def _judgement(item: Item, label: Label) -> dict[str, Any]:
    return {
        **vars(item.pair),
        "rater": label.rater,
        "preferred": _preferred(item, label.choice),
        "comment": label.comment,
    }


def _values(key: Key, taken: list[Label]) -> np.ndarray:
    """Of each pair how far the model's answer is preferred, 0 to 1; NaN where nobody could tell."""
    worth = {"candidate": 1.0, "tie": _TIE, "baseline": 0.0}
    said: dict[str, list[float]] = {name: [] for name in key.items}
    for label in taken:
        if (preferred := _preferred(key.items[label.item], label.choice)) in worth:
            said[label.item].append(worth[preferred])
    return np.array([np.mean(each) if each else np.nan for each in said.values()])


def _preferences(key: Key, values: np.ndarray) -> Iterator[dict[str, Any]]:
    for item, value in zip(key.items.values(), values, strict=True):
        if np.isfinite(value) and value != _TIE:
            pair = item.pair
            better, worse = (
                (pair.candidate, pair.baseline) if value > _TIE else (pair.baseline, pair.candidate)
            )
            chosen, rejected = (
                text if isinstance(pair.prompt, str) else [{"role": "assistant", "content": text}]
                for text in (better, worse)
            )
            yield {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}


def _report(
    key: Key,
    taken: list[Label],
    refused: list[dict[str, Any]],
    both: tuple[dict[str, statistics.Scores], dict[str, statistics.Scores]],
    min_judged: float,
) -> StepReport:
    ours, theirs = both
    values = ours[HUMAN_PREFERENCE].values
    judged = int(np.isfinite(values).sum())
    by_item: dict[str, dict[str, str]] = {}
    for label in taken:
        if label.choice != "skip":
            by_item.setdefault(label.item, {})[label.rater] = _preferred(key.items[label.item], label.choice)
    metrics: dict[str, float | int] = {
        "pairs": len(values),
        "judged": judged,
        "raters": len({label.rater for label in taken}),
        "ties": int((values == _TIE).sum()),
        "rejected_lines": len(refused),
    }
    for name, each in ours.items():
        if each.are_there.any():
            metrics[name] = round(each[each.are_there].aggregate, 6)
    if (kappa := mean_pairwise_kappa(list(by_item.values()))) is not None:
        metrics["raters_kappa"] = round(kappa, 6)
    is_enough = judged >= min_judged * len(values) - _ROUNDING
    findings = []
    if not is_enough:
        findings.append(f"{judged} of {len(values)} pairs are judged, and {min_judged:.6g} of them must be.")
    findings += rejected_findings(
        refused, lambda each: f"{each['file']}, line {each['line']} was not used: {each['reasons'][0]}."
    )
    compared = {name: statistics.compare(each, theirs[name]) for name, each in ours.items()}
    return StepReport(
        metrics=metrics,
        details={"sheet": key.sheet, "preference_rows": int((np.isfinite(values) & (values != _TIE)).sum())},
        passed=is_enough,
        findings=findings,
        comparison=comparison_of(ours, theirs, compared),
    )
