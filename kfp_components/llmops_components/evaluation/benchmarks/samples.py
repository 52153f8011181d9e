"""What lm-evaluation-harness says of each sample, as scores that are compared like those of every other evaluation.

An aggregate of it that is a function of sums over the samples is one here, too: means, and perplexities by token, word or byte. Others,
as corpus BLEU or the F1 of a class, cannot be told of a sample: they are in its results alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmops_components.errors import SettingError, check_known
from llmops_components.evaluation.benchmarks.harness import Asked, Chosen
from llmops_components.evaluation.intervals import Limits
from llmops_components.evaluation.metrics.registry import Metric
from llmops_components.evaluation.statistics import Scores

NO_FILTER = "none"
# Lowest and highest score; a metric of another name has none that are known.
_SHARES = ("acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "exact_match")
_LIMITS: dict[str, tuple[float | None, float | None]] = {
    **dict.fromkeys(_SHARES, (0.0, 1.0)),
    "brier_score": (0.0, 2.0),
    "perplexity": (1.0, None),
    "word_perplexity": (1.0, None),
    "byte_perplexity": (1.0, None),
    "bits_per_byte": (0.0, None),
}


def _exponential(sums: np.ndarray) -> float:
    return math.exp(-sums[0] / sums[1])


def _bits(sums: np.ndarray) -> float:
    return float(-sums[0] / sums[1] / math.log(2))


Combine = Callable[[np.ndarray], float]
_SUMS: dict[str, Combine] = {
    "perplexity": _exponential,
    "weighted_perplexity": _exponential,
    "bits_per_byte": _bits,
}


@dataclass(frozen=True)
class Measured:
    """A metric of a task, as it is compared.

    Args:
        name: As lm_eval names it, with the filter where there is one.
        combine: From summed statistics to the aggregate; None for a mean.
        higher_is_better: Whether a higher score is the better one.
        limits: The lowest and the highest score, where they are known.
    """

    name: str
    combine: str | None
    higher_is_better: bool
    limits: tuple[float | None, float | None]

    @property
    def described(self) -> Metric:
        """For the page."""
        about = "of lm_eval" + ("" if self.higher_is_better else "; lower is better")
        return Metric(
            about, best=self.limits[1], worst=self.limits[0], higher_is_better=self.higher_is_better
        )

    def scores(self, values: Sequence[tuple[float, float] | None]) -> Scores:
        """Scores of samples.

        Args:
            values: What is summed, of each; None where there is nothing.
        """
        sums = np.array([(math.nan, math.nan) if each is None else each for each in values], dtype=float)
        sums = sums.reshape(len(values), 2)
        low, high = self.limits
        limits: Limits | None = None if low is None or high is None else (low, high)
        if self.combine is None:
            return Scores.mean_of(sums[:, 0], limits, higher_is_better=self.higher_is_better)
        with np.errstate(all="ignore"):
            combine = _SUMS[self.combine]
            each = np.array([_finite(combine, line) for line in sums])
        return Scores(each, sums, combine, limits, self.higher_is_better)


def _finite(combine: Combine, line: np.ndarray) -> float:
    try:
        return combine(line) if np.isfinite(line).all() and line[1] else math.nan
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Measures:
    """What is compared of each task.

    Args:
        by_task: Metrics by task that was asked for.
        left_out: Why metrics of tasks are not compared.
    """

    by_task: Mapping[str, Mapping[str, Measured]]
    left_out: Sequence[str] = field(default_factory=list)

    @property
    def all(self) -> dict[str, Measured]:
        """The metrics by name."""
        return {name: each for metrics in self.by_task.values() for name, each in metrics.items()}


def measures_of(chosen: Chosen, names: Sequence[str] | None) -> Measures:
    """What can be compared of tasks.

    Args:
        chosen: The tasks.
        names: Metrics to compare; None for all.

    Raises:
        SettingError: A metric is unknown, a task has none that can be compared, or tasks mean different things by one name.
    """
    found: dict[str, dict[str, Measured]] = {}
    left_out: dict[str, list[str]] = {}
    for asked, tasks in chosen.tasks.items():
        metrics = found[asked] = {}
        for task in tasks.values():
            for each, why in _of_task(task):
                if isinstance(each, Measured):
                    _agree(each, found)
                    metrics[each.name] = each
                else:
                    left_out.setdefault(f"{each} {why}", []).append(asked)
    known = {name for metrics in found.values() for name in metrics}
    if names is not None:
        check_known(names, known, "metric_names")
        found = {
            asked: {name: metrics[name] for name in names if name in metrics}
            for asked, metrics in found.items()
        }
    for asked, metrics in found.items():
        if not metrics:
            raise SettingError(
                f"The task {asked} has no metric that can be compared sample by sample{' among metric_names' if names else ''}. Leave it "
                "out, or ask for another one of its metrics."
            )
    sentences = [
        f"{what}: it is in the results of lm_eval alone ({', '.join(dict.fromkeys(tasks))})."
        for what, tasks in left_out.items()
    ]
    return Measures(found, sentences)


def _agree(measured: Measured, found: Mapping[str, Mapping[str, Measured]]) -> None:
    for task, metrics in found.items():
        if (other := metrics.get(measured.name)) is not None and other != measured:
            raise SettingError(
                f"The metric {measured.name} is another one in {task} than in a task beside it. Evaluate them in runs of their own."
            )


def _of_task(task: Any) -> list[tuple[Measured | str, str]]:
    """Each metric of a task, or its name with why it is not compared."""
    from lm_eval.api import metrics as of_harness

    means = (of_harness.mean, of_harness.nanmean, of_harness.brier_score)
    sums = {getattr(of_harness, name): name for name in _SUMS}
    better = task.higher_is_better()
    filters = [each["name"] for each in task.get_config("filter_list") or [{"name": NO_FILTER}]]
    found: list[tuple[Measured | str, str]] = []
    for metric, aggregate in task.aggregation().items():
        for each in filters:
            name = name_of(metric, each)
            if better.get(metric) is None:
                found.append((name, "does not say whether higher is better"))
            elif aggregate in means or aggregate in sums:
                limits = _LIMITS.get(metric, (None, None))
                found.append((Measured(name, sums.get(aggregate), bool(better[metric]), limits), ""))
            else:
                found.append((name, "is no mean of scores of single samples"))
    return found


def name_of(metric: str, filtered: str) -> str:
    """A metric's name, with what answers were filtered by where there is such.

    Args:
        metric: Its name in lm_eval.
        filtered: Name of the filter.
    """
    return metric if filtered == NO_FILTER else f"{metric},{filtered}"


def lines_of(
    chosen: Chosen, asked: Asked, measures: Measures, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The lines of the scores file: one a sample, the tasks one after the other.

    Args:
        chosen: The tasks.
        asked: What lm_eval says.
        measures: What is compared.
        settings: How they were asked, by which samples of two evaluations are the same or not.
    """
    lines: list[dict[str, Any]] = []
    for requested, tasks in chosen.tasks.items():
        for name, task in tasks.items():
            by_sample: dict[int, list[tuple[int, dict[str, Any]]]] = {}
            for place, sample in enumerate(asked.samples[name]):
                by_sample.setdefault(sample["doc_id"], []).append((place, sample))
            for number, found in by_sample.items():
                first = found[0][1]
                line = {
                    "row": len(lines) + 1,
                    "task": requested,
                    "subtask": name,
                    "sample": number,
                    "digest": _digest(first, task, asked.results["n-shot"].get(name), settings),
                    **_texts(first),
                }
                line |= _scores_of(found, measures.by_task[requested], asked.failed.get(name, {}))
                lines.append(line)
    return lines


def _scores_of(
    found: Sequence[tuple[int, Mapping[str, Any]]], metrics: Mapping[str, Measured], failed: Mapping[int, str]
) -> dict[str, Any]:
    """Scores of a sample, the sums behind those that are no mean, and why it lacks some."""
    given: dict[str, Any] = {}
    for _, sample in found:
        given |= {name_of(metric, sample["filter"]): sample[metric] for metric in sample["metrics"]}
    why = next(
        (failed[place] for place, _ in found if place in failed), "the task gave no finite number for it"
    )
    values, sums, unscored = {}, {}, {}
    for name, measured in metrics.items():
        pair = _pair(given.get(name))
        each = float(measured.scores([pair]).values[0])
        values[name] = each if math.isfinite(each) else None
        if not math.isfinite(each):
            unscored[name] = why
        elif measured.combine is not None:
            sums[name] = list(pair or ())
    return {
        **values,
        **({"sums": sums} if sums else {}),
        **({"unscored": unscored} if unscored else {}),
    }


def _pair(value: Any) -> tuple[float, float] | None:
    """What a sample adds to the sums: its score once, or a likelihood of so many words; of a Brier score the squares' sum."""
    if isinstance(value, tuple | list) and len(value) == 2:
        first, second = value
        if np.ndim(second):
            chances = np.asarray(second, dtype=float)
            return float(np.sum((chances - np.eye(len(chances))[first]) ** 2)), 1.0
        return float(first), float(second)
    if isinstance(value, bool | int | float | np.number):
        return float(value), 1.0
    return None


def _digest(sample: Mapping[str, Any], task: Any, shots: Any, settings: Mapping[str, Any]) -> str:
    """By what was asked and expected; a chat template is the model's own, so that what it writes is no part of it."""
    what = [sample["doc_hash"], sample["target_hash"], str(task.VERSION), shots, dict(settings)]
    if not settings["chat_template"]:
        what.append(sample["prompt_hash"])
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _texts(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader is shown of a sample."""
    arguments, target = sample["arguments"], sample["target"]
    prompt = str(arguments[0][0])
    answers = sample["filtered_resps"]
    if len(arguments) > 1 and all(isinstance(each, tuple | list) for each in answers):  # choices
        half = 2 if "acc_mutual_info" in sample["metrics"] else 1
        choices = [str(each[1]) for each in arguments[: len(arguments) // half]]
        chosen = choices[int(np.argmax([each[0] for each in answers[: len(choices)]]))]
        is_place = isinstance(target, int) and 0 <= target < len(choices)
        return {
            "prompt": prompt,
            "reference": choices[target].strip() if is_place else str(target),
            "answer": chosen.strip(),
        }
    answer = answers[0]
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], float):
        answer = f"[log-likelihood {answer[0]:.4g}]"
    elif isinstance(answer, float):
        answer = f"[log-likelihood {answer:.4g}]"
    elif sample["resps"] and isinstance(sample["resps"][0][0], str):
        answer = sample["resps"][0][0]  # what was answered, before it is filtered
    return {"prompt": prompt, "reference": str(target), "answer": str(answer)}
