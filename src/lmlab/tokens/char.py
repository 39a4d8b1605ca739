"""One id a character (Unicode code point), by a table look-up over UTF-32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from lmlab.config import setting
from lmlab.corpora.document import PIECE_CHARS, Document
from lmlab.errors import ArtifactError
from lmlab.tokens.base import (
    REPLACEMENT,
    SILENT,
    Encoded,
    Located,
    Tokenizer,
    TokenizerSettings,
    Vocabulary,
    clean,
    lower,
)
from lmlab.vocabulary import SPECIALS, UNK

CODE_POINTS = 0x110000


@dataclass(frozen=True)
class CharSettings(TokenizerSettings):
    """Settings of the char tokenizer."""

    vocab_size: int | None = setting(None, "most ids, the four specials included; none: every character seen", ge=5)
    min_count: int = setting(1, "a character seen less often is unknown", ge=1)
    lower: bool = setting(False, "turn the text to lower case")


class CharTokenizer(Tokenizer):
    """One id a character.

    >>> tokenizer = CharTokenizer.train([Document("hello")], CharSettings())
    >>> tokenizer.decode(tokenizer.encode("hole?").ids)
    'hole�'
    """

    kind = "char"
    Settings = CharSettings
    settings: CharSettings

    def __init__(self, settings: CharSettings, made: Vocabulary) -> None:
        super().__init__(settings, made)
        characters = "".join(self.tokens[len(SPECIALS) :])
        if len(characters) != len(self.tokens) - len(SPECIALS):
            raise ArtifactError("the vocabulary holds more than single characters", "load it as the kind it was saved")
        self._point_V = np.full(self.vocab_size, ord(REPLACEMENT), dtype="<u4")
        self._point_V[len(SPECIALS) :] = _points(characters)
        self._id_P = np.full(CODE_POINTS, UNK, dtype=np.uint32)
        self._id_P[_points(characters)] = np.arange(len(SPECIALS), self.vocab_size)

    @property
    def normalisation(self) -> str:
        return "Every character is turned to lower case on its own." if self.settings.lower else ""

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        reader, count_P = cls(settings, Vocabulary(SPECIALS)), np.zeros(CODE_POINTS, dtype=np.int64)
        for text in _joined(documents):
            count_P += np.bincount(_points(reader.normalise(text)), minlength=CODE_POINTS)
        counts = {chr(point): int(count_P[point]) for point in np.flatnonzero(count_P)}
        return cls.counted(settings, counts)

    def encode(self, text: str) -> Encoded:
        points_N = _points(self.normalise(text))
        ids_N = self._id_P[points_N]
        unknown_U = points_N[ids_N == UNK]
        longer = sum(int(np.count_nonzero(unknown_U >= first)) for first in (0x80, 0x800, 0x10000))
        return Encoded(ids_N, unknown_bytes=len(unknown_U) + longer)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids_N = self.checked(ids)
        spoken_N = ids_N[(ids_N >= len(SPECIALS)) | (ids_N == UNK)]
        text: str = self._point_V[spoken_N].tobytes().decode("utf-32-le")
        return text

    def surface(self, id: int, previous: int | None) -> bytes:
        return b"" if id in SILENT else chr(self._point_V[id]).encode()

    def normalise(self, text: str) -> str:
        return lower(clean(text)) if self.settings.lower else clean(text)

    def spans(self, text: str) -> list[str]:
        return list(self.normalise(text))

    def locate(self, document: Document) -> Located:
        spans = list(document.text)
        if self.normalise(document.text) != document.text:
            spans = list(map(self.normalise, spans))  # İ is two in lower case
        at_N = np.repeat(np.arange(len(spans)), list(map(len, spans)))
        return Located(list("".join(spans)), at_N, at_N + 1)

    def reference(self) -> HFTokenizer:
        tokenizer = HFTokenizer(models.WordLevel({t: i for i, t in enumerate(self.tokens)}, unk_token=SPECIALS[UNK]))
        if self.settings.lower:
            tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        return tokenizer


def _points(text: str) -> np.ndarray:
    """The code points, uint32."""
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _joined(documents: Iterable[Document]) -> Iterator[str]:
    """The texts, short ones joined: so a million short documents are counted as fast as one long one."""
    held: list[str] = []
    size = 0
    for document in documents:
        held.append(document.text)
        size += len(document.text)
        if size >= PIECE_CHARS:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)
