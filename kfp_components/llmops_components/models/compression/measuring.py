"""What a model costs and how well it does: bytes, time to load, tokens per second, loss on texts. On the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops_components.data.formats import DatasetFormat
from llmops_components.data.rendering import render
from llmops_components.data.valid_rows import read_valid_rows
from llmops_components.errors import DataError
from llmops_components.models.probing import without_own_settings

ROWS = 32
_TEXT_TOKENS = 512
_PROMPT_TOKENS, _NEW_TOKENS, _WARM_UP_TOKENS = 16, 32, 2


@dataclass
class Measured:
    """A model's figures.

    Args:
        weight_bytes: Size of its weight files.
        load_seconds: From the files to a model.
        tokens_per_second: Of one answer, each token the most likely one; set by :meth:`ask`.
        loss: Mean over the tokens of the texts; None without texts.
    """

    weight_bytes: int
    load_seconds: float = field(default=0.0)
    tokens_per_second: float = field(default=0.0)
    loss: float | None = None

    def ask(self, model: Any, texts: Sequence[Sequence[int]]) -> Measured:
        """Time an answer, and compute the loss on texts.

        Args:
            model: The model.
            texts: The texts' tokens; none for no loss.
        """
        self.tokens_per_second = _tokens_per_second(model)
        self.loss = _loss(model, texts) if texts else None
        return self

    def metrics(self) -> dict[str, float | int]:
        """The figures by name."""
        return {
            "weight_bytes": self.weight_bytes,
            "load_seconds": self.load_seconds,
            "tokens_per_second": self.tokens_per_second,
            **({} if self.loss is None else {"loss": self.loss}),
        }


def weight_bytes(directory: Path) -> int:
    """Size of a model's weight files.

    Args:
        directory: Model directory.
    """
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


@contextmanager
def measure(directory: Path) -> Iterator[Measured]:
    """Measure how large a model is, and how long it takes to load.

    Args:
        directory: Model directory.

    Yields:
        What is measured; the time to load stands in it when the block ends.
    """
    measured = Measured(weight_bytes(directory))
    started = time.monotonic()
    yield measured
    measured.load_seconds = time.monotonic() - started


def read_texts(dataset: str | os.PathLike[str], tokenizer: Any) -> list[list[int]]:
    """The first rows of a dataset as the tokens that a model is asked to have predicted.

    Args:
        dataset: Rows with a text, messages, or a prompt with a completion or a reference.
        tokenizer: Of the model, with a chat template where the rows are conversations.

    Raises:
        DataError: It cannot be used, the chat template refuses a row, or there is nothing to predict.
    """
    rows, found = read_valid_rows(dataset, ("language_modeling", "prompt_completion", "evaluation"))
    if found.conversational and not tokenizer.chat_template:
        raise DataError(
            f"The rows are conversations, and the model's tokenizer has no chat template. Give rows of plain text. Dataset: {dataset}."
        )
    texts = []
    for number, row in enumerate(rows[:ROWS], start=1):
        try:
            text = _text(tokenizer, row, found)
        except Exception as error:  # a template is a program of somebody's, which may raise anything
            raise DataError(
                f"Row {number}: the chat template refuses it: {error}. Dataset: {dataset}."
            ) from error
        texts.append(text)
    # A chat template writes the special tokens itself.
    encoded = tokenizer(texts, add_special_tokens=not found.conversational)["input_ids"]
    kept = [ids[:_TEXT_TOKENS] for ids in encoded if len(ids) > 1]
    if not kept:
        raise DataError(
            f"No row of the dataset has two tokens, so there is no loss. Give longer rows. Dataset: {dataset}."
        )
    return kept


def _text(tokenizer: Any, row: dict[str, Any], found: DatasetFormat) -> str:
    answer = row.get("completion", row.get("reference"))
    if not found.conversational:
        return str(row["text"]) if "text" in found.fields else f"{row['prompt']}{answer}"
    answers = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    return render(tokenizer, row.get("messages") or [*row["prompt"], *answers], row, asks=False)


def _tokens_per_second(model: Any) -> float:
    """Of an answer to a random prompt, of a length that is given, so that every model of a vocabulary does the same work."""
    import torch
    from transformers import GenerationConfig

    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompt = torch.randint(vocabulary, (1, _PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))

    def answer(tokens: int) -> None:
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False)  # which knows no token to end at
        model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)

    with without_own_settings(model), torch.inference_mode():
        answer(_WARM_UP_TOKENS)
        started = time.monotonic()
        answer(_NEW_TOKENS)
        return _NEW_TOKENS / (time.monotonic() - started)


def _loss(model: Any, texts: Sequence[Sequence[int]]) -> float:
    """Mean over all tokens that another stands before."""
    import torch

    total, tokens = 0.0, 0
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor([text])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            tokens += len(text) - 1
    return total / tokens
