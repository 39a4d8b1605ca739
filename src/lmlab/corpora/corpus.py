"""A corpus: documents laid end to end in one spool, each in its split, read again and again in bounded memory.

Reading a source yields documents; `_Builder` writes their UTF-8 bytes into a temporary file (in memory while small)
and keeps 17 bytes of index a document. So standard input, archives and folders are all read exactly once. A record
of tokens is spooled as a JSON list.

Shapes: N segments, a segment being a document or, where the text was cut by position, the part in one split.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmlab.corpora import named, records
from lmlab.corpora.document import PIECE_CHARS, Document
from lmlab.corpora.folders import folder_origins
from lmlab.corpora.pieces import text_pieces, token_pieces
from lmlab.corpora.raw import CHUNK, Origin, file_origin, stdin_origin
from lmlab.corpora.settings import DataSettings
from lmlab.corpora.splits import FEW, SPLITS, SplitRule, choose_rule, code_of, position_cuts, shares_in_words
from lmlab.errors import DataError, EmptyDataError, UnknownNameError

Progress = Callable[[int, int | None], None]
"""Called with the bytes read so far and the total, None where unknown."""

SPOOL_BYTES = 64 << 20
_TOKEN_END, _DOCUMENT_END = b"\xfe", b"\xff"  # bytes that no UTF-8 text contains


@dataclass(frozen=True)
class SplitSize:
    """How large a split is; bytes are UTF-8 of the text as it stood, of tokens joined by one space."""

    documents: int
    bytes: int
    chars: int


def open_corpus(source: str, settings: DataSettings | None = None, *, progress: Progress | None = None) -> Corpus:
    """Read a source once and split it.

    Args:
        source: a named corpus, a file, a folder, or "-" for standard input.
        settings: how to read and split it; the defaults where None.
        progress: told the bytes read (or downloaded), and of how many.

    Raises:
        UnknownNameError: no named corpus and no file is called so.
        DataError: the text cannot be read, or a split stays empty (EmptyDataError).

    >>> open_corpus("python-stdlib").pretokenised  # doctest: +SKIP
    True
    """
    settings = settings or DataSettings()
    if source in named.CORPORA:
        corpus = named.CORPORA[source]
        settings = corpus.settings(settings)
        origins = named.origins(corpus, settings, progress)
        return _read(source, origins, settings, choose_rule(settings, corpus.rule), progress, group=corpus.group_field)
    rule = choose_rule(settings, SplitRule())
    path = Path(source)
    if source == "-":
        return _read("standard input", [stdin_origin()], settings, rule, progress)
    if path.is_dir():
        origins, skipped = folder_origins(path, settings.unit)
        if settings.unit == "auto":
            settings = dataclasses.replace(settings, unit="document")
        return _read(path.name or source, origins, settings, rule, progress, skipped)
    if not path.exists():
        raise UnknownNameError("file and no corpus", source, named.CORPORA)
    return _read(path.name, [file_origin(path)], settings, rule, progress)


def open_text(text: str, settings: DataSettings | None = None, name: str = "text") -> Corpus:
    """A corpus of text in hand, under the same rules as the text of a file."""
    settings = settings or DataSettings()
    text = records.clean(text.removeprefix("\ufeff"), name, settings.errors)
    data = text.encode("utf-8")
    origin = Origin(name, lambda: (data[i : i + CHUNK] for i in range(0, len(data), CHUNK)), len(data))
    return _read(name, [origin], settings, choose_rule(settings, SplitRule()), None)


def _read(
    name: str,
    origins: Sequence[Origin],
    settings: DataSettings,
    rule: SplitRule,
    progress: Progress | None,
    skipped: int = 0,
    group: str = "",
) -> Corpus:
    """The documents of every stream, cut and limited as asked, spooled."""
    watched = _watch(origins, progress) if progress else origins
    documents: Iterator[Document]
    documents = (document for origin in watched for document in records.read_documents(origin, settings, group))
    if settings.max_chars is not None:
        documents = records.clip(documents, settings.max_chars)
    if settings.limit is not None:
        documents = records.first(documents, settings.limit)
    builder = _Builder(rule, skipped)
    for document in documents:
        builder.add(document)
    return builder.finish(name)


def _watch(origins: Sequence[Origin], progress: Progress) -> list[Origin]:
    """The same streams, telling how many bytes have passed."""
    sizes = [origin.size for origin in origins]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    done = 0

    def read(origin: Origin) -> Iterator[bytes]:
        nonlocal done
        for chunk in origin.read():
            yield chunk
            done += len(chunk)
            progress(done, total)

    return [dataclasses.replace(origin, read=functools.partial(read, origin)) for origin in origins]


class Corpus:
    """A text, split, and read as often as one likes (by one thread at a time).

    Attributes:
        name: what it is called in tables.
        sha256: of the content as read, document by document: the same from any container.
        rule: one sentence saying how it was split.
        pretokenised: whether every document comes with its tokens.
        skipped: files of a folder that are no text, and documents without any text.
        sizes: the size of "train", "valid", "test", and of "all" of them.
    """

    def __init__(self, name: str, sha256: str, rule: str, pretokenised: bool, skipped: int, index: _Index) -> None:
        self.name = name
        self.sha256 = sha256
        self.rule = rule
        self.pretokenised = pretokenised
        self.skipped = skipped
        self.sizes: dict[str, SplitSize] = {}
        self._index = index

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of "train", "valid", "test" or "all", in order; large ones in pieces of at most PIECE_CHARS.

        Raises:
            UnknownNameError: there is no such split.
        """
        for segment in self._segments(split):
            yield from self._pieces(segment)

    def text(self, split: str, max_bytes: int | None = None) -> bytes:
        """The raw bytes of a split, a newline between documents; at most `max_bytes`, the last ones."""
        parts: list[bytes] = []
        room = max_bytes if max_bytes is not None else sum(size.bytes + size.documents for size in self.sizes.values())
        for segment in self._segments(split, backwards=True):
            if room <= 0:
                break
            part = self._tail(segment, room) + (b"\n" if parts else b"")
            parts.append(part[-room:])
            room -= len(part)
        return b"".join(reversed(parts))

    def _segments(self, split: str, backwards: bool = False) -> Iterator[int]:
        if split not in (*SPLITS, "all"):
            raise UnknownNameError("split", split, (*SPLITS, "all"))
        codes_N = self._index.codes
        blocks = range(0, len(codes_N), CHUNK)
        for start in reversed(blocks) if backwards else blocks:
            block = codes_N[start : start + CHUNK]
            chosen = np.flatnonzero(block < len(SPLITS) if split == "all" else block == SPLITS.index(split)) + start
            yield from (chosen[::-1] if backwards else chosen).tolist()

    def _pieces(self, segment: int) -> Iterator[Document]:
        start, end = self._index.span(segment)
        name, partition = self._index.name(segment), SPLITS[self._index.codes[segment]]
        if self.pretokenised:
            for tokens, last in token_pieces(json.loads(self._index.texts.read(start, end))):
                yield Document(" ".join(tokens) + " " * (not last), name, tokens, partition=partition, last=last)
        elif end - start <= PIECE_CHARS:
            yield Document(self._index.texts.read(start, end).decode("utf-8"), name, partition=partition)
        else:
            for text, last in text_pieces(self._index.texts.decoded(start, end)):
                yield Document(text, name, partition=partition, last=last)

    def _tail(self, segment: int, room: int) -> bytes:
        start, end = self._index.span(segment)
        if self.pretokenised:
            return " ".join(json.loads(self._index.texts.read(start, end))).encode("utf-8")[-room:]
        return self._index.texts.read(max(start, end - room), end)


class _Blob:
    """Bytes laid end to end, in memory while there are few of them, in an unnamed file beyond."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  closed when the blob is gone
        weakref.finalize(self, self._file.close)

    def write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            where = f"the temporary folder {tempfile.gettempdir()} cannot hold the text ({error.strerror})"
            raise DataError(where, "make room, or let TMPDIR name a larger one") from error

    def read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)

    def decoded(self, start: int, end: int) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for at in range(start, end, CHUNK):
            yield decoder.decode(self.read(at, min(at + CHUNK, end)))


@dataclass
class _Index:
    """Where each of the N segments lies, in which split, and which document it is of."""

    texts: _Blob
    names: _Blob
    name_ends: Sequence[int]
    starts: np.ndarray
    ends: np.ndarray
    codes: np.ndarray
    owners: Sequence[int] | np.ndarray

    def span(self, segment: int) -> tuple[int, int]:
        return int(self.starts[segment]), int(self.ends[segment])

    def name(self, segment: int) -> str:
        owner = int(self.owners[segment])
        return self.names.read(self.name_ends[owner], self.name_ends[owner + 1]).decode("utf-8", "replace")


class _Builder:
    """Takes documents in, piece by piece, and makes a corpus of them."""

    def __init__(self, rule: SplitRule, skipped: int) -> None:
        self._rule = rule
        self._skipped = skipped
        self._texts, self._names = _Blob(), _Blob()
        self._ends, self._name_ends, self._codes = array("q", [0]), array("q", [0]), bytearray()
        self._content = hashlib.sha256()
        self._totals = [[0, 0, 0] for _ in SPLITS]  # documents, bytes, characters
        self._tokens: bool | None = None
        self._placed = False  # by the source's partition or by group
        self._begin()

    def _begin(self) -> None:
        self._key = hashlib.sha256()
        self._spooled = self._bytes = self._chars = 0

    def add(self, document: Document) -> None:
        """One document, or a piece of it."""
        data = document.text.encode("utf-8")
        if data:
            spooled = data
            self._bytes, self._chars = self._bytes + len(data), self._chars + len(document.text)
            if document.tokens is not None:
                spooled = json.dumps(document.tokens, ensure_ascii=False).encode("utf-8")
                data = _TOKEN_END.join(token.encode("utf-8") for token in document.tokens)
            if self._tokens is not (document.tokens is not None):
                self._first_kind(document)
            self._key.update(data)
            self._content.update(data)
            self._texts.write(spooled)
            self._spooled += len(spooled)
        if document.last:
            self._close(document)

    def _first_kind(self, document: Document) -> None:
        tokens = document.tokens is not None
        if self._tokens is not None:
            kinds = ("tokens", "text") if tokens else ("text", "tokens")
            raise DataError(f"{document.id} holds {kinds[0]}, but the documents before it {kinds[1]}", "use one field")
        self._tokens = tokens

    def _close(self, document: Document) -> None:
        if not self._bytes:
            self._skipped += 1
            return
        code = self._code(document)
        name = document.id.encode("utf-8", "replace")
        self._names.write(name)
        self._name_ends.append(self._name_ends[-1] + len(name))
        self._ends.append(self._ends[-1] + self._spooled)
        self._codes.append(code)
        self._content.update(_DOCUMENT_END)
        total = self._totals[code]
        total[0] += 1
        total[1] += self._bytes
        total[2] += self._chars
        self._begin()

    def _code(self, document: Document) -> int:
        if document.partition and self._rule.named:
            self._placed = True
            return SPLITS.index(document.partition)
        if document.group:
            self._placed = True
            return code_of(hashlib.sha256(document.group.encode("utf-8")).digest(), self._rule.shares)
        return code_of(self._key.digest(), self._rule.shares)

    def finish(self, name: str) -> Corpus:
        """The corpus.

        Raises:
            EmptyDataError: no text at all, or a split that should have some has none.
        """
        if not self._codes:
            raise EmptyDataError(f"{name} holds no text", "give a source with at least one character")
        edges = np.frombuffer(self._ends, dtype=np.int64)
        codes_N = np.frombuffer(self._codes, dtype=np.uint8)
        cut = self._must_cut()
        if cut:
            order = [SPLITS.index(split) for split in self._rule.order]
            shares = [self._rule.shares[split] for split in order]
            cuts = position_cuts(edges.tolist(), shares, self._texts.read)
            edges = np.union1d(edges, cuts)
            codes_N = np.array(order, np.uint8)[np.searchsorted(cuts, edges[:-1], side="right")]
        owners_N = np.searchsorted(self._ends, edges[:-1], side="right") - 1 if cut else range(len(codes_N))
        index = _Index(self._texts, self._names, self._name_ends, edges[:-1], edges[1:], codes_N, owners_N)
        sha256, tokens = self._content.hexdigest(), bool(self._tokens)
        corpus = Corpus(name, sha256, self._sentence(cut), tokens, self._skipped, index)
        corpus.sizes = self._sizes(corpus if cut else None)
        self._require_splits(corpus)
        return corpus

    def _must_cut(self) -> bool:
        """Too few documents for the hash: one, or a few that leave a split empty."""
        few = len(self._codes) == 1 or (
            len(self._codes) < FEW and bool(self._lacking(total[0] for total in self._totals))
        )
        return few and not self._placed and not self._tokens and max(self._rule.shares) < 1

    def _lacking(self, documents: Iterable[int]) -> list[str]:
        found = zip(SPLITS, self._rule.shares, documents, strict=True)
        return [split for split, share, count in found if share > 0 and not count]

    def _sentence(self, cut: bool) -> str:
        if self._rule.sentence:
            return self._rule.sentence
        if cut:
            return f"by position, in this order: {shares_in_words(self._rule.shares, self._rule.order)}"
        shares = shares_in_words(self._rule.shares)
        if self._placed and self._rule.named:
            return "as the source names it"
        return f"by hash of each document's {'group' if self._placed else 'content'}: {shares}"

    def _sizes(self, cut: Corpus | None) -> dict[str, SplitSize]:
        totals = self._totals
        if cut is not None:
            totals = [_measure(cut.documents(split)) for split in SPLITS]
        sizes = {split: SplitSize(*total) for split, total in zip(SPLITS, totals, strict=True)}
        return sizes | {"all": SplitSize(*(sum(column) for column in zip(*totals, strict=True)))}

    def _require_splits(self, corpus: Corpus) -> None:
        lacking = self._lacking(corpus.sizes[split].documents for split in SPLITS)
        if lacking:
            problem = f"{corpus.name} leaves {' and '.join(lacking)} empty ({corpus.rule})"
            raise EmptyDataError(problem, "give more text, other shares (--split 0.9,0.05,0.05) or --split none")


def _measure(documents: Iterable[Document]) -> list[int]:
    total = [0, 0, 0]
    for document in documents:
        total[0] += document.last
        total[1] += len(document.text.encode("utf-8"))
        total[2] += len(document.text)
    return total
