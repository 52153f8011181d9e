"""Answers scored against references, without a judge."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from llmops_components.evaluation.metrics.plan import Plan
from llmops_components.evaluation.metrics.registry import METRICS
from llmops_components.evaluation.statistics import Scores
from llmops_components.models.embeddings import embed

_ROUGE = ("rougeL", "rouge1", "rouge2")


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
        Scores by metric, in the plan's order, of those metrics that look at answer and reference alone.
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
    if ragas := [name for name, metric in plan.metrics.items() if metric.ragas and metric.by_default]:
        found |= _ragas(ragas, answers, references, plan.embedding_model)
    return {name: found[name] for name in plan.names if name in found}


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
