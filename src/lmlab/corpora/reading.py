r"""From bytes to text, one way for every verb: unpacked, checked, and cut into lines or into pieces of whole words.

    pieces = utf8(inflate(origin.read(), origin.name), origin.name, errors)      # bytes, for scanners
    texts = decode(inflate(origin.read(), origin.name), origin.name, errors)     # str, `\r\n` turned into `\n`

Compression (gzip, bzip2, xz, zstd) is told by the first bytes, never by a name. Text is UTF-8; a byte-order mark is
dropped; UTF-16, NUL and bytes that are no UTF-8 are refused with their offset in the unpacked text. Nothing here holds
more than `LONGEST` bytes, whatever the stream does.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lmlab.errors import DataError
from lmlab.vocabulary import SPACES

PIECE = 1 << 18  # bytes unpacked or scanned at once: about as many words as the n-gram counter takes together
HEAD = 8 << 10  # a NUL within so many bytes of the start makes a file binary
LONGEST = 1 << 26  # bytes of a word, characters of a line or of a record: what has to be held whole
_PACKED_PIECE = 1 << 10  # of the worst of formats, bzip2, so few bytes may unpack to 20 MB
_MAGIC = 10  # bytes that tell every format
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WORD = bytes(set(range(256)) - set(SPACES.encode()))
_REPLACE = "--errors replace puts U+FFFD in its place"


def inflate(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Undo the compression that the first bytes tell of, of all streams that lie one after the other.

    Raises:
        DataError: the stream is damaged, or ends too early.
    """
    head, chunks = _peek(chunks)
    new, failures = _decompressor(head)
    if new is None:
        yield from chunks
        return
    machine = new()
    try:
        for packed in _sliced(chunks, _PACKED_PIECE):
            rest = packed
            while rest := rest.lstrip(b"\0") if machine.eof else rest:  # NULs may pad the end of a stream
                if machine.eof:
                    machine = new()  # another one follows
                yield from _sliced([machine.decompress(rest)], PIECE)
                rest = machine.unused_data
    except failures as error:
        raise DataError(f"{name} is damaged ({error})", "unpack it with its own tool to see how far it goes") from error
    if not machine.eof:
        raise DataError(f"{name} is cut off: its compressed stream has no end", "fetch it again")


def packed(chunks: Iterable[bytes]) -> bool:
    """Whether a stream is compressed."""
    return _decompressor(_peek(chunks)[0])[0] is not None


def _decompressor(head: bytes) -> tuple[Callable[[], Any] | None, tuple[type[Exception], ...]]:
    """What unpacks a stream that begins so, and what it raises; each library is loaded when it is wanted."""
    if head.startswith(b"\x1f\x8b\x08"):
        import zlib

        return lambda: zlib.decompressobj(31), (zlib.error,)  # 31: a gzip header and its checksum
    if head.startswith(b"BZh") and head[4:] in (b"1AY&SY", b"\x17rE8P\x90"):
        import bz2

        return bz2.BZ2Decompressor, (OSError,)
    if head.startswith(b"\xfd7zXZ\0"):
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28), (lzma.LZMAError,)
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        import zstandard

        return lambda: zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)
    return None, ()


def decode(chunks: Iterable[bytes], name: str, errors: str, offset: int = 0) -> Iterator[str]:
    r"""The text of bytes, `\r\n` turned into `\n`; where so many lie before, no byte-order mark is looked for.

    Raises:
        DataError: UTF-16, a NUL, or a byte that is no UTF-8; the last two unless `errors` is "replace".
    """
    held = ""
    for text, _ in _sound(chunks, name, errors, offset):
        text = held + text
        held = "\r" if text.endswith("\r") else ""  # its \n may open the next piece
        text = text.removesuffix("\r").replace("\r\n", "\n")
        if text:
            yield text
    if held:
        yield held


def utf8(chunks: Iterable[bytes], name: str, errors: str, offset: int = 0) -> Iterator[bytes]:
    r"""UTF-8, refused and replaced as by `decode`, its `\r\n` as they are; each piece ends with a character.

    Where so many bytes of the text lie before, no byte-order mark is looked for.
    """
    return (data for _, data in _sound(chunks, name, errors, offset))


def _sound(chunks: Iterable[bytes], name: str, errors: str, offset: int = 0) -> Iterator[tuple[str, bytes]]:
    """Pieces of sound text, as text and as UTF-8."""
    head, chunks = (b"", chunks) if offset else _peek(chunks)
    if head.startswith(_WIDE):
        raise DataError(f"{name} is binary, or UTF-16 by its first two bytes", "iconv -f UTF-16 -t UTF-8 converts it")
    mark, begun, waiting = head.startswith(codecs.BOM_UTF8), False, b""
    for chunk in itertools.chain(chunks, (None,)):
        data = waiting + (chunk or b"")
        _refuse_nul(data, offset, name, errors)
        try:
            text, used = codecs.utf_8_decode(data, errors, chunk is None)
        except UnicodeDecodeError as error:
            problem = f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}"
            raise DataError(problem, "convert it with iconv -t UTF-8, or --errors replace puts U+FFFD there") from error
        offset, waiting, sound = offset + used, data[used:], data[:used]
        if errors == "replace":
            text = text.replace("\0", "\ufffd")
            sound = text.encode("utf-8")
        if text and mark and not begun:
            text, sound = text[1:], sound[len(codecs.BOM_UTF8) :]
        begun = begun or bool(used)
        if text:
            yield text, sound


def _refuse_nul(chunk: bytes, offset: int, name: str, errors: str) -> None:
    if (at := chunk.find(b"\0")) < 0:
        return
    if offset + at < HEAD:
        raise DataError(f"{name} is binary (NUL byte at offset {offset + at})", "give a text file in UTF-8")
    if errors == "strict":
        raise DataError(f"{name} has a NUL byte at offset {offset + at}", _REPLACE)


def whole_words(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Bytes in pieces of about `PIECE` that end between words.

    Raises:
        DataError: a word is longer than `LONGEST`.
    """
    parts: list[bytes] = []
    for piece in _sliced(pieces, PIECE):
        cut = len(piece.rstrip(_WORD))
        if cut:
            yield b"".join([*parts, piece[:cut]])
            parts.clear()
        parts.append(piece[cut:])
        if sum(map(len, parts)) > LONGEST:
            raise too_long(name, "word", "put spaces between words, or train on its characters")
    if rest := b"".join(parts):
        yield rest


def lines(texts: Iterable[str], name: str) -> Iterator[str]:
    r"""Lines without their ends; nothing but `\n` ends one.

    Raises:
        DataError: a line is longer than `LONGEST`.
    """
    held: list[str] = []
    size = 0
    for text in texts:
        *whole, rest = text.split("\n")
        if whole:
            whole[0] = "".join([*held, whole[0]])
            held, size = [], 0
        yield from whole
        held.append(rest)
        size += len(rest)
        if size > LONGEST:
            raise too_long(name, "line", "end lines with a newline; --unit line reads plain text of any length")
    if any(held):
        yield "".join(held)


def too_long(name: str, what: str, remedy: str) -> DataError:
    """The error of what would have to be held whole, and is too long for that."""
    return DataError(f"{name} has a {what} of more than {LONGEST:,} bytes", remedy)


def _peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a stream, as many as tell what it is, and the whole stream.

    A newline is in no format's first bytes, and who types lines wants answers before the next one.
    """
    chunks, head = iter(chunks), b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _MAGIC or b"\n" in head:
            break
    return head[:_MAGIC], itertools.chain([head] if head else [], chunks)


def _sliced(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) <= size:
            yield chunk
        else:
            yield from (chunk[i : i + size] for i in range(0, len(chunk), size))
