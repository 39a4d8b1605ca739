"""Pictures: learning curves, live while a run trains and side by side afterwards.

matplotlib is imported when the first picture is drawn, and used through its objects: no global state, no display.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.disk import write_file
from lmlab.errors import UnknownNameError, UsageError
from lmlab.report.ladder import Rung
from lmlab.seeing.picture import Picture, Seen, names
from lmlab.seeing.style import BLUE, COLOURS, DARK, DASHES, GREEN, GREY, bare, plain
from lmlab.store import METRICS
from lmlab.training.events import read_metrics

Curve = Mapping[str, Sequence[tuple[float, float]]]  # of "train" and of "valid": seconds and nats/token
_REDRAW_SECONDS = 10.0


def read_curve(metrics: Path) -> dict[str, list[tuple[float, float]]]:
    """Points (seconds, nats/token) of "train" and "valid", from a `metrics.jsonl`."""
    curve: dict[str, list[tuple[float, float]]] = {"train": [], "valid": []}
    for _, event in read_metrics(metrics):
        if event["event"] == "stepped":
            curve["train"].append((event["seconds"], event["train_nats"]))
        elif event["event"] == "evaluated":
            curve["valid"].append((event["seconds"], event["valid_nats"]))
    return curve


def draw_curves(
    curves: Mapping[str, Curve],
    path: Path,
    levels: Mapping[str, float] | None = None,
    title: str = "",
    rungs: Sequence[Rung] = (),
) -> None:
    """Draw learning curves, one for each named run, into a PNG, beside a ladder if there is one.

    Args:
        curves: by the run's name.
        path: of the picture.
        levels: nats/token of what has no curve (an n-gram), drawn as level lines.
        title: what was learned from, and what a token is.
        rungs: bits per byte, from top to bottom.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    levels = levels or {}
    figure = Figure(figsize=(12 if rungs else 8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(1, 2 if rungs else 1, 2 if rungs else 1)
    if rungs:
        _draw_ladder(figure.add_subplot(1, 2, 1), rungs)
    for (name, curve), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        train, valid = (list(zip(*curve[part], strict=True)) or [(), ()] for part in ("train", "valid"))
        axes.plot(*train, color=colour, alpha=0.35, linewidth=1)
        axes.plot(*valid, color=colour, linewidth=2, marker="o", markersize=3, label=_label(name))
    for (name, level), style in zip(levels.items(), cycle(("--", ":", "-.")), strict=False):
        axes.axhline(level, color=DARK, linestyle=style, linewidth=1.2, label=_label(name))
    _frame(axes, curves, list(levels.values()))
    if title:
        figure.suptitle(plain(title), fontsize=11, x=0.01, ha="left")
    picture = BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_file(path, picture.getvalue())


def _draw_ladder(axes: Any, rungs: Sequence[Rung]) -> None:
    bits = [rung.bits if rung.bits is not None and math.isfinite(rung.bits) else 0.0 for rung in rungs]
    least = min((each for each in bits if each), default=0.0)
    colours = [GREY if rung.baseline else BLUE for rung in rungs]
    colours = [GREEN if each == least else colour for each, colour in zip(bits, colours, strict=True)]
    places = range(len(rungs))
    axes.barh(places, bits, color=colours, height=0.7)
    axes.set_yticks(places, [plain(rung.name) for rung in rungs])
    axes.invert_yaxis()
    for place, each in zip(places, bits, strict=True):
        axes.text(each, place, f" {each:.3f}" if each else " -", va="center", fontsize=9)
    bare(axes, "bits for each byte of unseen text", note="lower is better", grid=False)
    axes.set_xlim(0, 1.15 * max(bits, default=1.0) or 1.0)


def _label(name: str) -> str:
    return plain(name) + ", validation"


def _frame(axes: Any, curves: Mapping[str, Curve], levels: Sequence[float]) -> None:
    note = "thin: training batches; thick: validation split"
    bare(axes, "seconds of training", "nats/token, [UNK] as a class", note)
    shown = "valid" if any(curve["valid"] for curve in curves.values()) else "train"
    seen = [y for curve in curves.values() for _, y in curve[shown]] + [*levels]
    _limit(axes, seen)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _limit(axes: Any, seen: Sequence[float]) -> None:
    """Room for these values: the first training losses lie far above."""
    if finite := [y for y in seen if math.isfinite(y)]:
        low, high = min(finite), max(finite)
        room = max(0.1 * (high - low), 0.01 * abs(high), 0.01)
        axes.set_ylim(bottom=low - room, top=high + 3 * room)


_AGAINST = {"steps": "optimiser steps", "tokens": "tokens learned from", "minutes": "minutes of training"}


def curves(lm: Seen, *others: Seen, against: str = "steps") -> Picture:
    """Learning curves of one or several runs in bits per byte, so that tokenizers compare.

    Level lines are what an n-gram and context mixing make of the same validation split, and runs that were counted.

    Args:
        lm: a run that was trained by steps and kept.
        others: more of them, or counted ones.
        against: steps, tokens or minutes.

    Raises:
        UnknownNameError: against something else.
        UsageError: no run has a curve.
    """
    if against not in _AGAINST:
        raise UnknownNameError("unit to draw curves against", against, _AGAINST)
    lms = (lm, *others)
    drawn, levels = dict[str, list[dict[str, Any]]](), dict[str, float]()
    rows: list[dict[str, Any]] = []
    for name, each in zip(names(lms), lms, strict=True):
        results = each.manifest["results"]
        for kind, figures in results.get("baselines", {}).items():
            label = f"{figures['order']}-gram baseline" if kind == "ngram" else f"{kind} baseline"
            levels.setdefault(label, figures["bits_per_byte"])
        if each.folder is not None and (each.folder / METRICS).is_file():
            drawn[name] = _points(each)
            rows += [{"run": name, **point} for point in drawn[name]]
        elif "valid" in results:
            levels[name] = results["valid"]["bits_per_byte"]
    if not drawn:
        problem = f"{', '.join(names(lms))}: no learning curve, since nothing was trained by steps and kept"
        raise UsageError(problem, "name a neural run that lmlab train wrote; lmlab eval has a figure of any model")
    rows += [{"run": name, "valid bits/byte": level} for name, level in levels.items()]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for (name, points), colour, dash in zip(drawn.items(), cycle(COLOURS), cycle(DASHES), strict=False):
            for part, alpha, width, label in (("train", 0.35, 1, None), ("valid", 1, 2, name)):
                xy = [(point[against], loss) for point in points if (loss := point[f"{part} bits/byte"]) is not None]
                x, y = zip(*xy, strict=True) if xy else ((), ())
                axes.plot(x, y, dash, color=colour, alpha=alpha, linewidth=width, label=label)
        alike: dict[str, list[str]] = {}
        for name, level in levels.items():
            alike.setdefault(f"{level:.3f}", []).append(name)
        for (bits, runs), dots in zip(alike.items(), cycle(((0, (6, 2)), ":", "-.", (0, (1, 4)))), strict=False):
            label = plain(f"{', '.join(runs)}: {bits}")
            axes.axhline(float(bits), color=DARK, linestyle=dots, linewidth=1.1, label=label)
        bare(axes, _AGAINST[against], "bits/byte", "thin: training batches; thick: validation split")
        shown = [point["valid bits/byte"] or point["train bits/byte"] for points in drawn.values() for point in points]
        _limit(axes, [loss for loss in shown if loss is not None] + [*levels.values()])
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.legend(frameon=False)

    data = " and ".join(dict.fromkeys(each.manifest["data"]["name"] for each in lms))
    kinds = " and ".join(dict.fromkeys(each.config.tokenizer.kind for each in lms))
    note = "unknown tokens pay for their spelling on the validation split"
    return Picture(f"Learning curves · {data}, {kinds} tokens", rows, draw, (8, 4.5), note)


def _points(lm: Seen) -> list[dict[str, Any]]:
    """What a run wrote down as it trained, in bits per byte."""
    splits, valid = lm.manifest["data"]["splits"], lm.manifest["results"].get("valid")
    valid, train = valid or splits.get("valid", splits["train"]), splits["train"]
    spelling = valid.get("unk_spelling_nats", 0) / valid["tokens"]
    points, tokens = [], [(0, 0)]
    assert lm.folder is not None
    for _, event in read_metrics(lm.folder / METRICS):
        point = {"steps": event["step"], "minutes": event.get("seconds", 0) / 60}
        train_bits = valid_bits = None
        if event["event"] == "stepped":
            tokens.append((event["step"], event.get("tokens", 0)))
            train_bits = event["train_nats"] / math.log(2) * train["tokens"] / train["bytes"]
        elif event["event"] == "evaluated":
            valid_bits = (event["valid_nats"] + spelling) / math.log(2) * valid["tokens"] / valid["bytes"]
        else:
            continue
        points.append(point | {"train bits/byte": train_bits, "valid bits/byte": valid_bits})
    steps, learned = zip(*tokens, strict=True)
    return [{**point, "tokens": int(np.interp(point["steps"], steps, learned))} for point in points]


class LiveCurve:
    """A listener that redraws a run's curve as it grows, and once more at the end.

    Args:
        metrics: what the run has written so far.
        picture: to draw.
        title: what the run learns from, and what a token is.
        levels: nats/token of baselines.
    """

    def __init__(
        self, metrics: Path, picture: Path, title: str = "", levels: Mapping[str, float] | None = None
    ) -> None:
        self._metrics, self._picture, self._title, self._levels = metrics, picture, title, levels
        self._drawn = 0.0

    def __call__(self, event: object) -> None:
        """Redraw, unless the last picture is fresh."""
        from lmlab.training.events import Ended, Evaluated

        fresh = time.monotonic() - self._drawn < _REDRAW_SECONDS
        if isinstance(event, Ended) or (isinstance(event, Evaluated) and not fresh):
            curves = {self._picture.parent.name: read_curve(self._metrics)}
            draw_curves(curves, self._picture, self._levels, self._title)
            self._drawn = time.monotonic()
