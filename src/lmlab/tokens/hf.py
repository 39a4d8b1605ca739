"""The tokenizer of a Hugging Face model behind our own protocol: a fast one of the `tokenizers` library.

The special ids of `lmlab.vocabulary` come first, so that native id i is i + 4 here:

    <eos>   the model's end of text; its own id, i + 4, is then never predicted and no text encodes to it
    [UNK]   the model's unknown token, where its tokenizer has one and it is no end of text
    <bos>   context alone: `lmlab.models.hf` says what is read for it

All other special tokens (padding, markers of a chat) keep their ids and are silent. A text is encoded as it stands: no
special token is added, and the spelling of one in a text is ordinary text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lmlab.errors import UsageError
from lmlab.tokens.base import REPLACEMENT, SILENT, Encoded, Located, Tokenizer, TokenizerSettings, Vocabulary, clean
from lmlab.tokens.byte_level import byte_symbols
from lmlab.vocabulary import EOS, SPECIALS, UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HFTokenizer

    from lmlab.corpora.document import Document

SHIFT = len(SPECIALS)
"""What is added to a native id."""
_BYTE_OF = {symbol: bytes([byte]) for byte, symbol in enumerate(byte_symbols())}


@dataclass(frozen=True)
class HuggingFaceSettings(TokenizerSettings):
    """A tokenizer that comes with its model has no settings."""


class HuggingFaceTokenizer(Tokenizer):
    """Native ids, moved by `SHIFT`.

    Args:
        native: the tokenizer of the library; its treatment of special tokens is set here.
        vocab_size: of the model, which may be larger than the tokenizer's: the other ids are silent.
        eos: native ids that end a text.
        template: lays out a conversation as text, where the model comes with a template for that.
    """

    kind = "hf"
    Settings = HuggingFaceSettings

    def __init__(
        self, native: HFTokenizer, vocab_size: int, eos: Sequence[int], template: Callable[[Any], str] | None = None
    ) -> None:
        native.no_padding()
        native.no_truncation()
        native.encode_special_tokens = True  # "<|endoftext|>" in a text is spelled out
        named = [native.id_to_token(id) for id in range(vocab_size)]
        tokens = [f"[unused {id}]" if token is None else token for id, token in enumerate(named)]
        super().__init__(HuggingFaceSettings(), Vocabulary([*SPECIALS, *tokens]))
        self._native, self._template = native, template
        unknown = native.token_to_id(getattr(native.model, "unk_token", None) or "")
        self.native_unk = None if unknown in eos else unknown
        silent = {id for id, token in enumerate(named) if token is None} | {*eos}
        self._special = {id for id, token in native.get_added_tokens_decoder().items() if token.special}
        silent |= self._special
        self._ours = np.arange(vocab_size, dtype=np.uint32) + np.uint32(SHIFT)
        self._ours[list(eos)] = EOS
        if self.native_unk is not None:
            self._ours[self.native_unk] = UNK
        decoder = json.loads(native.to_str())["decoder"] or {"type": None}
        self._decoders = {one["type"] for one in (decoder, *decoder.get("decoders", ()))}
        self._added = {id: token.content for id, token in native.get_added_tokens_decoder().items()}
        self._bytes_V: list[bytes | None] = [b"" if id in SILENT else REPLACEMENT.encode() for id in range(SHIFT)]
        self._bytes_V += [b"" if id in silent else self._whole(id, token) for id, token in enumerate(tokens)]
        self._dependent = None in self._bytes_V  # whether a surface depends on the id before
        self._after: dict[tuple[int, int | None], bytes] = {}

    def _whole(self, id: int, token: str) -> bytes | None:
        """The bytes of a native id, None where they depend on the id before it."""
        if id in self._added:
            return self._added[id].encode()
        if "ByteLevel" in self._decoders:
            return b"".join(_BYTE_OF.get(symbol, symbol.encode()) for symbol in token)
        if "ByteFallback" in self._decoders and re.fullmatch("<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return None

    @property
    def normalisation(self) -> str:
        plain = "ByteLevel" in self._decoders and self._native.normalizer is None
        return "" if plain else "as the model's own tokenizer normalises text"

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> NoReturn:
        raise UsageError("the tokenizer of a Hugging Face model is not trained", "open the model: hf:PATH")

    def encode(self, text: str) -> Encoded:
        encoding = self._native.encode(clean(text), add_special_tokens=False)
        ids_N = self._ours[np.array(encoding.ids, dtype=np.int64)]
        if self.native_unk is None:
            return Encoded(ids_N)
        cuts = [encoding.offsets[at] for at in np.flatnonzero(ids_N == UNK)]
        return Encoded(ids_N, sum(len(clean(text)[start:stop].encode()) for start, stop in cuts))

    def surface(self, id: int, previous: int | None) -> bytes:
        known = self._bytes_V[id]
        if known is None:
            known = self._after.get((id, previous))
        if known is None:  # the native decoder may join, part or trim: what it adds after the id before
            native = self.native_unk if previous == UNK or previous is None else previous - SHIFT
            before = [] if native is None or previous is None else [native]
            whole = self._native.decode([*before, id - SHIFT], skip_special_tokens=False)
            known = whole[len(self._native.decode(before, skip_special_tokens=False)) :].encode()
            self._after[id, previous] = known
        return known

    def chat_ids(self, turns: Sequence[tuple[str, str]]) -> list[int] | None:
        if self._template is None:
            return None
        special = {self._added[id] for id in self._special}
        if spelled := sorted(mark for mark in special if any(mark in text for turn in turns for text in turn)):
            raise UsageError(f"a message spells {spelled[0]!r}, which marks its bounds", "leave it out")
        try:
            text = self._template([{"role": role, "content": content} for role, content in turns])
        except Exception as error:  # a template raises what it likes
            raise UsageError(f"the model's template does not take these messages ({error})", "order them so") from error
        return [id + SHIFT for id in self._marking.encode(text, add_special_tokens=False).ids]

    @cached_property
    def _marking(self) -> HFTokenizer:
        """The native tokenizer, but that special tokens are read where they are spelled."""
        marking = type(self._native).from_str(self._native.to_str())
        marking.encode_special_tokens = False
        return marking

    def context(self, previous: int | None) -> int:
        return int(previous is not None and self._dependent)

    def normalise(self, text: str) -> str:
        return self.decode(self.encode(text).ids)

    def token_text(self, id: int) -> str:
        return SPECIALS[id] if id < SHIFT else self.surface(id, None).decode("utf-8", "backslashreplace")

    def spans(self, text: str) -> list[str]:
        encoding = self._native.encode(clean(text), add_special_tokens=False)
        pieces, previous = [], None
        for id, (start, stop) in zip(self._ours[encoding.ids].tolist(), encoding.offsets, strict=True):
            piece = self.surface(id, previous).decode("utf-8", "backslashreplace")
            pieces.append(clean(text)[start:stop] if id == UNK else piece)
            previous = id
        return pieces

    def locate(self, document: Document) -> Located:
        text, found = document.text, []
        offsets = self._native.encode(clean(text), add_special_tokens=False).offsets
        for span, (start, end) in zip(self.spans(text), offsets, strict=True):
            whole = max(0, end - len(span))  # the library may count the space before a word to nothing
            found.append((span, whole if text.startswith(span, whole) else start, end))
        return Located.of(found)

    def reference(self) -> HFTokenizer:
        return self._native
