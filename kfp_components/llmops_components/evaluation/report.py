"""The evaluation as one HTML page that needs nothing beside it: no script, font, image or network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.evaluation.facts import Facts, RevisionFacts, ServiceFacts
from llmops_components.evaluation.metrics.registry import METRICS, Metric
from llmops_components.evaluation.statistics import Estimate, PairedComparison

SHOWN_AT_ENDS = 5
MAX_SAMPLES = 200
_AXIS_WIDTH = 200


def render_report(
    samples: Sequence[Mapping[str, Any]],
    estimates: Mapping[str, Estimate | None],
    facts: Facts | ServiceFacts | RevisionFacts,
    comparisons: Mapping[str, PairedComparison] | None = None,
    baseline_answers: Sequence[str] = (),
    *,
    metrics: Mapping[str, Metric] = METRICS,
) -> str:
    """The page. Without comparisons it shows one model, with them that model beside its baseline.

    Args:
        samples: The rows of the scores file, in order.
        estimates: Aggregates by metric; None where no sample has a score.
        facts: The rest.
        comparisons: Comparison with the baseline, by metric.
        baseline_answers: The baseline's answer to each sample.
        metrics: What each metric is, by name.
    """
    from jinja2 import Environment

    comparisons = comparisons or {}
    first = next(iter(estimates))
    sort_keys = comparisons[first].changes.tolist() if comparisons else [sample[first] for sample in samples]
    cards = [
        {
            "sample": sample,
            "prompt": _prompt_text(sample["prompt"]),
            "baseline_answer": baseline_answers[i] if comparisons else None,
            "changes": {name: float(each.changes[i]) for name, each in comparisons.items()},
        }
        for i, sample in enumerate(samples)
    ]
    scored = [i for i, key in enumerate(sort_keys) if key is not None and math.isfinite(key)]
    order = sorted(scored, key=lambda i: sort_keys[i], reverse=True)
    # A change of nothing is neither among the best nor among the worst.
    best = [i for i in order if not comparisons or sort_keys[i] > 0][:SHOWN_AT_ENDS]
    worst = [i for i in reversed(order) if i not in best and (not comparisons or sort_keys[i] < 0)][
        :SHOWN_AT_ENDS
    ]
    unscored = [i for i in range(len(samples)) if i not in set(scored)]
    others = [i for i in order + unscored if i not in best and i not in worst]
    hidden = max(0, len(samples) - MAX_SAMPLES)
    if hidden:
        keep = len(others) - hidden
        others = others[: keep - keep // 2] + others[len(others) - keep // 2 :]
    noun = "change" if comparisons else "score"
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_PAGE).render(
        title="Model against baseline" if comparisons else "Model evaluation",
        facts=facts,
        samples=samples,
        metrics=metrics,
        estimates=estimates,
        comparisons=comparisons,
        first=first,
        bars={name: _bar(metrics[name], each) for name, each in estimates.items() if each},
        unscored=_unscored(samples, estimates, comparisons),
        axes=_axes(comparisons, metrics),
        axis_width=_AXIS_WIDTH,
        verdict=_verdict(comparisons),
        groups=[
            (title, [cards[i] for i in group], is_open)
            for title, group, is_open in (
                (f"Largest gains in {first}" if comparisons else f"Highest {first}", best, True),
                (f"Largest losses in {first}" if comparisons else f"Lowest {first}", worst, True),
                (f"The other {len(others)} samples, by {noun} of {first}", others, False),
            )
            if group
        ],
        hidden=hidden,
    )


def _verdict(comparisons: Mapping[str, PairedComparison]) -> str:
    better = [name for name, each in comparisons.items() if each.direction > 0]
    worse = [name for name, each in comparisons.items() if each.direction < 0]
    unknown = [name for name, each in comparisons.items() if each.difference is None]
    unclear = [name for name in comparisons if name not in (*better, *worse, *unknown)]
    parts = [
        f"{words} {', '.join(names)}"
        for words, names in (
            ("better in", better),
            ("worse in", worse),
            ("no clear difference in", unclear),
            ("no score for", unknown),
        )
        if names
    ]
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _unscored(
    samples: Sequence[Mapping[str, Any]],
    estimates: Mapping[str, Estimate | None],
    comparisons: Mapping[str, PairedComparison],
) -> dict[str, int]:
    """How many samples the model, or its baseline, has no score for, by metric."""
    counts = {
        name: comparisons[name].unscored
        if name in comparisons
        else sum(sample[name] is None for sample in samples)
        for name in estimates
    }
    return {name: count for name, count in counts.items() if count}


def _prompt_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in prompt)


_LOGITS_PER_PROBABILITY = 4.0  # where a probability changes fastest


def _bar(metric: Metric, each: Estimate) -> dict[str, float]:
    """Ends of the bar and of the interval in percent of the best score."""
    ends = {"value": each.value, "low": each.low, "high": each.high}
    if (
        metric.best is None or metric.best <= 0
    ):  # a reward is a logit; as a probability it has its place on a bar
        percent = {k: 50 * (1 + math.tanh(v / 2)) for k, v in ends.items()}
    else:
        percent = {k: min(100.0, max(0.0, 100 * v / metric.best)) for k, v in ends.items()}
    return {k: round(v, 2) for k, v in percent.items()}


def _axes(
    comparisons: Mapping[str, PairedComparison], metrics: Mapping[str, Metric]
) -> dict[str, dict[str, Any]]:
    """Where the points and ends of the differences' intervals lie on one axis that is shared by all metrics."""
    relative = {
        name: {
            end: getattr(each.difference, end) / (metrics[name].best or _LOGITS_PER_PROBABILITY)
            for end in ("value", "low", "high")
        }
        for name, each in comparisons.items()
        if each.difference
    }
    reach = max((abs(v) for ends in relative.values() for v in ends.values()), default=0) or 1
    half = _AXIS_WIDTH / 2
    axes: dict[str, dict[str, Any]] = {}
    for name, ends in relative.items():
        kind = ("even", "up", "down")[comparisons[name].direction]
        axes[name] = {end: round(half + v / reach * (half - 6), 1) for end, v in ends.items()} | {
            "kind": kind
        }
    return axes


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root {
  color-scheme: light dark;
  --ground: #fbfbfa; --card: #fff; --text: #1c2024; --soft: #60666c; --line: #e2e4e6;
  --up: #18794e; --down: #c62a2f; --even: #80878e; --base: #a9b1b9; --model: #2f6fd0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #141618; --card: #1c1f22; --text: #e8eaed; --soft: #9aa2aa; --line: #32373c;
    --up: #4cc38a; --down: #ff7b72; --even: #8b949e; --base: #59626b; --model: #6ea8fe;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .3rem 0; max-width: 50rem; }
.soft, small, th { color: var(--soft); }
.verdict { margin: 1rem 0; padding-left: .9rem; border-left: 3px solid var(--model); }
.scroll { overflow-x: auto; margin: 1rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
th { font-weight: 500; font-size: .85rem; text-align: left; }
th, td { padding: .5rem .75rem; border-bottom: 1px solid var(--line); vertical-align: middle; }
tbody tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { display: block; }
.up { color: var(--up); } .down { color: var(--down); } .even { color: var(--even); }
svg { display: block; overflow: visible; }
svg line { stroke: currentColor; stroke-width: 2.5; stroke-linecap: round; } svg circle { fill: currentColor; }
svg .zero { stroke: var(--line); stroke-width: 1.5; }
.bar { position: relative; min-width: 11rem; height: .7rem; background: var(--line); border-radius: .35rem; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--model); border-radius: .35rem; }
.bar b { position: absolute; top: 50%; height: 2px; margin-top: -1px; background: var(--text); }
.wtl { display: flex; min-width: 7rem; height: .5rem; border-radius: .25rem; overflow: hidden; }
.wtl i { background: var(--even); opacity: .5; } .wtl .up { background: var(--up); opacity: 1; }
.wtl .down { background: var(--down); opacity: 1; }
article { margin: 0 0 1rem; padding: .9rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; }
article header, article footer { display: flex; flex-wrap: wrap; gap: .1rem 1rem; align-items: baseline;
  font-variant-numeric: tabular-nums; }
article footer { margin-top: .8rem; font-size: .8rem; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(16rem, 100%), 1fr)); gap: .75rem 1.5rem;
  margin-top: .6rem; }
.answers h3 { margin: 0 0 .1rem; font-size: .8rem; font-weight: 500; color: var(--soft); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.empty::after { content: "(empty)"; color: var(--soft); }
summary { cursor: pointer; }
article details { margin-top: .4rem; font-size: .9rem; }
article summary { color: var(--soft); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
article .text.prompt { margin: .4rem 0 0; padding: .6rem .8rem; background: var(--ground); border-radius: 4px;
  max-height: 24rem; overflow: auto; }
section > details > summary { font-size: 1.05rem; margin: 2rem 0 1rem; }
</style>
</head>
<body>
{% macro signed(value, best) %}{{ (("%+.1f" if best > 1 else "%+.3f") % value).replace("-", "\u2212") }}{% endmacro %}
{% macro plain(value, best) %}{{ (("%.1f" if best > 1 else "%.3f") % value).replace("-", "\u2212") }}{% endmacro %}
{% macro nothing(name, columns) %}
<tr><td>{{ name }}<small>{{ metrics[name].about }}</small><td colspan="{{ columns }}">no sample has a score
{% endmacro %}
<h1>{{ title }}</h1>
<p class="soft">{{ facts.told_of(samples | length) }}</p>
{% if verdict %}<p class="verdict">{{ verdict }}.</p>{% endif %}
<div class="scroll">
<table>
{% if comparisons %}
<thead><tr><th>Metric<th class="n">Baseline<th class="n">Model<th class="n">Change<th>95% interval of the change
  <th>Samples better / same / worse</thead>
<tbody>
{% for name in estimates if not axes[name] %}{{ nothing(name, 5) }}{% endfor %}
{% for name in estimates if axes[name] %}
{% set best = metrics[name].best or 1 %}{% set c = comparisons[name] %}{% set x = axes[name] %}
{% set each = c.candidate %}
<tr><td>{{ name }}<small>{{ metrics[name].about }}</small>
<td class="n">{{ plain(c.baseline.value, best) }}
<td class="n" title="95% interval {{ plain(each.low, best) }} to {{ plain(each.high, best) }}">
  {{- plain(each.value, best) }}
<td class="n {{ x.kind }}">{{ signed(c.difference.value, best) }}
<td class="{{ x.kind }}"><svg width="{{ axis_width }}" height="16" aria-hidden="true">
  <line class="zero" x1="{{ axis_width / 2 }}" x2="{{ axis_width / 2 }}" y1="0" y2="16"/>
  <line x1="{{ x.low }}" x2="{{ x.high }}" y1="8" y2="8"/><circle cx="{{ x.value }}" cy="8" r="4.5"/></svg>
  <small>{{ signed(c.difference.low, best) }} to {{ signed(c.difference.high, best) }}</small>
<td><div class="wtl"><i class="up" style="flex:{{ c.wins }}"></i><i style="flex:{{ c.ties }}"></i>
  <i class="down" style="flex:{{ c.losses }}"></i></div><small>{{ c.wins }} / {{ c.ties }} / {{ c.losses }}</small>
{% endfor %}
{% else %}
<thead><tr><th>Metric<th class="n">Score<th class="n">95% interval<th>Of the best possible</thead>
<tbody>
{% for name in estimates if not bars[name] %}{{ nothing(name, 3) }}{% endfor %}
{% for name, each in estimates.items() if each %}
{% set best = metrics[name].best or 1 %}{% set b = bars[name] %}
<tr><td>{{ name }}<small>{{ metrics[name].about }}</small>
<td class="n">{{ plain(each.value, best) }}
<td class="n">{{ plain(each.low, best) }} to {{ plain(each.high, best) }}
<td><div class="bar"><i style="width:{{ b.value }}%"></i><b style="left:{{ b.low }}%;width:{{ b.high - b.low }}%"></b></div>
{% endfor %}
{% endif %}
</tbody>
</table>
</div>
<p><small>BLEU and chrF go to 100, the others to 1
{%- if "reward" in estimates %}; a reward has no ends, its bar is the logistic function of it{% endif %}. Intervals are bias-corrected, accelerated bootstraps over the samples, and exact ones where few of them differ
{%- if comparisons %}; both models are resampled together, so the interval is that of the paired change{% endif %}.
{% for name, count in unscored.items() %}{{ count }} of {{ samples | length }} samples have no score by {{ name }} and are left out of it. {% endfor %}
{% for name, words in facts.tokenizers.items() %}Words of {{ name }}: {{ words }}. {% endfor %}
{% for name, reason in facts.skipped.items() %}{{ name }} was left out: {{ reason }}. {% endfor %}</small></p>
{% macro score(c, name) %}{% set best = metrics[name].best or 1 %}
<span><span class="soft">{{ name }}</span> {{ "not scored" if c.sample[name] is none else plain(c.sample[name], best) }}
{%- if comparisons and c.changes[name] | abs > 5e-4 * best %} <span class="{{ "up" if c.changes[name] > 0 else "down" }}">
  {{- signed(c.changes[name], best) }}</span>{% endif %}</span>
{% endmacro %}
{% macro card(c) %}
<article>
<header><b>Row {{ c.sample.row }}</b>{{ score(c, first) }}</header>
<details><summary>{{ c.prompt | truncate(160) }}</summary><div class="text prompt">{{ c.prompt }}</div></details>
<div class="answers">
{% if "reference" in c.sample %}<div><h3>Reference</h3><div class="text">{{ c.sample.reference }}</div></div>{% endif %}
{% if comparisons %}
<div><h3>Baseline</h3><div class="text{{ "" if c.baseline_answer else " empty" }}">{{ c.baseline_answer }}</div></div>
{% endif %}
<div><h3>Model{{ ", cut off" if c.sample.finish_reason == "length" }}</h3>
<div class="text{{ "" if c.sample.answer else " empty" }}">{{ c.sample.answer }}</div></div>
</div>
{% for name, why in (c.sample.unscored or {}).items() %}<p><small>{{ name }}: {{ why }}</small></p>{% endfor %}
{% if estimates | length > 1 %}
<footer>{% for name in estimates if name != first %}{{ score(c, name) }}{% endfor %}</footer>
{% endif %}
</article>
{% endmacro %}
{% for title, group, is_open in groups %}
<section>
{% if is_open %}
<h2>{{ title }}</h2>
{% for c in group %}{{ card(c) }}{% endfor %}
{% else %}
<details><summary>{{ title }}</summary>
{% for c in group %}{{ card(c) }}{% endfor %}
</details>
{% endif %}
</section>
{% endfor %}
{% if hidden %}<p class="soft">{{ hidden }} samples in the middle are not shown; the scores file has all.</p>{% endif %}
{% if facts.judge %}
<section><details><summary>The judge, and what it was asked</summary>
<div class="text">{% for name, value in facts.judge.items() if name != "prompts" %}{{ name | replace("_", " ") }}: {{ value | tojson }}
{% endfor %}</div>
{% for name, texts in facts.prompts.items() %}{% for text in texts %}
<details><summary>{{ name }}</summary><div class="text">{{ text }}</div></details>
{% endfor %}{% endfor %}
</details></section>
{% endif %}
</body>
</html>
"""
