"""One style for all pictures: colours that the colour-blind and a grey printer tell apart, axes without a box.

The colours are those of Okabe and Ito (2008), darkened where they are too light for a line on white.
"""

from __future__ import annotations

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


def plain(text: object) -> str:
    """A text as matplotlib draws it: bytes that are no text spelled out, and a dollar that begins no formula."""
    return str(text).encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


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
