"""Texts as whitespace words, read as bytes and counted: a text of any size, neither it nor its ids held."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmlab.corpora.raw import Origin, named_origin
from lmlab.corpora.reading import inflate, packed, utf8, whole_words
from lmlab.errors import DataError, EmptyDataError
from lmlab.kernels import engine
from lmlab.kernels.ngram.layout import Counts
from lmlab.memory import parse_size
from lmlab.models.ngram.counts import count_ngrams
from lmlab.progress import Reporter
from lmlab.tokens.scan import WordScanner, scanner
from lmlab.vocabulary import EOS, SPACES, SPECIALS

_SYMBOL = re.compile(f"<(?<![^{SPACES}]<)(?:/?s|unk)>(?![^{SPACES}])".encode())
"""A word that ARPA files reserve."""
_NORMALISATION = "Every run of white space (also newlines) becomes one space."


def origin_of(source: Any, errors: str) -> Origin:
    """The bytes of a file or of an object's texts; of a generator only once, so that nobody knows their size."""
    if isinstance(source, str | Path):
        return named_origin(str(source))
    from lmlab.corpora import objects  # which files do without

    size = None if objects.is_stream(source) else sum(map(len, objects.lines(source, errors)))
    return Origin(objects.NAME, lambda: objects.lines(source, errors), size)


def _packed(origin: Origin) -> bool:
    return not origin.start and packed(origin.read())


class Counted(NamedTuple):
    """A text counted."""

    levels: list[Counts]
    words: list[str]  # from id 4 on
    data: Mapping[str, Any]  # what a manifest says of the text


class Texts:
    """The texts to count, read as often as needed, with a bar."""

    def __init__(
        self, origins: Sequence[Origin], reporter: Reporter, *, errors: str, ended: bool, skip_symbols: bool
    ) -> None:
        self._origins = [dataclasses.replace(origin, read=self._watched(origin)) for origin in origins]
        self._reporter, self._errors, self._ended, self._skip = reporter, errors, ended, skip_symbols
        self._digest = hashlib.sha256()
        self._read, self._bytes = 0, 0

    @classmethod
    def of(cls, sources: Sequence[Any], settings: Any, reporter: Reporter, *, errors: str, skip_symbols: bool) -> Texts:
        """Files, by their names, or what a program holds, as an n-gram model's settings want them."""
        origins = [origin_of(source, errors) for source in sources]
        ended = settings.compat == "none"  # lmplz gives a last line without newline no end
        return cls(origins, reporter, errors=errors, ended=ended, skip_symbols=skip_symbols)

    def _watched(self, origin: Origin) -> Callable[[], Iterator[bytes]]:
        def read() -> Iterator[bytes]:
            for chunk in origin.read():
                self._read += len(chunk)
                yield chunk

        return read

    @cached_property
    def size(self) -> int | None:
        """How many bytes the sources have; None where nobody knows beforehand."""
        sizes = [origin.size for origin in self._origins]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @cached_property
    def text_size(self) -> int | None:
        """How many bytes of text they hold; None where nobody knows beforehand."""
        return None if self.size is None or any(map(_packed, self._origins)) else self.size

    def share(self) -> float:
        """How much of them has been read this time."""
        return self._read / (self.size or 1)

    def ids(self, words: WordScanner, title: str) -> Iterator[np.ndarray]:
        """Their ids, in pieces."""
        self._digest, self._read, self._bytes = hashlib.sha256(), 0, 0
        with self._reporter.stage(title, self.size) as advance:
            for origin in self._origins:
                lines = 0
                chunks = origin.read() if origin.start else inflate(origin.read(), origin.name)
                pieces = utf8(chunks, origin.name, self._errors, origin.start)
                for piece in whole_words(pieces, origin.name):
                    self._digest.update(piece)
                    self._bytes += len(piece)
                    ids_N = words.feed(self._plain(piece, origin, lines))
                    lines += int(np.count_nonzero(ids_N == EOS))
                    advance(self._read)
                    yield ids_N
                last = words.close()
                if self._ended:
                    yield last

    def _plain(self, piece: bytes, origin: Origin, lines: int) -> bytes:
        """A piece of text after so many lines, without the words that ARPA files reserve."""
        if b">" not in piece or not (found := _SYMBOL.search(piece)):
            return piece
        if self._skip:
            return _SYMBOL.sub(b" ", piece)
        line = 1 + lines + piece.count(b"\n", 0, found.start())
        where = f"{origin.name}:{line}"
        if origin.start:
            where = f"{origin.name}, line {line} from byte {origin.start:,} on,"
        problem = f"{where} holds the word {found[0].decode()}, which models have for their own"
        raise DataError(problem, "take it out, or read it as white space by --skip-symbols")

    def describe(self) -> Mapping[str, Any]:
        """What the manifest says of the data."""
        names = ", ".join(Path(origin.name).name for origin in self._origins)
        return described_text(names, self._digest.hexdigest(), self._bytes)


def described_text(names: str, digest: str | None, size: int) -> dict[str, Any]:
    """What a manifest says of texts of so many bytes, with their SHA-256 where it is known."""
    return {
        "name": names,
        "sha256": digest,
        "split_rule": "none",
        "splits": {"train": {"bytes": size}},
        "normalisation": _NORMALISATION,
    }


def count(
    texts: Texts, settings: Any, words: WordScanner, reporter: Reporter, threads: int | None = None
) -> list[Counts]:
    """The levels of a text's n-grams, as settings of an n-gram model say."""
    pieces = (ids for ids in texts.ids(words, "counting") if len(ids))
    memory = parse_size(settings.memory) if settings.memory else None
    if memory is None and texts.text_size is not None and not engine.compiled(texts.text_size):
        ids_N = np.concatenate([np.empty(0, dtype=np.uint32), *pieces])
        return count_ngrams(ids_N, settings.order, len(words))
    from lmlab.kernels.ngram.counter import Counter

    counter = Counter(settings.order, threads, memory=memory, share=texts.share if texts.size else None)
    counter.count(pieces)
    words.seal()
    with reporter.stage("bringing n-grams into order"):
        return counter.levels(len(words), reporter.say)


def words_of_texts(texts: Texts) -> tuple[list[str], np.ndarray]:
    """Every word in order of appearance, and the counts of specials and words by their ids, int64."""
    words = scanner(texts.text_size)
    count_V = np.zeros(len(SPECIALS), dtype=np.int64)
    for ids_M in texts.ids(words, "building the vocabulary"):
        more_V = np.bincount(ids_M, minlength=len(count_V))
        more_V[: len(count_V)] += count_V
        count_V = more_V
    return words.words(), count_V


def commonest(count_V: np.ndarray, vocab_size: int | None, min_count: int) -> np.ndarray:
    """The ids of the words that are frequent enough, the commonest first, equals in order of appearance.

    Raises:
        EmptyDataError: none is.
    """
    count_W = count_V[len(SPECIALS) :]
    order_W = np.argsort(-count_W, kind="stable")
    order_W = order_W[count_W[order_W] >= min_count]
    if not len(order_W):
        raise EmptyDataError(f"no word occurs min_count={min_count} times", "give more text or lower min_count")
    return order_W[: None if vocab_size is None else vocab_size - len(SPECIALS)] + len(SPECIALS)
