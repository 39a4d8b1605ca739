"""Byte-level byte-pair encoding (Sennrich et al. 2016; over bytes: Radford et al. 2019), by the `tokenizers` library.

All 256 bytes are in the vocabulary, so nothing is unknown. No merge crosses from one word to the next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import trainers

from lmlab import config
from lmlab.config import setting
from lmlab.corpora.document import Document
from lmlab.tokens.base import Encoded, clean
from lmlab.tokens.pieces import PiecesTokenizer, byte_level, byte_symbols
from lmlab.vocabulary import SPECIALS

SMALLEST = len(SPECIALS) + 256
SLICE_CHARS = 1 << 14
CUT = re.compile(r"(?<=\w)[ \n]")
"""A white space after a letter begins a new word, so that no token reaches across it."""


@dataclass(frozen=True)
class BPESettings(config.Settings):
    """Settings of the bpe tokenizer."""

    vocab_size: int = setting(2000, "most ids, the four specials and the 256 bytes included", ge=SMALLEST)
    min_count: int = setting(2, "a pair seen less often is not merged", ge=1)
    train_chars: int | None = setting(200_000_000, "learn the merges from this many first characters; none: all", ge=1)


class BPETokenizer(PiecesTokenizer):
    """Byte-level byte-pair encoding.

    >>> tokenizer = BPETokenizer.train([Document("low lower lowest")], BPESettings(vocab_size=263))
    >>> tokenizer.spans("slowest")
    ['s', 'low', 'e', 's', 't']
    """

    kind = "bpe"
    Settings = BPESettings
    settings: BPESettings

    def __init__(self, settings: BPESettings, tokens: Sequence[str], merges: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(settings, tokens, merges)
        self._tokenizer = byte_level(self.tokens, merges, split_words=True)

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        """See `Tokenizer`. Without documents, every byte is a token."""
        trainer = trainers.BpeTrainer(
            vocab_size=settings.vocab_size,
            min_frequency=settings.min_count,
            special_tokens=list(SPECIALS),
            initial_alphabet=list(byte_symbols()),
            show_progress=False,
        )
        tokenizer = byte_level(SPECIALS, merges=(), split_words=True)
        tokenizer.train_from_iterator(_slices(documents, settings.train_chars), trainer)
        model = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(settings, tokens, [(a, b) for a, b in model["merges"]])

    def encode(self, text: str) -> Encoded:
        """See `Tokenizer`."""
        encodings = self._tokenizer.encode_batch_fast(list(_cut(clean(text))), add_special_tokens=False)
        return Encoded(np.concatenate([np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]))

    def reference(self) -> HFTokenizer:
        """See `Tokenizer`."""
        return self._tokenizer


def _cut(text: str) -> Iterator[str]:
    """The text in slices that can be encoded apart, and so in parallel, to the same ids."""
    start = 0
    while cut := CUT.search(text, start + SLICE_CHARS):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _slices(documents: Iterable[Document], train_chars: int | None) -> Iterator[str]:
    """The first characters of the documents in short slices: the trainer buffers hundreds of what it is given."""
    left = train_chars
    for document in documents:
        text = clean(document.text if left is None else document.text[:left])
        for start in range(0, len(text), SLICE_CHARS):
            yield text[start : start + SLICE_CHARS]
        if left is not None:
            left -= len(text)
            if left <= 0:
                return
