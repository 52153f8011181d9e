"""How many bands of how many hashes find duplicates with the recall that is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmops_components.errors import SettingError

MOST_HASHES = 256  # of a row; more take more time for each row than they save
_UNRELATED, _IN_VAIN = (
    0.1,
    1e-4,
)  # how often rows that have a tenth of their shingles in common may be compared


@dataclass(frozen=True)
class Bands:
    """Rows are compared where they agree in all hashes of at least one band.

    Args:
        count: Bands.
        hashes: Hashes of each.
    """

    count: int
    hashes: int

    def recall(self, similarity: float) -> float:
        """The share of pairs of rows of this similarity that are compared.

        Args:
            similarity: Their Jaccard similarity.
        """
        return 1.0 - (1.0 - similarity**self.hashes) ** self.count


def bands_for(threshold: float, recall: float) -> Bands:
    """The fewest hashes that compare the stated share of pairs at the threshold, and of unrelated ones next to none.

    Pairs above the threshold are compared more often than that.

    Args:
        threshold: Similarity from which rows are duplicates.
        recall: Share of the pairs just at the threshold that are to be compared.

    Raises:
        SettingError: No bands do.
    """
    best = None
    for hashes in range(1, MOST_HASHES + 1):
        found = Bands(math.ceil(math.log1p(-recall) / math.log1p(-(threshold**hashes))), hashes)
        if found.count * hashes > MOST_HASHES:
            break
        best = found
        if found.recall(_UNRELATED) <= _IN_VAIN:
            break
    if best is None:
        raise SettingError(
            f"Near duplicates of the similarity {threshold} are not found at the recall {recall} with {MOST_HASHES} hashes "
            "of a row: set a higher threshold or a lower recall."
        )
    return best
