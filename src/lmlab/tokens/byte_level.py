"""Tokenizers over UTF-8 bytes: one id a byte, or byte-pair encoding. Nothing is unknown and nothing is changed.

    byte  byte b is id 4 + b, so there is nothing to learn
    bpe   byte-level byte-pair encoding (Sennrich et al. 2016; over bytes: Radford et al. 2019), trained and run by the
          `tokenizers` library; all 256 bytes are in the vocabulary, and no merge crosses from one word to the next

In `tokenizer.json` every byte has a printable stand-in (Radford et al. 2019, the released byte-level bpe).
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from lmlab.config import setting
from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError
from lmlab.tokens.base import REPLACEMENT, SILENT, Encoded, Located, Tokenizer, TokenizerSettings, Vocabulary, clean
from lmlab.vocabulary import SPECIALS

SLICE_CHARS = 1 << 14
CUT = re.compile(r"(?<=\w)[ \n]")  # white space after a letter begins a new word: no token reaches across it


@functools.cache
def byte_symbols() -> tuple[str, ...]:
    """The printable stand-in of every byte: itself where it is printable, else the next character from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return tuple(chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256))


class ByteLevelTokenizer(Tokenizer):
    """A tokenizer each of whose ids stands for one or more bytes. Subclasses say which bytes go together."""

    def __init__(self, settings: Any, made: Vocabulary) -> None:
        super().__init__(settings, made)
        byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        own = self.tokens[len(SPECIALS) :]
        merged = {symbols for a, b in made.merges for symbols in (a, b, a + b)}
        if set("".join(own)) != byte_of.keys() or not set(own) >= byte_of.keys() | merged:
            raise ArtifactError("the vocabulary is not of bytes and their merges", "load it as the kind it was saved")
        specials = [b"" if id in SILENT else REPLACEMENT.encode() for id in range(len(SPECIALS))]
        self._bytes_V = specials + [bytes(byte_of[symbol] for symbol in token) for token in own]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return b"".join(map(self._bytes_V.__getitem__, self.checked(ids).tolist())).decode("utf-8", "replace")

    def surface(self, id: int, previous: int | None) -> bytes:
        return self._bytes_V[id]

    def token_text(self, id: int) -> str:
        return self._bytes_V[id].decode("utf-8", "backslashreplace") if id >= len(SPECIALS) else self.specials[id]

    def spans(self, text: str) -> list[str]:
        return list(map(self.token_text, self.encode(text).ids.tolist()))

    def locate(self, document: Document) -> Located:
        ids = self.encode(document.text).ids.tolist()
        ends_N = np.cumsum([len(self._bytes_V[id]) for id in ids], dtype=np.int64)
        bytes_B = np.frombuffer(clean(document.text).encode(), np.uint8)
        character_B = np.cumsum(bytes_B & 0xC0 != 0x80) - 1  # all but the first byte of a character are 10xxxxxx
        start_N, end_N = character_B[np.append(0, ends_N[:-1])[: len(ids)]], character_B[ends_N - 1] + 1
        return Located(list(map(self.token_text, ids)), start_N, end_N)


@dataclass(frozen=True)
class ByteSettings(TokenizerSettings):
    """The byte tokenizer has no settings of its own."""


class ByteTokenizer(ByteLevelTokenizer):
    r"""One id a UTF-8 byte.

    >>> tokenizer = ByteTokenizer.train([], ByteSettings())
    >>> tokenizer.encode("é").ids.tolist(), tokenizer.spans("aé")
    ([199, 173], ['a', '\\xc3', '\\xa9'])
    """

    kind = "byte"
    Settings = ByteSettings

    def __init__(self, settings: ByteSettings, made: Vocabulary) -> None:
        super().__init__(settings, made)
        if self.tokens != SPECIALS + byte_symbols():
            raise ArtifactError("the vocabulary is not the 256 bytes in order", "load it as the kind it was saved")

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        return cls(settings, Vocabulary(SPECIALS + byte_symbols()))

    def encode(self, text: str) -> Encoded:
        return Encoded(np.frombuffer(clean(text).encode(), dtype=np.uint8) + np.uint32(len(SPECIALS)))

    def reference(self) -> HFTokenizer:
        return _byte_level(self.tokens, merges=(), split_words=False)


@dataclass(frozen=True)
class BPESettings(TokenizerSettings):
    """Settings of the bpe tokenizer."""

    vocab_size: int = setting(2000, "most ids, the four specials and the 256 bytes included", ge=len(SPECIALS) + 256)
    min_count: int = setting(2, "a pair seen less often is not merged", ge=1)
    train_chars: int | None = setting(200_000_000, "learn the merges from this many first characters; none: all", ge=1)


class BPETokenizer(ByteLevelTokenizer):
    """Byte-level byte-pair encoding.

    >>> tokenizer = BPETokenizer.train([Document("low lower lowest")], BPESettings(vocab_size=263))
    >>> tokenizer.spans("slowest")
    ['s', 'low', 'e', 's', 't']
    """

    kind = "bpe"
    Settings = BPESettings
    settings: BPESettings

    def __init__(self, settings: BPESettings, made: Vocabulary) -> None:
        super().__init__(settings, made)
        self._tokenizer = _byte_level(self.tokens, made.merges, split_words=True)

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        trainer = trainers.BpeTrainer(
            vocab_size=settings.vocab_size,
            min_frequency=settings.min_count,
            special_tokens=list(SPECIALS),
            initial_alphabet=list(byte_symbols()),
            show_progress=False,
        )
        tokenizer = _byte_level(SPECIALS, merges=(), split_words=True)
        tokenizer.train_from_iterator(_slices(documents, settings.train_chars), trainer)
        model = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(settings, Vocabulary(tokens, [(a, b) for a, b in model["merges"]]))

    def encode(self, text: str) -> Encoded:
        encodings = self._tokenizer.encode_batch_fast(list(_cut(clean(text))), add_special_tokens=False)
        return Encoded(np.concatenate([np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]))

    def reference(self) -> HFTokenizer:
        return self._tokenizer


def _byte_level(tokens: Sequence[str], merges: Sequence[tuple[str, str]], *, split_words: bool) -> HFTokenizer:
    """A byte-level bpe of the `tokenizers` library, with no added tokens: no text is ever taken for a special token."""
    tokenizer = HFTokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_words)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _cut(text: str) -> Iterator[str]:
    """The text in slices that encode to the same ids when encoded apart."""
    start = 0
    while cut := CUT.search(text, start + SLICE_CHARS):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _slices(documents: Iterable[Document], train_chars: int | None) -> Iterator[str]:
    """The first characters of the documents in short slices: the trainer buffers hundreds of what it is given."""
    left = sys.maxsize if train_chars is None else train_chars
    for document in documents:
        text = clean(document.text[:left])
        for start in range(0, len(text), SLICE_CHARS):
            yield text[start : start + SLICE_CHARS]
        left -= len(text)
        if left <= 0:
            return
