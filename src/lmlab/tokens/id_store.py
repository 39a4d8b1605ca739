"""The encoded split: ids of all documents end to end in one memory-mapped file, written in bounded memory.

    ids.bin      <bos> ids <eos> of every document, uint16 where the vocabulary allows it, else uint32; little-endian
    offsets.npy  where each document begins, and the end: int64, one more than there are documents
    meta.json    the totals, and the SHA-256 sums of all three

D documents, N ids. A store is written beside its place and renamed when whole; an interrupted one leaves nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from lmlab import disk
from lmlab.config import LARGEST
from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError
from lmlab.integrity import Verified, read_json, sha256_of, signed, unsigned
from lmlab.memory import forget, map_npy
from lmlab.tokens.base import Tokenizer
from lmlab.vocabulary import BOS, EOS

IDS, OFFSETS, META = "ids.bin", "offsets.npy", "meta.json"
OFFSET = np.dtype("<i8")
PROGRESS_BYTES = 1 << 20
_OWN_SUM = "meta_sha256"
_REMEDY = "remove the folder and encode the text again"
Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class TokenStore:
    """The ids of a split; made by `build`, `open` or `from_documents`."""

    ids: np.ndarray  # uint16 or uint32, read-only: `<bos> ids <eos>` of every document
    offsets: np.ndarray  # int64, D + 1: document i is ids[offsets[i]:offsets[i + 1]]
    vocab_size: int  # of the tokenizer
    documents: int  # their number, D
    tokens: int  # the number of predicted tokens: every id and every `<eos>`, no `<bos>`
    text_bytes: int  # UTF-8 bytes of the text as it stood before encoding
    text_chars: int  # its characters
    unknown_tokens: int  # the number of tokens that became `[UNK]`
    unknown_bytes: int  # the UTF-8 bytes of these
    sha256: str  # of the ids as they lie in ids.bin

    @classmethod
    def build(
        cls, folder: Path, tokenizer: Tokenizer, documents: Iterable[Document], progress: Progress = lambda done: None
    ) -> Self:
        """Encode documents into a new folder, in memory that does not grow with them, and open it.

        A document with `last=False` is continued by the next one; each piece is encoded on its own. `progress` is
        called with the bytes of text done so far, about once a mebibyte and at the end.

        Raises:
            RunExistsError: the folder is there already.
            StorageError: it cannot be written (the disk is full, for example); nothing is left behind.
        """
        with disk.atomic_folder(folder) as beside:
            with (beside / IDS).open("wb", 1 << 20) as ids_file, (beside / OFFSETS).open("wb") as offsets_file:
                totals = _write(tokenizer, documents, ids_file, offsets_file, progress)
            cls._sign(beside, totals)
        return cls.open(folder)

    @classmethod
    def join(cls, folder: Path, stores: Iterable[Self]) -> Self:
        """Lay stores of one vocabulary end to end in a new folder, and open it: what `build` makes of all documents.

        Raises:
            RunExistsError, StorageError: as `build`.
        """
        totals, digest, end = dict.fromkeys(TOTALS, 0), hashlib.sha256(), 0
        with disk.atomic_folder(folder) as beside:
            with (beside / IDS).open("wb") as ids_file, (beside / OFFSETS).open("wb") as offsets_file:
                _write_header(offsets_file, 0)
                for store in stores:
                    for start in range(0, len(store.ids), PROGRESS_BYTES):
                        piece = store.ids[start : start + PROGRESS_BYTES].tobytes()
                        digest.update(piece)
                        ids_file.write(piece)
                    forget(store.ids)
                    offsets_file.write((store.offsets[:-1] + end).astype(OFFSET).tobytes())
                    end += len(store.ids)
                    totals |= {name: totals[name] + getattr(store, name) for name in TOTALS if name != "sha256"}
                    totals["vocab_size"] = store.vocab_size
                offsets_file.write(end.to_bytes(OFFSET.itemsize, "little"))
                offsets_file.seek(0)
                _write_header(offsets_file, totals["documents"] + 1)
            cls._sign(beside, {**totals, "sha256": digest.hexdigest()})
        return cls.open(folder)

    @classmethod
    def _sign(cls, folder: Path, totals: dict[str, Any]) -> None:
        files = {IDS: [totals["sha256"]], OFFSETS: [sha256_of(folder / OFFSETS)]}
        disk.write_json(folder / META, signed({**totals, "files": files}, _OWN_SUM))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Memory-map what `build` wrote; ArtifactError where a file is missing, cut short or damaged."""
        totals = unsigned(folder / META, read_json(folder / META, _REMEDY), _OWN_SUM, _REMEDY)
        files = totals.pop("files", {})
        if totals.keys() != set(TOTALS) or not isinstance(files, dict) or files.keys() != {IDS, OFFSETS}:
            raise ArtifactError(f"{folder / META} does not hold the totals of a token store", _REMEDY)
        numbers = [value for name, value in totals.items() if name != "sha256"]
        if not all(type(value) is int and 0 <= value <= LARGEST for value in numbers):
            raise ArtifactError(f"{folder / META} is damaged (a total is no number)", _REMEDY)
        verified = Verified(folder, files, _REMEDY)
        dtype = _dtype(totals["vocab_size"])
        try:
            offsets = map_npy(folder / OFFSETS)
            ids = np.memmap(folder / IDS, dtype, "r") if (folder / IDS).stat().st_size else np.empty(0, dtype)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"the token store {folder} cannot be read ({error})", _REMEDY) from error
        store = cls(ids, offsets, **totals)
        if not verified.remembered:
            store._check(folder)
            verified.remember()
        return store

    def _check(self, folder: Path) -> None:
        """ArtifactError where offsets or ids lead out of what they are of."""
        offsets, ids = self.offsets, self.ids
        sound = offsets.dtype == OFFSET and offsets.shape == (self.documents + 1,)
        sound = sound and offsets[0] == 0 and offsets[-1] == len(ids) and bool((offsets[1:] - offsets[:-1] >= 2).all())
        if not sound or (len(ids) and int(ids.max()) >= self.vocab_size):
            raise ArtifactError(f"the token store {folder} is damaged (its ids or offsets are out of bounds)", _REMEDY)

    @classmethod
    def from_documents(cls, tokenizer: Tokenizer, documents: Iterable[Document]) -> Self:
        """Encode documents into memory, for texts that are small."""
        ids_file, offsets_file = io.BytesIO(), io.BytesIO()
        totals = _write(tokenizer, documents, ids_file, offsets_file, lambda done: None)
        ids = np.frombuffer(ids_file.getvalue(), dtype=_dtype(tokenizer.vocab_size))
        offsets_file.seek(0)
        return cls(ids, np.load(offsets_file), **totals)

    def document(self, i: int) -> np.ndarray:
        """The ids of document i, `<bos>` and `<eos>` included.

        >>> from lmlab.tokens import build_tokenizer
        >>> store = TokenStore.from_documents(build_tokenizer("byte", {}, []), [Document("a"), Document("bc")])
        >>> store.document(-1).tolist()
        [2, 102, 103, 3]
        """
        i = range(len(self))[i]
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """The number of ids of each document, `<bos>` and `<eos>` included: int64, D."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return self.documents


TOTALS = [field.name for field in dataclasses.fields(TokenStore) if field.name not in ("ids", "offsets")]


def _write(
    tokenizer: Tokenizer, documents: Iterable[Document], ids: IO[bytes], offsets: IO[bytes], progress: Progress
) -> dict[str, Any]:
    """Write documents end to end, one piece of one of them at a time, and return the totals."""
    totals: dict[str, Any] = dict.fromkeys(TOTALS, 0) | {"vocab_size": tokenizer.vocab_size}
    dtype, digest = _dtype(tokenizer.vocab_size), hashlib.sha256()
    end, announced, last = 0, 0, True

    def write(ids_N: np.ndarray) -> None:
        nonlocal end
        data = ids_N.astype(dtype, copy=False).tobytes()
        digest.update(data)
        ids.write(data)
        end += len(ids_N)

    bos, eos = np.array([BOS], dtype), np.array([EOS], dtype)
    _write_header(offsets, 0)
    for document in documents:
        if last:
            offsets.write(end.to_bytes(OFFSET.itemsize, "little"))
            totals["documents"] += 1
            write(bos)
        encoded, last = tokenizer.encode_document(document), document.last
        write(encoded.ids)
        totals["text_bytes"] += len(document.text.encode("utf-8", "surrogatepass"))
        totals["text_chars"] += len(document.text)
        totals["unknown_tokens"] += encoded.unknown_tokens
        totals["unknown_bytes"] += encoded.unknown_bytes
        if last:
            write(eos)
        if totals["text_bytes"] - announced >= PROGRESS_BYTES:
            announced = totals["text_bytes"]
            progress(announced)
    if not last:
        write(eos)
    offsets.write(end.to_bytes(OFFSET.itemsize, "little"))
    offsets.seek(0)
    _write_header(offsets, totals["documents"] + 1)
    progress(totals["text_bytes"])
    return totals | {"tokens": end - totals["documents"], "sha256": digest.hexdigest()}


def _dtype(vocab_size: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _write_header(file: IO[bytes], length: int) -> None:
    """The head of an .npy file; NumPy pads it to the same size whatever the length, so it can be written over."""
    head = {"descr": OFFSET.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, head)
