"""Features of a text that a unit may follow: a number after each character, read from left to right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lmlab.errors import UnknownNameError


def _quotes(text: str) -> Iterator[float]:
    inside = False
    for character in text:
        inside = not inside if character == '"' else character == "\u201c" or (inside and character != "\u201d")
        yield inside


def _brackets(text: str) -> Iterator[float]:
    depth = 0
    for character in text:
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        yield depth


def _line(text: str) -> Iterator[float]:
    column = 0
    for character in text:
        column = 0 if character == "\n" else column + 1
        yield column


def _indent(text: str) -> Iterator[float]:
    width, leading = 0, True
    for character in text:
        leading = character == "\n" or (leading and character in " \t")
        width = 0 if character == "\n" else width + leading
        yield width


def _word(text: str) -> Iterator[float]:
    length = 0
    for character in text:
        length = length + 1 if character.isalpha() else 0
        yield length


def _capitals(text: str) -> Iterator[float]:
    inside = False
    for character in text:
        inside = character.isupper() or (inside and not character.isalpha() and character != "\n")
        yield inside


FEATURES: dict[str, Callable[[str], Iterator[float]]] = {
    "quotes": _quotes,
    "brackets": _brackets,
    "line": _line,
    "indent": _indent,
    "word": _word,
    "capitals": _capitals,
}
"""The value after each character. quotes: 1 within double quotes, from the opening mark to the character before the
closing one. brackets: how many of ( [ { stand open. line: characters since the last newline. indent: blanks and tabs
at the beginning of this line. word: letters since this word began. capitals: 1 in a run of capitals."""


def feature_of(tokens: Sequence[str], name: str) -> np.ndarray:
    """A feature after each token: its value after the token's last character, (T,).

    Raises:
        UnknownNameError: there is no such feature.
    """
    if name not in FEATURES:
        raise UnknownNameError("feature", name, FEATURES)
    values_C = np.array([0.0, *FEATURES[name]("".join(tokens))])
    feature_T: np.ndarray = values_C[np.cumsum([len(token) for token in tokens], dtype=int)]
    return feature_T
