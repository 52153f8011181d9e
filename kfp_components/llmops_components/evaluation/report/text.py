"""The report as Markdown, to be read where no page is shown, and as JSON, to be read by programs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.comparison import MetricComparison
from llmops_components.evaluation.report.content import Content, cut, number, prompt_text
from llmops_components.evaluation.report.figures import histograms
from llmops_components.evaluation.report.page import coverage, spent, told
from llmops_components.evaluation.scored import shown_answer

REPORT_SCHEMA_VERSION = 1
SHOWN_IN_TEXT = 5  # at each end
_LONGEST_TEXT = 300
# What would be more than text in Markdown, or in HTML within it.
_SIGNS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$-])")


def render_json(content: Content) -> str:
    """The report as JSON: everything but the samples, of which those that changed most are named.

    Args:
        content: What the report says.
    """
    best, worst = content.extremes(SHOWN_IN_TEXT)
    found = {
        "schema_version": REPORT_SCHEMA_VERSION,
        "title": content.title,
        "verdict": content.verdict,
        "about": {
            **content.about.facts,
            "settings": dict(content.about.settings),
            "component": content.about.component,
        },
        "answered_by": content.facts.told_of(len(content.samples)),
        "samples": len(content.samples),
        "comparison": content.comparison.model_dump(),
        "further_models": {each.name: each.as_json() for each in content.further},
        "safety": {category: each.model_dump() for category, each in content.safety.items()},
        "distributions": {each.name: each.as_json() for each in histograms(content)},
        "took": dict(content.took),
        "seconds": {name: round(seconds, 3) for name, seconds in content.seconds.items()},
        "judge": content.facts.judge,
        "skipped_metrics": dict(content.facts.skipped),
        "findings": list(content.findings),
        "best_rows": [content.samples[place]["row"] for place in best],
        "worst_rows": [content.samples[place]["row"] for place in worst],
    }
    return (
        json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False)
        .encode("utf-8", "backslashreplace")
        .decode()
        + "\n"
    )


def render_markdown(content: Content) -> str:
    """The report as Markdown: tables, and the samples at both ends in short.

    Args:
        content: What the report says.
    """
    lines = [f"# {content.title}", "", plain(content.facts.told_of(len(content.samples))), ""]
    lines += [f"**No gate has decided yet.** {plain(content.verdict)}".rstrip(), "", "## Scores", ""]
    lines += _table({"": content.comparison.metrics}, content, heading=None)
    lines += [f"- {plain(sentence)}." for sentence in coverage(content).values()]
    lines += [
        f"- {plain(name)} was left out: {plain(reason)}." for name, reason in content.facts.skipped.items()
    ]
    lines += [f"- {plain(finding)}" for finding in content.findings]
    if content.further:
        lines += ["", "## Further models", "", "They are here to compare with, and decide nothing.", ""]
        lines += _further_table(content)
    if content.safety:
        lines += ["", "## Safety", ""]
        values = {category: {"safety": each} for category, each in content.safety.items()}
        lines += _table(values, content, heading="Category")
    for column, values in content.slices.items():
        lines += ["", f"## By {plain(column)}", "", *_table(values, content, heading=column)]
    lines += ["", "## What was evaluated", ""]
    facts = {
        **content.about.facts,
        **{name: told(value) for name, value in content.about.settings.items()},
        **spent(content),
    }
    lines += [f"- {plain(name)}: {plain(value)}" for name, value in facts.items()]
    if content.facts.judge:
        lines += ["", "## The judge", ""]
        lines += [f"- {plain(name)}: {plain(told(value))}" for name, value in content.facts.judge.items()]
    best, worst = content.extremes(SHOWN_IN_TEXT)
    titles = ("Largest gains in", "Largest losses in") if content.compared else ("Best by", "Worst by")
    for title, places in zip(titles, (best, worst), strict=True):
        if places:
            lines += ["", f"## {title} {plain(content.first)}", ""]
            lines += [line for place in places for line in _sample(content, place)]
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode() + "\n"


def plain(text: str) -> str:
    """A text on one line that is nothing but text in Markdown.

    Args:
        text: Any text.
    """
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))


def _table(
    values: Mapping[str, Mapping[str, MetricComparison]], content: Content, heading: str | None
) -> list[str]:
    names = [
        *([plain(heading)] if heading else []),
        "Metric",
        *(["Baseline"] if content.compared else []),
        "Model",
        "95% interval",
    ]
    names += ["Change", "95% interval of the change"] if content.compared else []
    lines = [_line([*names, "Scored", "Worst case"]), _line(["---"] * (len(names) + 2))]
    for value, metrics in values.items():
        for name, each in metrics.items():
            lines.append(
                _line([*([plain(value)] if heading else []), plain(name), *_figures(each, content, name)])
            )
    return [*lines, ""]


def _further_table(content: Content) -> list[str]:
    names = ["Metric", "Further model", "Score", "95% interval", "Scored", "Worst case"]
    names += ["Model minus it", "95% interval of the difference", "Scored by both"]
    lines = [_line(names), _line(["---"] * len(names))]
    for name in content.further[0].scores:
        best = content.metrics[name].best
        for each in content.further:
            reached, compared = each.reached[name], each.compared[name]
            own, change = reached.candidate, compared.difference
            cells = [plain(name), plain(each.name)]
            cells += [number(own.value, best), _ends(own, best)] if own else ["none", ""]
            cells.append(f"{reached.rows_scored} of {reached.rows_scored + reached.rows_unscored}")
            cells.append("" if reached.worst_case is None else number(reached.worst_case, best))
            cells += (
                [number(change.value, best, signed=True), _ends(change, best, signed=True)]
                if change
                else ["none", ""]
            )
            lines.append(_line([*cells, str(compared.scored)]))
    return [*lines, ""]


def _ends(each: Any, best: float | None, *, signed: bool = False) -> str:
    return f"{number(each.low, best, signed=signed)} to {number(each.high, best, signed=signed)}"


def _figures(each: MetricComparison, content: Content, name: str) -> list[str]:
    best = content.metrics[name].best
    found = []
    if content.compared:
        found.append(number(each.baseline.value, best) if each.baseline else "none")
    ours = each.candidate
    found += (
        [number(ours.value, best), f"{number(ours.low, best)} to {number(ours.high, best)}"]
        if ours
        else ["none", ""]
    )
    if content.compared:
        change = each.difference
        found += (
            [
                number(change.value, best, signed=True),
                f"{number(change.low, best, signed=True)} to {number(change.high, best, signed=True)}",
            ]
            if change
            else ["none", ""]
        )
    worst = "" if each.worst_case is None else number(each.worst_case, best)
    return [*found, f"{each.rows_scored} of {each.rows_scored + each.rows_unscored}", worst]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _sample(content: Content, place: int) -> list[str]:
    sample = content.samples[place]
    texts: dict[str, Any] = {"Asked": prompt_text(sample.get("prompt")), "Reference": sample.get("reference")}
    if content.compared:
        other = content.baseline[place]
        texts["Baseline"] = shown_answer(other["answer"], other.get("reason"))
    texts["Model"] = shown_answer(sample["answer"], sample.get("reason"))
    for each in content.further:
        line = each.given.answers[place]
        texts[each.name] = shown_answer(line["answer"], line.get("reason"))
    lines = [f"- **Row {sample['row']}**"]
    return lines + [
        f"  - {plain(name)}: {plain(cut(str(text), _LONGEST_TEXT))}"
        for name, text in texts.items()
        if text is not None
    ]
