"""What a reward model gives for answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops_components.data.formats import DatasetFormat
from llmops_components.data.rendering import refusal, render
from llmops_components.errors import DataError

_BATCH_SIZE = 16


def score_rewards(
    directory: Path, prompts: Sequence[str | list[Mapping[str, Any]]], answers: Sequence[str]
) -> list[float]:
    """The reward of each answer, as TRL's trainers compute it during reinforcement learning.

    Args:
        directory: Directory of the reward model: a sequence classifier with one output.
        prompts: Text, or messages, for each answer.
        answers: The answers.

    Raises:
        ModelError: The reward model cannot be loaded.
        DataError: The chat template of the reward model refuses a row; names it.
    """
    import torch

    from llmops_components.models.loading import load_model
    from llmops_components.models.precision import precision

    dtype, _ = precision(full=False)
    model, tokenizer = load_model(directory, dtype=dtype, task="SEQ_CLS")
    model.eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    texts = [
        _text(tokenizer, prompt, answer, number)
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1)
    ]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # rows of a batch of about one length
    rewards = [0.0] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH_SIZE):
            rows = order[start : start + _BATCH_SIZE]
            batch = tokenizer(
                [texts[i] for i in rows],
                return_tensors="pt",
                padding=True,
                padding_side="right",
                add_special_tokens=False,
            ).to(model.device)
            for i, reward in zip(rows, model(**batch).logits[:, 0].float().tolist(), strict=True):
                rewards[i] = reward
    return rewards


def _text(tokenizer: Any, prompt: str | list[Mapping[str, Any]], answer: str, number: int) -> str:
    if isinstance(prompt, str):
        return prompt + answer
    row = {"messages": [*prompt, {"role": "assistant", "content": answer}]}
    try:
        return render(tokenizer, row["messages"], row, asks=False)
    except Exception as error:
        refused = refusal(tokenizer, row, DatasetFormat("language_modeling", True, ("messages",)))
        raise DataError(
            f"Row {number}: {refused or error}. It is the reward model's: leave the metric reward out, or correct the row."
        ) from error
