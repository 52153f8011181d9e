"""Groups of rows that say similar things, each with its words and a few of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmops_components.data.profile.rows import Sampled
from llmops_components.data.profile.shown import shortened
from llmops_components.data.quality.words import UNSPACED

MAX_ROWS = 5000
LEAST_ROWS = 20
_MOST_CLUSTERS, _ROWS_OF_CLUSTER = 8, 10
_DIMENSIONS = 50
_MAX_WORDS = 20_000
_CHARACTERS_READ = 20_000  # of a row
_WORD = rf"(?u)[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W\d_]){{2,}}"
_TERMS, _TEXTS = 8, 3


def clusters_of(sample: Sequence[Sampled], seed: int) -> list[dict[str, Any]]:
    """The clusters, the largest first; none of too few rows, or of rows without words.

    TF-IDF of words, reduced by singular values, and k-means: the number of clusters is not found out, so that a cluster is a
    place to look at and no fact.

    Args:
        sample: The rows.
        seed: Where the search begins.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    rows = [row for row in sample if any(text.strip() for text in row.texts.values())][:MAX_ROWS]
    if len(rows) < LEAST_ROWS:
        return []
    made = TfidfVectorizer(
        min_df=2, max_df=0.5, max_features=_MAX_WORDS, sublinear_tf=True, token_pattern=_WORD
    )
    try:
        weights = made.fit_transform("\n".join(row.texts.values())[:_CHARACTERS_READ] for row in rows)
    except ValueError:  # no word is in two rows and not in most
        return []
    dimensions = min(_DIMENSIONS, weights.shape[1] - 1, len(rows) - 1)
    if dimensions < 2:
        return []
    points = normalize(TruncatedSVD(dimensions, random_state=seed).fit_transform(weights))
    count = max(2, min(_MOST_CLUSTERS, len(rows) // _ROWS_OF_CLUSTER))
    model = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=1024).fit(points)
    words, usual = made.get_feature_names_out(), np.asarray(weights.mean(axis=0)).ravel()
    distances = np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1).round(6)
    found = []
    for label in range(count):
        members = np.flatnonzero(model.labels_ == label)
        if not len(members):
            continue
        own = (np.asarray(weights[members].mean(axis=0)).ravel() - usual).round(9)
        terms = [str(words[place]) for place in np.argsort(-own, kind="stable")[:_TERMS] if own[place] > 0]
        nearest = members[np.argsort(distances[members], kind="stable")]
        found.append(
            {
                "rows": len(members),
                "share": round(len(members) / len(rows), 4),
                "terms": terms,
                "texts": [
                    {"line": rows[place].line, "text": shortened(rows[place].texts)}
                    for place in _different(nearest.tolist(), rows)
                ],
            }
        )
    return sorted(found, key=lambda each: (-each["rows"], each["terms"]))


def _different(places: Sequence[int], rows: Sequence[Sampled]) -> list[int]:
    """The first places whose rows are not copies of each other."""
    first: dict[bytes, int] = {}
    for place in places:
        first.setdefault(rows[place].digest, place)
        if len(first) == _TEXTS:
            break
    return list(first.values())
