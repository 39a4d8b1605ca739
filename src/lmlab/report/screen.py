"""Surprisal in a terminal: words on the colour of their surprisal, or above a bar where there is no colour."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
_SHADES = (255, 230, 223, 216, 209, 202, 196)  # of xterm's 256 colours, from white to red
_MOST_BITS = 20.0  # of a word: from here on the colour is the same


def heat_lines(words: Sequence[tuple[str, float]], width: int, *, colour: bool) -> list[str]:
    """Words and the bits of each, in lines of a terminal: the redder, or the higher the bar, the more surprising.

    >>> heat_lines([("to", 1.0), ("be", 20.0)], 80, colour=False)
    ['to be', '▁▁ ██']
    """
    lines: list[str] = []
    at = 0
    for line in textwrap.wrap(" ".join(word for word, _ in words), width, break_long_words=False):
        count = len(line.split())
        row, at = words[at : at + count], at + count
        if colour:
            shades = [_SHADES[int(_share(bits) * (len(_SHADES) - 1))] for _, bits in row]
            pairs = zip(row, shades, strict=True)
            lines.append(" ".join(f"\x1b[30;48;5;{shade}m{word}\x1b[0m" for (word, _), shade in pairs))
        else:
            bars = [_BARS[int(_share(bits) * (len(_BARS) - 1))] * len(word) for word, bits in row]
            lines += [line, " ".join(bars)]
    return lines


def coloured_text(tokens: Sequence[Mapping[str, Any]], most: float = 12.0) -> str:
    r"""A text as it stands, each token (`text`, `bits`) on the colour of its surprisal; no redder from `most` bits on.

    >>> coloured_text([{"text": "a\n", "bits": 12.0}, {"text": "b", "bits": 0.0}])
    '\x1b[30;48;5;196ma\x1b[0m\n\x1b[30;48;5;255mb\x1b[0m'
    """
    parts = []
    for token in tokens:
        shade = _SHADES[int(min(1.0, max(0.0, token["bits"]) / most) * (len(_SHADES) - 1))]
        for number, line in enumerate(token["text"].split("\n")):
            shown = "".join(letter if letter.isprintable() or letter == "\t" else "\ufffd" for letter in line)
            parts.append("\n" * bool(number) + (f"\x1b[30;48;5;{shade}m{shown}\x1b[0m" if shown else ""))
    return "".join(parts)


def _share(bits: float) -> float:
    return min(1.0, max(0.0, bits) / _MOST_BITS)
