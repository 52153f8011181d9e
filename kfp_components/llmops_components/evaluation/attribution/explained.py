"""An answer, and what speaks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops_components.evaluation.attribution.contexts import Supports
from llmops_components.evaluation.attribution.training_rows import Near


@dataclass(frozen=True)
class Explained:
    """An answer, and what speaks for it.

    Args:
        sample: Its line of the scores.
        contexts: Texts that were looked up for it.
        supports: How much it hangs on each, or why that is not known.
        near: Rows of the training data that are close to it.
    """

    sample: Mapping[str, Any]
    contexts: Sequence[str]
    supports: Supports | str
    near: Sequence[Near]
