"""One id a UTF-8 byte: byte b is id 4 + b, so there is nothing to learn and nothing unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer

from lmlab import config
from lmlab.codecs.base import Encoded, clean
from lmlab.codecs.pieces import PiecesCodec, byte_level, byte_symbols
from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError
from lmlab.vocab import SPECIALS


@dataclass(frozen=True)
class ByteSettings(config.Settings):
    """The byte codec has no settings."""


class ByteCodec(PiecesCodec):
    r"""One id a UTF-8 byte.

    >>> codec = ByteCodec.train([], ByteSettings())
    >>> codec.encode("é").ids.tolist(), codec.spans("aé")
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
        """See `Codec`. The documents are not read."""
        return cls(settings, SPECIALS + byte_symbols())

    def encode(self, text: str) -> Encoded:
        """See `Codec`."""
        return Encoded(np.frombuffer(clean(text).encode(), dtype=np.uint8) + np.uint32(len(SPECIALS)))

    def reference(self) -> Tokenizer:
        """See `Codec`."""
        return byte_level(self.tokens, merges=(), split_words=False)
