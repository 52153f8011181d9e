"""How unlikely the references are to the model itself: perplexity, weighted by tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops_components.evaluation.statistics import Scores

if TYPE_CHECKING:
    from llmops_components.models.likelihood import Likelihood

LOG_LIKELIHOOD, TOKENS = "log_likelihood", "reference_tokens"  # of the scores file
_NOT_KNOWN = "what was evaluated does not say how likely the reference is to it"
_NOT_FINITE = "its likelihood is no finite number, as where the model's own numbers overflow"
_NO_TOKENS = "the reference has no token"
_OTHER_TOKENS = "its model has other tokens than the one that it is compared with, so that the perplexities of both are no numbers of one kind"


def told(likelihood: Likelihood) -> dict[str, float | int]:
    """What the scores file says of a reference.

    Args:
        likelihood: How likely it is.
    """
    return {LOG_LIKELIHOOD: likelihood.log_probability, TOKENS: likelihood.tokens}


def read(row: Mapping[str, Any]) -> tuple[float, int] | None:
    """How likely a reference is by a line of a scores file, and its tokens; None where the line does not say.

    Args:
        row: The line.
    """
    log_likelihood, tokens = row.get(LOG_LIKELIHOOD), row.get(TOKENS)
    if not isinstance(log_likelihood, int | float) or isinstance(log_likelihood, bool):
        return None
    return (log_likelihood, tokens) if isinstance(tokens, int) and tokens >= 0 else None


def perplexity_of(known: Sequence[tuple[float, int] | None], of_each: int) -> tuple[Scores, dict[int, str]]:
    """Perplexities: that of all rows is of all of their tokens, as if they were one text.

    Args:
        known: Logarithm of the likelihood of each reference, and its tokens; those of several models follow each other.
        of_each: How many are of one model.

    Returns:
        The scores, and why rows have none, by place.
    """
    # Those of a model that takes texts apart otherwise than the first.
    others = {
        start
        for start in range(of_each, len(known), of_each)
        if any(
            one and other and one[1] != other[1]
            for one, other in zip(known[:of_each], known[start:], strict=False)
        )
    }
    reasons: dict[int, str] = {}
    for place, each in enumerate(known):
        if each is None:
            reasons[place] = _NOT_KNOWN
        elif not math.isfinite(each[0]):
            reasons[place] = _NOT_FINITE
        elif place - place % of_each in others:
            reasons[place] = _OTHER_TOKENS
        elif not each[1]:
            reasons[place] = _NO_TOKENS
    losses = np.array([0.0 if each is None else -each[0] for each in known])
    tokens = np.array([0.0 if each is None else each[1] for each in known])
    values = np.full(len(known), np.nan)
    there = [place for place in range(len(known)) if place not in reasons]
    with np.errstate(over="ignore"):
        values[there] = np.exp(losses[there] / tokens[there])
    return Scores(values, np.column_stack([losses, tokens]), _perplexity), reasons


def _perplexity(sums: np.ndarray) -> float:
    return math.exp(min(sums[0] / sums[1], 700.0)) if sums[1] else math.nan
