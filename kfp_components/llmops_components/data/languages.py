"""The language that a text is in, as py3langid tells."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

CHARACTERS_TO_TELL, PROBABILITY_TO_TELL = 20, 0.5
CHARACTERS_READ = 2000  # it takes 1 ms for 1,000 characters, and is certain long before


def language_of(text: str) -> str | None:
    """The language of a text; None where it cannot be told.

    Args:
        text: The text.
    """
    if len(text) < CHARACTERS_TO_TELL:
        return None
    language, probability = identifier().classify(text[:CHARACTERS_READ])
    return str(language) if probability >= PROBABILITY_TO_TELL else None


@cache  # it takes two seconds to load
def identifier() -> LanguageIdentifier:
    """What tells languages, with probabilities from 0 to 1."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
