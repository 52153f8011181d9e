"""The profile as one HTML page that needs nothing beside it: no script, font, image or network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmops_components.data.profile.shown import visible
from llmops_components.data.profile.style import STYLE
from llmops_components.data.profile.template import TEMPLATE

WIDTH, HEIGHT = 240, 64
_SHOWN_COLUMNS, _SHOWN_LENGTHS, _SHOWN_CHARACTERS = 100, 60, 500


def render_profile(told: Mapping[str, Any]) -> str:
    """The page.

    Args:
        told: What :func:`~llmops_components.data.profile.profile.profile_dataset` found.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "whole": lambda value: f"{value:,}",
        "short": lambda value: f"{value:,.4g}" if value < 10_000 else f"{value:,.0f}",
        "percent": lambda value: "none" if value is None else f"{100 * value:.3g} %",
        "visible": lambda text: visible(text[:_SHOWN_CHARACTERS]),
    }
    return environment.from_string(TEMPLATE).render(
        told=told,
        columns=told["columns"][:_SHOWN_COLUMNS],
        lengths=[(each, bars(each["histogram"])) for each in told["lengths"][:_SHOWN_LENGTHS]],
        chats=[(each, bars(each["messages"]["histogram"])) for each in told["chats"]],
        hidden=max(0, len(told["columns"]) - _SHOWN_COLUMNS),
        hidden_lengths=max(0, len(told["lengths"]) - _SHOWN_LENGTHS),
        style=STYLE,
        width=WIDTH,
        height=HEIGHT,
    )


def bars(histogram: Mapping[str, Any]) -> dict[str, Any]:
    """The bars of a histogram, each with what is said of it, and its ends.

    Args:
        histogram: Of :func:`~llmops_components.data.profile.lengths.distribution`.
    """
    counts: Sequence[int] = histogram["counts"]
    step, tallest, width = WIDTH / len(counts), max(counts), histogram["width"]
    found = []
    for place, number in enumerate(counts):
        tall = max(1.5, number / tallest * HEIGHT)
        is_open = histogram["last_is_open"] and place == len(counts) - 1
        first, last = place * width, place * width + width - 1
        span = (
            f"{first:,} and more" if is_open else f"{first:,}" if first == last else f"{first:,} to {last:,}"
        )
        if number:
            found.append(
                {
                    "x": round(place * step, 1),
                    "y": round(HEIGHT - tall, 1),
                    "width": round(max(step - 1, 0.5), 1),
                    "height": round(tall, 1),
                    "told": f"{span}: {number:,} rows",
                }
            )
    end = (
        f"{(len(counts) - 1) * width:,} and more"
        if histogram["last_is_open"]
        else f"{len(counts) * width - 1:,}"
    )
    return {"bars": found, "end": end}
