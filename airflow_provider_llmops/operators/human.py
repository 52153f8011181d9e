"""Operators for what people think of answers: write a review sheet, read what came back, collect the feedback of users."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_llmops.links import ReviewSheetLink
from airflow_provider_llmops.operators.component import ComponentOperator
from airflow_provider_llmops.uris import Address

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink

__all__ = ["CollectFeedbackOperator", "CollectHumanLabelsOperator", "WriteReviewSheetOperator"]


class WriteReviewSheetOperator(ComponentOperator):
    """Write a page on which people say which of two answers is better, without knowing whose is whose.

    Drawn are questions that both models have answered, and not in the same words; their order, and which answer stands on the left, is random.
    The page works from a file, without network, and saves the judgements as JSON Lines for :class:`CollectHumanLabelsOperator`.

    Artifacts: ``sheet`` (the page), ``key`` (whose answer is whose, which whoever judges should not see).

    :param scores: URI of ``scores`` of an evaluation of the model, or of a comparison of two revisions, which has both answers
    :param baseline_scores: URI of ``scores`` of the model that it is compared with, on the same rows
    :param pairs: how many pairs of answers, 1 to 1000
    :param question: what is asked of each pair
    :param show_reference: whether the right answer can be looked at, where one is known
    :param seed: chooses the pairs, their order and their sides
    """

    component = "write_review_sheet"
    addresses = {"scores": Address(kind="file"), "baseline_scores": Address(kind="file")}
    operator_extra_links: Collection[BaseOperatorLink] = (
        *ComponentOperator.operator_extra_links,
        ReviewSheetLink(),
    )

    def __init__(
        self,
        *,
        scores: str,
        baseline_scores: str | None = None,
        pairs: int | str = 50,
        question: str = "Which answer is better?",
        show_reference: bool | str = True,
        seed: int | str = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scores = scores
        self.baseline_scores = baseline_scores
        self.pairs = pairs
        self.question = question
        self.show_reference = show_reference
        self.seed = seed


class CollectHumanLabelsOperator(ComponentOperator):
    """Read what people have said of a review sheet, as a comparison for the gate and as preferences for a training.

    Fails when fewer than ``min_judged`` of the pairs are judged, after everything is pushed. The output ``comparison`` has the metric
    ``human_preference``: the share of pairs in which the model's answer is preferred, ties as half.

    Artifacts: ``judgements`` (a JSON line a judgement), ``preferences`` (rows with ``prompt``, ``chosen`` and ``rejected``), ``rejected``
    (lines that were not used, with their reasons).

    :param human_labels: URI of the file that the sheet has saved, or of a directory of several
    :param key: URI of the sheet's ``key``
    :param min_judged: share of the sheet's pairs, 0 to 1, that must be judged
    :param composites: weighted sums of ``human_preference`` and of metrics, weights by metric by name of the composite, for example
        ``{"quality": {"human_preference": 0.7, "rougeL": 0.3}}``; the comparison has each as a metric
    :param scores: URI of the ``scores`` that the sheet was made from; only composites need them
    :param baseline_scores: URI of those of the model that it is compared with
    """

    component = "collect_human_labels"
    addresses = {
        "human_labels": Address(),
        "key": Address(kind="file"),
        "scores": Address(kind="file"),
        "baseline_scores": Address(kind="file"),
    }

    def __init__(
        self,
        *,
        human_labels: str,
        key: str,
        min_judged: float | str = 1.0,
        composites: dict[str, dict[str, float]] | str | None = None,
        scores: str | None = None,
        baseline_scores: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.human_labels = human_labels
        self.key = key
        self.min_judged = min_judged
        self.composites = composites
        self.scores = scores
        self.baseline_scores = baseline_scores


class CollectFeedbackOperator(ComponentOperator):
    """Make rows to train with of a service's log and of what its users have said of the answers.

    Every line of feedback is used, or is in ``rejected`` with its reason. Fails when none could be used, after everything is pushed. Each row has
    in ``provenance`` which requests, model version and feedback it comes from; the same files and arguments give the same bytes.

    Artifacts: ``preferences`` (rows with ``prompt``, ``chosen`` and ``rejected``), ``unpaired`` (``prompt``, ``completion`` and ``label``),
    ``demonstrations`` (``prompt`` and ``completion``), ``rejected`` (lines that were not used, with their reasons). Metrics: ``feedback``, which is
    as much as ``used_feedback`` and ``rejected_feedback`` together, ``conflicts``, ``preferences_rows``, ``unpaired_rows``, ``demonstrations_rows``.

    :param requests: URI of the log of a service with OpenAI's API: records with the bodies of request and response, KServe's events, or the audit
        log of a service on this machine
    :param feedback: URI of rows with the ``id`` of a request, ``rating`` (``up``, ``down`` or a number), ``correction`` (a better answer), ``who``,
        ``at`` and ``comment``
    :param on_conflict: what counts where people say different things of an answer: the ``majority``, or nobody (``drop``)
    :param raters: whether people are ``numbered`` in provenance, or ``named``
    :param up_from: the lowest number as rating that says that an answer is good; numbers are refused without it
    :param down_to: the highest number that says that it is bad
    :param names: what both files are called in ids of rows, the log first; by default the last parts of their URIs
    """

    component = "collect_feedback"
    addresses = {"requests": Address(kind="file"), "feedback": Address(kind="file")}

    def __init__(
        self,
        *,
        requests: str,
        feedback: str,
        on_conflict: str = "majority",
        raters: str = "numbered",
        up_from: float | str | None = None,
        down_to: float | str | None = None,
        names: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.requests = requests
        self.feedback = feedback
        self.on_conflict = on_conflict
        self.raters = raters
        self.up_from = up_from
        self.down_to = down_to
        self.names = names
