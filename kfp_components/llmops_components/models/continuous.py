"""Answers by Transformers' continuous batching: a prompt joins as another ends, over a cache in pages, with captured graphs.

``generate`` starts each kernel of each token anew, which takes most of the time of a small model on a GPU. Whether this is
faster depends on card, model and attention kernels, and nothing but a trial tells, so that it has to win one on the first
batch, and to say in it what the model itself says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.utils import WorkloadHints
from transformers.utils import is_flash_attn_2_available

from llmops_components.errors import first_line, shortened
from llmops_components.models.probing import rounding_of

LEAST_PROMPTS = 64  # for fewer, capturing graphs takes longer than it saves
DEVICES = ("cuda",)
# It drops what it does not know in silence. Other settings are left to ``generate``.
_FOLLOWED = {"do_sample", "max_new_tokens", "eos_token_id", "pad_token_id"}
_LIKELY_IN_16_BIT = 0.98  # of the tokens; where two are about equally likely, rounding decides


class ContinuousError(Exception):
    """Continuous batching failed, or is not to be used; the message says why."""


def is_offered(model: Any, generation_args: Mapping[str, Any] | None, prompts: int) -> bool:
    """Whether continuous batching is worth a trial.

    Args:
        model: A causal language model of transformers.
        generation_args: What the caller wants other than the defaults.
        prompts: How many there are.
    """
    given = dict(generation_args or {})
    return (
        model.device.type in DEVICES
        and prompts >= LEAST_PROMPTS
        and set(given) <= _FOLLOWED
        and not given.get("do_sample")
    )


@dataclass(frozen=True)
class Trial:
    """What a batch of prompts took by ``generate``, and what it said.

    Args:
        prompts: Token ids of each.
        seconds: Time for all of them.
    """

    prompts: Sequence[list[int]]
    seconds: float


def check(model: Any, config: GenerationConfig, by_generate: Trial, others: int) -> str:
    """Answer a batch once more by continuous batching, and see what would come of it for the others.

    Args:
        model: A causal language model of transformers.
        config: Greedy decoding.
        by_generate: What the same prompts took by ``generate``.
        others: How many prompts are still to be answered.

    Returns:
        What was found, in words.

    Raises:
        ContinuousError: It fails, says other things than the model, or would not be faster.
    """
    begun = time.monotonic()
    with _open(model, config, by_generate.prompts) as manager:
        ready = time.monotonic()
        answers = dict(_answers(manager, by_generate.prompts))
        seconds = time.monotonic() - ready
    tokens = sum(map(len, answers.values()))
    likely = sum(_likely(model, by_generate.prompts[i], ids) for i, ids in answers.items())
    least = tokens if rounding_of(model) < 0.01 else _LIKELY_IN_16_BIT * tokens
    said = f"{likely} of {tokens} tokens are the most likely ones for the model itself"
    if likely < least:
        raise ContinuousError(f"it says other things ({said})")
    share = others / len(by_generate.prompts)
    times = by_generate.seconds * share, seconds * share + ready - begun
    said += (
        f"; it would take {times[1]:.0f} s for the other prompts, and generate in batches {times[0]:.0f} s"
    )
    if times[1] >= times[0]:
        raise ContinuousError(f"it is no faster ({said})")
    return said


def answer(
    model: Any, config: GenerationConfig, prompts: Sequence[list[int]]
) -> Iterator[tuple[int, list[int]]]:
    """Number and tokens of each answer, as they end.

    Args:
        model: A causal language model of transformers.
        config: Greedy decoding.
        prompts: Token ids of each.

    Raises:
        ContinuousError: It fails; answers before that stand.
    """
    with _open(model, config, prompts) as manager:
        yield from _answers(manager, prompts)


@contextmanager
def _open(model: Any, config: GenerationConfig, prompts: Sequence[list[int]]) -> Iterator[Any]:
    try:
        manager = model.init_continuous_batching(
            generation_config=config,
            # Not to flash attention that it would have to load from a hub.
            continuous_batching_config=ContinuousBatchingConfig(
                auto_switch_to_flash=is_flash_attn_2_available()
            ),
            workload_hints=WorkloadHints(max(map(len, prompts)), config.max_new_tokens, len(prompts)),
        )
        manager.warmup()
        manager.start()
    except Exception as error:  # whatever a model's own code raises over a cache that is not its own
        raise ContinuousError(f"it failed ({type(error).__name__}: {first_line(error)})") from error
    try:
        yield manager
    finally:
        manager.stop(
            block=True, hard_stop=True
        )  # a soft stop would answer first what nobody waits for any more
        manager.destroy()


def _answers(manager: Any, prompts: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
    places = {name: place for place, name in enumerate(manager.add_requests(list(prompts)))}
    while places:
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise ContinuousError("it ended by itself")
        if result is None or not result.is_finished():
            continue
        if result.error is not None:
            raise ContinuousError(f"it failed ({shortened(result.error, 200)})")
        yield places.pop(result.request_id), result.generated_tokens


def _likely(model: Any, prompt: list[int], answer: list[int]) -> int:
    """How many tokens of an answer are what the model finds most likely behind those before, but for rounding."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
    logits = logits.float()
    chosen = logits.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    return int((logits.amax(-1) - chosen <= rounding_of(model) * logits.std(-1)).sum())
