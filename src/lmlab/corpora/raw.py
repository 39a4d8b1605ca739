r"""Where bytes come from (files, folders, zip files, standard input), and how they become text.

An `Origin` is one stream of bytes with a name. `inflate` undoes .gz and .zst, `decode` makes text of it: UTF-8, a
byte-order mark dropped, `\r\n` turned into `\n`, all else as it stood. Every generator here holds about a megabyte.
"""

from __future__ import annotations

import codecs
import functools
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from lmlab.errors import DataError, EmptyDataError

CHUNK = 1 << 20
Progress = Callable[[int, int | None], None]
"""Called with the bytes read so far and their total, None where unknown."""
HEAD = 8 << 10  # a NUL within so many bytes of the start makes a file binary
_PACKED_CHUNK = 8 << 10  # small, since a few bytes may unpack to many thousand times as much
_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_CONTINUATION = bytes(range(0x80, 0xC0))  # never the first byte of a character
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(31),  # 31: a gzip header and its checksum
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
_REPLACE = "--errors replace puts U+FFFD in its place"


@dataclass(frozen=True)
class Origin:
    """One stream of bytes."""

    name: str  # where it comes from, for messages; its endings tell what it holds
    read: Callable[[], Iterator[bytes]]  # opens the stream and yields it in chunks
    size: int | None = None  # in bytes, where known
    partition: str = ""  # the split that all of it belongs to, or empty


def kind_of(name: str) -> str:
    """What a name's endings tell: "jsonl", "json", "csv", "tsv", "parquet", else "text".

    >>> kind_of("papers.JSONL.gz"), kind_of("poem.txt")
    ('jsonl', 'text')
    """
    path = Path(name.lower())
    return _KINDS.get((path.with_suffix("") if path.suffix in (".gz", ".zst") else path).suffix, "text")


def file_origin(path: Path, partition: str = "", name: str = "") -> Origin:
    """The bytes of a file."""
    return Origin(name or str(path), lambda: _read_file(path), path.stat().st_size, partition)


def stdin_origin() -> Origin:
    """The bytes of standard input."""
    return Origin("standard input", lambda: iter(lambda: sys.stdin.buffer.read(CHUNK), b""))


def zip_origins(path: Path, members: Iterable[tuple[str, str]]) -> list[Origin]:
    """The members of a zip file that match patterns, in sorted order; each pattern comes with its partition."""
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
    paths: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        paths += [Path(root, name) for name in files if not name.startswith(".")]
    paths = sorted(filter(Path.is_file, paths), key=lambda path: path.relative_to(folder).as_posix())
    origins = []
    for path in paths:
        origin = file_origin(path, name=str(Path(folder.name) / path.relative_to(folder)))
        wanted = kind_of(origin.name) != "text" if unit == "record" else True
        if os.access(path, os.R_OK) and wanted and (unit == "record" or is_text(origin)):
            origins.append(origin)
    skipped = len(paths) - len(origins)
    if not origins:
        raise EmptyDataError(f"{folder} holds no text file ({skipped} skipped)", "give a folder with UTF-8 text in it")
    return origins, skipped


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


def _read_file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from iter(lambda: file.read(CHUNK), b"")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "check the file and its permissions") from error


def _read_member(path: Path, name: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            yield from iter(lambda: file.read(CHUNK), b"")
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{name} in {path} is damaged ({error})", "remove the file and fetch it again") from error


def inflate(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Undo the compression that a name's ending tells of; DataError where the stream is damaged or ends too early."""
    ending = Path(name).suffix.lower()
    if ending not in _DECOMPRESSORS:
        yield from chunks
        return
    new = _DECOMPRESSORS[ending]
    machine = new()
    try:
        for packed in (chunk[i : i + _PACKED_CHUNK] for chunk in chunks for i in range(0, len(chunk), _PACKED_CHUNK)):
            rest = packed
            while rest := rest.lstrip(b"\0") if machine.eof else rest:  # NULs may pad the end of a frame
                if machine.eof:
                    machine = new()  # another frame follows
                yield machine.decompress(rest)
                rest = machine.unused_data
    except (zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{name} is damaged ({error})", "unpack it with its own tool to see how far it goes") from error
    if not machine.eof:
        raise DataError(f"{name} is cut off: its compressed stream has no end", "fetch it again")


def decode(chunks: Iterable[bytes], name: str, errors: str) -> Iterator[str]:
    """Bytes to text; DataError for a NUL or a byte that is no UTF-8, with its exact offset (after unpacking)."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset, first, held = 0, True, ""
    for chunk in chunks:
        _refuse_nul(chunk, offset, name, errors)
        text = held + _decode(decoder, chunk, offset, name)
        offset += len(chunk)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        if errors == "replace":
            text = text.replace("\0", "\ufffd")
        held = "\r" if text.endswith("\r") else ""  # its \n may open the next chunk
        text = text.removesuffix("\r").replace("\r\n", "\n")
        if text:
            yield text
    if rest := held + _decode(decoder, b"", offset, name, final=True):
        yield rest


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, offset: int, name: str, final: bool = False) -> str:
    waiting = len(decoder.getstate()[0])  # the start of a character that the last chunk broke off
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        at, value = offset - waiting + error.start, error.object[error.start]
        raise DataError(f"{name} is not UTF-8: byte 0x{value:02x} at offset {at}", _REPLACE) from error


def _refuse_nul(chunk: bytes, offset: int, name: str, errors: str) -> None:
    if (at := chunk.find(b"\0")) < 0:
        return
    if offset + at < HEAD:
        wide = offset == 0 and chunk[:2] in (b"\xff\xfe", b"\xfe\xff")
        remedy = "it looks like UTF-16: iconv -f UTF-16 -t UTF-8" if wide else "give a text file in UTF-8"
        raise DataError(f"{name} is binary (NUL byte at offset {offset + at})", remedy)
    if errors == "strict":
        raise DataError(f"{name} has a NUL byte at offset {offset + at}", _REPLACE)


def is_text(origin: Origin) -> bool:
    """Whether a stream has a text's head: not empty, no NUL."""
    head = next((chunk for chunk in inflate(origin.read(), origin.name) if chunk), b"")
    return bool(head) and b"\0" not in head[:HEAD]
