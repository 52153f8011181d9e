"""The curves of a training as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Those that are in the log, in this order, are drawn: six at most, each with its own axis.
PANELS = {
    "loss": "loss",
    "reward": "reward",
    "rewards/margins": "reward margin",
    "rewards/accuracies": "reward accuracy",
    "accuracy": "accuracy",
    "mean_token_accuracy": "token accuracy",
    "kl": "KL from the reference",
    "completions/mean_length": "completion length (tokens)",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
}
_MOST = 6
_STEPS = [1, 2, 2.5, 5, 10]  # between ticks, times a power of ten
# Inches: of a panel with its labels, of those around it, and of the title. A layout that matplotlib computes itself takes more than half
# of the time: it draws everything three times.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BELOW, _ABOVE, _TITLE = 4.2, 3.0, 0.75, 0.15, 0.5, 0.35, 0.4


def draw_curves(log_history: Iterable[Mapping[str, Any]], path: Path, *, title: str) -> bool:
    """Draw what a trainer logged, training and evaluation in one panel, as a PNG.

    Args:
        log_history: The trainer's log.
        path: The picture to write.
        title: What stands above it.

    Returns:
        False when there is nothing to draw, or matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # not pyplot: no display, no global state
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    log = list(log_history)
    panels = [(key, label, _points(log, key), _points(log, f"eval_{key}")) for key, label in PANELS.items()]
    panels = [panel for panel in panels if len(panel[2]) + len(panel[3]) > 1][:_MOST]
    if not panels:
        return False
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = _WIDTH * columns, _HEIGHT * rows + _TITLE
    figure = Figure(figsize=(width, height), dpi=110)
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, y=1 - 0.15 / height, va="top")
    for index, (_, label, trained, evaluated) in enumerate(panels):
        left = _WIDTH * (index % columns) + _LEFT
        bottom = _HEIGHT * (rows - 1 - index // columns) + _BELOW
        inside = (_WIDTH - _LEFT - _RIGHT, _HEIGHT - _BELOW - _ABOVE)
        axes = figure.add_axes((left / width, bottom / height, inside[0] / width, inside[1] / height))
        if trained:
            axes.plot(*zip(*trained, strict=True), color="tab:blue", linewidth=1.2, label="training")
        if evaluated:
            axes.plot(
                *zip(*evaluated, strict=True), color="tab:orange", marker="o", markersize=3, label="held out"
            )
            axes.legend(frameon=False, fontsize="small")
        axes.set_title(label, fontsize="medium")
        axes.set_xlabel("step", fontsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
        axes.ticklabel_format(scilimits=(-3, 5))  # no labels that are wider than there is room
        axes.tick_params(labelsize="small")
        axes.yaxis.get_offset_text().set_fontsize("small")
        axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(path, metadata={"Software": None})  # the same log gives the same bytes
    return True


def _points(log: Iterable[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [
        (entry["step"], float(entry[key]))
        for entry in log
        if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
    ]
