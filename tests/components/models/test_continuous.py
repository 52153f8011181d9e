"""Continuous batching answers what ``generate`` answers, where it wins a trial; nothing is lost where it does not.

It is made for GPUs. What is tested here is the choice, and the answers on a CPU, where it does not win.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from architectures import make_model
from llmops_components.models import continuous
from llmops_components.models.generation import Answer, generate_answers
from llmops_components.models.loading import load_to_answer

PROMPTS = [
    f"What colour is the {thing}?" + " Say what it does." * (n % 4)
    for n, thing in enumerate(
        ["apple", "sky", "grass", "sun", "snow", "coal", "carrot", "plum", "sea", "moon"]
    )
]


@pytest.fixture(scope="module")
def loaded(talkative_model: Path) -> tuple[Any, Any]:
    return load_to_answer(talkative_model)


@pytest.fixture(autouse=True)
def offered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "DEVICES", ("cpu",))
    monkeypatch.setattr(continuous, "LEAST_PROMPTS", 8)
    # By itself it takes most of the memory that is free.
    small = partial(continuous.ContinuousBatchingConfig, num_blocks=16, max_batch_tokens=256)
    monkeypatch.setattr(continuous, "ContinuousBatchingConfig", small)


def generate_takes(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made = continuous.Trial
    monkeypatch.setattr(continuous, "Trial", lambda prompts, _: made(prompts, seconds))


def answers(model: Any, tokenizer: Any, **generation_args: Any) -> list[Answer]:
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    return generate_answers(
        model, tokenizer, rows, batch_size=3, generation_args={"max_new_tokens": 12, **generation_args}
    )


def by_generate(model: Any, tokenizer: Any) -> list[Answer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous, "DEVICES", ())
        return answers(model, tokenizer)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma3_text", "qwen3_moe"])
def test_answers_are_those_of_generate(
    architecture: str, loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = make_model(architecture, len(loaded[1])).eval(), loaded[1]
    expected = by_generate(model, tokenizer)
    assert len({answer.text for answer in expected}) > 1
    generate_takes(1e6, monkeypatch)
    before = model.config._attn_implementation
    assert answers(model, tokenizer) == expected
    assert "Continuous batching answers: 36 of 36 tokens are the most likely ones" in capsys.readouterr().out
    assert model.config._attn_implementation == before


def test_where_it_is_no_faster_generate_goes_on(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_generate(*loaded)
    generate_takes(0, monkeypatch)
    assert answers(*loaded) == expected
    said = capsys.readouterr().out
    assert "Continuous batching is left out: it is no faster (" in said
    assert "for the other prompts, and generate in batches 0 s" in said


def test_where_it_says_other_things_generate_goes_on(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_generate(*loaded)
    generate_takes(1e6, monkeypatch)
    right = continuous._answers
    monkeypatch.setattr(
        continuous, "_answers", lambda *of: ((i, [(t + 1) % 50 for t in ids]) for i, ids in right(*of))
    )
    assert answers(*loaded) == expected
    assert "Continuous batching is left out: it says other things (" in capsys.readouterr().out


def test_what_cannot_be_answered_by_it_is_answered_by_generate(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("mamba", len(loaded[1])).eval()
    expected = by_generate(model, loaded[1])
    generate_takes(1e6, monkeypatch)
    assert answers(model, loaded[1]) == expected
    assert "Continuous batching is left out: it failed (" in capsys.readouterr().out


def test_answers_that_it_does_not_come_to_are_made_by_generate(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_generate(*loaded)
    generate_takes(1e6, monkeypatch)
    right, calls = continuous._answers, []

    def two_of(*of: Any) -> Any:
        calls.append(of)
        for number, answer in enumerate(right(*of)):
            if len(calls) == 2 and number == 2:
                raise continuous.ContinuousError("it ended by itself")
            yield answer

    monkeypatch.setattr(continuous, "_answers", two_of)
    assert answers(*loaded) == expected
    assert len(calls) == 2
    assert "Continuous batching is left out: it ended by itself." in capsys.readouterr().out


def test_an_error_of_its_own_is_told(loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    expected = by_generate(*loaded)
    generate_takes(1e6, monkeypatch)
    from transformers.generation.continuous_batching.continuous_api import ContinuousBatchProcessor

    def no_memory(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(ContinuousBatchProcessor, "_generation_step", no_memory)
    assert answers(*loaded) == expected
    assert "Continuous batching is left out: it failed (" in (said := capsys.readouterr().out)
    assert "out of memory" in said


@pytest.mark.parametrize(
    "other",
    [{"do_sample": True}, {"repetition_penalty": 1.2}, {"stop_strings": ["."]}, {"num_beams": 2}],
)
def test_it_is_offered_only_for_what_it_follows(loaded: Any, other: dict[str, Any]) -> None:
    """Transformers drops settings that it does not know how to follow in silence."""
    assert continuous.is_offered(loaded[0], {"max_new_tokens": 8, "do_sample": False}, 8)
    assert not continuous.is_offered(loaded[0], {"max_new_tokens": 8, **other}, 8)
    assert not continuous.is_offered(loaded[0], None, 7)


def test_on_a_cpu_batches_stay(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not continuous.is_offered(loaded[0], None, 1000)
