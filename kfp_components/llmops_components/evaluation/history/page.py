"""The trend of a history as one HTML page: a line with its interval for each metric, drawn without script, font, image or network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby, pairwise

from llmops_components.comparison import MetricComparison
from llmops_components.data.palette import PALETTE
from llmops_components.evaluation.history.records import Record

_WIDTH, _HEIGHT = 760, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 28
_LABELS = 6  # of partitions below a line


def render_trend(title: str, records: Sequence[Record]) -> str:
    """The page.

    Args:
        title: Its title.
        records: The records in the order of their partitions, at least one.
    """
    latest = records[-1]
    names = list(dict.fromkeys(name for record in reversed(records) for name in record.metrics))
    sections = "".join(_section(name, records) for name in names)
    span = latest.partition if len(records) == 1 else f"{records[0].partition} to {latest.partition}"
    many = f"{len(records)} partition{'s' * (len(records) > 1)}"
    return _PAGE.format(
        palette=PALETTE,
        title=escape(title),
        about=escape(f"{many}, {span}"),
        sections=sections,
        table=_table(records, names),
    )


def _section(name: str, records: Sequence[Record]) -> str:
    metrics = [record.metrics.get(name) for record in records]
    better = next(each.higher_is_better for each in metrics if each is not None)
    return (
        f"<section><h2>{escape(name)} <small>{'higher' if better else 'lower'} is better</small></h2>\n"
        f"{_drawing(name, records, metrics)}</section>\n"
    )


def _drawing(name: str, records: Sequence[Record], metrics: Sequence[MetricComparison | None]) -> str:
    found = [each.candidate for each in metrics if each is not None and each.candidate is not None]
    if not found:
        return '<p class="soft">No row has a score.</p>'
    low, high = min(each.low for each in found), max(each.high for each in found)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(records) - 1, 1)

    def across(place: int) -> float:
        return _LEFT + place * step if len(records) > 1 else (_LEFT + _WIDTH - _RIGHT) / 2

    def down(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for value in (low, (low + high) / 2, high):
        at = down(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for place in _labelled(len(records)):
        anchor = (
            "middle" if 0 < place < len(records) - 1 or len(records) == 1 else ("start", "end")[place > 0]
        )
        label = escape(records[place].partition[:24])
        parts.append(f'<text x="{across(place):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{label}</text>')
    for place in _breaks(records):
        at = across(place) - step / 2
        parts.append(
            f'<line class="break" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
            f"<title>Measured otherwise from {escape(records[place].partition)} on</title></line>"
        )
    there = [
        (place, each.candidate)
        for place, each in enumerate(metrics)
        if each is not None and each.candidate is not None
    ]
    for _, group in groupby(enumerate(there), key=lambda pair: pair[1][0] - pair[0]):
        line = [point for _, point in group]
        upper = [f"{across(place):.1f},{down(each.high):.1f}" for place, each in line]
        lower = [f"{across(place):.1f},{down(each.low):.1f}" for place, each in reversed(line)]
        middle = [f"{across(place):.1f},{down(each.value):.1f}" for place, each in line]
        parts.append(f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>')
        parts.append(f'<polyline class="line" points="{" ".join(middle)}"/>')
    for place, each in there:
        metric = metrics[place]
        assert metric is not None  # as it has a value
        said = escape(f"{records[place].partition}: {_said(metric)}")
        kind = "point missing" if metric.rows_unscored else "point"
        parts.append(
            f'<line class="range" x1="{across(place):.1f}" x2="{across(place):.1f}" y1="{down(each.high):.1f}" y2="{down(each.low):.1f}"/>'
            f'<circle class="{kind}" cx="{across(place):.1f}" cy="{down(each.value):.1f}" r="4"><title>{said}</title></circle>'
        )
    about = escape(f"{name} by partition, with 95 percent intervals")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{about}">{"".join(parts)}</svg>\n'


def _labelled(count: int) -> list[int]:
    """The places that are named: the ends, and some between."""
    if count <= _LABELS:
        return list(range(count))
    return sorted({round(part * (count - 1) / (_LABELS - 1)) for part in range(_LABELS)})


def _breaks(records: Sequence[Record]) -> Iterator[int]:
    """The places from which on it was measured with other settings."""
    for place, (before, after) in enumerate(pairwise(records), start=1):
        if before.settings != after.settings:
            yield place


def _said(metric: MetricComparison) -> str:
    """A metric in words."""
    if metric.candidate is None:
        return f"no score for {metric.rows_unscored} rows"
    each = metric.candidate
    unscored = f", {metric.rows_unscored} without a score" if metric.rows_unscored else ""
    worst = f" (if they had failed {metric.worst_case:.4g})" if metric.worst_case is not None else ""
    return f"{each.value:.4g} ({each.low:.4g} to {each.high:.4g}), {metric.rows_scored} rows{unscored}{worst}"


def _table(records: Sequence[Record], names: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = []
    for record in reversed(records):
        cells = "".join(
            f"<td>{escape(_said(record.metrics[name])) if name in record.metrics else ''}</td>"
            for name in names
        )
        rows = record.rows_digest.removeprefix("sha256:")[:8]
        body.append(
            f"<tr><th>{escape(record.partition)}</th><td>{record.rows} <code>{rows}</code></td>{cells}</tr>\n"
        )
    return f"<table><thead><tr><th>partition</th><th>rows</th>{head}</tr></thead><tbody>\n{''.join(body)}</tbody></table>"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{palette}body {{ margin: 0 auto; max-width: 76rem; padding: 1.25rem; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }}
h1 {{ font-size: 1.35rem; margin: 0; }}
h2 {{ font-size: 1rem; margin: 0 0 .3rem; }}
small, .soft {{ color: var(--soft); font-weight: 400; }}
section {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem; margin: 1rem 0; overflow-x: auto;
  break-inside: avoid; }}
svg {{ width: 100%; min-width: 36rem; height: auto; display: block; }}
svg text {{ font-size: 11px; fill: var(--soft); }}
.grid {{ stroke: var(--line); }}
.break {{ stroke: var(--warn); stroke-dasharray: 4 3; stroke-width: 1.5; }}
.band {{ fill: var(--model); opacity: .14; }}
.range {{ stroke: var(--model); opacity: .5; }}
.line {{ fill: none; stroke: var(--model); stroke-width: 2; }}
.point {{ fill: var(--model); }}
.missing {{ fill: var(--card); stroke: var(--warn); stroke-width: 2; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; font-weight: 400; }}
thead th {{ color: var(--soft); }}
code {{ color: var(--soft); }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="soft">{about}. Bands and bars are 95 percent intervals; a hollow point lacks the scores of some rows; at a dashed line it was measured
otherwise. Partitions with the same mark behind the number of rows have the same rows.</p>
{sections}<section><h2>All partitions</h2><div class="wide" tabindex="0">{table}</div></section>
</body>
</html>
"""
