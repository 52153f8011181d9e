"""What a reward model gives for answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """
    import torch

    from llmops_components.training import common, settings

    dtype, _ = settings.precision(full=False)
    model, tokenizer = common.load_model(directory, dtype=dtype, task="SEQ_CLS")
    model.eval()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    texts = [_text(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
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


def _text(tokenizer: Any, prompt: str | list[Mapping[str, Any]], answer: str) -> str:
    from trl import apply_chat_template

    if isinstance(prompt, str):
        return prompt + answer
    messages = [*prompt, {"role": "assistant", "content": answer}]
    return str(apply_chat_template({"messages": messages}, tokenizer)["text"])
