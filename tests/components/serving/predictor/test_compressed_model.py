"""A compressed model, served: what it answers is what it says by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llmops_components.models.compression.compress import compress_model
from llmops_components.models.loading import load_model
from running_services import QUESTION, Predictor, running_predictor


@pytest.fixture(scope="module")
def compressed(talkative_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served") / "model"
    compress_model(talkative_model, directory)
    return directory


@pytest.fixture(scope="module")
def predictor(compressed: Path) -> Iterator[Predictor]:
    yield from running_predictor(compressed, compressed.parent, "--model_name=tiny")


def test_answers_alone_and_together_are_those_of_the_compressed_model(
    compressed: Path, predictor: Predictor
) -> None:
    model, tokenizer = load_model(compressed, dtype="float32", compressed=True)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")
    output = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    said = tokenizer.decode(output, skip_special_tokens=True)
    assert predictor.chat().json()["choices"][0]["message"]["content"] == said
    together = predictor.chat(n=3).json()["choices"]
    assert [choice["message"]["content"] for choice in together] == [said] * 3
