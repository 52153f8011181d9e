"""What was found of drift, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmops_components.data.markdown import code, table


def render_drift(told: Mapping[str, Any]) -> str:
    """The outcome of each check as a page of Markdown.

    Args:
        told: What :func:`~llmops_components.data.drift.monitor.monitor_data` found.
    """
    return "\n".join(_lines(told)) + "\n"


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    rows = told["rows"]
    yield f"# Drift: {told['outcome']}"
    yield ""
    yield f"{rows['new']:,} new rows against {rows['reference']:,} of the reference."
    yield ""
    heading = ("check", "column", "outcome", "effect", "warns from", "fails from", "adjusted p-value")
    yield from table(heading, map(_cells, told["checks"]))
    for each in told["checks"]:
        if each["details"] and each["outcome"] != "pass":
            yield from (
                "",
                f"## {each['kind'].capitalize()} {code(each['column']) if each['column'] else ''}".rstrip(),
                "",
            )
            yield from _details(each["details"])


def _cells(check: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        check["kind"],
        "" if check["column"] is None else code(check["column"]),
        check["outcome"],
        "too few rows" if check["effect"] is None else f"{check['effect']:.3f}",
        f"{check['warn']:g}",
        f"{check['fail']:g}",
        "-" if check["adjusted_p_value"] is None else f"{check['adjusted_p_value']:.2g}",
    )


def _details(details: Mapping[str, Any]) -> Iterator[str]:
    for name, value in details.items():
        title = name.replace("_", " ")
        if name == "shares":
            for category, (before, after) in value.items():
                yield f"- {code(category)}: {100 * before:.1f} % before, {100 * after:.1f} % now"
        elif name == "new_words":
            yield f"- {title}: " + (
                ", ".join(f"{code(word)} in {rows} rows" for word, rows in value) or "none"
            )
        elif name == "new_values":
            yield f"- {title}: " + (", ".join(map(code, value)) or "none")
        elif isinstance(value, list):
            yield f"- {title}: {' before, '.join(f'{each:,}' if each is not None else '-' for each in value)} now"
        else:
            yield f"- {title}: {value:,}"
