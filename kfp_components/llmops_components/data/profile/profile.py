"""Profile a data set: what is in it, as a page and as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmops_components.data.files import write_output
from llmops_components.data.profile import duplicates, quality, words
from llmops_components.data.profile.clusters import clusters_of
from llmops_components.data.profile.findings import findings_of
from llmops_components.data.profile.lengths import distribution
from llmops_components.data.profile.page import render_profile
from llmops_components.data.profile.rows import Counted, Sampled, count, shown_columns
from llmops_components.errors import check_whole_number
from llmops_components.results import StepReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROFILE_SCHEMA_VERSION = 1
_MOST_SAMPLED = 200_000
_TOKENIZED_AT_ONCE, _CHARACTERS_AT_ONCE = 500, 1_000_000
_NO_LIMIT = 1 << 40  # transformers has a number of 30 digits for a model that does not say how much it reads
_TOLD_LANGUAGES = 20


def profile_dataset(
    dataset: str | os.PathLike[str],
    profile: str | os.PathLike[str],
    *,
    profile_json: str | os.PathLike[str] | None = None,
    compared: str | os.PathLike[str] | None = None,
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
    sample_rows: int = 20_000,
    seed: int = 0,
) -> StepReport:
    """Say what is in a data set.

    Rows, columns, formats, roles, characters and exact copies are counted of all rows; words, tokens, languages, near duplicates,
    clusters and quality are of a sample.

    Args:
        dataset: File of rows.
        profile: Where the page is written.
        profile_json: Where the same is written as JSON.
        compared: File of other rows, as of another split: what words and rows both have.
        tokenizer: Loads the tokenizer whose tokens are counted; None for none.
        sample_rows: Rows of the sample, from 100 on.
        seed: Chooses the sample.

    Returns:
        Counts as metrics, and what deserves a look as findings. It is always passed.

    Raises:
        DataError: A file cannot be read, or has no rows.
        SettingError: A setting is not valid.
        ModelError: What ``tokenizer`` raises.
    """
    check_whole_number("sample_rows", sample_rows, 100, _MOST_SAMPLED)
    check_whole_number("seed", seed, 0, 2**32 - 1)
    loaded = tokenizer() if tokenizer is not None else None
    counted = count(dataset, sample_rows, seed)
    of_words = words.words_of(counted.sample)
    told = _told(counted, of_words, loaded, seed)
    if compared is not None:
        told["compared"] = _compared(counted, of_words, count(compared, sample_rows, seed))
    told["findings"] = findings_of(told)
    write_output(profile, render_profile(told))
    if profile_json is not None:
        text = json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        write_output(profile_json, text)
    return StepReport(metrics=_metrics(told), details=_details(told), findings=told["findings"])


def _told(counted: Counted, of_words: words.Words, tokenizer: Any, seed: int) -> dict[str, Any]:
    sample = counted.sample
    tokens = _tokens(sample, tokenizer) if tokenizer is not None else {}
    limit = getattr(tokenizer, "model_max_length", None)
    return {
        "schema_version": PROFILE_SCHEMA_VERSION,
        "rows": counted.rows,
        "bad_lines": counted.bad_lines,
        "problems": counted.problems,
        "sample": {"rows": len(sample), "seed": seed, "rows_too_long": counted.too_long},
        "formats": dict(sorted(counted.formats.items(), key=lambda pair: (-pair[1], pair[0]))),
        "columns": list(shown_columns(counted)),
        "other_columns": counted.other_columns,
        "lengths": [
            {"column": name, "unit": unit, "of": of, **distribution(counts)}
            for name in counted.lengths
            for unit, of, counts in (
                ("characters", "all rows", counted.lengths[name]),
                ("words", "the sample", of_words.lengths.get(name)),
                ("tokens", "the sample", tokens.get(name)),
            )
            if counts
        ],
        "model_max_length": limit if isinstance(limit, int) and limit < _NO_LIMIT else None,
        "chats": [
            {
                "column": name,
                "messages": distribution(turns),
                "roles": dict(sorted(counted.roles[name].items(), key=lambda pair: (-pair[1], pair[0]))),
            }
            for name, turns in counted.turns.items()
        ],
        "languages": quality.languages(sample),
        "exact_duplicates": duplicates.exact(counted),
        "near_duplicates": duplicates.near(sample, seed),
        "vocabulary": words.vocabulary(of_words),
        "most_frequent": words.most_frequent(of_words),
        "clusters": clusters_of(sample, seed),
        "quality": quality.shares(sample),
        "rules": quality.rules(sample),
    }


def _tokens(sample: Sequence[Sampled], tokenizer: Any) -> dict[str, Counter[int]]:
    """By column the number of rows by tokens, without those that a chat template adds."""
    found: dict[str, Counter[int]] = {}
    for part in _parts((name, text) for row in sample for name, text in row.texts.items()):
        ids = tokenizer([text for _, text in part], add_special_tokens=False, verbose=False)["input_ids"]
        for (name, _), each in zip(part, ids, strict=True):
            found.setdefault(name, Counter())[len(each)] += 1
    return found


def _parts(texts: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    part: list[tuple[str, str]] = []
    characters = 0
    for name, text in texts:
        part.append((name, text))
        characters += len(text)
        if len(part) == _TOKENIZED_AT_ONCE or characters > _CHARACTERS_AT_ONCE:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _compared(counted: Counted, of_words: words.Words, other: Counted) -> dict[str, Any]:
    return {
        "rows": other.rows,
        "bad_lines": other.bad_lines,
        "rows_in_both": duplicates.shared(counted, other),
        **words.overlap(of_words, words.words_of(other.sample, sizes=())),
    }


def _metrics(told: Mapping[str, Any]) -> dict[str, float | int]:
    metrics = {
        "rows": told["rows"],
        "bad_lines": told["bad_lines"],
        "exact_duplicates": told["exact_duplicates"]["rows"],
        "near_duplicates_of_sample": told["near_duplicates"]["rows"],
        "different_words_of_sample": told["vocabulary"]["different_words"],
    }
    if "compared" in told:
        metrics["rows_in_both"] = told["compared"]["rows_in_both"]
    return metrics


def _details(told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "sample_rows": told["sample"]["rows"],
        "formats": told["formats"],
        "columns": [each["name"][:80] for each in told["columns"][:40]],
        "languages": dict(list(told["languages"].items())[:_TOLD_LANGUAGES]),
    }
