"""Coders: bytes to few bytes and back, by what a model expects. Each remembers all that it has coded so far.

`Bytes` mixes contexts of bytes and learns as it goes; its integers are the same on every processor. `Tokens` takes any
language model, step by step; constriction codes what the rows of probabilities say.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lmlab.errors import ArtifactError, LmlabError, MissingExtraError, UsageError
from lmlab.kernels.cm.coding import DEEPEST, Model, coder, fresh
from lmlab.models.base import LanguageModel
from lmlab.models.readers import follow
from lmlab.models.scorers import scorer_of
from lmlab.tokens.base import SILENT, Tokenizer
from lmlab.vocabulary import UNK

_SPARE = 16  # bytes that packed ones may have more than bytes, before they are kept as they are
_SMALL = 1 << 12  # bytes up to which a tree of their own does not pay
_NO_TEXT = re.compile("([\udc80-\udcff]+)")  # bytes that are no UTF-8, as `surrogateescape` reads them


def damaged() -> ArtifactError:
    """What is told of a file that nothing here could have written."""
    return ArtifactError("it is damaged, not what was written", "fetch it again")


class Coder(Protocol):
    """What codes one piece after the other. `bits`: what the model says that all pieces so far cost."""

    @property
    def bits(self) -> float: ...  # noqa: D102

    def encode(self, data: bytes) -> bytes:
        """Bytes from which `decode` makes these, and no fewer of them where the model expects them ill."""
        ...

    def decode(self, packed: bytes, size: int) -> bytes:
        """So many bytes; wrong ones where `packed` is."""
        ...


class Bytes:
    """Context mixing over bytes: nothing to train, and the same on every processor.

    Args:
        lines: of the model's slots, 32 bytes each, a power of two.
    """

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._model: Model | None = None

    @property
    def bits(self) -> float:
        """What the model says that all bytes so far cost."""
        return 0.0 if self._model is None else self._model.bits

    def encode(self, data: bytes) -> bytes:
        """The packed bytes, the first time with the tree before them."""
        told = b""
        if self._model is None:
            lengths = _balanced(data) if len(data) > _SMALL else _FLAT
            packed_tree = zlib.compress(bytes(lengths), 9) if lengths != _FLAT else b""
            told = bytes([len(packed_tree)]) + packed_tree
            self._model = fresh(lengths, self._lines)
        packed_C = np.empty(len(data) + _SPARE, np.uint8)
        size = coder(len(data))(np.frombuffer(data, np.uint8).copy(), packed_C, False, self._model)
        return told + packed_C[:size].tobytes()

    def decode(self, packed: bytes, size: int) -> bytes:
        """So many bytes."""
        if self._model is None:
            end = 1 + (packed[0] if packed else 0)
            self._model = fresh(_read_tree(packed[1:end]), self._lines)
            packed = packed[end:]
        data_N = np.empty(size, np.uint8)
        coder(size)(data_N, np.frombuffer(packed, np.uint8).copy(), True, self._model)
        return data_N.tobytes()


_FLAT = [8] * 256


def _balanced(data: bytes) -> list[int]:
    """The length of each byte's path in a tree whose leaves keep their order, halved by how often they come.

    Like bytes stand side by side, so that one decision tells letters from capitals; a tree of Huffman's has paths of
    0.3 decisions less, and costs 1.5 % of the size.
    """
    count_B = np.bincount(np.frombuffer(data, np.uint8), minlength=256) + 0.5
    while True:
        sums, lengths = np.append(0, np.cumsum(count_B)), [0] * 256
        _halve(0, 256, 0, sums, lengths)
        if max(lengths) <= DEEPEST:
            return lengths
        count_B += len(data) / 20_000


def _halve(begin: int, end: int, depth: int, sums: np.ndarray, lengths: list[int]) -> None:
    if end - begin == 1:
        lengths[begin] = depth
        return
    cuts = np.arange(begin + 1, end)
    cut = int(cuts[np.abs(2 * sums[cuts] - sums[begin] - sums[end]).argmin()])
    _halve(begin, cut, depth + 1, sums, lengths)
    _halve(cut, end, depth + 1, sums, lengths)


def _read_tree(packed: bytes) -> list[int]:
    if not packed:
        return _FLAT
    try:
        lengths, at = [*zlib.decompressobj().decompress(packed, 256)], 0
    except zlib.error as error:
        raise damaged() from error
    for length in lengths:
        if not 1 <= length <= DEEPEST or at % (1 << DEEPEST - length):
            raise damaged()
        at += 1 << DEEPEST - length
    if len(lengths) != 256 or at != 1 << DEEPEST:
        raise damaged()
    return lengths


class Tokens:
    """Any language model over the tokens of its tokenizer, one document that never ends.

    What a tokenizer does not give back as it stood is one `[UNK]`, then its bytes and a closing mark, uniform over 257:
    the charge of `vocabulary.spelling_nats`.

    Raises:
        UsageError: the model's rows do not sum to one.
        MissingExtraError: constriction is not installed.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer) -> None:
        try:
            from constriction import stream
        except ImportError as error:
            raise MissingExtraError("compressing with a model of your own", "compress") from error
        if not scorer_of(model).normalised:
            raise UsageError("this model's rows do not sum to one", "compress with another")
        self._stream: Any = stream
        self._tokenizer, self._text, self.bits = tokenizer, follow(model), 0.0
        self._previous: int | None = None
        self._byte_ids = {spelled: id for id, spelled in enumerate(tokenizer.spellings()) if len(spelled) == 1}

    def encode(self, data: bytes) -> bytes:
        """Tokens by the model's rows, each learned from as a decoder will."""
        to = self._stream.queue.RangeEncoder()
        for id, spelled in self._units(data):
            p_V, row = self._row()
            to.encode(id, row)
            self.bits -= float(np.log2(p_V[id] / p_V.sum()))
            if id == UNK:
                for symbol in (*spelled, 256):
                    to.encode(symbol, self._spelling)
                self.bits += (len(spelled) + 1) * float(np.log2(257))
            self._take(id)
        return bytes(to.get_compressed().astype("<u4").tobytes())

    def decode(self, packed: bytes, size: int) -> bytes:
        """Tokens until there are so many bytes."""
        source = self._stream.queue.RangeDecoder(np.frombuffer(packed[: len(packed) // 4 * 4], "<u4").astype(np.uint32))
        data = bytearray()
        with contextlib.suppress(AssertionError):  # how constriction says that no encoder wrote this
            while len(data) < size:
                id = source.decode(self._row()[1])
                spelled = self._tokenizer.surface(id, self._previous) if id != UNK else b""
                while id == UNK and len(data) + len(spelled) <= size and (byte := source.decode(self._spelling)) < 256:
                    spelled += bytes([byte])
                if id in SILENT or not spelled:
                    break  # of which no encoder writes one
                data += spelled
                self._take(id)
        return bytes(data)

    @property
    def _spelling(self) -> Any:
        return self._stream.model.Uniform(257)

    def _row(self) -> tuple[np.ndarray, Any]:
        p_V = np.exp(self._text.logp_V.astype(np.float64))
        try:
            return p_V, self._stream.model.Categorical(p_V, perfect=False)
        except ValueError as error:
            raise LmlabError("the model gives NaN, or no probability at all", "compress with another") from error

    def _take(self, id: int) -> None:
        self._text.take(id)
        self._previous = id

    def _units(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The tokens of some bytes, and what each adds to them."""
        previous = self._previous
        for piece in filter(None, _NO_TEXT.split(data.decode("utf-8", "surrogateescape"))):
            known = self._bytes_of(piece) if _NO_TEXT.match(piece) else self._tokens_of(piece, previous)
            for id, spelled in known:
                yield id, spelled
                previous = id

    def _bytes_of(self, piece: str) -> list[tuple[int, bytes]]:
        single = (bytes([byte]) for byte in piece.encode("utf-8", "surrogateescape"))
        return [(self._byte_ids.get(byte, UNK), byte) for byte in single]

    def _tokens_of(self, piece: str, previous: int | None) -> Sequence[tuple[int, bytes]]:
        from lmlab.corpora.document import Document

        ids, whole = self._tokenizer.encode(piece).ids.tolist(), piece.encode()
        units = [(id, self._tokenizer.surface(id, before)) for before, id in zip([previous, *ids], ids, strict=False)]
        if UNK not in ids and b"".join(spelled for _, spelled in units) == whole:
            return units
        ends = self._tokenizer.locate(Document(piece)).end_N.tolist()
        if len(ends) != len(ids):
            return [(UNK, whole)]
        ends[-1:] = [len(piece)]  # what follows the last token goes with it
        found: list[tuple[int, bytes]] = []
        for id, begin, end in zip(ids, [0, *ends], ends, strict=False):
            if spelled := piece[begin:end].encode():
                same = id != UNK and self._tokenizer.surface(id, previous) == spelled
                previous = id if same else UNK
                found.append((previous, spelled))
        return found
