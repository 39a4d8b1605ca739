"""Contexts of a context-mixing model: the small language that names them, and those chosen where none are named.

    1-3          the last three tokens                  0            none: how often each token comes
    2-4          those from the second last on          1+3          the last and the third last
    word+1       the letters of the word so far, alike but for case, and the last token
    word+word1   that and the word before it            like1-5      the last five tokens, alike but for case
    match6       what followed when the last six or more tokens stood there before, and how many they are
    column, first, heading      place in the line, its first token, what stood before a paragraph's colon
    fresh:1-3    as 1-3, but forgetting the corpus: of the text at hand alone

Shapes: V tokens, K contexts, P parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lmlab.errors import SettingError
from lmlab.kernels.cm import layout
from lmlab.vocabulary import SPECIALS

CHARACTERS = (
    *("0", "1", "1-2", "1-3", "1-4", "1-5", "1-6", "1-7", "1-9"),
    *("word+1", "word+word1+1", "word+word1+word2", "word+word2", "word1+1-2"),
    *("2-3", "2-4", "1+3", "like1-5", "column+1", "first+word", "heading+word+1", "heading+1-2"),
    *("match4", "match6", "match6+1", "match12"),
    *("fresh:1-2", "fresh:1-3", "fresh:1-4", "fresh:word+1", "fresh:word+word1+1"),
)
WORDS = (
    *("0", "1", "1-2", "1-3", "1-4", "1-5", "1-6", "2", "3", "2-3", "1+3", "like1", "like1-2", "like1-3", "1+like2"),
    *("word+1", "word1", "column+1", "first+1", "match3", "match6"),
    *("fresh:0", "fresh:1", "fresh:1-2", "fresh:1-3"),
)
_REGISTERS = {
    "word": layout.WORD, "word1": layout.WORD1, "word2": layout.WORD2, "word3": layout.WORD3,
    "heading": layout.HEAD, "column": layout.COLUMN, "first": layout.FIRST,
    "shape": layout.SHAPE, "longest": layout.LONGEST,
}  # fmt: skip
_PART = re.compile(r"(like|match|)(\d{1,2})(?:-(\d{1,2}))?")
_HOW = "parts joined by +: 0, 1-3, like1-2, match6, " + ", ".join([*_REGISTERS][:-2])


class Contexts(NamedTuple):
    """Contexts as the loops read them; the fields are those of `kernels.cm.layout.Frame`."""

    parts_KP: np.ndarray
    rank_K: np.ndarray
    fresh_K: np.ndarray
    least_M: np.ndarray


def parse(names: Sequence[str]) -> Contexts:
    """Turn names into registers.

    Raises:
        SettingError: a name that is none.
    """
    matches = sorted({int(size) for name in names for size in re.findall(r"match(\d{1,2})", name)})
    lists = [_registers(name.removeprefix("fresh:"), name, matches) for name in names]
    parts_KP = np.full((len(names), max(map(len, lists)) + 1), -1, np.int64)
    for row, registers in zip(parts_KP, lists, strict=True):
        row[: len(registers)] = registers
    orders = sorted((len(one), k) for k, one in enumerate(lists) if re.fullmatch(r"0|1(-\d+)?", names[k]))
    rank_K = np.zeros(len(names), np.int64)
    for rank, (_, k) in enumerate(orders, 1):
        rank_K[k] = rank
    fresh_K = np.array([name.startswith("fresh:") for name in names])
    return Contexts(parts_KP, rank_K, fresh_K, np.array(matches, np.int64))


def _registers(name: str, whole: str, matches: Sequence[int], setting: str = "contexts") -> list[int]:
    found = []
    for part in name.split("+"):
        like = _PART.fullmatch(part)
        if part in _REGISTERS:
            found.append(_REGISTERS[part])
        elif part != "0":
            kind, low, high = (like[1], int(like[2]), int(like[3] or like[2])) if like else ("", 0, 0)
            begin, most = (layout.LIKE, layout.LIKENED) if kind == "like" else (layout.RECENT, layout.REMEMBERED)
            if not 1 <= low <= high <= most or (kind == "match" and (low != high or low not in matches)):
                raise SettingError(setting, whole, _HOW, "docs/guide/context-mixing.md tells what each means")
            one = kind == "match"
            found += [layout.MATCH + 3 * matches.index(low) + 2] if one else range(begin + low - 1, begin + high)
    return found


def selectors(names: Sequence[str]) -> np.ndarray:
    """The register of each selector, selector_S."""
    registers = [_registers(name, name, (), "selectors") for name in names]
    if any(len(each) != 1 for each in registers):
        raise SettingError("selectors", ",".join(names), "one part each: 1, 2, shape, longest")
    return np.array(registers, np.int64).reshape(-1)


def kinds(spellings: Sequence[bytes], vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """What each token is to words and lines, kind_V, and the token or class that it is like, like_V.

    Single characters are like their lower case; longer tokens are like those with the same first and last letters.
    Tokens whose spelling is not told are words.
    """
    kind_V, like_V = np.full(vocab_size, layout.BEGINS, np.int64), np.arange(vocab_size)
    first: dict[str, int] = {}
    for id, spelled in enumerate(spellings):
        text = spelled.decode("utf-8", "replace")
        word = text.strip()
        lettered = bool(word) and all(c.isalnum() or c in "'’_" or c == "�" for c in word)  # noqa: RUF001
        if "\n" in text:
            kind_V[id] = layout.NEWLINE
        elif text == ":":
            kind_V[id] = layout.COLON
        elif not lettered or word.isdigit():
            kind_V[id] = layout.OTHER
        else:
            kind_V[id] = layout.BEGINS if text[0].isspace() else layout.INSIDE
        if id >= len(SPECIALS):
            key = text.lower() if len(text) == 1 else f"{text[:1].isupper()} {word[-3:].lower()}"
            like_V[id] = first.setdefault(key, id)
    return kind_V, like_V


def chosen(spellings: Sequence[bytes]) -> tuple[str, ...]:
    """Contexts for tokens that are mostly single characters or bytes, or for words and pieces of words."""
    short = sum(0 < len(text) <= 2 for text in spellings)
    return CHARACTERS if 2 * short > len(spellings) - len(SPECIALS) else WORDS
