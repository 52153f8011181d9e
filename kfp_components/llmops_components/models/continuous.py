"""Answers by Transformers' continuous batching: a prompt joins as another ends, over a cache in pages.

``generate`` starts each kernel of each token anew, and waits for the longest answer of a batch, which takes most of the time
of a small model on a GPU. Whether this is faster depends on card, model and attention kernels, and nothing but a trial
tells, so that it has to win one over the first batch, and to say in it what the model itself says.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from llmops_components.errors import first_line, shortened
from llmops_components.models.attention import attention_by
from llmops_components.models.device_memory import free_unused
from llmops_components.models.probing import rounding_of

LEAST_PROMPTS = 32  # for fewer, to prepare it takes longer than it saves
DEVICES = ("cuda",)
# It drops what it does not know in silence. Other settings are left to ``generate``.
_FOLLOWED = {"do_sample", "max_new_tokens", "eos_token_id", "pad_token_id"}
_TRIED = 64  # prompts at the same time in the trial
_LIKELY_IN_16_BIT = 0.98  # of the tokens; where two are about equally likely, rounding decides


class ContinuousError(Exception):
    """Continuous batching failed, or is not to be used; the message says why."""


@dataclass(frozen=True)
class ByGenerate:
    """What ``generate`` did with a batch.

    Args:
        prompts: Token ids of each prompt.
        tokens: Tokens that it answered.
        seconds: Time that it took.
    """

    prompts: Sequence[list[int]]
    tokens: int
    seconds: float


def is_offered(model: Any, generation_args: Mapping[str, Any] | None, prompts: int) -> bool:
    """Whether continuous batching is worth a trial.

    Args:
        model: A causal language model of transformers.
        generation_args: What the caller wants other than the defaults.
        prompts: How many there are to be answered by it.
    """
    given = dict(generation_args or {})
    return (
        model.device.type in DEVICES
        and prompts >= LEAST_PROMPTS
        and set(given) <= _FOLLOWED
        and not given.get("do_sample")
    )


def answers(
    model: Any, config: GenerationConfig, prompts: Sequence[list[int]], first: ByGenerate
) -> Iterator[tuple[int, list[int]]]:
    """Number and tokens of each answer, as they end; none before the trial is passed. Prints what the trial found.

    Args:
        model: A causal language model of transformers.
        config: Greedy decoding.
        prompts: Token ids of each prompt.
        first: What ``generate`` did with other prompts, which the trial puts once more.

    Raises:
        ContinuousError: It fails, says other things than the model, or is no faster; answers before that stand.
    """
    tried = min(len(prompts), max(0, _TRIED - len(first.prompts)))
    try:
        own = model.config._attn_implementation
        with (
            attention_by(model, _flash(model) or own),
            _running(model, config, [*first.prompts, *prompts]) as manager,
        ):
            begun = time.monotonic()
            together = dict(_answered(manager, [*first.prompts, *prompts[:tried]]))
            seconds = time.monotonic() - begun
            again = [together[place] for place in range(len(first.prompts))]
            with manager.pause(), attention_by(model, own):
                found = _check(model, config, first.prompts, again)
            speeds = sum(map(len, together.values())) / seconds, first.tokens / first.seconds
            found += f", and it makes {speeds[0]:.0f} tokens/s, generate in batches {speeds[1]:.0f}"
            if speeds[0] <= speeds[1]:
                raise ContinuousError(f"it is no faster ({found})")
            print(f"Continuous batching answers: {found}.", flush=True)
            for place in range(tried):
                yield place, together[len(first.prompts) + place]
            for place, ids in _answered(manager, prompts[tried:]):
                yield tried + place, ids
    except ContinuousError:
        raise
    except Exception as error:  # whatever a model's own code raises over a cache that is not its own
        raise ContinuousError(f"it failed ({type(error).__name__}: {first_line(error)})") from error


def _flash(model: Any) -> str | None:
    """The flash attention that is installed, which continuous batching is made for; by itself that would look for one on a hub."""
    if model.dtype == torch.float32 or not getattr(model, "_supports_flash_attn", False):
        return None
    installed = ((3, is_flash_attn_3_available()), (2, is_flash_attn_2_available()))
    return next((f"flash_attention_{version}" for version, is_there in installed if is_there), None)


@contextmanager
def _running(model: Any, config: GenerationConfig, prompts: Sequence[list[int]]) -> Iterator[Any]:
    manager = None
    try:
        # No part of its interface: where it has moved, that is a failure like others.
        from transformers.generation.continuous_batching.utils import WorkloadHints

        manager = model.init_continuous_batching(
            generation_config=copy.deepcopy(config),  # it writes into it
            continuous_batching_config=ContinuousBatchingConfig(auto_switch_to_flash=False),
            workload_hints=WorkloadHints(max(map(len, prompts)), config.max_new_tokens, len(prompts)),
        )
        manager.warmup()
        manager.start()
        yield manager
    finally:
        if manager is not None:
            # A soft stop would answer first what nobody waits for any more.
            manager.stop(block=True, hard_stop=True)
            manager.destroy()
        free_unused()


def _answered(manager: Any, prompts: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
    places = {name: place for place, name in enumerate(manager.add_requests(list(prompts)))}
    while places:
        result = manager.get_result(timeout=1)
        if result is None:
            if (fatal := manager.background_thread_status.fatal_error) is not None:
                raise fatal
            if not manager.is_running():
                raise ContinuousError("it ended by itself")
        elif result.is_finished():
            if result.error is not None:
                raise ContinuousError(f"it failed ({shortened(' '.join(result.error.split()), 200)})")
            yield places.pop(result.request_id), result.generated_tokens


def _check(
    model: Any, config: GenerationConfig, prompts: Sequence[list[int]], said: Sequence[list[int]]
) -> str:
    """Compare answers with what the model itself would say and where it would end; what was found, in words."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if not all(ids and (ids[-1] in ends or len(ids) == config.max_new_tokens) for ids in said):
        raise ContinuousError("it says other things (an answer has no end)")
    tokens = sum(map(len, said))
    likely = sum(_likely(model, prompt, ids) for prompt, ids in zip(prompts, said, strict=True))
    found = f"{likely} of {tokens} tokens are the most likely ones for the model itself"
    if likely < (tokens if model.dtype == torch.float32 else _LIKELY_IN_16_BIT * tokens):
        raise ContinuousError(f"it says other things ({found})")
    return found


def _likely(model: Any, prompt: list[int], answer: list[int]) -> int:
    """How many tokens of an answer are what the model finds most likely behind those before, but for rounding."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    more: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "use_cache": False}
    if model._supports_logits_to_keep():
        more["logits_to_keep"] = len(answer) + 1
    with torch.inference_mode():
        logits = model(input_ids=ids, **more).logits[0, -len(answer) - 1 : -1].float()
    chosen = logits.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    return int((logits.amax(-1) - chosen <= rounding_of(model) * logits.std(-1)).sum())
