"""Which metrics there are, and what each needs.

The scales are those that the libraries print and papers quote: BLEU and chrF go to 100, everything else to 1.
"""

from __future__ import annotations

from dataclasses import dataclass


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
