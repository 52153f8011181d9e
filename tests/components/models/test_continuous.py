"""Continuous batching answers what ``generate`` answers, where it wins a trial; nothing is lost where it does not.

It is made for GPUs. What is tested here is the choice, and the answers on a CPU, where it does not win.
"""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from architectures import make_model
from llmops_components.models import continuous
from llmops_components.models.generation import Answer, generate_answers
from llmops_components.models.loading import load_to_answer
from transformers.generation.continuous_batching.continuous_api import (
    ContinuousBatchingManager,
    ContinuousBatchProcessor,
)

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
    monkeypatch.setattr(continuous, "LEAST_PROMPTS", 7)
    monkeypatch.setattr(continuous, "_TRIED", 5)
    # By itself it takes most of the memory that is free.
    small = partial(continuous.ContinuousBatchingConfig, num_blocks=16, max_batch_tokens=256)
    monkeypatch.setattr(continuous, "ContinuousBatchingConfig", small)


def generate_takes(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made = continuous.ByGenerate
    monkeypatch.setattr(continuous, "ByGenerate", lambda prompts, tokens, _: made(prompts, tokens, seconds))


def answers(model: Any, tokenizer: Any, **generation_args: Any) -> list[Answer]:
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    return generate_answers(
        model, tokenizer, rows, batch_size=3, generation_args={"max_new_tokens": 12, **generation_args}
    )


def by_generate(model: Any, tokenizer: Any, **generation_args: Any) -> list[Answer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous, "DEVICES", ())
        return answers(model, tokenizer, **generation_args)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma3_text", "qwen3_moe"])
def test_answers_are_those_of_generate(
    architecture: str, loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = make_model(architecture, len(loaded[1])).eval(), loaded[1]
    expected = by_generate(model, tokenizer)
    assert len({answer.text for answer in expected}) > 1
    capsys.readouterr()
    generate_takes(1e6, monkeypatch)
    assert answers(model, tokenizer) == expected
    said = capsys.readouterr().out
    assert (
        "Continuous batching answers: 36 of 36 tokens are the most likely ones for the model itself" in said
    )
    assert said.count("generated 10/10") == 1


def test_an_answer_that_the_model_ends_is_ended(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = loaded
    said = [
        model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=12, do_sample=False)[0, -8:]
        for prompt in PROMPTS
    ]
    end = Counter(token for ids in said for token in set(ids.tolist())).most_common(1)[0][0]
    expected = by_generate(model, tokenizer, eos_token_id=end)
    assert "stop" in {answer.finish_reason for answer in expected}
    generate_takes(1e6, monkeypatch)
    assert answers(model, tokenizer, eos_token_id=end) == expected


def test_attention_is_as_before_and_its_check_is_by_the_models_own(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continuous batching changes ``eager`` for a kind that knows nothing but its cache."""
    model = make_model("mistral", len(loaded[1])).eval()
    model.set_attn_implementation("eager")
    expected = by_generate(model, loaded[1])
    generate_takes(1e6, monkeypatch)
    assert answers(model, loaded[1]) == expected
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("step", ["warmup", "start"])
def test_where_it_does_not_start_attention_is_as_before(
    step: str, loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("mistral", len(loaded[1])).eval()
    model.set_attn_implementation("eager")
    expected = by_generate(model, loaded[1])

    def no_memory(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory\nTried to allocate")

    monkeypatch.setattr(ContinuousBatchingManager, step, no_memory)
    assert answers(model, loaded[1]) == expected
    assert model.config._attn_implementation == "eager"
    said = "No continuous batching, but generate: it failed (RuntimeError: CUDA out of memory)."
    assert said in capsys.readouterr().out


def test_where_it_is_no_faster_generate_goes_on(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_generate(*loaded)
    generate_takes(1e-6, monkeypatch)
    assert answers(*loaded) == expected
    assert "No continuous batching, but generate: it is no faster (36 of 36" in capsys.readouterr().out


@pytest.mark.parametrize(
    "said", [lambda ids: [(token + 1) % 50 for token in ids], lambda ids: ids[:-1], lambda ids: []]
)
def test_where_it_says_other_things_generate_goes_on(
    said: Any, loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_generate(*loaded)
    generate_takes(1e6, monkeypatch)
    right = continuous._answered
    monkeypatch.setattr(continuous, "_answered", lambda *of: ((i, said(ids)) for i, ids in right(*of)))
    assert answers(*loaded) == expected
    assert "No continuous batching, but generate: it says other things (" in capsys.readouterr().out


def test_what_cannot_be_answered_by_it_is_answered_by_generate(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("mamba", len(loaded[1])).eval()
    expected = by_generate(model, loaded[1])
    generate_takes(1e6, monkeypatch)
    assert answers(model, loaded[1]) == expected
    assert "No continuous batching, but generate: it failed (" in capsys.readouterr().out


def test_answers_that_it_does_not_come_to_are_made_by_generate(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_generate(*loaded)
    generate_takes(1e6, monkeypatch)
    right, calls = continuous._answered, []

    def two_of(*of: Any) -> Any:
        calls.append(of)
        for number, answer in enumerate(right(*of)):
            if len(calls) == 2 and number == 2:
                raise continuous.ContinuousError("it ended by itself")
            yield answer

    monkeypatch.setattr(continuous, "_answered", two_of)
    assert answers(*loaded) == expected
    assert len(calls) == 2
    assert "No continuous batching, but generate: it ended by itself." in capsys.readouterr().out


def test_an_error_of_its_own_is_told(
    loaded: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = by_generate(*loaded)

    def no_memory(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(ContinuousBatchProcessor, "_generation_step", no_memory)
    threads = threading.active_count()
    assert answers(*loaded) == expected
    assert "but generate: it failed (" in (said := capsys.readouterr().out)
    assert "out of memory" in said
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "other",
    [{"do_sample": True}, {"repetition_penalty": 1.2}, {"stop_strings": ["."]}, {"num_beams": 2}],
)
def test_it_is_offered_only_for_what_it_follows(loaded: Any, other: dict[str, Any]) -> None:
    """Transformers drops settings that it does not know how to follow in silence."""
    assert continuous.is_offered(loaded[0], {"max_new_tokens": 8, "do_sample": False}, 7)
    assert not continuous.is_offered(loaded[0], {"max_new_tokens": 8, **other}, 7)


def test_it_is_tried_only_for_many_that_are_left(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not continuous.is_offered(loaded[0], None, 6)
    monkeypatch.setattr(continuous, "answers", lambda *_: pytest.fail("tried"))
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    assert len(generate_answers(*loaded, rows, batch_size=16)) == len(rows)


def test_on_a_cpu_batches_stay(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not continuous.is_offered(loaded[0], None, 1000)
