"""A classifier that is to tell new rows from old ones: where it can, they differ in something.

Logistic regression is trained on four fifths of the rows of both sides and ranks the last fifth, five times. The area under the ROC
curve is how often a new row is ranked above an old one: one half where there is no difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_FOLDS = 5
_MAX_WORDS = 20_000
_WORD = r"(?u)\w+"
_SHOWN_CHARACTERS = 20_000  # of a text, for the features
Features = Callable[[np.ndarray], Any]  # the features of all rows, made by those to train on


@dataclass(frozen=True)
class Separation:
    """How well rows are told apart.

    Args:
        auc: Mean of the folds' areas under the curve.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: How likely as large an area is where there is no difference.
    """

    auc: float
    low: float
    high: float
    p_value: float


def word_features(texts: Sequence[str]) -> Features:
    """Features by words and pairs of words.

    Args:
        texts: The texts of both sides.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    shown = [text[:_SHOWN_CHARACTERS] for text in texts]

    def features(train: np.ndarray) -> Any:
        made = TfidfVectorizer(min_df=2, max_features=_MAX_WORDS, sublinear_tf=True, token_pattern=_WORD)
        try:
            made.fit([shown[number] for number in train])
        except ValueError:  # no word is there twice
            return np.zeros((len(shown), 1))
        return made.transform(shown)

    return features


def separation(features: Features, old: int, new: int, seed: int) -> Separation:
    """Cross-validate a classifier.

    The interval is that of DeLong (1988, doi:10.2307/2531595) of each fold, of whose areas the mean is taken. Folds are not independent: each
    is ranked by what was trained on the others. So their mean has about half the variance of one fold and not a fifth (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366).

    Args:
        features: The features.
        old: How many rows are of the reference, which come first.
        new: How many new rows follow.
        seed: Chooses the folds.
    """
    from scipy.stats import norm
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    is_new = np.repeat([0, 1], [old, new])
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(is_new, is_new)
    areas, variances = [], []
    for train, test in folds:
        made = features(train)
        model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=200)
        model.fit(made[train], is_new[train])
        scores = model.decision_function(made[test])
        area, variance = _area(scores[is_new[test] == 0], scores[is_new[test] == 1])
        areas.append(area)
        variances.append(variance)
    auc = float(np.mean(areas))
    error = math.sqrt(float(np.mean(variances)) * (1 / _FOLDS + 1 / (_FOLDS - 1)))
    if error == 0:  # all alike, or told apart without a mistake
        return Separation(auc, auc, auc, 1.0 if auc <= 0.5 else 0.0)
    half = float(norm.ppf(0.975)) * error
    return Separation(auc, max(0.0, auc - half), min(1.0, auc + half), float(norm.sf((auc - 0.5) / error)))


def _area(old: np.ndarray, new: np.ndarray) -> tuple[float, float]:
    """Area under the curve, and its variance by DeLong."""
    from scipy.stats import rankdata

    both = rankdata(np.concatenate([old, new]))
    of_old = 1 - (both[: len(old)] - rankdata(old)) / len(new)
    of_new = (both[len(old) :] - rankdata(new)) / len(old)
    variance = of_old.var(ddof=1) / len(old) + of_new.var(ddof=1) / len(new)
    return float(of_new.mean()), float(variance)
