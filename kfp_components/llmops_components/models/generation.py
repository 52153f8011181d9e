"""Answers from a causal language model, in batches."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from llmops_components.data.rendering import render_prompt
from llmops_components.errors import DataError, ModelError, SettingError
from llmops_components.passthrough.refusals import refusals
from llmops_components.passthrough.tables import GENERATION, check_names, typed

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_NEW_TOKENS = 64
SAMPLING_SEED = 0
_PROGRESS_SECONDS = 2.0

# Names that GenerationConfig knows and that would break what this module promises.
_NOT_TAKEN = {
    "_from_model_config",
    "max_length",  # counts padding, so an answer would depend on its batch; max_new_tokens does not
    "max_time",  # an answer would depend on the speed of the machine
    "num_return_sequences",  # one answer a prompt
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "return_dict_in_generate",
    "transformers_version",
}


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Args:
        text: The answer without special tokens and outer white space.
        tokens: Tokens generated, the end token included.
        finish_reason: ``stop`` when the model ended the answer, ``length`` when ``max_new_tokens`` cut it off.
    """

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]


def generation_config(
    generation_args: Mapping[str, Any] | None,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> GenerationConfig:
    """Greedy decoding, unless the arguments say otherwise.

    Of the checkpoint's own generation settings only the end tokens are used: a penalty or temperature that one
    model brings along would otherwise be measured as a difference between two models' weights.

    Args:
        generation_args: Arguments of ``transformers.GenerationConfig``.
        model: The model.
        tokenizer: Its tokenizer.

    Raises:
        SettingError: A name is unknown or a value is not valid.
    """
    from transformers import GenerationConfig

    given = typed(generation_args, "generation_args", GENERATION)
    check_names(given, set(GenerationConfig().to_dict()) - _NOT_TAKEN, "generation_args", GENERATION)
    own_end = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own_end if isinstance(own_end, list) else [own_end])} - {None}
    defaults = {
        "do_sample": False,
        "max_new_tokens": DEFAULT_NEW_TOKENS,
        "eos_token_id": sorted(ends),
        "pad_token_id": tokenizer.pad_token_id,
    }
    with refusals("generation_args"):
        return GenerationConfig(**(defaults | given))


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    *,
    generation_args: Mapping[str, Any] | None = None,
    batch_size: int = 16,
) -> list[Answer]:
    """Answer every prompt; prompts of similar length are generated together.

    A model that reads padding like text, as recurrent ones may, gets prompts of one length together, or one at a time.
    Which of these gives the answers that every prompt has alone is tried out first. On a GPU many greedy prompts are answered
    by continuous batching (:mod:`llmops_components.models.continuous`) where that wins a trial over the first batch.

    Prints a line of progress every few seconds. In float32 a greedy answer does not depend on its batch; in 16 bit
    rounding does, and can tip an answer where two tokens are about equally likely.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, padding on the left.
        rows: Each with a ``prompt``: chat messages, which the tokenizer's chat template turns into text with the
            row's ``tools`` and ``chat_template_kwargs``, or plain text.
        generation_args: Arguments of ``transformers.GenerationConfig``; greedy with 64 new tokens by default.
        batch_size: Prompts generated together.

    Returns:
        One answer a row, in the order of the rows.

    Raises:
        SettingError: A generation argument or the batch size is not valid.
        DataError: A prompt and its answer do not fit in the model's context, or the chat template refuses a prompt;
            names the rows.
        ModelError: The prompts are chat messages and the tokenizer has no chat template, or the model is none that
            continues a text.
    """
    import torch
    import transformers

    from llmops_components.models import continuous, probing

    if batch_size < 1:
        raise SettingError(f"batch_size is {batch_size}; it has to be at least 1.")
    config = generation_config(generation_args, model, tokenizer)
    model.generation_config = transformers.GenerationConfig()  # generate() fills gaps in `config` from here
    inputs = encode_prompts(tokenizer, rows)
    _check_lengths(inputs, model, config)
    transformers.set_seed(SAMPLING_SEED)

    # The longest first: if memory does not suffice, it shows at once, and the estimated time errs upwards.
    order = sorted(range(len(rows)), key=lambda i: len(inputs[i]), reverse=True)
    answers: dict[int, Answer] = {}
    how = probing.together(model)
    if how != "padded":
        name = probing.name_of(model)
        print(f"{name} answers otherwise beside padding: prompts are generated {_SAID[how]}", flush=True)
    started = shown = time.monotonic()

    def show() -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PROGRESS_SECONDS or len(answers) == len(order):
            shown = now
            print(_progress(answers, len(order), now - started), flush=True)

    for index, planned in enumerate(_batches(order, [len(ids) for ids in inputs], batch_size, how)):
        if not (batch := [number for number in planned if number not in answers]):
            continue
        begun = time.monotonic()
        padded = tokenizer.pad({"input_ids": [inputs[i] for i in batch]}, return_tensors="pt").to(
            model.device
        )
        with torch.inference_mode():
            output = model.generate(**padded, generation_config=config, tokenizer=tokenizer)
        said = output[:, padded["input_ids"].shape[1] :].tolist()
        seconds = time.monotonic() - begun
        for number, ids in zip(batch, said, strict=True):
            answers[number] = _to_answer(ids, tokenizer, config)
        show()
        if index == 0 and continuous.is_offered(model, generation_args, len(order) - len(batch)):
            tokens = sum(answers[number].tokens for number in batch)
            first = continuous.ByGenerate([inputs[number] for number in batch], tokens, seconds)
            others = {number: inputs[number] for number in order if number not in answers}
            for number, ids in _continuously(model, config, others, first):
                answers[number] = _to_answer(ids, tokenizer, config)
                show()
    return [answers[i] for i in range(len(rows))]


def _continuously(
    model: Any, config: Any, prompts: Mapping[int, list[int]], first: Any
) -> Iterator[tuple[int, list[int]]]:
    """Number and tokens of the answers that continuous batching makes: all, none, or some before it fails."""
    from llmops_components.models import continuous

    numbers = list(prompts)
    try:
        for place, ids in continuous.answers(model, config, list(prompts.values()), first):
            yield numbers[place], ids
    except continuous.ContinuousError as error:
        print(f"No continuous batching, but generate: {error}.", flush=True)


_SAID = {"of one length": "with others of one length", "alone": "one by one"}


def _batches(order: Sequence[int], lengths: Sequence[int], size: int, how: str) -> Iterator[list[int]]:
    """The prompts in batches, in the given order.

    Args:
        order: The prompts' numbers, those of one length behind each other.
        lengths: Length of each prompt.
        size: Most prompts of a batch.
        how: See :func:`llmops_components.models.probing.together`.
    """
    groups = [list(order)]
    if how == "of one length":
        groups = [list(group) for _, group in itertools.groupby(order, key=lambda number: lengths[number])]
    elif how == "alone":
        size = 1
    for group in groups:
        for start in range(0, len(group), size):
            yield group[start : start + size]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    numbers: Sequence[int] | None = None,
) -> list[list[int]]:
    """The tokens of each prompt, as a model is asked them.

    Args:
        tokenizer: The model's tokenizer.
        rows: Each with a ``prompt``, all of them chat messages or all plain text.
        numbers: Their numbers, for messages; from 1 on by default.

    Raises:
        DataError: The chat template refuses a prompt; names the row.
        ModelError: The prompts are chat messages and the tokenizer has no chat template.
    """
    chat = not isinstance(rows[0]["prompt"], str)
    if chat and not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path} has no chat template and the prompts are chat messages. "
            "Use prompts of plain text, or add chat_template.jinja to the model's directory."
        )
    texts = (
        [
            render_prompt(tokenizer, row, number)
            for number, row in zip(numbers or range(1, len(rows) + 1), rows, strict=True)
        ]
        if chat
        else [row["prompt"] for row in rows]
    )
    # A chat template writes the special tokens itself.
    return tokenizer(texts, add_special_tokens=not chat)["input_ids"]


def _check_lengths(inputs: Sequence[list[int]], model: PreTrainedModel, config: GenerationConfig) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return
    room = context - config.max_new_tokens
    long = [f"row {i} ({len(ids)} tokens)" for i, ids in enumerate(inputs, start=1) if len(ids) > room]
    if long:
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        raise DataError(
            f"Prompts do not fit in the model's context of {context} tokens with {config.max_new_tokens} new tokens: "
            f"{', '.join(long[:5])}{more}. Shorten these prompts, or lower max_new_tokens in generation_args."
        )


def _to_answer(ids: list[int], tokenizer: PreTrainedTokenizerBase, config: GenerationConfig) -> Answer:
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    length, tokens, reason = len(ids), len(ids), "length" if len(ids) >= config.max_new_tokens else "stop"
    for position, token in enumerate(ids):
        if token in ends or token == config.pad_token_id:
            # Padding follows an end token, or the last token before a stop string.
            length, tokens, reason = position, position + (token in ends), "stop"
            break
    text = tokenizer.decode(ids[:length], skip_special_tokens=True)
    stops = config.stop_strings or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0]
    return Answer(text.strip(), tokens, reason)


def _progress(answers: Mapping[int, Answer], total: int, seconds: float) -> str:
    rate = sum(answer.tokens for answer in answers.values()) / seconds
    eta = timedelta(seconds=round(seconds / len(answers) * (total - len(answers))))
    return f"generated {len(answers)}/{total}  {rate:.0f} tokens/s  eta {eta}"
