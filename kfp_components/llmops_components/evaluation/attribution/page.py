"""Explanations of answers as one HTML page that needs nothing beside it: no script, font, image or network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmops_components.data.palette import PALETTE
from llmops_components.evaluation.attribution.explained import Explained
from llmops_components.evaluation.report.content import prompt_text

_MOST_TIMES = 1e6  # beyond it a number says no more than that it is large
_LEAST = math.log(1.05)  # what is below one in twenty counts as nothing


def render_explanations(explained: Sequence[Explained], metric: str) -> str:
    """The page.

    Args:
        explained: Answers and what speaks for them.
        metric: The metric by which they are the worst.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(
        palette=PALETTE, metric=metric, cards=[_card(each, metric) for each in explained]
    )


def words_of(support: float, what: str = "it") -> str:
    """What leaving something out does, in words.

    Args:
        support: Logarithm of how many times less likely the answer is without it.
        what: What is left out.
    """
    if abs(support) < _LEAST:
        return f"as likely without {what}"
    times = math.exp(min(abs(support), 700))
    much = (
        f"over {_MOST_TIMES:,.0f}"
        if times > _MOST_TIMES
        else f"{times:,.2f}"
        if times < 10
        else f"{times:,.0f}"
    )
    return f"{much} times {'less' if support > 0 else 'more'} likely without {what}"


def _card(each: Explained, metric: str) -> dict[str, Any]:
    sample = each.sample
    card: dict[str, Any] = {
        "row": sample["row"],
        "score": f"{sample[metric]:.3f}".replace("-", "\u2212"),
        "prompt": prompt_text(sample["prompt"]),
        "answer": sample["answer"],
        "reference": sample.get("reference"),
        "near": [
            {"row": row.row, "said": row.said, "similarity": f"{row.similarity:.2f}".replace("-", "\u2212")}
            for row in each.near
        ],
    }
    if isinstance(each.supports, str):
        return card | {"unknown": each.supports}
    known = [support for support in each.supports.of_each if support is not None]
    reach = max((abs(support) for support in known), default=0) or 1
    contexts = [
        {
            "place": place,
            "text": text,
            "support": support,
            "words": "not in the prompt" if support is None else words_of(support),
            "width": 0 if support is None else round(100 * abs(support) / reach),
            "kind": "even" if support is None or abs(support) < _LEAST else "up" if support > 0 else "down",
        }
        for place, (text, support) in enumerate(
            zip(each.contexts, each.supports.of_each, strict=True), start=1
        )
    ]
    contexts.sort(
        key=lambda context: -math.inf if context["support"] is None else context["support"], reverse=True
    )
    return card | {
        "contexts": contexts,
        "together": words_of(each.supports.of_all, "all of them"),
    }


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What speaks for the answers</title>
<style>
{{ palette | safe }}* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h3 { margin: 1rem 0 .3rem; font-size: .8rem; font-weight: 500; color: var(--soft); }
p { margin: .3rem 0; max-width: 50rem; }
.soft, small, summary { color: var(--soft); }
article { margin: 1.25rem 0; padding: .9rem 1.1rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  break-inside: avoid-page; }
header { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-variant-numeric: tabular-nums; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.empty::after { content: "(empty)"; color: var(--soft); }
ol { list-style: none; margin: 0; padding: 0; }
li { padding: .5rem 0; border-top: 1px solid var(--line); }
li:first-child { border-top: 0; }
.what { display: grid; grid-template-columns: 8rem 1fr; gap: .2rem 1rem; align-items: center; }
@media (max-width: 34rem) { .what { grid-template-columns: 1fr; } }
.bar { height: .6rem; background: var(--line); border-radius: .3rem; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--even); }
.bar .up { background: var(--model); } .bar .down { background: var(--down); }
summary { cursor: pointer; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
li .text { margin-top: .25rem; max-height: 16rem; overflow: auto; }
</style>
</head>
<body>
<h1>What speaks for the answers</h1>
<p class="soft">The {{ cards | length }} answers with the worst {{ metric }}. A context speaks for an answer when the model takes the answer to be less
likely without it. A training row is shown when its question and answer are close in meaning: where to look first, no proof.</p>
{% for c in cards %}
<article>
<header><b>Row {{ c.row }}</b><span><span class="soft">{{ metric }}</span> {{ c.score }}</span></header>
<details><summary>{{ c.prompt | truncate(160) }}</summary><div class="text">{{ c.prompt }}</div></details>
<h3>Answer</h3><div class="text{{ "" if c.answer else " empty" }}">{{ c.answer }}</div>
{% if c.reference %}<h3>Reference</h3><div class="text">{{ c.reference }}</div>{% endif %}
<h3>Contexts</h3>
{% if c.unknown %}<p>{{ c.unknown }}</p>{% else %}
<p>The answer is {{ c.together }}.</p>
<ol>{% for each in c.contexts %}<li><div class="what"><div class="bar"><i class="{{ each.kind }}" style="width:{{ each.width }}%"></i></div>
<span>Context {{ each.place }}: {{ each.words }}</span></div>
<details><summary>{{ each.text | truncate(140) }}</summary><div class="text">{{ each.text }}</div></details></li>{% endfor %}</ol>
{% endif %}
{% if c.near %}<h3>Training rows</h3>
<ol>{% for each in c.near %}<li><span>Row {{ each.row }} <span class="soft">similarity</span> {{ each.similarity }}
{%- if not each.said.is_wanted %}, taught as an answer not to give{% endif %}</span>
<details><summary>{{ (each.said.answer or each.said.question) | truncate(140) }}</summary><div class="text">{{ each.said.question }}</div>
<div class="text">{{ each.said.answer }}</div></details></li>{% endfor %}</ol>
{% endif %}
</article>
{% endfor %}
</body>
</html>
"""
