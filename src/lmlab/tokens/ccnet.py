# ruff: noqa: RUF001
"""The normalisation of CCNet (Wenzek et al. 2020), which its language models expect of a text before SentencePiece."""

from __future__ import annotations

import re
import unicodedata

_DIGIT = re.compile(r"\d")  # of any script
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLAIN = {
    ",": "，、",
    ".": "。",
    '"': "„”“«»１」「《》",  # and it takes the full-width 1 for a quotation mark; but digits are 0 by then
    "'": "´’",
    ":": "∶：",
    "?": "？",
    "!": "！",
    "(": "（",
    ")": "）",
    ";": "；",
    "-": "–━►",
    " - ": "—",
    ". ": "．",
    "~": "～",
    "...": "…",
    "<": "〈",
    ">": "〉",
    "[": "【",
    "]": "】",
    "%": "％",
}
_PUNCTUATION = str.maketrans({mark: plain for plain, marks in _PLAIN.items() for mark in marks})


def normalise(text: str) -> str:
    r"""A text as CCNet's models know it.

    White space at its ends goes; letters become lower case; what Unicode takes for marks goes, and what carried them
    stays decomposed (NFD); every digit becomes 0, punctuation plain ASCII; control characters go, ends of lines too, so
    that a document is one long sentence.

    >>> normalise("  Déjà vu:\n«1984»…\t")
    'deja vu:"0000"...'
    """
    text = unicodedata.normalize("NFD", text.strip().lower())
    text = "".join(character for character in text if unicodedata.category(character) != "Mn")
    return _CONTROL.sub("", _DIGIT.sub("0", text).translate(_PUNCTUATION))
