"""What the tokenizers of words share: a vocabulary of whole words, and the gaps between them when decoded."""

from __future__ import annotations

import abc
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lmlab.tokens.base import FILE, SILENT, Encoded, Tokenizer, clean, vocabulary
from lmlab.vocabulary import SPECIALS, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

    from lmlab.corpora.document import Document

GAPS = ("", " ", "\n")
NO_GAP, SPACE, NEWLINE = range(len(GAPS))
MOST_TYPES = 1 << 20
"""Counting holds at most this many different words: above it the rarest are dropped."""
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

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self.tokens) if id >= len(SPECIALS)}

    @cached_property
    def _after_V(self) -> np.ndarray:
        return np.fromiter(map(self.after, self.tokens), np.uint8, self.vocab_size)

    @cached_property
    def _before_V(self) -> np.ndarray:
        return np.fromiter(map(self.before, self.tokens), np.uint8, self.vocab_size)

    @abc.abstractmethod
    def tokenise(self, text: str) -> list[str]:
        """The words of a text."""

    def adopt(self, tokens: Iterable[str]) -> list[str]:
        """The words of a record that came tokenised: its tokens, but for the settings."""
        return list(tokens)

    @abc.abstractmethod
    def after(self, token: str) -> int:
        """The widest gap (an index of `GAPS`) that a token allows after it."""

    @abc.abstractmethod
    def before(self, token: str) -> int:
        """The widest gap (an index of `GAPS`) that a token allows before it."""

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        """Counts the words of the documents, in bounded memory where the vocabulary has a size."""
        reader = cls(settings, SPECIALS)
        counts: Counter[str] = Counter()
        dropped = 0
        for document in documents:
            counts.update(reader.words(document))
            while settings.vocab_size is not None and len(counts) > max(MOST_TYPES, 2 * settings.vocab_size):
                dropped += 1
                counts = Counter({word: count for word, count in counts.items() if count > dropped})
        return cls(settings, vocabulary(counts, settings.vocab_size, settings.min_count))

    def words(self, document: Document) -> list[str]:
        """The words of a document: its tokens where it came with them, else those of its text."""
        if document.tokens is None:
            return self.tokenise(document.text)
        return self.adopt(clean(token) for token in document.tokens if token)

    def encode(self, text: str) -> Encoded:
        """Looks every word of a text up."""
        return self._look_up(self.tokenise(text))

    def encode_document(self, document: Document) -> Encoded:
        """Looks every word up: the document's own tokens where it came with them, else the words of its text."""
        return self._look_up(self.words(document))

    def _look_up(self, words: list[str]) -> Encoded:
        ids_N = np.fromiter(map(self._ids.get, words, repeat(UNK)), np.uint32, len(words))
        unknown = np.flatnonzero(ids_N == UNK).tolist()
        return Encoded(ids_N, unknown_bytes=sum(len(words[i].encode()) for i in unknown))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Joins the words by their gaps; UNK is `[UNK]`."""
        ids_N = self.checked(ids)
        ids_N = ids_N[(ids_N >= len(SPECIALS)) | (ids_N == UNK)]
        gaps_N = np.minimum(self._after_V[ids_N[:-1]], self._before_V[ids_N[1:]])
        joined = [""] * max(2 * len(ids_N) - 1, 0)
        joined[::2] = map(self.tokens.__getitem__, ids_N.tolist())
        joined[1::2] = map(GAPS.__getitem__, gaps_N.tolist())
        return "".join(joined)

    def detokenise(self, words: Sequence[str]) -> str:
        """Words joined by their gaps, whether they are known or not."""
        gaps = (GAPS[min(self.after(left), self.before(right))] for left, right in pairwise(words))
        return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=False))

    def surface(self, id: int, previous: int | None) -> bytes:
        """A word, after the gap between it and the word before."""
        if id in SILENT:
            return b""
        gap = "" if previous is None else GAPS[min(self._after_V[previous], self._before_V[id])]
        return (gap + self.tokens[id]).encode()

    def normalise(self, text: str) -> str:
        """The words of a text joined by their gaps."""
        return self.detokenise(self.tokenise(text))

    def spans(self, text: str) -> list[str]:
        """The words of a text."""
        return self.tokenise(text)

    def reference(self) -> HFTokenizer:
        """A tokenizer that looks words up; a word that is spelled like a special token is unknown here too."""
        from tokenizers import Regex, models, normalizers
        from tokenizers import Tokenizer as HFTokenizer

        tokenizer = HFTokenizer(models.WordLevel({t: i for i, t in enumerate(self.tokens)}, unk_token=SPECIALS[UNK]))
        tokenizer.normalizer = normalizers.Replace(Regex(_LIKE_SPECIAL), SPECIALS[UNK])
        return tokenizer

    def save(self, folder: Path) -> None:
        """Write what `reference` would write, some words at a time: a vocabulary may be millions of words."""
        before, after = json.dumps(_WRITTEN).split('"vocab": {}')
        with (folder / FILE).open("w", encoding="utf-8", newline="\n") as file:
            file.write(before + '"vocab": {')
            for start in range(0, self.vocab_size, _WRITTEN_AT_ONCE):
                quoted = map(json.encoder.encode_basestring, self.tokens[start : start + _WRITTEN_AT_ONCE])
                pairs = [f"{word}: {id}" for id, word in enumerate(quoted, start)]
                file.write((", " if start else "") + ", ".join(pairs))
            file.write("}" + after)
