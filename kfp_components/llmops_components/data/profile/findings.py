"""What of a profile deserves a look, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmops_components.data.markdown import code
from llmops_components.data.profile.quality import UNTOLD
from llmops_components.data.profile.rows import MAX_COLUMNS, MAX_ROW_CHARACTERS, NO_FORMAT

MANY_DUPLICATES = 0.01  # of the rows
_OTHER_LANGUAGES = 0.02
_MOSTLY_EMPTY = 0.5
_FAR_LONGER = 20  # times the median


def findings_of(told: Mapping[str, Any]) -> list[str]:
    """The sentences, what matters most first.

    Args:
        told: The profile.
    """
    return [*_of_lines(told), *_of_rows(told), *_of_columns(told), *_of_texts(told)]


def _of_lines(told: Mapping[str, Any]) -> Iterator[str]:
    if told["bad_lines"]:
        yield f"Lines that are no rows, and were left out: {told['bad_lines']:,}. {told['problems'][0]}"
    formats = told["formats"]
    if len(formats) > 1:
        yield "Rows are in several formats: " + ", ".join(f"{name} {rows:,}" for name, rows in formats.items()) + "."  # fmt: skip
    elif NO_FORMAT in formats:
        yield "No row has the fields of a known format: no training takes them as they are."
    if too_long := told["sample"]["rows_too_long"]:
        yield f"{too_long:,} of {told['rows']:,} rows have more than {MAX_ROW_CHARACTERS:,} characters, and are not in the sample."
    if told["other_columns"]:
        yield f"There are more than {MAX_COLUMNS} columns; {told['other_columns']:,} values in others were not looked at."


def _of_rows(told: Mapping[str, Any]) -> Iterator[str]:
    both = told.get("compared", {}).get("rows_in_both")
    if both:
        yield f"{both:,} of {told['rows']:,} rows are in the compared data set, too."
    exact, near = told["exact_duplicates"], told["near_duplicates"]
    if exact["rows"] >= MANY_DUPLICATES * told["rows"] and exact["rows"]:
        yield f"{exact['rows']:,} of {told['rows']:,} rows are copies of earlier ones; one content is there {exact['most_copies']:,} times."
    if near["rows"] >= MANY_DUPLICATES * near["rows_compared"] and near["rows"]:
        yield f"{near['rows']:,} of {near['rows_compared']:,} different rows of the sample are nearly like an earlier one."


def _of_columns(told: Mapping[str, Any]) -> Iterator[str]:
    if not told["lengths"]:
        yield "No column holds text or messages that can be read."
    for each in told["columns"]:
        name, empty = code(each["name"]), each["empty_texts"]
        if not each["rows"]:
            yield f"The column {name} has no value in any row."
        elif empty and empty >= _MOSTLY_EMPTY * each["rows"]:
            yield f"The column {name} is empty or white space in {empty:,} of {each['rows']:,} rows."
        if len(each["kinds"]) > 1:
            yield f"The column {name} has values of several kinds: " + ", ".join(f"{kind} {rows:,}" for kind, rows in each["kinds"].items()) + "."  # fmt: skip
    limit = told["model_max_length"]
    for each in told["lengths"]:
        longest, median = each["quantiles"]["1"], each["quantiles"]["0.5"]
        if each["unit"] == "tokens" and limit is not None and longest > limit:
            yield f"The longest text of {code(each['column'])} has {longest:,.0f} tokens, and the model reads {limit:,}."
        if each["unit"] == "characters" and longest > _FAR_LONGER * max(median, 50):
            yield f"The longest text of {code(each['column'])} has {longest:,.0f} characters, and half of all have at most {median:,.0f}."


def _of_texts(told: Mapping[str, Any]) -> Iterator[str]:
    known = {name: rows for name, rows in told["languages"].items() if name != UNTOLD}
    total = sum(known.values())
    others = {name: rows for name, rows in list(known.items())[1:] if rows >= _OTHER_LANGUAGES * total}
    if others:
        named = ", ".join(
            f"{name} {100 * known[name] / total:.0f} %" for name in (next(iter(known)), *others)
        )
        yield f"Texts are in several languages: {named} of those that can be told."
    replaced = told["quality"].get("rows_with_replacement_characters")
    if replaced:
        yield f"{100 * replaced:.2g} % of the sample have replacement characters: text was read in the wrong encoding before."
    control = told["quality"].get("rows_with_control_characters")
    if control:
        yield f"{100 * control:.2g} % of the sample have control characters."
