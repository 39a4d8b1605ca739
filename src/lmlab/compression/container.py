"""The file: a header that says what coded it, pieces each with the sum of what they hold, and the sum of all.

    89 'lmz' VERSION | u32 n | n bytes of JSON | u32 CRC-32 of these
    u32 bytes | u32 packed bytes | u32 CRC-32 of the bytes | packed bytes     a piece; as they are, where both are equal
    12 zero bytes | SHA-256 of all bytes

Numbers are little-endian. A piece is given out only after its sum was compared, so that nothing wrong ever comes out.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from lmlab import store
from lmlab.compression.coders import Bytes, Coder, Tokens, damaged
from lmlab.errors import ArtifactError, DataError, SettingError, UsageError, check_integer, shown
from lmlab.integrity import json_sum
from lmlab.memory import parse_size
from lmlab.models.base import whole
from lmlab.progress import Advance

if TYPE_CHECKING:
    from lmlab.facade.text_model import TextModel

VERSION = 1
_MAGIC, _NUMBER, _PIECE = b"\x89lmz", struct.Struct("<I"), struct.Struct("<III")
_SIZE, _LARGEST = 1 << 20, 1 << 28  # bytes of a piece, and of a block at most
_LONGEST_HEADER = 1 << 16
_LEAST_LINES, _MOST_LINES, _LINE_BYTES = 10, 26, 32  # logarithms
_AHEAD = 2  # pieces in memory for each job


@dataclass(frozen=True)
class Packing:
    """How a file is compressed without a model.

    Attributes:
        memory: at most so much for the slots of a block's model.
        block: size of parts that are compressed apart; None is one for all.
        jobs: how many of them at a time.
    """

    memory: str = "128M"
    block: str | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        check_integer("jobs", self.jobs)
        if self.block is None and self.jobs > 1:
            raise UsageError("one block cannot be shared by several jobs", "give --block as well, --block 4M")
        if not 1 << 10 <= (size := self._block) <= _LARGEST:
            raise SettingError("block", size, f"from 1K to {_LARGEST >> 20}M")
        least, most = ((_LINE_BYTES << lines) for lines in (_LEAST_LINES, _MOST_LINES))
        if not least <= parse_size(self.memory) <= most:
            raise SettingError("memory", self.memory, f"from {least >> 10}K to {most >> 20}M")

    @property
    def _block(self) -> int:
        return _SIZE if self.block is None else parse_size(self.block)

    def header(self) -> dict[str, Any]:
        """What decompressing needs to know."""
        lines = (parse_size(self.memory) // _LINE_BYTES).bit_length() - 1
        return {"lines": lines} if self.block is None else {"lines": lines, "block": self._block}


def pack(
    file: BinaryIO,
    out: BinaryIO,
    packing: Packing | None = None,
    lm: TextModel | None = None,
    advance: Advance = lambda done: None,
) -> dict[str, Any]:
    """Compress what a file has left; memory is bounded.

    Returns:
        `bytes`, `packed_bytes`, of these `header_bytes`, which are no model's: headers and sums; and `model_bits`, what
        the model itself says that the bytes cost.

    Raises:
        UsageError: blocks of a model's, or a model whose rows do not sum to one.
    """
    packing = packing or Packing()
    if lm is not None and packing.block is not None:
        raise UsageError("a model reads one text from end to end, so there are no blocks", "leave out the block")
    header = packing.header() if lm is None else _identity(lm)
    told = json.dumps(header, separators=(",", ":")).encode()
    begun = b"".join([_MAGIC, bytes([VERSION]), _NUMBER.pack(len(told)), told, _NUMBER.pack(zlib.crc32(told))])
    out.write(begun)
    packed, read, pieces_written, digest, bits = 0, 0, 0, hashlib.sha256(), 0.0

    def work(coder: Coder, piece: bytes) -> tuple[bytes, bytes, float]:
        before = coder.bits
        coded = coder.encode(piece)
        return piece, coded if len(coded) < len(piece) else piece, coder.bits - before

    pieces = iter(lambda: _read(file, header.get("block", _SIZE)), b"")
    for piece, coded, cost in _each(work, pieces, _coders(header, lm), packing.jobs):
        out.write(_PIECE.pack(len(piece), len(coded), zlib.crc32(piece)))
        out.write(coded)
        digest.update(piece)
        packed, read, bits = packed + len(coded), read + len(piece), bits + cost
        pieces_written += 1
        advance(read)
    out.write(bytes(_PIECE.size) + digest.digest())
    header_bytes = len(begun) + pieces_written * _PIECE.size + _PIECE.size + digest.digest_size
    return {"bytes": read, "packed_bytes": packed + header_bytes, "header_bytes": header_bytes, "model_bits": bits}


def _read(file: BinaryIO, size: int) -> bytes:
    """The next bytes of what is packed, whose faults are not those of the file that is written."""
    try:
        return file.read(size)
    except OSError as error:
        name = getattr(file, "name", "the source")
        raise DataError(f"{name} cannot be read ({error.strerror or error})", "name a file that can") from error


def unpack(
    file: BinaryIO,
    out: BinaryIO,
    lm: TextModel | None = None,
    *,
    jobs: int = 1,
    advance: Advance = lambda done: None,
) -> dict[str, Any]:
    """Write what was compressed; each piece only after its sum was compared.

    Returns:
        `bytes` and `packed_bytes`.

    Raises:
        ArtifactError: the file is damaged, cut off, of another version or model, or nothing of ours.
    """
    check_integer("jobs", jobs)
    header, taken = _read_header(file)
    _check_header(header, lm)
    written, digest = 0, hashlib.sha256()
    sizes: list[int] = [taken]

    def work(coder: Coder, piece: tuple[int, int, bytes]) -> bytes:
        size, crc, coded = piece
        if len(coded) == size:
            if zlib.crc32(coded) != crc:
                raise damaged()
            if "block" not in header:
                coder.encode(coded)  # learns from it, as the encoder did
            return coded
        data = coder.decode(coded, size)
        if zlib.crc32(data) != crc:
            raise _wrong(header)
        return data

    for data in _each(work, _pieces(file, header, sizes), _coders(header, lm), jobs):
        out.write(data)
        digest.update(data)
        written += len(data)
        advance(written)
    if _exactly(file, digest.digest_size) != digest.digest():
        raise damaged()
    if file.read(1):
        raise ArtifactError("more follows after its end", "it is not what was compressed; fetch it again")
    return {"bytes": written, "packed_bytes": sum(sizes) + _PIECE.size + digest.digest_size}


def _coders(header: Mapping[str, Any], lm: TextModel | None) -> Iterator[Coder]:
    """A coder for each block, or the one for all."""
    make: Callable[[], Coder] = (
        partial(Bytes, 1 << header["lines"]) if lm is None else partial(Tokens, whole(lm.model), lm.tokenizer)
    )
    if "block" not in header:
        one = make()
        make = lambda: one  # noqa: E731
    while True:
        yield make()


def _each(
    work: Callable[[Coder, Any], Any], pieces: Iterable[Any], coders: Iterator[Coder], jobs: int
) -> Iterator[Any]:
    """What is made of each piece, in order; the loops of a coder let others run."""
    if jobs == 1:
        yield from map(work, coders, pieces)
        return
    with ThreadPoolExecutor(jobs) as pool:
        waiting: deque[Any] = deque()
        try:
            for piece in pieces:
                waiting.append(pool.submit(work, next(coders), piece))
                if len(waiting) >= _AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


# -- what is read -----------------------------------------------------------------------------------------------------


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise ArtifactError("it is cut off", "fetch it again")
    return data


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    begun = file.read(len(_MAGIC) + 1)
    if begun[: len(_MAGIC)] != _MAGIC:
        raise ArtifactError("nothing that lmlab compressed", "name a file that `lmlab compress` wrote")
    if begun[-1] != VERSION or len(begun) == len(_MAGIC):
        found = f"of format {begun[-1]}" if len(begun) > len(_MAGIC) else "cut off"
        raise ArtifactError(f"it is {found}, and this lmlab reads format {VERSION}", "take the lmlab that wrote it")
    (size,) = _NUMBER.unpack(_exactly(file, _NUMBER.size))
    if size > _LONGEST_HEADER:
        raise damaged()
    told = _exactly(file, size)
    if _NUMBER.unpack(_exactly(file, _NUMBER.size)) != (zlib.crc32(told),):
        raise damaged()
    try:
        header = json.loads(told)
    except (ValueError, RecursionError) as error:
        raise damaged() from error
    if not isinstance(header, dict):
        raise damaged()
    return header, len(begun) + 2 * _NUMBER.size + size


def _pieces(file: BinaryIO, header: Mapping[str, Any], sizes: list[int]) -> Iterator[tuple[int, int, bytes]]:
    """Of each piece its size, its sum, and its packed bytes."""
    while True:
        size, packed, crc = _PIECE.unpack(_exactly(file, _PIECE.size))
        if not size and not packed and not crc:
            return
        if not 0 < packed <= size <= header.get("block", _SIZE):
            raise damaged()
        sizes.append(_PIECE.size + packed)
        yield size, crc, _exactly(file, packed)


def _check_header(header: Mapping[str, Any], lm: TextModel | None) -> None:
    """Refuse another model than the one that compressed, and numbers that nothing here writes."""
    if "model" in header:
        if lm is None:
            name = shown(header["model"])
            raise UsageError(f"it was compressed with the model {name}", "name its directory with --model")
        if header.get("sha256") != _identity(lm)["sha256"]:
            problem = f"it was compressed with another model ({shown(header['model'])}), or composed otherwise"
            raise ArtifactError(problem, "give the same --model, --adapt and --mix")
        if not isinstance(header.get("made_by"), dict):
            raise damaged()
        return
    if lm is not None:
        raise UsageError("it was compressed without a model", "leave out --model")
    lines, block = header.get("lines"), header.get("block", _SIZE)
    if not isinstance(lines, int) or not _LEAST_LINES <= lines <= _MOST_LINES:
        raise damaged()
    if not isinstance(block, int) or not 0 < block <= _LARGEST:
        raise damaged()


# -- the model and the machine ----------------------------------------------------------------------------------------


def _identity(lm: TextModel) -> dict[str, Any]:
    """Which model codes, and where: its numbers may differ in their last bits on another machine."""
    whole(lm.model)  # loads the libraries that its numbers hang on
    name = lm.folder.name if lm.folder is not None else str(lm.manifest.get("kind", "a model"))
    sum_ = json_sum({"manifest": _plain(lm.manifest), "composition": _plain(lm.composition)})
    return {"model": name, "sha256": sum_, "made_by": _machine()}


def _plain(content: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(content, default=str))


def _machine() -> dict[str, str]:
    from lmlab.kernels.intrinsics import processor

    return {**store.versions(), "processor": processor()}


def _wrong(header: Mapping[str, Any]) -> ArtifactError:
    """Why a sum is another: the file is damaged, or a model's numbers are others on this machine."""
    there, here = header.get("made_by", {}), _machine() if "made_by" in header else {}
    other = [f"{name} {there[name]} (here {here.get(name)})" for name in there if there[name] != here.get(name)]
    if not other:
        return damaged()
    problem = f"its sums do not come out; it was compressed with {', '.join(other)}"
    return ArtifactError(problem, "a model's numbers differ between machines: decompress it where it was made")
