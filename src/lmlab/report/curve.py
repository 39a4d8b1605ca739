"""A learning curve as SVG, small enough to be redrawn below a notebook's cell twice a second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lmlab.report.html import escape

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 190, 46, 22
_MOST_POINTS = 200


def curve_svg(train: Points, valid: Points, levels: Mapping[str, float]) -> str:
    """Nats/token over seconds: training batches thin, validation thick, baselines as level lines.

    Args:
        train: seconds and nats/token.
        valid: likewise.
        levels: nats/token of baselines, by name.
    """
    train = train[:: 1 + len(train) // _MOST_POINTS]
    values = [y for _, y in valid or train] + list(levels.values())
    values = [y for y in values if math.isfinite(y)] or [0.0]
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), 0.02)
    low, high = low - room, high + 3 * room  # the first training losses lie far above
    last = max((x for x, _ in [*train, *valid]), default=0.0) or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (_WIDTH - _LEFT - 8) * x / last
        return f"{across:.1f},{_down(y):.1f}"

    def _down(y: float) -> float:
        return (_HEIGHT - _BOTTOM) * (1 - (min(max(y, low), high) - low) / (high - low))

    def line(points: Points, width: float, opacity: float) -> str:
        drawn = " ".join(place(x, y) for x, y in points if math.isfinite(y))
        style = f'fill="none" stroke="#3b6fb6" stroke-width="{width}" opacity="{opacity}"'
        return f'<polyline points="{drawn}" {style}/>'

    parts = [line(train, 1, 0.4), line(valid, 2.2, 1)]
    for name, level in levels.items():
        at = _down(level)
        parts.append(f'<path d="M{_LEFT},{at:.1f}H{_WIDTH - 8}" stroke="#d1603d" stroke-dasharray="5 4"/>')
        label = f"{escape(name)} {level:.3f}"
        parts.append(f'<text x="{_WIDTH - 10}" y="{at - 4:.1f}" text-anchor="end" fill="#d1603d">{label}</text>')
    for y in (low + room, high - room):
        parts.append(f'<text x="{_LEFT - 6}" y="{_down(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    foot = "nats/token over seconds; thin: training batches, thick: validation split"
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 4}">0 s</text>')
    parts.append(f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 4}" text-anchor="end">{last:.0f} s</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{foot}</text>')
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return f'{head} font-size="11" font-family="system-ui,sans-serif" fill="currentColor">{"".join(parts)}</svg>'
