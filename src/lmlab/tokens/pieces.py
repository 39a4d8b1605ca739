"""The pieces of a SentencePiece model, which was trained elsewhere and is kept with ours.

Its ids come after the special tokens of `lmlab.vocabulary`; its unknown piece is `[UNK]`, and its control pieces are
silent. SentencePiece normalises text itself, most often to NFKC, with a space before the first word.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from lmlab.config import setting
from lmlab.errors import ArtifactError, MissingExtraError, SettingError, UsageError
from lmlab.integrity import read_json
from lmlab.tokens import ccnet
from lmlab.tokens.base import FILE, REPLACEMENT, SILENT, Encoded, Tokenizer, TokenizerSettings, Vocabulary, clean
from lmlab.vocabulary import SPECIALS, UNK

if TYPE_CHECKING:
    from lmlab.corpora.document import Document

_SHIFT, _SPACE = len(SPECIALS), "\N{LOWER ONE EIGHTH BLOCK}"
_REMEDY = "copy the whole model directory again, or train it again"


@dataclass(frozen=True)
class PiecesSettings(TokenizerSettings):
    """Which model, and what is done to a text before it."""

    model: str = setting("", "the file of a SentencePiece model; the model directory keeps it")
    normalise: str = setting("none", "ccnet: as CCNet's models expect a text", choices=("none", "ccnet"))


class SentencePieceTokenizer(Tokenizer):
    """A trained SentencePiece model.

    Args:
        settings: what is done to a text before it.
        model: the content of its file.

    Raises:
        MissingExtraError: the library is not installed.
        ArtifactError: it is no such model.
    """

    kind = "sentencepiece"
    Settings = PiecesSettings

    def __init__(self, settings: PiecesSettings, model: bytes) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise MissingExtraError("tokenizer sentencepiece", "sentencepiece") from None
        self._model, self._native = model, sentencepiece.SentencePieceProcessor()
        try:
            self._native.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise ArtifactError(f"{len(model):,} bytes are no SentencePiece model ({error})", "give another") from error
        ids = range(self._native.get_piece_size())
        super().__init__(settings, Vocabulary([*SPECIALS, *map(self._native.id_to_piece, ids)]))
        self._ours = np.arange(len(ids), dtype=np.uint32) + np.uint32(_SHIFT)
        self._ours[self._native.unk_id()] = UNK
        self._bytes_V = [b"" if id in SILENT else REPLACEMENT.encode() for id in range(_SHIFT)]
        self._bytes_V += map(self._bytes_of, ids)

    def _bytes_of(self, id: int) -> bytes:
        piece = self._native.id_to_piece(id)
        if self._native.is_control(id) or self._native.is_unused(id) or self._native.is_unknown(id):
            return b""
        return bytes([int(piece[3:5], 16)]) if self._native.is_byte(id) else piece.replace(_SPACE, " ").encode()

    @property
    def normalisation(self) -> str:
        first = "as CCNet's (lower case, no accents, digits 0, plain punctuation, one line), then " * self._ccnet
        return f"{first}as the SentencePiece model normalises text"

    @property
    def _ccnet(self) -> bool:
        return bool(self.settings.normalise == "ccnet")

    @classmethod
    def train(cls, documents: Iterable[Document], settings: Any) -> Self:
        if not settings.model:
            raise SettingError("tokenizer.model", "", "the file of a SentencePiece model", "such as en.sp.model")
        try:
            return cls(settings, Path(settings.model).read_bytes())
        except OSError as error:
            raise ArtifactError(f"{settings.model} cannot be read ({error.strerror})", "name another") from error

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps({"sentencepiece": base64.b64encode(self._model).decode()}) + "\n")

    @classmethod
    def load(cls, folder: Path, settings: Any, size: int | None = None) -> Self:
        match read_json(folder / FILE, _REMEDY):
            case {"sentencepiece": str(model)}:
                try:
                    return cls(settings, base64.b64decode(model, validate=True))
                except binascii.Error:
                    pass
        raise ArtifactError(f"{folder / FILE} holds no SentencePiece model", _REMEDY)

    def pieces(self, text: str) -> list[str]:
        """The pieces of a text as the model spells them; joined by blanks they are a sentence for KenLM."""
        return list(self._native.encode_as_pieces(self._before(text)))

    def _before(self, text: str) -> str:
        return ccnet.normalise(clean(text)) if self._ccnet else clean(text)

    def _parts(self, text: str) -> list[tuple[int, str]]:
        """The ids of a text, and the pieces, of an unknown one its own spelling."""
        text = self._before(text)
        ids = self._ours[self._native.encode_as_ids(text)].tolist() if text else []
        return list(
            zip(ids, [piece.replace(_SPACE, " ") for piece in self._native.encode_as_pieces(text)], strict=True)
        )

    def encode(self, text: str) -> Encoded:
        parts = self._parts(text)
        ids_N = np.fromiter((id for id, _ in parts), np.uint32, len(parts))
        return Encoded(ids_N, sum(len(piece.encode()) for id, piece in parts if id == UNK))

    def surface(self, id: int, previous: int | None) -> bytes:
        return self._bytes_V[id].removeprefix(b" ") if previous is None else self._bytes_V[id]

    def context(self, previous: int | None) -> int:
        return int(previous is not None)

    def normalise(self, text: str) -> str:
        return self.decode(self.encode(text).ids)

    def spans(self, text: str) -> list[str]:
        return [piece for _, piece in self._parts(text)]

    def reference(self) -> NoReturn:
        raise UsageError("a SentencePiece model has no equal in the tokenizers library", "use tokenizer bpe")
