"""A ladder of models: what each needs for a byte of unseen text, as a bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lmlab.report.html import escape

_EIGHTHS = " ▏▎▍▌▋▊▉█"
WIDTH = 40
"""Characters of the longest bar."""


@dataclass(frozen=True)
class Rung:
    """A line of the ladder.

    Attributes:
        name: of the model or the baseline.
        bits: per byte; None where it has none.
        note: what else is to be said, in a few words.
        baseline: whether nothing was trained for it.
    """

    name: str
    bits: float | None
    note: str = ""
    baseline: bool = False


def bar(value: float | None, most: float, width: int = WIDTH) -> str:
    """A bar from zero, exact to an eighth of a character.

    >>> bar(2.0, 4.0, 8), bar(0.5, 4.0, 8), bar(None, 4.0)
    ('████', '█', '')
    """
    if value is None or not math.isfinite(value) or most <= 0:
        return ""
    eighths = round(8 * width * min(1.0, max(0.0, value) / most))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def longest(rungs: Sequence[Rung]) -> float:
    """The value that fills a bar."""
    return max((rung.bits for rung in rungs if rung.bits is not None and math.isfinite(rung.bits)), default=0.0)


def ladder_text(rungs: Sequence[Rung]) -> str:
    """The ladder in a terminal, a line a rung; the best one is marked."""
    most, least = longest(rungs), min((rung.bits for rung in rungs if rung.bits is not None), default=None)
    name = max(len(rung.name) for rung in rungs)
    lines = []
    for rung in rungs:
        figure = "    -" if rung.bits is None else f"{rung.bits:5.3f}"
        note = " · ".join(filter(None, ("best" if rung.bits is not None and rung.bits == least else "", rung.note)))
        lines.append(f"  {rung.name:<{name}}  {figure}  {bar(rung.bits, most):<{WIDTH}}  {note}".rstrip())
    return "\n".join(lines)


def ladder_html(rungs: Sequence[Rung]) -> str:
    """The ladder as a table of HTML."""
    most, least = longest(rungs), min((rung.bits for rung in rungs if rung.bits is not None), default=None)
    rows = []
    for rung in rungs:
        share = 100 * rung.bits / most if rung.bits is not None and math.isfinite(rung.bits) and most else 0
        kind = "best" if rung.bits is not None and rung.bits == least else "base" if rung.baseline else "model"
        figure = "-" if rung.bits is None else f"{rung.bits:.3f}"
        rows.append(
            f'<tr class="{kind}"><th>{escape(rung.name)}</th><td class="n">{figure}</td>'
            f'<td class="b"><i style="width:{share:.2f}%"></i></td><td class="note">{escape(rung.note)}</td></tr>'
        )
    return '<table class="ladder">' + "".join(rows) + "</table>"
