"""Where bytes come from: files, folders, zip files, standard input, addresses.

An `Origin` is one stream of bytes with a name; `reading` makes text of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.corpora import remote
from lmlab.corpora.reading import HEAD, inflate, packed
from lmlab.errors import DataError, EmptyDataError, UsageError

CHUNK = 1 << 20
Progress = Callable[[int, int | None], None]
"""Called with the bytes read so far and their total, None where unknown."""
_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
PACKED = (".gz", ".bz2", ".xz", ".zst")
MOST_SHARDS = 100_000
_CONTINUATION = bytes(range(0x80, 0xC0))  # never the first byte of a character


@dataclass(frozen=True)
class Origin:
    """One stream of bytes."""

    name: str  # where it comes from, for messages; its endings tell what it holds
    read: Callable[[], Iterator[bytes]]  # opens the stream and yields it in chunks
    size: int | None = None  # in bytes, where known
    partition: str = ""  # the split that all of it belongs to, or empty
    start: int = 0  # bytes of the text that lie before; after some, it is neither compressed nor marked


def kind_of(name: str) -> str:
    """What a name's endings tell: "jsonl", "json", "csv", "tsv", "parquet", else "text".

    >>> kind_of("papers.JSONL.gz"), kind_of("poem.txt")
    ('jsonl', 'text')
    """
    path = Path(name.lower())
    return _KINDS.get((path.with_suffix("") if path.suffix in PACKED else path).suffix, "text")


def file_origin(path: Path, partition: str = "", name: str = "") -> Origin:
    """The bytes of a file, or of a pipe that has a name."""
    with _explained(path):
        about = path.stat()
    size = about.st_size if stat.S_ISREG(about.st_mode) else None
    return Origin(name or str(path), lambda: _read_file(path), size, partition)


def stdin_origin() -> Origin:
    """The bytes of standard input."""
    if sys.stdin is None:
        raise DataError("standard input is closed", "name a file, or pipe a text in")
    binary: Any = sys.stdin.buffer
    return Origin("standard input", lambda: iter(lambda: binary.read1(CHUNK), b""))  # what has come is read at once


def named_origin(name: str) -> Origin:
    """The bytes of a file, of what lies at an address, or of standard input for "-".

    Raises:
        DataError: there is no such file, or standard input is closed.
        MissingExtraError: the address needs fsspec.
    """
    if remote.is_address(name):
        return Origin(remote.title(name), functools.partial(remote.read, name), remote.size_of(name))
    return stdin_origin() if name == "-" else file_origin(Path(name))


def zip_origins(path: Path, members: Iterable[tuple[str, str]]) -> list[Origin]:
    """The members of a zip file that match patterns, in sorted order; each pattern comes with its partition."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is damaged ({error})", "remove it and fetch it again") from error
    return [
        Origin(name, functools.partial(_read_member, path, name), sizes[name], partition)
        for pattern, partition in members
        for name in sorted(name for name in sizes if Path(name).match(pattern))
    ]


def folder_origins(folder: Path, unit: str) -> tuple[list[Origin], int]:
    """The text files of a folder, and how many files were skipped: binary, empty or unreadable ones.

    Files are sorted by their path from the folder, the same on every machine. Hidden files and folders and
    `__pycache__` are passed over without counting. With unit "record", only files whose ending tells of records count.
    """
    paths, skipped = folder_files(folder, unit)
    return [file_origin(path, name=str(Path(folder.name) / path.relative_to(folder))) for path in paths], skipped


def folder_files(folder: Path, unit: str) -> tuple[list[Path], int]:
    """The paths of `folder_origins`, and how many files were skipped."""
    paths: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        paths += [Path(root, name) for name in files if not name.startswith(".")]
    paths = sorted(filter(Path.is_file, paths), key=lambda path: path.relative_to(folder).as_posix())
    found = []
    for path in paths:
        wanted = kind_of(path.name) != "text" if unit == "record" else True
        if os.access(path, os.R_OK) and wanted and (unit == "record" or is_text(file_origin(path))):
            found.append(path)
    skipped = len(paths) - len(found)
    if not found:
        raise EmptyDataError(f"{folder} holds no text file ({skipped} skipped)", "give a folder with UTF-8 text in it")
    return found, skipped


def sliced(origin: Origin, start: int, stop: int | None, partition: str) -> Origin:
    """Bytes `start` to `stop` of a stream (None: its end), both moved on to the next whole UTF-8 character."""

    def read() -> Iterator[bytes]:
        at, begun = 0, start == 0
        for chunk in origin.read():
            end = len(chunk) if stop is None else max(0, min(len(chunk), stop - at))
            end = len(chunk) - len(chunk[end:].lstrip(_CONTINUATION))
            part = chunk[max(start - at, 0) : end]
            if not begun:
                part = part.lstrip(_CONTINUATION)
                begun = bool(part)
            yield part
            if end < len(chunk):
                return
            at += len(chunk)

    size = None if origin.size is None else max(0, min(stop or origin.size, origin.size) - start)
    return Origin(origin.name, read, size, partition)


def located(name: str, here: Path) -> Origin:
    """The bytes of a file that is named from a folder, or of what lies at an address."""
    return named_origin(name) if remote.is_address(name) else file_origin(here / name, name=name)


def stamp(name: str, here: Path) -> tuple[int, int]:
    """What tells whether a text is still as it was: its size, and of a file when it was changed."""
    if remote.is_address(name):
        return remote.size_of(name) or 0, 0
    with _explained(here / name):
        about = (here / name).stat()
    return about.st_size, about.st_mtime_ns


def shard(
    names: Sequence[str], here: Path, number: int, of: int, whole: Callable[[str], bool] = lambda name: False
) -> list[Origin]:
    """The lines of some files that are one of so many shards, from 1 on, of about as many bytes each.

    A line belongs to the shard that its first byte falls in, counted through all files. What is compressed, or lies at
    an address, belongs whole to the shard of its own first byte.

    Args:
        names: of files or addresses.
        here: the folder that the names of files start from.
        number: which shard.
        of: how many there are.
        whole: tells of a name whether its file is not to be cut at lines.

    Raises:
        UsageError: one of them has no size.
    """
    origins = [located(name, here) for name in names]
    if streams := [origin.name for origin in origins if origin.size is None]:
        raise UsageError(f"{streams[0]} is a stream, which cannot be cut into shards", "name a file")
    total, found = sum(origin.size or 0 for origin in origins), []
    first, last = total * (number - 1) // of, total * number // of
    for name, origin in zip(names, origins, strict=True):
        size = origin.size or 0
        start, stop = max(first, 0), min(last, size)
        first, last = first - size, last - size
        if start >= stop:
            continue
        if not (whole(name) or remote.is_address(name) or packed(origin.read())):
            path = here / name
            start, stop = _line_start(path, start), _line_start(path, stop)
            read = functools.partial(_read_file, path, start, stop)
            found.append(Origin(origin.name, read, stop - start, start=start))
        elif start == 0:
            found.append(origin)
    return found


def _line_start(path: Path, at: int) -> int:
    """Where the first line begins from a byte on; where the file ends, if none does."""
    if not at:
        return 0
    at -= 1  # this byte may end a line
    with _explained(path), path.open("rb") as file:
        file.seek(at)
        for chunk in iter(lambda: file.read(CHUNK >> 4), b""):
            if (found := chunk.find(b"\n")) >= 0:
                return at + found + 1
            at += len(chunk)
    return at


def _read_file(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    with _explained(path), path.open("rb") as file:
        if start:
            file.seek(start)
        yield from iter(lambda: file.read(CHUNK if stop is None else min(CHUNK, stop - file.tell())), b"")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # the latter where a name holds a NUL
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path} cannot be read ({reason})", "name a text file that is there and may be read"
        ) from error


def _read_member(path: Path, name: str) -> Iterator[bytes]:
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            yield from iter(lambda: file.read(CHUNK), b"")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{name} in {path} is damaged ({error})", "remove the file and fetch it again") from error


def is_text(origin: Origin) -> bool:
    """Whether a stream has a text's head: not empty, no NUL."""
    head = next((chunk for chunk in inflate(origin.read(), origin.name) if chunk), b"")
    return bool(head) and b"\0" not in head[:HEAD]
