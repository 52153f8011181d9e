"""The toxicity of texts is that of hatesonar's own model."""

from __future__ import annotations

import numpy as np
import pytest
from llmops_components.data.toxicity import WINDOW_WORDS, Toxicity

TEXTS = (
    "You are a wonderful person!",
    "Shut up, you stupid idiot bitch",
    "The committee approved the budget for schools & roads.",
    "I hate all of you, go die",
    "caf\u00e9 \u65e5\u672c \U0001f600 I don't",
    "DAMN It's the_end 2 U",
)


@pytest.fixture(scope="module")
def model() -> Toxicity:
    return Toxicity()


def test_scores_are_those_of_the_models_own_graph(model: Toxicity):
    import onnx
    import onnxruntime
    from hatesonar.api import DEFAULT_MODEL_FILE

    graph = onnx.load(str(DEFAULT_MODEL_FILE))
    [normalizer] = [each for each in graph.graph.node if each.op_type == "StringNormalizer"]
    normalizer.attribute.append(onnx.helper.make_attribute("locale", "C"))  # which every machine has
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    _, chances = session.run(None, {"text": np.array(TEXTS, dtype=object)})
    assert [model.score(text) for text in TEXTS] == pytest.approx([1 - each[2] for each in chances], abs=1e-5)


def test_an_insult_is_found_in_a_long_text(model: Toxicity):
    polite = "the committee approved the budget for schools and roads in the city " * 20
    assert model.score(polite) < 0.5 < model.score(f"{polite} {TEXTS[1]} {polite}")
    assert model.score("") == model.score("\U0001f600") == 0.0
    assert len(polite.split()) > 4 * WINDOW_WORDS
