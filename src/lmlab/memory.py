"""Large arrays in pages of their own, in memory or in a file, that go back to the system when they are let go of.

What the C library hands out and takes back piece by piece it may keep; a counter that grows through a dozen sizes then
holds twice what it uses. Arrays on disk lie in files that have no name and vanish with the process; `forget` takes
their pages out of memory, not out of the file.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import os
import re
import sys
import tokenize
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmlab.disk import writing
from lmlab.errors import SettingError
from lmlab.packed import extent

_SMALL = 1 << 20
_RESERVED = 256 << 20  # bytes of addresses, lest arrays that grow be moved, which splits huge pages into small ones
_CHECKED = 1 << 16  # numbers under one checksum
_SOME = 8
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes from a number with a unit.

    Raises:
        SettingError: it is none.

    >>> parse_size("1G"), parse_size("500m"), parse_size("4096")
    (1073741824, 524288000, 4096)
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise SettingError("memory", text, "a size such as 500M or 2G, of 18 digits at most")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def resident() -> int | None:
    """Bytes of this process that are in memory now; None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return None


def physical() -> int | None:
    """Bytes of memory that this machine has; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


class _Anonymous(mmap.mmap):
    """Pages without a file: forgotten, they would be lost."""


def room(shape: tuple[int, ...], dtype: Any, *, on_disk: bool = False) -> np.ndarray:
    """An array of zeros; pages that are never touched take no memory.

    Args:
        shape: as NumPy's.
        dtype: as NumPy's.
        on_disk: keep it in an unnamed file in the folder for temporary files (TMPDIR says which).

    Raises:
        StorageError: the disk has no room.

    >>> room((2, 3), np.uint32).tolist()
    [[0, 0, 0], [0, 0, 0]]
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _SMALL or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(shape, dtype=dtype)
    if on_disk:
        pages = _file_pages(size)
    else:
        pages = _Anonymous(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)  # random access through small pages misses the table of pages each time
    return np.frombuffer(pages, dtype=dtype).reshape(shape)


def _file_pages(size: int) -> mmap.mmap:
    import tempfile

    folder = Path(tempfile.gettempdir())
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told here, not by a crash later
        else:
            file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def forget(*arrays: np.ndarray) -> None:
    """Take the pages of arrays on disk, or of memory-mapped files, out of memory until they are touched again."""
    for array in arrays:
        pages = _pages(array)
        if pages is not None and not isinstance(pages, _Anonymous) and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def save_array(path: Path, array: np.ndarray) -> list[int]:
    """What `np.save` writes, in pieces, each forgotten when written.

    Returns:
        Checksums for `map_array`: the CRC-32 of the header, and of every 2^16 numbers.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    checksums = [zlib.crc32(header.getvalue())]
    with path.open("wb") as file:
        file.write(header.getvalue())
        for start in range(0, len(array), _CHECKED):
            piece = np.ascontiguousarray(array[start : start + _CHECKED]).data
            file.write(piece)
            checksums.append(zlib.crc32(piece))
            if start % _SMALL == 0:
                forget(array)
    return checksums


def map_array(path: Path, dtype: str, length: int, checksums: Sequence[int], *, whole: bool | None) -> np.ndarray:
    """An array of one dimension that `save_array` wrote, memory-mapped.

    Args:
        path: the file.
        dtype: of the array.
        length: of the array.
        checksums: what `save_array` returned.
        whole: check all of it; if False its length, its header, and eight pieces from its first to its last; if None,
            where the file is known to be as it was written, no piece.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as it was written.
    """
    where = extent(path)
    size = where.size - length * np.dtype(dtype).itemsize
    with where.file.open("rb") as file:
        file.seek(where.start)
        header = file.read(min(max(size, 0), _SMALL))
    if len(header) != size or zlib.crc32(header) != checksums[0]:
        raise ValueError("its header or its length is not as it was written")
    said = io.BytesIO(header)
    with _header():
        np.lib.format.read_magic(said)
        shape, _, said_dtype = np.lib.format.read_array_header_1_0(said)
    if (shape, said_dtype, said.tell()) != ((length,), np.dtype(dtype), size):
        raise ValueError(f"it holds {said_dtype} of shape {shape}, not {dtype} of shape {(length,)}")
    if len(checksums) != 1 + -(-length // _CHECKED):
        raise ValueError(f"it has {len(checksums)} checksums, which do not fit its length")
    if not length:
        return np.empty(0, dtype)
    array = np.asarray(np.memmap(where.file, dtype, "r", where.start + size, (length,)))
    if whole is not None:
        check_array(array, checksums, whole=whole)
    return array


def map_npy(path: Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """What `np.save` wrote, memory-mapped; mode "c" lets it be written to, in memory alone.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or cut short.
    """
    where = extent(path)
    with _header(), where.file.open("rb") as file:
        file.seek(where.start)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"its version {version} is not (1, 0)")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        at, size = file.tell(), math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size > where.start + where.size - at:
            raise ValueError(f"it is too short for {dtype} of shape {shape}")
    if not size:
        return np.empty(shape, dtype)
    return np.memmap(where.file, dtype, mode, at, shape, "F" if by_column else "C")


@contextlib.contextmanager
def _header() -> Iterator[None]:
    """ValueError for whatever NumPy lets through that reads a damaged header of a .npy file."""
    try:
        yield
    except (SyntaxError, tokenize.TokenError, TypeError, LookupError, OverflowError, EOFError) as error:
        raise ValueError(f"its header is damaged ({error})") from error


def check_array(array: np.ndarray, checksums: Sequence[int], *, whole: bool = True) -> None:
    """Compare an array with the checksums that `save_array` returned.

    Raises:
        ValueError: it is not as it was written.
    """
    pieces = range(0, len(array), _CHECKED)
    some = range(len(pieces)) if whole else {i * (len(pieces) - 1) // (_SOME - 1) for i in range(_SOME)}
    for i in some:
        if zlib.crc32(array[pieces[i] : pieces[i] + _CHECKED].data) != checksums[i + 1]:
            raise ValueError(f"what lies from number {pieces[i]:,} on is not as it was written")


def fixed(array: np.ndarray) -> np.ndarray:
    """A read-only view, memory-mapped or not: one type for compiled loops, so that they are compiled once."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


class Rows:
    """A table that grows where it lies, without a second copy where the system can move pages.

    Attributes:
        array: the rows, shape (many, columns); a new one after every `grow`.
    """

    def __init__(self, many: int, columns: int, dtype: Any) -> None:
        self.array = room((many, columns), dtype)

    def grow(self, many: int) -> None:
        """Make it so many rows long, or longer; no other reference to the array may be about."""
        shape, dtype = (many, self.array.shape[1]), self.array.dtype
        pages = _pages(self.array) if sys.platform == "linux" else None
        if pages is None:
            longer = room(shape, dtype)
            longer[: len(self.array)] = self.array
            self.array = longer
            return
        del self.array
        needed = math.prod(shape) * dtype.itemsize
        try:
            pages.resize(max(needed, _RESERVED))
        except OSError:  # a limit on addresses
            pages.resize(needed)
        self.array = np.frombuffer(pages, dtype=dtype).reshape(-1, shape[1])


def _pages(array: np.ndarray) -> mmap.mmap | None:
    """The mapping that an array lies in, if it lies in one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    return base if isinstance(base, mmap.mmap) else None
