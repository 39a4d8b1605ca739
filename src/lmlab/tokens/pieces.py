"""What the byte and the bpe tokenizer share: every id is a piece of UTF-8, perhaps of an unfinished character.

In `tokenizer.json` every byte has a printable stand-in (Radford et al. 2019, the released byte-level bpe).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers

from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError
from lmlab.tokens.base import REPLACEMENT, SILENT, Encoded, Tokenizer, clean
from lmlab.vocabulary import SPECIALS


@functools.cache
def byte_symbols() -> tuple[str, ...]:
    """The printable stand-in of every byte: itself where it is printable, else the next character from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return tuple(chr(byte) if byte in printable else chr(256 + hidden.index(byte)) for byte in range(256))


class PiecesTokenizer(Tokenizer):
    """A tokenizer over UTF-8 bytes: nothing is unknown, nothing is changed. Subclasses say which bytes go together."""

    def __init__(self, settings: Any, tokens: Sequence[str], merges: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(settings, tokens, merges)
        byte_of = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        own = self.tokens[len(SPECIALS) :]
        merged = {part for a, b in merges for part in (a, b, a + b)}
        if set("".join(own)) != byte_of.keys() or not set(own) >= byte_of.keys() | merged:
            raise ArtifactError(
                "the vocabulary is not one of bytes and their merges", "load it as the kind it was saved"
            )
        specials = [b"" if id in SILENT else REPLACEMENT.encode() for id in range(len(SPECIALS))]
        self._piece_V = specials + [bytes(byte_of[symbol] for symbol in token) for token in own]

    @property
    def normalisation(self) -> str:
        """See `Tokenizer`."""
        return ""

    def encode_document(self, document: Document) -> Encoded:
        """See `Tokenizer`."""
        return self.encode(document.text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """See `Tokenizer`. Bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self._piece_V.__getitem__, self.checked(ids).tolist())).decode("utf-8", "replace")

    def surface(self, id: int, previous: int | None) -> bytes:
        """See `Tokenizer`."""
        return self._piece_V[id]

    def normalise(self, text: str) -> str:
        """See `Tokenizer`."""
        return clean(text)

    def token_text(self, id: int) -> str:
        """See `Tokenizer`."""
        return self._piece_V[id].decode("utf-8", "backslashreplace") if id >= len(SPECIALS) else SPECIALS[id]

    def spans(self, text: str) -> list[str]:
        """See `Tokenizer`."""
        return list(map(self.token_text, self.encode(text).ids.tolist()))


def byte_level(tokens: Sequence[str], merges: Sequence[tuple[str, str]], *, split_words: bool) -> HFTokenizer:
    """A byte-level bpe of the `tokenizers` library, with no added tokens: no text is ever taken for a special.

    Args:
        tokens: the spelling of every id.
        merges: pairs of tokens, the first merged first.
        split_words: whether no merge crosses from one word to the next.
    """
    ids = {token: id for id, token in enumerate(tokens)}
    tokenizer = HFTokenizer(models.BPE(ids, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_words)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
