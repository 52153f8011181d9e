"""What there is to say of single rows: their problems, their lengths, and what tells them from each other."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmops_components.data.content import content_text
from llmops_components.data.formats import MESSAGE_FIELDS, DatasetFormat, with_our_names, with_text
from llmops_components.data.rendering import refusal, render
from llmops_components.data.valid_rows import sorted_problems

if TYPE_CHECKING:
    import polars as pl
    from transformers import PreTrainedTokenizerBase

ROW, LINE, ROW_ID, PROBLEM = "(row)", "(line)", "(id)", "(problem)"
ANSWER_FIELDS = ("completion", "chosen", "rejected", "reference", "messages", "text")
SEPARATOR = "\x1e"  # between the reasons of one row, which have no control characters
_ENCODER = json.JSONEncoder(sort_keys=True)
_CONTROL = re.compile(r"[\x00-\x1f]")
_SPACE = re.compile(r"\s+")
_SLICE_ROWS = 10_000
_LARGEST_CONTEXT = 1 << 30  # tokenizers that do not know their model's say 10**30

Reasons = dict[int, str]


@dataclass
class Facts:
    """What was found in rows of one format, by the row's place in the table.

    Args:
        dataset_format: The format that they should have.
        problems: By kind of problem, the reasons.
        bad: Rows with any problem.
        keys: What is the same for two rows that say the same; null of those with problems.
        lengths: Characters of prompt and answer; null of those with problems, and where there is no such part.
        count: How many rows there were.
    """

    dataset_format: DatasetFormat
    problems: dict[str, Reasons] = field(
        default_factory=lambda: {kind: {} for kind in ("format", "empty", "turns", "pair")}
    )
    bad: set[int] = field(default_factory=set)
    keys: list[pl.Series] = field(default_factory=list)
    lengths: dict[str, list[pl.Series]] = field(default_factory=lambda: {"prompt": [], "answer": []})
    count: int = 0

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Look at more rows.

        Args:
            rows: The rows, with our names.
        """
        import polars as pl

        keys: list[bytes | None] = []
        lengths: dict[str, list[int | None]] = {"prompt": [], "answer": []}
        for place, row in enumerate(rows, start=self.count):
            problems = sorted_problems(row, self.dataset_format)
            for each in problems:
                reasons, told = self.problems[each.kind], _one_line(f"{each.field} {each.problem}")
                reasons[place] = f"{reasons[place]}{SEPARATOR}{told}" if place in reasons else told
            if problems:
                self.bad.add(place)
                keys.append(None)
                lengths["prompt"].append(None)
                lengths["answer"].append(None)
                continue
            plain = with_text(row, self.dataset_format)
            keys.append(_key(plain, self.dataset_format))
            prompt, answer = _lengths(plain, self.dataset_format)
            lengths["prompt"].append(prompt)
            lengths["answer"].append(answer)
        self.count += len(keys)
        self.keys.append(pl.Series("key", keys, dtype=pl.Binary))
        for name, sizes in lengths.items():
            self.lengths[name].append(pl.Series(name, sizes, dtype=pl.Int64))


def rows_in(texts: pl.Series) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its place, one at a time.

    Args:
        texts: The rows as JSON.
    """
    for offset in range(0, len(texts), _SLICE_ROWS):
        for number, text in enumerate(texts.slice(offset, _SLICE_ROWS).to_list(), start=offset):
            yield number, with_our_names(json.loads(text))


def facts_of(texts: pl.Series, dataset_format: DatasetFormat) -> Facts:
    """What there is to say of rows.

    Args:
        texts: The rows as JSON.
        dataset_format: The format that they should have.
    """
    facts, rows = Facts(dataset_format), (row for _, row in rows_in(texts))
    while chunk := list(islice(rows, _SLICE_ROWS)):
        facts.add(chunk)
    return facts


def _one_line(text: str) -> str:
    return _CONTROL.sub(" ", text)


def _key(row: Mapping[str, Any], dataset_format: DatasetFormat) -> bytes:
    said = _ENCODER.encode([row[name] for name in dataset_format.fields])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()


def _lengths(row: Mapping[str, Any], dataset_format: DatasetFormat) -> tuple[int | None, int | None]:
    """Characters of the prompt, and of the longest answer."""
    answers = [_characters(row[name]) for name in dataset_format.fields if name in ANSWER_FIELDS]
    prompt = _characters(row["prompt"]) if "prompt" in dataset_format.fields else None
    return prompt, max(answers, default=None)


def _characters(value: Any) -> int:
    """Length of a text, or of all the texts in a conversation; 0 of what is neither."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list):
        return 0
    return sum(len(_said(message)) for message in value)


def _said(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    try:
        return content_text(content or "")
    except (TypeError, KeyError):
        return ""


def repeated(facts: Facts, lines: pl.Series) -> Reasons:
    """Rows that say the same as an earlier one.

    Args:
        facts: What is known of the rows.
        lines: Their line numbers.
    """
    import polars as pl

    if not facts.keys:
        return {}
    frame = (
        pl.DataFrame({"key": pl.concat(facts.keys), "line": lines}).with_row_index("place").drop_nulls("key")
    )
    first = frame.with_columns(pl.col("line").first().over("key").alias("first"))
    later = first.filter(pl.col("line") != pl.col("first"))
    return {
        place: f"is the same as line {line}" for place, line in later.select("place", "first").iter_rows()
    }


def outside(facts: Facts, part: str, low: float | None, high: float | None) -> Reasons:
    """Rows of which a part has too few or too many characters.

    Args:
        facts: What is known of the rows.
        part: ``prompt`` or ``answer``.
        low: Fewest characters.
        high: Most characters.
    """
    import polars as pl

    if not facts.lengths[part]:
        return {}
    sizes = pl.concat(facts.lengths[part])
    reasons = {}
    for limit, wrong, word in ((low, sizes < (low or 0), "fewer"), (high, sizes > (high or 0), "more")):
        for place in wrong.fill_null(False).arg_true().to_list() if limit is not None else ():
            reasons[place] = f"{part} has {sizes[place]} characters, {word} than {limit:g}"
    return reasons


def refused_by_template(
    rows: Iterable[tuple[int, dict[str, Any]]],
    dataset_format: DatasetFormat,
    tokenizer: PreTrainedTokenizerBase,
) -> Reasons:
    """Conversations that the model's chat template does not take.

    Args:
        rows: Rows without problems.
        dataset_format: Their format.
        tokenizer: The tokenizer.
    """
    found = (
        (place, refusal(tokenizer, with_text(row, dataset_format), dataset_format)) for place, row in rows
    )
    return {place: _one_line(why) for place, why in found if why}


def beyond_context(
    rows: Iterable[tuple[int, dict[str, Any]]],
    dataset_format: DatasetFormat,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int | None,
) -> Reasons:
    """Rows of more tokens than the model can read at once.

    Args:
        rows: Rows without problems.
        dataset_format: Their format.
        tokenizer: The tokenizer.
        max_tokens: Most tokens; None for what the tokenizer says of its model.
    """
    limit = tokenizer.model_max_length if max_tokens is None else max_tokens
    if limit > _LARGEST_CONTEXT:
        raise ValueError("the model's tokenizer does not say how much the model can read: give max_tokens")
    reasons = {}
    for place, row in rows:
        texts = _whole_texts(with_text(row, dataset_format), dataset_format, tokenizer)
        size = max(
            len(tokenizer(text, add_special_tokens=not dataset_format.conversational)["input_ids"])
            for text in texts
        )
        if size > limit:
            reasons[place] = f"has {size} tokens, more than {limit}"
    return reasons


def _whole_texts(
    row: dict[str, Any], dataset_format: DatasetFormat, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """What the model reads: prompt and answer as one text, of a preference once with each answer."""
    prompt = (
        row["prompt"] if "prompt" in dataset_format.fields else ([] if dataset_format.conversational else "")
    )
    answers = [row[name] for name in dataset_format.fields if name in ANSWER_FIELDS] or [type(prompt)()]
    if not dataset_format.conversational:
        return [prompt + answer for answer in answers]
    return [
        render(tokenizer, prompt + (answer if isinstance(answer, list) else []), row, asks=False)
        for answer in answers
    ]


def in_other_languages(
    rows: Iterable[tuple[int, dict[str, Any]]], languages: Iterable[str], min_characters: int
) -> Reasons:
    """Rows whose text is most likely in another language.

    Args:
        rows: Rows without problems.
        languages: Allowed ones, by their codes of two letters.
        min_characters: Shorter rows are not judged: too little text says nothing.
    """
    import py3langid

    allowed = set(languages)
    reasons = {}
    for place, row in rows:
        text = text_of(row)
        if len(text) >= min_characters and (found := str(py3langid.classify(text)[0])) not in allowed:
            reasons[place] = f"is in the language {found}"
    return reasons


def text_of(row: Mapping[str, Any]) -> str:
    """All that is said in a row, one text below the other."""
    values = (row.get(name) for name in (*MESSAGE_FIELDS, "text", "reference"))
    parts = (
        [value] if isinstance(value, str) else map(_said, value) if isinstance(value, list) else []
        for value in values
    )
    return "\n".join(text for part in parts for text in part)


def asked_in(row: Mapping[str, Any]) -> bytes | None:
    """What a row asks, or its text where it asks nothing, as what is the same however it is spaced and in whatever case.

    Args:
        row: A row of any format.
    """
    value = next((row[name] for name in ("prompt", "messages", "chosen", "text") if row.get(name)), None)
    if isinstance(value, list):
        asked = (m for m in value if isinstance(m, dict) and m.get("role") == "user")
        value = _said(next(asked, None))
    if not isinstance(value, str) or not value.strip():
        return None
    return hashlib.blake2b(_SPACE.sub(" ", value).strip().casefold().encode(), digest_size=16).digest()


def in_evaluation(rows: Iterable[tuple[int, dict[str, Any]]], evaluation: frozenset[bytes]) -> Reasons:
    """Rows that ask what a row of an evaluation asks.

    Args:
        rows: The rows.
        evaluation: Of :func:`asked_in` for the rows of the evaluation.
    """
    return {
        place: "asks what a row of the evaluation asks" for place, row in rows if asked_in(row) in evaluation
    }
