"""One style for all pictures: colours that the colour-blind and a grey printer tell apart, axes without a box.

The colours are those of Okabe and Ito (2008), darkened where they are too light for a line on white.
"""

from __future__ import annotations

import re
from bisect import bisect
from typing import Any

BLUE, RED, GREEN, PURPLE, GOLD, SKY, GREY = "#3b6fb6", "#d1603d", "#4c9a6a", "#8c5aa8", "#b8902f", "#5aa9d6", "#9aa5ad"
COLOURS = (BLUE, RED, GREEN, PURPLE, GOLD, SKY, "#5f6b73")
"""Of lines, in order."""
DASHES = ("-", "--", "-.", ":")
"""Of lines, beside the colour, for a printer."""
DARK, FAINT = "#444444", "#555555"
MAP = "cividis"
"""Of matrices whose values have one sign."""
SIGNED_MAP = "RdBu_r"
"""Of matrices whose values have two signs; zero is white."""

MOST_BITS = 12.0
"""Of a token, from which on it is no redder."""


def heat() -> Any:
    """From white to red, for surprisal behind black letters, as in HTML."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("surprisal", ["white", RED])


def plain(text: object) -> str:
    """A text as matplotlib draws it: bytes that are no text spelled out, and a dollar that begins no formula."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def wrapped(text: str, inches: float, points: float) -> list[str]:
    """Lines of a text that are no wider than this at a font's size, broken between words, or in longer ones."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    def fits(line: str) -> bool:
        width = text_to_path.get_text_width_height_descent(line.rstrip(), FontProperties(size=points), ismath=False)[0]
        return bool(width <= 72 * inches)

    lines: list[str] = []
    for word in re.findall(r"\S+\s*", text):
        while word:
            if lines and fits(lines[-1] + word):
                lines[-1], word = lines[-1] + word, ""
            elif fits(word):
                lines, word = [*lines, word], ""
            else:
                cut = max(1, bisect(range(1, len(word)), False, key=lambda size: not fits(word[:size])))
                lines, word = [*lines, word[:cut]], word[cut:]
    return [line.rstrip() for line in lines]


def token_label(text: str, most: int = 16) -> str:
    r"""A token on an axis: white space is seen, what is long is cut.

    >>> token_label("\n"), token_label(" the")
    ('↵', '␣the')
    """
    shown = text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
    shown = "".join(each if each.isprintable() else "\ufffd" for each in shown)
    return plain(shown if len(shown) <= most else shown[: most - 1] + "…") or "∅"


def bare(axes: Any, x: str = "", y: str = "", note: str = "", *, grid: bool = True) -> None:
    """Axes with labels, a quiet grid and no box; a note in small letters above."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(alpha=0.25)
    if note:
        axes.set_title(plain(note), fontsize=10, loc="left", color=FAINT)
