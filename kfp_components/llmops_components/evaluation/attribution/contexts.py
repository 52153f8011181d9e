"""Which of a prompt's contexts an answer hangs on: how much less likely it is to the model without each.

Leave-one-out attribution of contexts, see Cohen-Wang et al., ContextCite (2024), https://arxiv.org/abs/2409.00729, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmops_components.models.likelihood import answer_likelihoods, why_too_long

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """An answer, and what it was an answer to.

    Args:
        row: The row, with its ``prompt``.
        answer: The answer.
        contexts: Texts that were looked up for it.
        number: Number of the row, for messages.
    """

    row: Mapping[str, Any]
    answer: str
    contexts: Sequence[str]
    number: int = 1


@dataclass(frozen=True)
class Supports:
    """How much an answer hangs on its contexts.

    Args:
        of_each: By context: the logarithm of how many times less likely the answer is without it; below 0 where it is more likely. None of
            a context that is not in the prompt.
        of_all: The same without all of them.
        tokens: Tokens of the answer.
    """

    of_each: list[float | None]
    of_all: float
    tokens: int


def context_supports(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    *,
    batch_size: int = 16,
) -> list[Supports | str]:
    """How much each answer hangs on each of its contexts.

    A context is left out by leaving its text out of the prompt, wherever it stands there word for word.

    Args:
        model: The model that has answered.
        tokenizer: Its tokenizer.
        asked: Answers.
        batch_size: Most answers that are looked at together.

    Returns:
        One an answer; or why there is none.
    """
    found: list[Supports | str] = []
    rows: list[Mapping[str, Any]] = []
    answers: list[str] = []
    numbers: list[int] = []
    wanted: dict[
        int, tuple[int, list[int]]
    ] = {}  # by place: where its prompts begin, and which contexts they lack
    for place, each in enumerate(asked):
        reason, inside = _looked_at(each)
        if not reason and (long := why_too_long(model, tokenizer, each.row, each.answer, each.number)):
            reason = f"It {long}."
        found.append(reason)
        if reason:
            continue
        wanted[place] = len(rows), inside
        left_out = [[], *([number] for number in inside), inside]
        for gone in left_out:
            prompt = without(each.row["prompt"], [each.contexts[number] for number in gone])
            rows.append({**each.row, "prompt": prompt})
            answers.append(each.answer)
            numbers.append(each.number)
    if not rows:
        return found
    likelihoods = answer_likelihoods(model, tokenizer, rows, answers, numbers=numbers, batch_size=batch_size)
    for place, (start, inside) in wanted.items():
        whole, *without_one, without_any = (
            each.log_probability for each in likelihoods[start : start + len(inside) + 2]
        )
        if not all(map(math.isfinite, (whole, *without_one, without_any))):
            found[place] = "The model gives no finite probability of it, so that nothing can be compared."
            continue
        drops = dict(zip(inside, (whole - each for each in without_one), strict=True))
        count = len(asked[place].contexts)
        found[place] = Supports(
            [drops.get(number) for number in range(count)], whole - without_any, likelihoods[start].tokens
        )
    return found


def without(prompt: Prompt, texts: Sequence[str]) -> Prompt:
    """A prompt without some texts, the longest first, since one may stand in another.

    Args:
        prompt: Text, or messages.
        texts: What is left out of it.
    """
    ordered = sorted(texts, key=len, reverse=True)
    if isinstance(prompt, str):
        for text in ordered:
            prompt = prompt.replace(text, "")
        return prompt
    return [
        {**message, "content": without(message["content"], ordered)}
        if isinstance(message.get("content"), str)
        else message
        for message in prompt
    ]


def _looked_at(asked: Asked) -> tuple[str, list[int]]:
    """Why contexts cannot be told, or nothing; and those that are in the prompt."""
    if not asked.contexts:
        return "It has no contexts.", []
    if not asked.answer.strip():
        return "Its answer is empty.", []
    prompt = asked.row["prompt"]
    inside = [
        number
        for number, text in enumerate(asked.contexts)
        if text.strip() and without(prompt, [text]) != prompt
    ]
    if not inside:
        return "None of its contexts is in the prompt word for word, so that the model has not seen them.", []
    if not _has_text(without(prompt, [asked.contexts[number] for number in inside])):
        return "Its prompt is nothing but contexts.", []
    return "", inside


def _has_text(prompt: Prompt) -> bool:
    if isinstance(prompt, str):
        return bool(prompt.strip())
    return any(str(message.get("content") or "").strip() for message in prompt)
