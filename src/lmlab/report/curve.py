"""Learning curves as SVG, small enough to be redrawn below a notebook's cell twice a second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

from lmlab.report.html import escape

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 190, 52, 22
_MOST_POINTS = 200
_BLUE = "#3b6fb6"


def curves_figure(
    curves: Mapping[str, tuple[Points, Points]], levels: Mapping[str, float], colours: Sequence[str] = (_BLUE,)
) -> str:
    """Nats/token over seconds: training batches thin, validation thick, what has no curve as level lines.

    Args:
        curves: of each run, by its name, seconds and nats/token of training batches, and of the validation split.
        levels: nats/token of baselines, by name.
        colours: of the runs, in order.
    """
    thinned = {name: (train[:: 1 + len(train) // _MOST_POINTS], valid) for name, (train, valid) in curves.items()}
    values = [y for train, valid in thinned.values() for _, y in valid or train] + list(levels.values())
    values = [y for y in values if math.isfinite(y)] or [0.0]
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), 0.02)
    low, high = low - room, high + 3 * room  # the first training losses lie far above
    last = max((x for train, valid in thinned.values() for x, _ in [*train, *valid]), default=0.0) or 1.0

    def down(y: float) -> float:
        return (_HEIGHT - _BOTTOM) * (1 - (min(max(y, low), high) - low) / (high - low))

    def line(points: Points, colour: str, width: float, opacity: float) -> str:
        places = ((_LEFT + (_WIDTH - _LEFT - 8) * x / last, down(y)) for x, y in points if math.isfinite(y))
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        style = f'fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"'
        return f'<polyline points="{drawn}" {style}/>'

    parts, key = [], []
    for (name, (train, valid)), colour in zip(thinned.items(), cycle(colours), strict=False):
        parts += [line(train, colour, 1, 0.4), line(valid, colour, 2.2, 1)]
        if name:
            reached = f" {valid[-1][1]:.3f}" if valid else ""
            key.append(f'<span class="key"><i style="color:{colour}"></i>{escape(name)}{reached}</span>')
    for name, level in levels.items():
        parts.append(
            f'<path d="M{_LEFT},{down(level):.1f}H{_WIDTH - 8}" stroke="currentColor" stroke-dasharray="5 4"/>'
        )
        key.append(f'<span class="key"><i class="level"></i>{escape(name)} {level:.3f}</span>')
    for y in (low + room, high - room):
        parts.append(f'<text x="{_LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 4}">0 s</text>')
    parts.append(f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 4}" text-anchor="end">{last:.0f} s</text>')
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="learning curves"'
    svg = f'{head} font-size="11" font-family="system-ui,sans-serif" fill="currentColor">{"".join(parts)}</svg>'
    foot = "nats/token over seconds; thin: training batches, thick: validation split"
    return f'<figure>{svg}<figcaption>{"".join(key)}<div class="note">{foot}</div></figcaption></figure>'
