"""Pictures: learning curves, live while a run trains and side by side afterwards.

matplotlib is imported when the first picture is drawn, and used through its objects: no global state, no display.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from lmlab.disk import write_file

_REDRAW_SECONDS = 10.0
_COLOURS = ("#3b6fb6", "#d1603d", "#4c9a6a", "#8c5aa8", "#b8902f", "#5f6b73")


def read_curve(metrics: Path) -> dict[str, list[tuple[float, float]]]:
    """(seconds, nats/token) of training and validation, from a `metrics.jsonl`."""
    curve: dict[str, list[tuple[float, float]]] = {"train": [], "valid": []}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "stepped":
            curve["train"].append((event["seconds"], event["train_nats"]))
        elif event["event"] == "evaluated":
            curve["valid"].append((event["seconds"], event["valid_nats"]))
    return curve


def draw_curves(
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    path: Path,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw learning curves into a PNG.

    Args:
        curves: run name to what `read_curve` gives.
        path: the picture.
        levels: name to nats/token of models without a curve (an n-gram), drawn as level lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for (name, curve), colour in zip(curves.items(), _cycled(len(curves)), strict=True):
        axes.plot(*_xy(curve["train"]), color=colour, alpha=0.35, linewidth=1)
        axes.plot(
            *_xy(curve["valid"]), color=colour, linewidth=2, marker="o", markersize=3, label=f"{name}, validation"
        )
    for (name, level), style in zip((levels or {}).items(), ("--", ":", "-.", "--"), strict=False):
        axes.axhline(level, color="#444444", linestyle=style, linewidth=1.2, label=f"{name}, validation")
    _frame(axes, curves, list((levels or {}).values()))
    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_file(path, picture.getvalue())


def _frame(axes: Any, curves: Mapping[str, Any], levels: Sequence[float]) -> None:
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("nats/token, [UNK] as a class")
    axes.set_title("thin: training batches; thick: validation split", fontsize=10, loc="left", color="#555555")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    shown = "valid" if any(curve["valid"] for curve in curves.values()) else "train"
    seen = [y for curve in curves.values() for _, y in curve[shown]] + [*levels]
    if finite := [y for y in seen if math.isfinite(y)]:
        low, high = min(finite), max(finite)
        room = max(0.1 * (high - low), 0.01 * abs(high), 0.01)
        axes.set_ylim(bottom=low - room, top=high + 3 * room)  # the first training losses lie far above
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _cycled(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


class LiveCurve:
    """A listener that redraws a run's curve as it grows, and once more at the end."""

    def __init__(self, metrics: Path, picture: Path) -> None:
        self._metrics, self._picture = metrics, picture
        self._drawn = 0.0

    def __call__(self, event: object) -> None:
        """Redraw, unless the last picture is fresh."""
        from lmlab.training.events import Ended, Evaluated

        fresh = time.monotonic() - self._drawn < _REDRAW_SECONDS
        if isinstance(event, Ended) or (isinstance(event, Evaluated) and not fresh):
            draw_curves({self._picture.parent.name: read_curve(self._metrics)}, self._picture)
            self._drawn = time.monotonic()
