"""A corpus: documents laid end to end in one spool, each in its split, read again and again in bounded memory.

Reading a source yields documents; `_Builder` writes their UTF-8 bytes into a temporary file (in memory while small)
and keeps 17 bytes of index a document. So standard input, archives and folders are all read exactly once. A record
of tokens is spooled as a JSON list.

Shapes: N segments; a segment is a document or, where the text was cut by position, what of it lies in one split.
"""

from __future__ import annotations

import codecs
import dataclasses
import functools
import hashlib
import json
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.corpora import named, objects, records, remote
from lmlab.corpora.document import PIECE_CHARS, Document, text_pieces, token_pieces
from lmlab.corpora.raw import CHUNK, Origin, Progress, file_origin, folder_origins, named_origin, stdin_origin
from lmlab.corpora.settings import SPLITS, DataSettings
from lmlab.corpora.splits import FEW, SplitRule, choose_rule, code_of, position_cuts, shares_in_words
from lmlab.disk import exists
from lmlab.errors import DataError, EmptyDataError, SettingError, UnknownNameError

SPOOL_BYTES = 64 << 20
_TOKEN_END, _DOCUMENT_END = b"\xfe", b"\xff"  # bytes that no UTF-8 text contains


@dataclass(frozen=True)
class SplitSize:
    """The size of a split; bytes are UTF-8 of the text as it stood, or of tokens joined by one space."""

    documents: int
    bytes: int
    chars: int


def open_corpus(source: str, settings: DataSettings | None = None, *, progress: Progress | None = None) -> Corpus:
    """Read a source once and split it.

    Args:
        source: a named corpus, a file, a folder, an address such as "s3://bucket/my.jsonl.zst", "hf:NAME" of the
            Hugging Face hub, or "-" for standard input.
        settings: how to read and split it; the defaults where None.
        progress: called with the bytes read (or downloaded) so far and their total.

    Raises:
        UnknownNameError: no named corpus and no file has this name.
        DataError: the text cannot be read, or a split stays empty (EmptyDataError).
    """
    settings = settings or DataSettings()
    rule = choose_rule(settings, SplitRule())
    path = Path(source)
    if source in named.CORPORA:
        corpus = named.CORPORA[source]
        settings = corpus.settings(settings)
        origins, rule = named.origins(corpus, settings, progress), choose_rule(settings, corpus.rule)
        return _read(source, origins, settings, rule, progress, group=corpus.group_field)
    if remote.is_address(source):
        origin = named_origin(source)
        return _read(Path(origin.name).name, [origin], settings, rule, progress)
    if source.startswith(objects.HF):
        loaded = objects.load_hf(source)
        return _spooled(source, objects.documents(loaded, settings), settings, rule)
    if source == "-":
        return _read("standard input", [stdin_origin()], settings, rule, progress)
    if not exists(path):
        raise UnknownNameError("file and no corpus", source, named.CORPORA)
    if path.is_dir():
        origins, skipped = folder_origins(path, settings.unit)
        unit = "document" if settings.unit == "auto" else settings.unit
        return _read(path.name or source, origins, dataclasses.replace(settings, unit=unit), rule, progress, skipped)
    return _read(path.name, [file_origin(path)], settings, rule, progress)


def open_objects(source: Any, settings: DataSettings | None = None) -> Corpus:
    """A corpus of what a program holds: strings, lists of tokens, records, a frame, a data set; by split, if named so.

    Raises:
        SettingError: nothing that holds texts.
        DataError: an item is no text; EmptyDataError where there is none.
    """
    if isinstance(source, str):
        return open_text(source, settings)
    settings = settings or DataSettings()
    return _spooled(objects.NAME, objects.documents(source, settings), settings, choose_rule(settings, SplitRule()))


def open_text(text: str, settings: DataSettings | None = None, name: str = "text") -> Corpus:
    """A corpus of text in hand, under the same rules as the text of a file.

    Raises:
        SettingError: it is no string.
    """
    if not isinstance(text, str):
        raise SettingError("the text", text, "a string", "join several, or write them to a file")
    settings = settings or DataSettings()
    text = records.clean(text.removeprefix("\ufeff"), name, settings.errors)
    data = text.encode("utf-8")
    origin = Origin(name, lambda: (data[i : i + CHUNK] for i in range(0, len(data), CHUNK)), len(data))
    return _read(name, [origin], settings, choose_rule(settings, SplitRule()))


def _read(
    name: str,
    origins: Sequence[Origin],
    settings: DataSettings,
    rule: SplitRule,
    progress: Progress | None = None,
    skipped: int = 0,
    group: str = "",
) -> Corpus:
    """A corpus of the documents of every stream."""
    sizes = [origin.size for origin in origins]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = 0

    def watched(origin: Origin) -> Iterator[bytes]:
        nonlocal done
        for chunk in origin.read():
            yield chunk
            done += len(chunk)
            if progress:
                progress(done, total)

    streams = (dataclasses.replace(origin, read=functools.partial(watched, origin)) for origin in origins)
    documents = (document for stream in streams for document in records.read_documents(stream, settings, group))
    return _spooled(name, documents, settings, rule, skipped)


def open_part(name: str, origins: Sequence[Origin], settings: DataSettings) -> Corpus:
    """The documents of one shard of a text: some splits may be empty, and none is cut by position."""
    documents = (document for origin in origins for document in records.read_documents(origin, settings))
    return _spooled(name, documents, settings, choose_rule(settings, SplitRule()), part=True)


def _spooled(
    name: str,
    documents: Iterator[Document],
    settings: DataSettings,
    rule: SplitRule,
    skipped: int = 0,
    *,
    part: bool = False,
) -> Corpus:
    if settings.max_chars is not None:
        documents = records.clip(documents, settings.max_chars)
    if settings.limit is not None:
        documents = records.first(documents, settings.limit)
    builder = _Builder(rule, skipped)
    for document in documents:
        builder.add(document)
    return builder.finish(name, part=part)


def empty_splits(name: str, lacking: Sequence[str], rule: str) -> EmptyDataError:
    """The error of a text that leaves splits empty which should have some."""
    problem = f"{name} leaves {' and '.join(lacking)} empty ({rule})"
    return EmptyDataError(problem, "give more text, other shares (--split 0.9,0.05,0.05) or --split none")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text, split, to be read any number of times (by one thread at a time)."""

    name: str  # what tables call it
    sha256: str  # of the content as read, document by document: the same from any container
    rule: str  # one sentence saying how it was split
    pretokenised: bool  # whether every document comes with its tokens
    skipped: int  # the number of files of a folder that are no text, and of documents without any text
    sizes: Mapping[str, SplitSize]  # of "train", "valid", "test", and of "all" of them
    _segments: Any = field(repr=False)
    encoded: str | None = None  # the folder that holds its ids, where it was encoded by itself

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of "train", "valid", "test" or "all", in order; large ones in pieces of at most PIECE_CHARS."""
        for segment in self._segments.of(split):
            yield from self._segments.pieces(segment)

    def text(self, split: str, max_bytes: int | None = None) -> bytes:
        """The raw bytes of a split, a newline between documents; at most `max_bytes`, the last ones."""
        tails: list[bytes] = []
        room = max_bytes if max_bytes is not None else sum(size.bytes + size.documents for size in self.sizes.values())
        for segment in self._segments.of(split, backwards=True):
            if room <= 0:
                break
            tail = self._segments.tail(segment, room) + (b"\n" if tails else b"")
            tails.append(tail[-room:])
            room -= len(tail)
        return b"".join(reversed(tails))


class _Blob:
    """Bytes laid end to end, in memory while there are few of them, in an unnamed file beyond."""

    def __init__(self) -> None:
        self.size = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  closed when the blob is gone
        weakref.finalize(self, self._file.close)

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            where = f"the temporary folder {tempfile.gettempdir()} cannot hold the text ({error.strerror})"
            raise DataError(where, "make room, or let TMPDIR name a larger one") from error
        self.size += len(data)

    def read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)

    def decoded(self, start: int, end: int) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for at in range(start, end, CHUNK):
            yield decoder.decode(self.read(at, min(at + CHUNK, end)))


@dataclass(frozen=True, eq=False)
class _Segments:
    """Where each of the N segments lies, in which split, and which document it is of."""

    texts: _Blob
    names: _Blob
    name_ends: Sequence[int]
    edges: np.ndarray  # N + 1
    codes_N: np.ndarray
    owners_N: Sequence[int] | np.ndarray
    pretokenised: bool

    def of(self, split: str, backwards: bool = False) -> Iterator[int]:
        """The numbers of the segments of a split, in order."""
        if split not in (*SPLITS, "all"):
            raise UnknownNameError("split", split, (*SPLITS, "all"))
        blocks = range(0, len(self.codes_N), CHUNK)
        for start in reversed(blocks) if backwards else blocks:
            block = self.codes_N[start : start + CHUNK]
            chosen = np.flatnonzero(block < len(SPLITS) if split == "all" else block == SPLITS.index(split)) + start
            yield from (chosen[::-1] if backwards else chosen).tolist()

    def pieces(self, segment: int) -> Iterator[Document]:
        start, end, owner = int(self.edges[segment]), int(self.edges[segment + 1]), int(self.owners_N[segment])
        name = self.names.read(self.name_ends[owner], self.name_ends[owner + 1]).decode("utf-8", "replace")
        split = SPLITS[self.codes_N[segment]]
        if self.pretokenised:
            for tokens, last in token_pieces(json.loads(self.texts.read(start, end))):
                yield Document(" ".join(tokens) + " " * (not last), name, tokens, partition=split, last=last)
        elif end - start <= PIECE_CHARS:
            yield Document(self.texts.read(start, end).decode("utf-8"), name, partition=split)
        else:
            for text, last in text_pieces(self.texts.decoded(start, end)):
                yield Document(text, name, partition=split, last=last)

    def tail(self, segment: int, room: int) -> bytes:
        start, end = self.edges[segment : segment + 2].tolist()
        if self.pretokenised:
            return " ".join(json.loads(self.texts.read(start, end))).encode("utf-8")[-room:]
        return self.texts.read(max(start, end - room), end)

    def size(self, split: str) -> SplitSize:
        documents = size = chars = 0
        for piece in (piece for segment in self.of(split) for piece in self.pieces(segment)):
            documents += piece.last
            size += len(piece.text.encode("utf-8"))
            chars += len(piece.text)
        return SplitSize(documents, size, chars)


class _Builder:
    """Spools documents as they come, piece by piece, and makes a corpus of them."""

    def __init__(self, rule: SplitRule, skipped: int) -> None:
        self._rule = rule
        self._skipped = skipped
        self._texts, self._names = _Blob(), _Blob()
        self._ends, self._name_ends, self._codes = array("q", [0]), array("q", [0]), bytearray()
        self._content = hashlib.sha256()
        self._totals = [[0, 0, 0] for _ in SPLITS]  # documents, bytes, characters
        self._pretokenised: bool | None = None
        self._placed = False  # by the source's partition or by group
        self._key, self._bytes, self._chars = hashlib.sha256(), 0, 0  # of the document at hand

    def add(self, document: Document) -> None:
        data = spooled = document.text.encode("utf-8")
        if data:
            self._bytes, self._chars = self._bytes + len(data), self._chars + len(document.text)
            if document.tokens is not None:
                spooled = json.dumps(document.tokens, ensure_ascii=False).encode("utf-8")
                data = _TOKEN_END.join(token.encode("utf-8") for token in document.tokens)
            if self._pretokenised is None:
                self._pretokenised = document.tokens is not None
            if self._pretokenised != (document.tokens is not None):
                found, before = ("text", "tokens") if self._pretokenised else ("tokens", "text")
                raise DataError(f"{document.id} holds {found}, but the documents before it {before}", "use one field")
            self._key.update(data)
            self._content.update(data)
            self._texts.write(spooled)
        if document.last:
            self._close(document)

    def _close(self, document: Document) -> None:
        if not self._bytes:
            self._skipped += 1
            return
        code = self._code(document)
        self._names.write(document.id.encode("utf-8", "replace"))
        self._name_ends.append(self._names.size)
        self._ends.append(self._texts.size)
        self._codes.append(code)
        self._content.update(_DOCUMENT_END)
        documents, size, chars = self._totals[code]
        self._totals[code] = [documents + 1, size + self._bytes, chars + self._chars]
        self._key, self._bytes, self._chars = hashlib.sha256(), 0, 0

    def _code(self, document: Document) -> int:
        named = self._rule.named and bool(document.partition)
        self._placed |= named or bool(document.group)
        if named:
            return SPLITS.index(document.partition)
        key = hashlib.sha256(document.group.encode("utf-8")) if document.group else self._key
        return code_of(key.digest(), self._rule.shares)

    def finish(self, name: str, *, part: bool = False) -> Corpus:
        """The corpus; unless it is a part, EmptyDataError where a split that should have text has none."""
        if not self._codes and not part:
            remedy = "give at least one character; a generator that was read already gives nothing"
            raise EmptyDataError(f"{name} holds no text", remedy)
        edges, codes_N = np.frombuffer(self._ends, dtype=np.int64), np.frombuffer(self._codes, dtype=np.uint8)
        owners_N: Sequence[int] | np.ndarray = range(len(codes_N))
        sizes = dict(zip(SPLITS, (SplitSize(*total) for total in self._totals), strict=True))
        few = len(codes_N) == 1 or (len(codes_N) < FEW and bool(self._lacking(sizes)))
        cut = not part and few and not self._placed and not self._pretokenised and max(self._rule.shares) < 1
        if cut:
            order = [SPLITS.index(split) for split in self._rule.order]
            cuts = position_cuts(edges.tolist(), [self._rule.shares[split] for split in order], self._texts.read)
            edges = np.union1d(edges, cuts)
            codes_N = np.array(order, np.uint8)[np.searchsorted(cuts, edges[:-1], side="right")]
            owners_N = np.searchsorted(self._ends, edges[:-1], side="right") - 1
        tokens = bool(self._pretokenised)
        segments = _Segments(self._texts, self._names, self._name_ends, edges, codes_N, owners_N, tokens)
        if cut:
            sizes = {split: segments.size(split) for split in SPLITS}
        rule = self._sentence(cut)
        if (lacking := self._lacking(sizes)) and not part:
            raise empty_splits(name, lacking, rule)
        sizes["all"] = SplitSize(*map(sum, zip(*map(dataclasses.astuple, sizes.values()), strict=True)))
        return Corpus(name, self._content.hexdigest(), rule, tokens, self._skipped, sizes, segments)

    def _lacking(self, sizes: Mapping[str, SplitSize]) -> list[str]:
        """The splits that should have documents and have none."""
        shares = zip(SPLITS, self._rule.shares, strict=True)
        return [split for split, share in shares if share > 0 and not sizes[split].documents]

    def _sentence(self, cut: bool) -> str:
        if self._rule.sentence:
            return self._rule.sentence
        if cut:
            return f"by position, in this order: {shares_in_words(self._rule.shares, self._rule.order)}"
        if self._placed and self._rule.named:
            return "as the source names it"
        unit = "group" if self._placed else "content"
        return f"by hash of each document's {unit}: {shares_in_words(self._rule.shares)}"
