"""Tokenizers of whole words: natural language, and Python source.

    word  one id a word, a punctuation mark or a newline; or one a run of non-space, as KenLM splits
    code  one id a token of Python source

Decoding puts the gaps between words back by rule, so that the text that comes out splits into the same words again.
"""

from __future__ import annotations

import abc
import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lmlab.config import setting
from lmlab.kernels import engine
from lmlab.tokens.base import (
    COUNTS,
    FILE,
    SILENT,
    Encoded,
    EncodedDocuments,
    Located,
    Tokenizer,
    TokenizerSettings,
    Unread,
    Vocabulary,
    clean,
    lower,
    read_counts,
)
from lmlab.tokens.scan import WordScanner, scanner
from lmlab.vocabulary import BOS, SPACES, SPECIALS, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

    from lmlab.corpora.document import Document

GAPS = ("", " ", "\n")
NO_GAP, SPACE, NEWLINE = range(len(GAPS))
OPENERS = frozenset("([{“\u2018«\n")
"""No space after these. None of them can be part of a word, so leaving it out is safe."""
CLOSERS = frozenset(",.;:!?)]}%…”\u2019»\n")
"""No space before these. Only U+2019 of them can join words, and a space always parts it from the word after it."""
MOST_TYPES = 1 << 20
"""Counting for a vocabulary of a given size holds at most this many words: above it the rarest are dropped."""
_WRITTEN_AT_ONCE = 1 << 16
_LIKE_SPECIAL = r"\A(?:\[PAD\]|<bos>|<eos>)\z"  # a word that is spelled like a special token
_WRITTEN: dict[str, Any] = {  # all of `reference` but the words
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {"type": "Replace", "pattern": {"Regex": _LIKE_SPECIAL}, "content": SPECIALS[UNK]},
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {}, "unk_token": SPECIALS[UNK]},
}


class WordsTokenizer(Tokenizer):
    """A tokenizer of whole words. Subclasses say what a word is, and which gap stands between two.

    The gap between two neighbours is the smaller of what the left one wants after it and the right one before it.
    """

    _after: Mapping[str, int] = {}
    """The widest gap (an index of `GAPS`) after a token, where it is not a space."""
    _before: Mapping[str, int] = {}
    """The widest gap before a token, where any is allowed."""

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self.tokens) if id >= len(SPECIALS)}

    @abc.abstractmethod
    def tokenise(self, text: str) -> list[str]:
        """The words of a text."""

    @abc.abstractmethod
    def matches(self, text: str) -> Iterator[tuple[str, int, int]]:
        """The words of a text, and where in it each begins and ends."""

    def adopt(self, tokens: Iterable[str]) -> list[str]:
        """The words of a record that came tokenised: its tokens, but for the settings."""
        return list(tokens)

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        reader = cls(settings, Vocabulary(SPECIALS))
        counts: Counter[str] = Counter()
        dropped = 0
        for document in documents:
            counts.update(reader.words(document))
            while settings.vocab_size is not None and len(counts) > max(MOST_TYPES, 2 * settings.vocab_size):
                dropped += 1
                counts = Counter({word: count for word, count in counts.items() if count > dropped})
        return cls.counted(settings, counts)

    @classmethod
    def load(cls, folder: Path, settings: Any, size: int | None = None) -> Self:
        if size is None:
            return super().load(folder, settings)
        return cls(settings, Vocabulary(Unread(folder / FILE, size), count_V=read_counts(folder / COUNTS, size)))

    def words(self, document: Document) -> list[str]:
        """The words of a document: its tokens where it came with them, else those of its text."""
        if document.tokens is None:
            return self.tokenise(document.text)
        return self.adopt(clean(token) for token in document.tokens if token)

    def encode(self, text: str) -> Encoded:
        return self._look_up(self.tokenise(text))

    def encode_document(self, document: Document) -> Encoded:
        return self._look_up(self.words(document))

    def _look_up(self, words: list[str]) -> Encoded:
        ids = list(map(self._ids.get, words, repeat(UNK)))
        unknown = (word for word, id in zip(words, ids, strict=True) if id == UNK) if UNK in ids else ()
        return Encoded(np.fromiter(ids, np.uint32, len(ids)), unknown_bytes=sum(len(word.encode()) for word in unknown))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids_N = self.checked(ids)
        spoken_N = ids_N[(ids_N >= len(SPECIALS)) | (ids_N == UNK)]
        return self.detokenise(list(map(self.tokens.__getitem__, spoken_N.tolist())))

    def detokenise(self, words: Sequence[str]) -> str:
        """Words joined by their gaps, whether they are known or not."""
        after, before = map(self._after.get, words, repeat(SPACE)), map(self._before.get, words[1:], repeat(NEWLINE))
        gaps = map(GAPS.__getitem__, map(min, after, before))
        return "".join(chain.from_iterable(zip_longest(words, gaps, fillvalue="")))

    def surface(self, id: int, previous: int | None) -> bytes:
        if id in SILENT:
            return b""
        before = [] if previous is None else [self.tokens[previous]]
        return self.detokenise([*before, self.tokens[id]])[sum(map(len, before)) :].encode()

    def context(self, previous: int | None) -> int:
        return -1 if previous is None else self._after.get(self.tokens[previous], SPACE)

    def normalise(self, text: str) -> str:
        return self.detokenise(self.tokenise(text))

    def spans(self, text: str) -> list[str]:
        return self.tokenise(text)

    def locate(self, document: Document) -> Located:
        if document.tokens is None:
            return Located.of(self.matches(document.text))
        found, end = [], -1  # they are joined by one space
        for token in document.tokens:
            start, end = end + 1, end + 1 + len(token)
            found += [(word, start, end) for word in self.adopt([clean(token)] if token else [])]
        return Located.of(found)

    def reference(self) -> HFTokenizer:
        from tokenizers import Regex, models, normalizers
        from tokenizers import Tokenizer as HFTokenizer

        tokenizer = HFTokenizer(models.WordLevel({t: i for i, t in enumerate(self.tokens)}, unk_token=SPECIALS[UNK]))
        tokenizer.normalizer = normalizers.Replace(Regex(_LIKE_SPECIAL), SPECIALS[UNK])
        return tokenizer

    def _write(self, path: Path) -> None:
        # what `reference` would write, some words at a time: a vocabulary may be millions of words
        before, after = json.dumps(_WRITTEN).split('"vocab": {}')
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write(before + '"vocab": {')
            for start in range(0, self.vocab_size, _WRITTEN_AT_ONCE):
                quoted = map(json.encoder.encode_basestring, self.tokens[start : start + _WRITTEN_AT_ONCE])
                pairs = [f"{word}: {id}" for id, word in enumerate(quoted, start)]
                file.write((", " if start else "") + ", ".join(pairs))
            file.write("}" + after)


@dataclass(frozen=True)
class WordSettings(TokenizerSettings):
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

    def __init__(self, settings: WordSettings, made: Vocabulary) -> None:
        super().__init__(settings, made)
        self._find = _pattern(settings.split, settings.strip_punctuation)
        if settings.split == "punct":
            self._after, self._before = dict.fromkeys(OPENERS, NO_GAP), dict.fromkeys(CLOSERS, NO_GAP)

    @property
    def normalisation(self) -> str:
        kept = "White space but newlines becomes one space between words, and none before , or after ( and their like"
        if self.settings.split == "space":
            kept = "Every run of white space (also newlines) becomes one space"
        cased = "; lower case" if self.settings.lower else ""
        return kept + cased + ("; punctuation is dropped." if self.settings.strip_punctuation else ".")

    @property
    def plain(self) -> bool:
        """Whether words are runs of non-space as they stand, as KenLM's."""
        return self.settings.split == "space" and not (self.settings.lower or self.settings.strip_punctuation)

    def tokenise(self, text: str) -> list[str]:
        text = lower(clean(text)) if self.settings.lower else clean(text)
        if self.settings.strip_punctuation and self.settings.split == "space":
            text = _punctuation().sub("", text)
        return self._find.findall(text)

    def encode_documents(self, documents: Sequence[Document]) -> EncodedDocuments:
        plain = self.plain and all(document.tokens is None for document in documents)
        if not (plain and engine.compiled(sum(len(document.text) for document in documents)) and self._scanner):
            return super().encode_documents(documents)
        text = "".join(clean(document.text).replace("\n", " ") + "\n" for document in documents).encode()
        ids_N = self._scanner.feed(text)  # a document a line
        begins_D = np.flatnonzero(ids_N == BOS)
        length_D = np.diff(begins_D, append=len(ids_N)) - 2
        unknown_D = np.add.reduceat(ids_N == UNK, begins_D, dtype=np.int64) if len(documents) else begins_D
        bytes_D = np.zeros(len(documents), np.int64)
        for at in np.flatnonzero(unknown_D).tolist():
            bytes_D[at] = self.encode(documents[at].text).unknown_bytes
        return EncodedDocuments(ids_N, length_D, unknown_D, bytes_D)

    @cached_property
    def _scanner(self) -> WordScanner | None:
        """What finds these words in bytes; None where one of them, of a record of tokens, has white space in it."""
        words = self.tokens[len(SPECIALS) :]
        made = scanner(None, words, learn=False)
        return made if made.words() == list(words) else None

    def matches(self, text: str) -> Iterator[tuple[str, int, int]]:
        text = clean(text)
        cased = [lower(character) for character in text] if self.settings.lower else text
        place: Sequence[int] = range(len(text))
        if self.settings.lower and sum(map(len, cased)) > len(text):  # İ is two letters
            place = list(chain.from_iterable([at] * len(letters) for at, letters in enumerate(cased)))
        marks = _punctuation() if self.settings.strip_punctuation and self.settings.split == "space" else None
        for match in self._find.finditer("".join(cased)):
            word = marks.sub("", match[0]) if marks else match[0]
            if word:
                yield word, place[match.start()], place[match.end() - 1] + 1

    def adopt(self, tokens: Iterable[str]) -> list[str]:
        if self.settings.lower:
            tokens = map(lower, tokens)
        if self.settings.strip_punctuation:
            tokens = filter(_pattern("punct", strip_punctuation=True).search, tokens)
        return list(tokens)


@functools.cache
def _pattern(split: str, strip_punctuation: bool) -> re.Pattern[str]:
    """The words of a text; those of "space" are runs of anything but `SPACES`."""
    if split == "space":
        return re.compile(f"[^{SPACES}]+")
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


# One expression that no text can make fail. Strings are one token each, comments and white space are dropped, and what
# is not Python is taken a character at a time. Every alternative is tried once a place and a quote that closes nowhere
# once a line, so the time is linear in the text.
_TOKEN = re.compile(
    r"""
    \#[^\r\n]*                                                              # a comment: matched, but not captured
    | ( (?:[rbuf]|rb|br|rf|fr)?                                             # strings, with their prefixes
        (?: '''(?:[^\\']|\\[\s\S]|'(?!''))*+'''
          | \"""(?:[^\\"]|\\[\s\S]|"(?!""))*+\"""
          | '(?:[^'\\\r\n]|\\(?:\r\n|[\s\S]))*+'
          | "(?:[^"\\\r\n]|\\(?:\r\n|[\s\S]))*+" )
      | 0x[\da-f_]+ | 0b[01_]+ | 0o[0-7_]+                                  # numbers
      | (?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:e[+-]?\d[\d_]*)?j?
      | [^\W\d]\w*                                                          # names and keywords
      | \*\*=? | //=? | >>=? | <<=? | -> | := | \.\.\. | [-+*/%@&|^=<>!]=   # operators of more than one character
      | \\['"\\]                                                            # no quote: what a string would escape
      | \S )                                                                # anything else
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class CodeSettings(TokenizerSettings):
    """Settings of the code tokenizer."""

    vocab_size: int | None = setting(40_000, "most ids, the four specials included; none: every token seen", ge=5)
    min_count: int = setting(1, "a token seen less often is unknown", ge=1)


class CodeTokenizer(WordsTokenizer):
    r"""One id a token of Python source.

    >>> from lmlab.corpora.document import Document
    >>> tokenizer = CodeTokenizer.train([Document("def f(x): return x**2  # square")], CodeSettings())
    >>> tokenizer.decode(tokenizer.encode("def f( x ):\n  return y").ids)
    'def f ( x ) : return [UNK]'
    """

    kind = "code"
    Settings = CodeSettings
    settings: CodeSettings
    _after: Mapping[str, int] = {"'": NEWLINE, '"': NEWLINE}
    """A stray quote must not open a string with the next one."""

    @property
    def normalisation(self) -> str:
        return "Tokens are joined by one space (a newline after a quote that opens no string); comments are dropped."

    def tokenise(self, text: str) -> list[str]:
        return list(filter(None, _TOKEN.findall(clean(text))))

    def matches(self, text: str) -> Iterator[tuple[str, int, int]]:
        return ((match[1], *match.span(1)) for match in _TOKEN.finditer(clean(text)) if match[1])
