"""The report as one HTML page that needs nothing beside it: no font, image or network, and its own script alone.

Without that script, as where a web server forbids all, the page has all figures and some of the samples.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from llmops_components.evaluation.further import FurtherModel
from llmops_components.evaluation.report.content import Content, cut, number, prompt_text
from llmops_components.evaluation.report.decided import undecided_yet
from llmops_components.evaluation.report.figures import (
    AXIS_WIDTH,
    HEIGHT,
    WIDTH,
    axes,
    bar,
    histograms,
    kind_of,
)
from llmops_components.evaluation.report.packed import MAX_PAGE_BYTES, pack
from llmops_components.evaluation.report.script import SCRIPT
from llmops_components.evaluation.report.style import STYLE
from llmops_components.evaluation.report.template import TEMPLATE
from llmops_components.evaluation.scored import shown_answer

SHOWN_AT_ENDS = 5
MAX_SHOWN = 100  # without the script
_LONGEST_SHOWN = 1500  # characters
_LONGEST_OTHER = 200_000  # of a judge's questions
_MARGIN = 20_000  # bytes, for the decision
_LEFT_OUT, _DATA = "<!--left-out-->", "<!--data-->"  # content is escaped, so that it has no such sign


def render_page(content: Content) -> str:
    """The page.

    Args:
        content: What the report says.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["told"] = told
    text = environment.from_string(TEMPLATE).render(
        content=content,
        decision=undecided_yet(content.verdict),
        style=STYLE,
        script=SCRIPT,
        policy=policy(),
        number=number,
        kind_of=kind_of,
        bars=_bars(content),
        axes=axes(content),
        axis_width=AXIS_WIDTH,
        histograms=histograms(content),
        width=WIDTH,
        height=HEIGHT,
        coverage=coverage(content),
        groups=_groups(content),
        hidden=max(0, len(content.samples) - MAX_SHOWN),
        prompts={
            name: [cut(text, _LONGEST_OTHER // max(1, len(content.facts.prompts))) for text in texts]
            for name, texts in content.facts.prompts.items()
        },
        spent=spent(content),
    )
    text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text of UTF-8
    packed = pack(content, MAX_PAGE_BYTES - _MARGIN - len(text.encode()))
    left_out = "".join(f'<p class="warn">{each}</p>' for each in packed.told(len(content.samples)))
    return text.replace(_LEFT_OUT, left_out, 1).replace(_DATA, packed.data, 1)


def policy() -> str:
    """What the page may do: nothing but run its own script and look as it says."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )


def told(value: Any) -> str:
    """A setting, or a number, as a reader takes it.

    Args:
        value: Of JSON.
    """
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {told(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(told, value))
    return str(value)


def coverage(content: Content) -> dict[str, str]:
    """How many of the samples have no score by a metric, in a sentence; none where all have.

    Args:
        content: What the report says.
    """
    found = {}
    for name, each in content.comparison.metrics.items():
        missing = each.rows_unscored
        pairs = each.rows_scored - each.pairs_scored if content.compared else 0
        if missing or pairs:
            found[name] = f"{missing} of {missing + each.rows_scored} samples have no score by {name}" + (
                f", and {pairs} more none of the baseline's" if pairs else ""
            )
    return found


def spent(content: Content) -> dict[str, str]:
    """What the evaluation took, by name.

    Args:
        content: What the report says.
    """
    found = {name.replace("_", " "): told(value) for name, value in content.took.items()}
    for name, seconds in content.seconds.items():
        found[f"seconds to {name}"] = told(round(seconds, 2))
    return found


def _bars(content: Content) -> dict[str, dict[str, float]]:
    found = {}
    for name, each in content.comparison.metrics.items():
        if each.candidate is not None:
            ends = {end: getattr(each.candidate, end) for end in ("value", "low", "high")}
            found[name] = bar(content.metrics[name], ends)
    return found


def _groups(content: Content) -> list[tuple[str, list[dict[str, Any]], bool]]:
    """Headings with the samples below them, and whether they are open: what is seen without the script."""
    first = content.first
    best, worst = content.extremes(SHOWN_AT_ENDS)
    ends = {*best, *worst}
    telling = [place for place in content.by_greatest_change if place not in ends]
    kept = set(telling[: max(0, MAX_SHOWN - len(ends))])
    others = [place for place in content.order if place in kept]
    named = (
        (f"Largest gains in {first}" if content.compared else f"Best by {first}", best, True),
        (f"Largest losses in {first}" if content.compared else f"Worst by {first}", worst, True),
        (
            f"Another {len(others)} samples, by {'change' if content.compared else 'score'} of {first}",
            others,
            False,
        ),
    )
    return [
        (title, [_card(content, place) for place in group], is_open)
        for title, group, is_open in named
        if group
    ]


def _card(content: Content, place: int) -> dict[str, Any]:
    """A sample as it is shown, in short."""
    sample = content.samples[place]
    other = content.baseline[place] if content.compared else None
    answers = []
    if sample.get("reference") is not None:
        answers.append(("Reference", cut(str(sample["reference"]), _LONGEST_SHOWN)))
    if other is not None:
        answers.append(("Baseline", cut(shown_answer(other["answer"], other.get("reason")), _LONGEST_SHOWN)))
    title = "Model, cut off" if sample.get("finish_reason") == "length" else "Model"
    answers.append((title, cut(shown_answer(sample["answer"], sample.get("reason")), _LONGEST_SHOWN)))
    answers += [_further_answer(content, each, place) for each in content.further]
    scores = []
    for name in content.names:
        value, change = content.ours[name].values[place], 0.0
        if content.compared and content.ours[name].are_there[place]:
            change = float(content.compared[name].changes[place])
        best = content.metrics[name].best
        is_there = bool(content.ours[name].are_there[place])
        kind = "up" if (change > 0) == content.ours[name].higher_is_better else "down"
        scores.append(
            (
                name,
                number(float(value), best) if is_there else "not scored",
                number(change, best, signed=True) if abs(change) > 5e-4 * (best or 1) else "",
                kind,
            )
        )
    return {
        "row": sample["row"],
        "prompt": cut(prompt_text(sample.get("prompt")), _LONGEST_SHOWN),
        "answers": answers,
        "scores": scores,
        "labels": {column: labels[place] for column, labels in content.labels.items()},
        "unscored": {name: cut(str(why), 300) for name, why in (sample.get("unscored") or {}).items()},
    }


def _further_answer(content: Content, model: FurtherModel, place: int) -> tuple[str, str]:
    """What a further model has answered to a sample, below its name and its score."""
    line, title = model.given.answers[place], model.name
    if (scores := model.scores.get(content.first)) is not None:
        is_there, best = bool(scores.are_there[place]), content.metrics[content.first].best
        title += f" \u00b7 {number(float(scores.values[place]), best) if is_there else 'not scored'}"
    return title, cut(shown_answer(line["answer"], line.get("reason")), _LONGEST_SHOWN)
