"""One id a word, one a punctuation mark, one a newline; or one a run of non-space, as KenLM splits.

Decoding puts the gaps back by rule, so that the text that comes out splits into the same words again.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmlab import config
from lmlab.config import setting
from lmlab.tokens.base import clean, lower
from lmlab.tokens.words import NO_GAP, SPACE, WordsTokenizer

OPENERS = frozenset("([{“\u2018«\n")
"""No space after these. None of them can be part of a word, so leaving it out is safe."""
CLOSERS = frozenset(",.;:!?)]}%…”\u2019»\n")
"""No space before these. Only U+2019 of them can join words, and a space always parts it from the word after it."""


@dataclass(frozen=True)
class WordSettings(config.Settings):
    """Settings of the word tokenizer."""

    vocab_size: int | None = setting(40_000, "most ids, the four specials included; none: every word seen", ge=5)
    min_count: int = setting(1, "a word seen less often is unknown", ge=1)
    lower: bool = setting(False, "turn the text to lower case")
    strip_punctuation: bool = setting(False, "drop what is neither a word nor a newline")
    split: str = setting(
        "punct", "punct: words, marks and newlines; space: runs of non-space", choices=["punct", "space"]
    )


class WordTokenizer(WordsTokenizer):
    """One id a word.

    >>> from lmlab.corpora.document import Document
    >>> tokenizer = WordTokenizer.train([Document("Don't go (yet), he said.")], WordSettings())
    >>> tokenizer.tokenise("he said: don't!")
    ['he', 'said', ':', "don't", '!']
    >>> tokenizer.decode(tokenizer.encode("he   said (yet) ,  stay").ids)
    'he said (yet), [UNK]'
    """

    kind = "word"
    Settings = WordSettings
    settings: WordSettings

    def __init__(self, settings: WordSettings, tokens: Sequence[str], merges: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(settings, tokens, merges)
        self._find = _pattern(settings.split, settings.strip_punctuation)

    @property
    def normalisation(self) -> str:
        """What becomes of white space, of capitals and of punctuation."""
        kept = "White space but newlines becomes one space between words, and none before , or after ( and their like"
        if self.settings.split == "space":
            kept = "Every run of white space (also newlines) becomes one space"
        cased = "; lower case" if self.settings.lower else ""
        return kept + cased + ("; punctuation is dropped." if self.settings.strip_punctuation else ".")

    def tokenise(self, text: str) -> list[str]:
        """The words, marks and newlines of a text, or its runs of non-space."""
        text = lower(clean(text)) if self.settings.lower else clean(text)
        if self.settings.strip_punctuation and self.settings.split == "space":
            text = _punctuation().sub("", text)
        return self._find.findall(text)

    def adopt(self, tokens: Iterable[str]) -> list[str]:
        """The tokens of a record, in lower case and without punctuation where the settings ask for it."""
        if self.settings.lower:
            tokens = map(lower, tokens)
        if self.settings.strip_punctuation:
            tokens = filter(_pattern("punct", strip_punctuation=True).search, tokens)
        return list(tokens)

    def after(self, token: str) -> int:
        """No gap after an opening mark, else a space."""
        return NO_GAP if token in OPENERS and self.settings.split == "punct" else SPACE

    def before(self, token: str) -> int:
        """No gap before a closing mark, else a space."""
        return NO_GAP if token in CLOSERS and self.settings.split == "punct" else SPACE


@functools.cache
def _pattern(split: str, strip_punctuation: bool) -> re.Pattern[str]:
    r"""The words of a text; white space of "space" is KenLM's: NUL, tab, LF, CR and the space."""
    if split == "space":
        return re.compile(r"[^\0\t\n\r ]+")
    letter = _letter()
    word = rf"{letter}++(?:['\u2019\-]{letter}++)*+"
    return re.compile(rf"{word}|\n" if strip_punctuation else rf"{word}|\n|\S")


@functools.cache
def _punctuation() -> re.Pattern[str]:
    return re.compile(rf"(?!{_letter()})[^\s\0]")


@functools.cache
def _letter() -> str:
    r"""A character of a word: `\w`, combining marks (many scripts write vowels so) and joiners.

    The look-ahead keeps the large set, slow to ask, from being asked about ASCII.
    """
    planes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    marks = "\u200c\u200d" + "".join(c for c in map(chr, planes) if unicodedata.category(c)[0] == "M")
    return rf"(?:\w|(?![\0-\x7f])[{marks}])"
