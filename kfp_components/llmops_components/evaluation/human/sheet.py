"""A sheet on which people say which of two answers is the better one, without knowing whose is whose."""

from __future__ import annotations

import os

from llmops_components.data.files import write_output
from llmops_components.errors import DataError, SettingError, check_whole_number
from llmops_components.evaluation.human.key import Key
from llmops_components.evaluation.human.page import render_sheet
from llmops_components.evaluation.human.pairs import read_pairs
from llmops_components.results import StepReport

MAX_PAIRS = 1000
MAX_SEED = 2**63
_QUESTION = "Which answer is better?"
_LONGEST_QUESTION = 2000


def write_review_sheet(
    scores: str | os.PathLike[str],
    sheet: str | os.PathLike[str],
    key: str | os.PathLike[str],
    *,
    baseline_scores: str | os.PathLike[str] | None = None,
    pairs: int = 50,
    question: str = _QUESTION,
    show_reference: bool = True,
    seed: int = 0,
) -> StepReport:
    """Write a page on which people compare a model's answers with those of another one.

    Drawn are questions that both have answered, and not in the same words. Their order, and which answer stands on the left, is random, and
    the page does not have what would tell the models apart. It works from a file, without network, and gives the judgements back as JSON
    Lines, which :func:`~llmops_components.evaluation.human.labels.collect_human_labels` reads.

    Args:
        scores: ``scores`` of an evaluation of the model, or of a comparison of two revisions, which has both answers.
        sheet: Output, the HTML page.
        key: Output, JSON: whose answer is whose. Whoever judges should not see it.
        baseline_scores: ``scores`` of the model that it is compared with, on the same rows; left out where the first has both answers.
        pairs: How many pairs of answers, 1 to 1000; fewer where there are no more.
        question: What is asked of each pair.
        show_reference: Whether the right answer can be looked at, where one is known.
        seed: Chooses the pairs, their order and their sides.

    Returns:
        Counts: ``pairs`` on the sheet, ``rows`` of the evaluation, ``same_answers``, ``unanswered``. Rows that are not on the sheet, and
        why, are in the findings.

    Raises:
        DataError: The scores cannot be read, are of different rows, or there is no pair to judge.
        SettingError: An argument cannot be meant.
    """
    _check(pairs, question, seed)
    found = read_pairs(scores, baseline_scores)
    answered = [pair for pair in found if pair.are_both_there]
    differing = [pair for pair in answered if str(pair.candidate).strip() != str(pair.baseline).strip()]
    if not differing:
        raise DataError(
            f"There is nothing to judge: of {len(found)} rows {len(answered)} were answered by both models, all of them with the same words. "
            "Give the scores of two models that differ."
        )
    drawn = Key.drawn(differing, pairs, seed)
    drawn.write(key)
    write_output(sheet, render_sheet(drawn, question, show_reference=show_reference))
    same, unanswered = len(answered) - len(differing), len(found) - len(answered)
    findings = []
    if same:
        findings.append(
            f"{same} of {len(found)} rows are not judged, since both models gave the same answer."
        )
    if unanswered:
        findings.append(
            f"{unanswered} of {len(found)} rows are not judged, since one of the models did not answer."
        )
    return StepReport(
        metrics={
            "rows": len(found),
            "pairs": len(drawn.items),
            "same_answers": same,
            "unanswered": unanswered,
        },
        details={"sheet": drawn.sheet, "question": question},
        findings=findings,
    )


def _check(pairs: int, question: str, seed: int) -> None:
    check_whole_number("pairs", pairs, 1, MAX_PAIRS)
    check_whole_number("seed", seed, 0, MAX_SEED)
    if not isinstance(question, str) or not question.strip() or len(question) > _LONGEST_QUESTION:
        raise SettingError(
            f"question must be text of 1 to {_LONGEST_QUESTION} characters, got {question!r:.60}. Say what is to be judged, for "
            "example 'Which answer is better?'."
        )
