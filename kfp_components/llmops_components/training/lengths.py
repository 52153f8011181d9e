"""What ``max_length`` takes away from a training set."""

from __future__ import annotations

from typing import Any

from llmops_components.errors import DataError


def check_lengths(trained_on: Any, args: Any, rows: int, source: str) -> list[str]:
    """Findings on rows that were dropped or cut, or an error when nothing is left to learn from.

    TRL drops rows of which nothing is left to learn from, without a word.

    Args:
        trained_on: The trainer's tokenised dataset.
        args: The trainer's arguments.
        rows: Rows before.
        source: The dataset, for messages.
    """
    limit = getattr(args, "max_length", None)
    if limit is None or getattr(args, "packing", False):
        return []
    dropped = rows - len(trained_on)
    if dropped == rows:
        raise DataError(
            f"No row of {source} has a token of the completion within max_length={limit}. "
            "Raise max_length in training_args or shorten the prompts."
        )
    # Rows for SFT are cut already, so that one that just fits looks the same as one that was cut.
    shortest = limit if "input_ids" in trained_on.column_names else limit + 1
    cut = sum(length >= shortest for length in row_lengths(trained_on) or ())
    findings = []
    if dropped:
        findings.append(f"{dropped} of {rows} rows were left out: they do not fit into max_length={limit}.")
    if cut:
        findings.append(f"{cut} of {rows} rows reach max_length={limit} and were cut there.")
    return findings


def longest_row(trainer: Any) -> int | None:
    """Tokens of the longest row that a trainer learns from at once, both answers of a pair among them; None if nothing says so.

    Args:
        trainer: Any trainer that is built.
    """
    args, dataset = trainer.args, trainer.train_dataset
    limit = getattr(args, "max_length", None)
    lengths = row_lengths(dataset)
    if lengths is None or getattr(args, "packing", False):
        return limit
    longest = max(lengths, default=0)
    longest = longest if limit is None else min(longest, limit)
    return longest * (2 if "rejected_ids" in dataset.column_names else 1)


def row_lengths(dataset: Any) -> list[int] | None:
    """Tokens of each row, of a pair those of the longer one; None if nothing says so.

    Args:
        dataset: A trainer's tokenised dataset.
    """
    import pyarrow.compute as pc

    def column(name: str) -> list[int]:
        # Without a Python object for each token.
        return pc.list_value_length(dataset.select_columns(name).with_format("arrow")[:][name]).to_pylist()

    present = set(getattr(dataset, "column_names", None) or ())
    answers = [name for name in ("chosen_ids", "rejected_ids", "completion_ids") if name in present]
    if not hasattr(dataset, "__len__") or not ("input_ids" in present or answers):
        return None
    if not len(dataset):
        return []  # whose columns have no type
    if "input_ids" in present:
        return column("input_ids")
    prompts = column("prompt_ids") if "prompt_ids" in present else [0] * len(dataset)
    of_answers = [column(name) for name in answers]
    return [prompt + max(each) for prompt, *each in zip(prompts, *of_answers, strict=True)]
