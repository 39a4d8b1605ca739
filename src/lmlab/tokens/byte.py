"""One id a UTF-8 byte: byte b is id 4 + b, so there is nothing to learn and nothing unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer as HFTokenizer

from lmlab import config
from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError
from lmlab.tokens.base import Encoded, clean
from lmlab.tokens.pieces import PiecesTokenizer, byte_level, byte_symbols
from lmlab.vocabulary import SPECIALS


@dataclass(frozen=True)
class ByteSettings(config.Settings):
    """The byte tokenizer has no settings."""


class ByteTokenizer(PiecesTokenizer):
    r"""One id a UTF-8 byte.

    >>> tokenizer = ByteTokenizer.train([], ByteSettings())
    >>> tokenizer.encode("é").ids.tolist(), tokenizer.spans("aé")
    ([199, 173], ['a', '\\xc3', '\\xa9'])
    """

    kind = "byte"
    Settings = ByteSettings

    def __init__(self, settings: ByteSettings, tokens: Sequence[str], merges: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(settings, tokens, merges)
        if self.tokens != SPECIALS + byte_symbols():
            raise ArtifactError("the vocabulary is not the 256 bytes in order", "load it as the kind it was saved")

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        """See `Tokenizer`. The documents are not read."""
        return cls(settings, SPECIALS + byte_symbols())

    def encode(self, text: str) -> Encoded:
        """See `Tokenizer`."""
        return Encoded(np.frombuffer(clean(text).encode(), dtype=np.uint8) + np.uint32(len(SPECIALS)))

    def reference(self) -> HFTokenizer:
        """See `Tokenizer`."""
        return byte_level(self.tokens, merges=(), split_words=False)
