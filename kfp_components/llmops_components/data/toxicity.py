"""How toxic English texts are, by hatesonar's model of 1 MB: words of a text, and what they weighed in tweets that people labelled.

The model (Davidson et al. 2017, tweets in English) knows words and not what is said with them: it takes quotations, reclaimed
words and texts about insults for insults, misses polite hatred, and knows no other language. It is a sieve for people to look
at, and no judge. It is computed here from the numbers of its file: with onnxruntime it needs a locale of the system that few
images have.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import Any

import numpy as np

WINDOW_WORDS = 50  # about a tweet: in a long text an insult would be lost among the other words
_WORD = re.compile(r"[a-zA-Z0-9_]+")
_NEITHER = 2  # the class that is neither hatred nor an insult


class Toxicity:
    """The model, loaded once."""

    def __init__(self) -> None:
        import onnx
        from hatesonar.api import DEFAULT_MODEL_FILE

        graph = onnx.load(str(DEFAULT_MODEL_FILE)).graph
        words, classes = _node(graph, "TfIdfVectorizer"), _node(graph, "LinearClassifier")
        numbers = [words["ngram_indexes"][place] for place in range(len(words["pool_strings"]))]
        self._places = {
            word.decode(): place for word, place in zip(words["pool_strings"], numbers, strict=True)
        }
        [inverse] = [
            onnx.numpy_helper.to_array(each)
            for each in graph.initializer
            if each.name in _node_inputs(graph, "Mul")
        ]
        self._inverse = np.asarray(inverse, np.float64).ravel()
        self._weights = np.asarray(classes["coefficients"], np.float64).reshape(3, -1)
        self._intercepts = np.asarray(classes["intercepts"], np.float64)

    def score(self, text: str) -> float:
        """How likely a text is hatred or an insult, from 0 to 1: the highest of its parts of 50 words.

        Args:
            text: Any text; one without words counts 0.
        """
        words = _WORD.findall(text.lower())
        starts = range(0, len(words), WINDOW_WORDS)
        return max((self._of(words[start : start + WINDOW_WORDS]) for start in starts), default=0.0)

    def _of(self, words: list[str]) -> float:
        counts: dict[int, int] = {}
        for word in words:
            if (place := self._places.get(word)) is not None:
                counts[place] = counts.get(place, 0) + 1
        places = np.fromiter(counts, np.int64, len(counts))
        values = np.fromiter(counts.values(), np.float64, len(counts)) * self._inverse[places]
        length = np.sqrt((values * values).sum())
        sums = self._weights[:, places] @ (values / length if length else values) + self._intercepts
        chances = np.exp(sums - sums.max())
        return float(1 - chances[_NEITHER] / chances.sum())


@cache
def toxicity() -> Toxicity:
    """The model; loading it takes a tenth of a second."""
    return Toxicity()


def _node(graph: Any, kind: str) -> dict[str, Any]:
    import onnx

    [node] = [each for each in graph.node if each.op_type == kind]
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def _node_inputs(graph: Any, kind: str) -> list[str]:
    return list(itertools.chain.from_iterable(each.input for each in graph.node if each.op_type == kind))
