"""Prompts are read beside the event loop, and not at all where they cannot fit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from llmops_components.serving.http.refusals import RequestError
from llmops_components.serving.predictor import encoding
from llmops_components.serving.predictor.batching import Batcher
from llmops_components.serving.predictor.encoding import PromptEncoder


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def encoder(loaded: tuple[Any, Any]) -> PromptEncoder:
    return PromptEncoder(loaded[1], Batcher(*loaded, max_queue_length=4, max_model_len=32))


def refused(asking: Callable[[], Any]) -> tuple[int, str | None, str | None, str]:
    with pytest.raises(RequestError) as error:
        asyncio.run(asking())
    return error.value.status, error.value.code, error.value.param, error.value.message


def test_text_becomes_what_the_tokenizer_says_and_token_ids_stay(
    encoder: PromptEncoder, loaded: tuple[Any, Any]
) -> None:
    got = asyncio.run(encoder.encode(["The sky", [5, 6]], add_special_tokens=True))
    assert got == [loaded[1]("The sky")["input_ids"], [5, 6]]


def test_a_prompt_that_cannot_fit_is_refused_unread(encoder: PromptEncoder) -> None:
    longest = 32 * 256
    assert asyncio.run(encoder.encode(["a" * longest], add_special_tokens=False))
    assert refused(lambda: encoder.encode(["a", "a" * (longest + 1)], add_special_tokens=False)) == (
        400,
        "context_length_exceeded",
        "prompt",
        "This model's context is 32 tokens; 8193 characters do not fit. Shorten the prompt.",
    )


@pytest.mark.parametrize(("prompts", "answers", "param"), [(80_000, 1, "prompt"), (1, 5, "n")])
def test_more_answers_than_may_wait_are_refused_unread(
    encoder: PromptEncoder, prompts: int, answers: int, param: str
) -> None:
    asking = ["a"] * prompts
    status, _, field, message = refused(
        lambda: encoder.encode(asking, add_special_tokens=False, answers=answers)
    )
    assert (status, field) == (400, param)
    assert message.startswith(
        f"The request asks for {prompts * answers} answers; this server takes 4 at once."
    )


def test_the_loop_goes_on_while_a_prompt_is_read_and_too_much_waiting_text_is_refused(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_MAX_WAITING_CHARACTERS", 10)
    encoder = PromptEncoder(loaded[1], Batcher(*loaded, max_queue_length=4, max_model_len=32))
    read = threading.Event()

    async def ask() -> RequestError:
        waiting = asyncio.create_task(encoder.in_thread(lambda: read.wait(60), ["a" * 9], "prompt"))
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as error:
            await encoder.in_thread(lambda: True, ["b" * 2], "prompt")
        read.set()  # by the loop, which is free
        assert await waiting
        assert await encoder.in_thread(lambda: True, ["b" * 11], "prompt")  # nothing else waits
        return error.value

    error = asyncio.run(ask())
    assert (error.status, error.code, error.retry_after_seconds) == (429, "queue_full", 1)
