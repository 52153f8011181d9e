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
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for index, (_, label, trained, evaluated) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, index)
        if trained:
            axes.plot(*zip(*trained, strict=True), color="tab:blue", linewidth=1.2, label="training")
        if evaluated:
            axes.plot(
                *zip(*evaluated, strict=True), color="tab:orange", marker="o", markersize=3, label="held out"
            )
            axes.legend(frameon=False, fontsize="small")
        axes.set_title(label, fontsize="medium")
        axes.set_xlabel("step", fontsize="small")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize="small")
        axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})  # the same log gives the same bytes
    return True


def _points(log: Iterable[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [
        (entry["step"], float(entry[key]))
        for entry in log
        if isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
    ]
