"""A text on the colour of its surprisal: the redder a token, the less it was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmlab.errors import check_integer
from lmlab.report.html import coloured, escape
from lmlab.seeing.picture import Picture, Seen, shown_text, subject
from lmlab.seeing.style import MOST_BITS, heat, plain

_MOST = 4_000  # characters
_LEAST, _COLUMNS = 50, 80  # characters of a line


def surprisal(lm: Seen, text: str = "", *, on: Any = None, k: int = 5) -> Picture:
    """A text on the colour of its surprisal, token by token.

    Each document is read after `<bos>` and its `<eos>` (■) is predicted too; the bits sum to what `lmlab eval` gives.
    An HTML page shows bits, rank and the likeliest tokens of each place under the mouse.

    Args:
        lm: the model.
        text: one document of at most 4,000 characters; the beginning of the run's held-out text where none is named.
        on: a source in its place, such as a file or - for standard input.
        k: how many of the likeliest tokens are told.

    Raises:
        SettingError: k below 1.
        DataError: the text is longer.
    """
    check_integer("k", k)
    name, texts = shown_text(lm, text, on, _MOST, 800)
    scores = lm.score(texts, alternatives=k)
    pieces: list[dict[str, Any]] = []
    for document in range(len(texts)):
        pieces += scores.pieces(document, len(scores.columns["bits"]))
    told = ("bits", "rank", "cumulative_bits", "alternatives")
    rows = [
        {"token": token, **{key: piece[key] for key in told}}
        for token, piece in zip(scores.columns["text"], pieces, strict=True)
    ]
    cells, lines = _cells(pieces)
    columns = max(_LEAST, *(x + 1 for x, *_ in cells))

    def draw(figure: Any) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        axes = figure.add_subplot()
        squares = PatchCollection([Rectangle((x, y), 1, 1) for x, y, _, _ in cells], cmap=heat(), edgecolor="none")
        squares.set_array(np.array([bits for *_, bits in cells]))
        squares.set_clim(0, MOST_BITS)
        axes.add_collection(squares)
        for x, y, letter, _ in cells:
            axes.text(x + 0.5, y + 0.55, plain(letter), family="monospace", fontsize=8, ha="center", va="center")
        axes.set(xlim=(0, columns), ylim=(lines, 0))
        axes.set_axis_off()
        figure.colorbar(squares, ax=axes, extend="max", label="bits a token", fraction=0.02, pad=0.01, aspect=12)

    total = scores.total
    bits = f"{total['total_nats'] / math.log(2):,.1f} bits in {total['tokens']:,} tokens"
    figures = f"{bits}, {total['bits_per_byte']:.3f} bits/byte"
    title = f"Surprisal of {name}: {figures} · {subject(lm)}"
    body = f"<h1>Surprisal</h1><p>{escape(title)}</p>{coloured(pieces)}"
    return Picture(title, rows, draw, (0.085 * columns + 1.1, 0.18 * lines + 0.8), "", body)


def _cells(pieces: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[int, int, str, float]], int]:
    """Column, line, letter and bits of each character, lines broken before words; and how many lines there are."""
    letters = [(letter, piece["bits"]) for piece in pieces for letter in piece["text"]]
    cells: list[tuple[int, int, str, float]] = []
    x = y = 0
    for at, (letter, bits) in enumerate(letters):
        begins = at and letters[at - 1][0].isspace() and not letter.isspace()
        word = "".join(each for each, _ in letters[at : at + _COLUMNS]).split()[0] if begins else ""
        if x == _COLUMNS or x + len(word) > _COLUMNS > len(word):
            x, y = 0, y + 1
        shown = {"\n": "↵", "\t": "⇥", "⏹": "■"}.get(letter, letter if letter.isprintable() else "\ufffd")
        cells.append((x, y, shown, bits))
        x, y = (0, y + 1) if letter in "\n⏹" else (x + 1, y)
    return cells, y + bool(x)
