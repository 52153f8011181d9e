"""How likely a causal language model takes an answer to be, given its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops_components.errors import DataError, SettingError
from llmops_components.models.generation import encode_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MOST_LOGITS = 1 << 27  # of one batch: half a GiB in float32


@dataclass(frozen=True)
class Likelihood:
    """How likely an answer is.

    Args:
        log_probability: Natural logarithm of the probability of all of its tokens, one after the other; 0 without tokens.
        tokens: How many tokens it has.
    """

    log_probability: float
    tokens: int


def answer_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[str],
    *,
    numbers: Sequence[int] | None = None,
    batch_size: int = 16,
) -> list[Likelihood]:
    """How likely the model takes each answer to be.

    Prompts become tokens as :func:`~llmops_components.models.generation.generate_answers` has them. The answer's own text counts, and not
    the token that would end it. Shorter rows are padded behind their answer, where a causal model does not look.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        rows: Each with a ``prompt``.
        answers: One a row.
        numbers: Numbers of the rows, for messages; from 1 on by default.
        batch_size: Most answers that are looked at together; fewer where the scores of their tokens would not fit in half a GiB.

    Returns:
        One a row, in the order of the rows.

    Raises:
        SettingError: The batch size is not valid.
        DataError: A prompt and its answer do not fit in the model's context, or a prompt has no token; names the rows.
        ModelError: The prompts are chat messages and the tokenizer has no chat template.
    """
    import torch

    if batch_size < 1:
        raise SettingError(f"batch_size is {batch_size}; it has to be at least 1.")
    numbers = numbers or range(1, len(rows) + 1)
    prompts = encode_prompts(tokenizer, rows, numbers)
    texts = tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    _check_lengths(prompts, texts, numbers, model)
    found: dict[int, Likelihood] = {}
    vocabulary = model.config.get_text_config().vocab_size
    lengths = [len(prompt) + len(text) for prompt, text in zip(prompts, texts, strict=True)]
    for batch in _batches(lengths, batch_size, vocabulary):
        width = lengths[batch[0]]
        padded = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for line, place in enumerate(batch):
            padded[line, : lengths[place]] = torch.tensor(prompts[place] + texts[place])
            mask[line, : lengths[place]] = 1
        with torch.inference_mode():
            logits = model(
                input_ids=padded.to(model.device), attention_mask=mask.to(model.device), use_cache=False
            ).logits
            for line, place in enumerate(batch):
                start, end = len(prompts[place]), lengths[place]
                chosen = padded[line, start:end, None].to(logits.device)
                scores = logits[line, start - 1 : end - 1].float().log_softmax(dim=-1)
                found[place] = Likelihood(scores.gather(1, chosen).double().sum().item(), end - start)
    return [found[place] for place in range(len(rows))]


def _batches(lengths: Sequence[int], size: int, vocabulary: int) -> Iterator[list[int]]:
    """Places in batches, the longest first, so that what does not fit shows at once."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place], reverse=True):
        width = lengths[batch[0]] if batch else 0
        if batch and (len(batch) == size or (len(batch) + 1) * width * vocabulary > _MOST_LOGITS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _check_lengths(
    prompts: Sequence[list[int]], texts: Sequence[list[int]], numbers: Sequence[int], model: PreTrainedModel
) -> None:
    if empty := [number for number, prompt in zip(numbers, prompts, strict=True) if not prompt]:
        raise DataError(
            f"The prompt of row {empty[0]} has no token, so that the model has nothing to tell the answer's first from. Fill it."
        )
    for number, prompt, text in zip(numbers, prompts, texts, strict=True):
        if reason := _too_long(model, prompt, text):
            raise DataError(f"Row {number} {reason}. Shorten it.")


def why_too_long(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    row: Mapping[str, Any],
    answer: str,
    number: int,
) -> str | None:
    """Why a prompt and its answer have no room in the model's context; None where they have.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        row: The row, with its ``prompt``.
        answer: The answer.
        number: Number of the row, for messages.
    """
    prompt = encode_prompts(tokenizer, [row], [number])[0]
    return _too_long(model, prompt, tokenizer(answer, add_special_tokens=False)["input_ids"])


def _too_long(model: PreTrainedModel, prompt: Sequence[int], text: Sequence[int]) -> str | None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is None or len(prompt) + len(text) <= context:
        return None
    return f"does not fit in the model's context of {context} tokens: its prompt has {len(prompt)}, its answer {len(text)}"
