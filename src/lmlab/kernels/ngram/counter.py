"""Counting large corpora: one pass over the words, no sort of the text, on as many threads as there are.

Each length k has a shelf of the k-grams seen so far, numbered in order of appearance and found by hashing. A piece of
text passes all shelves, the shortest first. The k-gram that ends at place i is (number of the (k-1)-gram that ends at
i - 1, word at i), and its suffix is the (k-1)-gram that ends at i: the shelf before has just numbered both. So no
k-gram is ever spelled out, and the places of a piece are independent questions.

Pieces follow each other through the shelves like cars on one lane: a piece takes the next shelf before it lets go of
its own, so none overtakes, and the numbers are the same on one thread or eight. At the end `arrange` brings every
level into the one order of `layout`, by context and word, and the order of appearance is forgotten.

Shapes: M words of a piece, G k-grams of a level, F (k-1)-grams, V words.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lmlab.errors import EmptyDataError, UsageError
from lmlab.kernels import engine
from lmlab.kernels.ngram import count as kernels
from lmlab.kernels.ngram.layout import NONE, Counts
from lmlab.kernels.ngram.merge import merge_level
from lmlab.memory import Rows, forget, resident, room

_BASE = 256 << 20  # what a process with all its libraries takes besides, where the system does not tell
_ARRANGING = 0.4  # of what its shelves take, a run takes so much more when it is brought into order
_LEAST_RUN = 16 << 20  # bytes; words alone may fill the memory, and smaller runs would help nobody
_FULL, _PACKED = 0.65, 0.85  # of an index: when it is made, and when it is made anew; fuller ones make longer searches
_GROWTH = 0.93  # so the number of different n-grams grows with the text: its power, of a large text a little less
_LEAP = 32  # but no index is made for so many times as many, whatever the text so far promises
_MORE = 1.5  # as many are expected where nobody knows how much text there is
PIECE = 1 << 16  # words that pass the shelves together: their nodes stay in the second-level cache


def count_sorted(ids_N: np.ndarray, words: Counts, order: int, memory: int | None = None) -> list[Counts]:
    """Count every k-gram, k <= order, of a corpus whose words are counted already."""
    counter = Counter(order, memory=memory)
    counter.count(pieces_of(ids_N))
    return counter.levels(len(words))


class Shelf:
    """The k-grams of one length k > 1, numbered in order of appearance.

    Attributes:
        size: how many there are.
        nbytes: what they take: each its key (context, word), its suffix and count, and the index.
    """

    def __init__(self) -> None:
        self.size = self.nbytes = 0
        self._nodes = Rows(PIECE, 2, np.uint64)
        self._slots = room((2 * PIECE,), np.uint32)
        self._last = NONE

    def number(
        self, ids_M: np.ndarray, shorter_M1: np.ndarray, share: float | None = None, weight: int = 1
    ) -> np.ndarray:
        """Take a piece in, and return the node of the k-gram that ends at each place, the place before it first.

        Args:
            ids_M: the words.
            shorter_M1: what the shelf before returned.
            share: of the text that has been read, where that is known.
            weight: what an occurrence counts.
        """
        self._make_room(len(ids_M), share)
        longer_M1 = np.empty(len(ids_M) + 1, dtype=np.uint32)
        longer_M1[0] = self._last
        self.size = kernels.number(ids_M, shorter_M1, self._nodes.array, self.size, self._slots, weight, longer_M1)
        self._last = longer_M1[-1]
        self.nbytes = 16 * self.size + self._slots.nbytes
        return longer_M1

    def _make_room(self, more: int, share: float | None) -> None:
        if self.size + more > len(self._nodes.array):
            self._nodes.grow(2 * self.size + more)
        if self.size + more > _PACKED * len(self._slots):
            times = _MORE
            if share and self.size > 2 * PIECE:  # the first words of a text tell little of the rest
                times = min(share**-_GROWTH, _LEAP)
            many = max(8 * PIECE, int((times * self.size + more) / _FULL))
            if many >= 1 << 32:
                raise UsageError(
                    f"{self.size:,} n-grams of one length are more than can be indexed",
                    "use a smaller order, or count a part of the data",
                )
            del self._slots
            self._slots = room((many,), np.uint32)
            kernels.index_nodes(self._nodes.array, self.size, self._slots)

    def close(self) -> np.ndarray:
        """The nodes without the spare room; the index is given up, and the shelf is of no more use."""
        del self._slots
        return self._nodes.array[: self.size]


class Counter:
    """Counts words that come in pieces.

    Args:
        order: the greatest length, any number >= 1.
        threads: how many to use; None is one a core.
        memory: bytes that the process may take; beyond, what was counted goes to disk as a run. None: all there is.
        share: tells how much of the text has been read.
    """

    def __init__(
        self,
        order: int,
        threads: int | None = None,
        memory: int | None = None,
        share: Callable[[], float] | None = None,
    ) -> None:
        self._order, self._memory, self._share = order, memory, share
        self._count_V = np.zeros(PIECE, dtype=np.uint32)
        self._shelves = [Shelf() for _ in range(order - 1)]
        self._runs: list[list[Counts]] = []
        self._tail = np.array([NONE], dtype=np.uint32)  # as many of the last words as begin an n-gram, and one before
        self._threads = min(threads or engine.cores(), order)
        self._gates = [threading.Lock() for _ in range(order)]
        self._stopped = self._ended = False

    def count(self, pieces: Iterable[np.ndarray]) -> None:
        """Count pieces of uint32 words, each about `PIECE` long, in their order, until there are no more.

        Args:
            pieces: the first begins with `<bos>`, or goes on where the pieces before ended.
        """
        rest, self._ended = iter(pieces), False
        while True:
            if self._threads == 1:
                self._drain(rest)
            else:
                with ThreadPoolExecutor(self._threads) as pool:
                    for drained in [pool.submit(self._drain, rest) for _ in range(self._threads)]:
                        drained.result()
            if self._ended:  # not: no longer full, as what other processes do makes this one larger and smaller
                return
            self._spill()

    def _drain(self, rest: Iterator[np.ndarray]) -> None:
        try:
            while not self._stopped and self._pass(rest):
                pass
        except BaseException:
            self._stopped = True
            raise

    def _pass(self, rest: Iterator[np.ndarray]) -> bool:
        """Take the next piece past all shelves; False when there is none, or no room."""
        held = self._gates[0]
        held.acquire()
        try:
            if self._full():
                return False
            ids_M = next(rest, None)
            if ids_M is None:
                self._ended = True
                return False
            nodes_M1 = self._count_words(ids_M)
            share = self._share() if self._share and not self._memory else None  # what is spilled need not last so long
            for shelf, gate in zip(self._shelves, self._gates[1:], strict=True):
                gate.acquire()
                held.release()
                held = gate
                nodes_M1 = shelf.number(ids_M, nodes_M1, share)
            return True
        finally:
            held.release()

    def _count_words(self, ids_M: np.ndarray) -> np.ndarray:
        """Count a piece's words, whose nodes are their ids; returns them, the word before it first."""
        most = int(ids_M.max(initial=0))
        if most >= len(self._count_V):
            self._count_V.resize(2 * most, refcheck=False)
        kernels.count_words(ids_M, self._count_V)
        words_M1 = np.concatenate([self._tail[-1:], ids_M])
        self._tail = np.concatenate([self._tail, ids_M])[-self._order :]
        return words_M1

    def _full(self) -> bool:
        if self._memory is None:
            return False
        shelves = sum(shelf.nbytes for shelf in self._shelves)
        return (resident() or _BASE + shelves) + _ARRANGING * shelves > self._memory and shelves > _LEAST_RUN

    def _spill(self) -> None:
        """Bring what was counted to disk and begin anew, led up to by the last words, which are not counted again."""
        self._runs.append(list(self._arranged(on_disk=True)))
        nodes_M1 = np.append(np.uint32(NONE), self._tail[1:])
        for shelf in self._shelves:
            nodes_M1 = shelf.number(self._tail[1:], nodes_M1, weight=0)

    def _arranged(self, *, on_disk: bool) -> Iterator[Counts]:
        """The levels from 2 on; the shelves are empty afterwards."""
        closed = [shelf.close() for shelf in self._shelves]
        self._shelves = [Shelf() for _ in closed]
        place_F = np.arange(len(self._count_V), dtype=np.uint32)
        while closed:
            level, place_F = arrange(closed.pop(0), place_F, longest=len(closed) == 0, on_disk=on_disk)
            yield level

    def levels(self, vocab_size: int, progress: Callable[[str], None] | None = None) -> list[Counts]:
        """All that was counted, one level for each length, the shortest first; the counter is of no more use.

        Raises:
            EmptyDataError: that is nothing.
        """
        count_V = self._count_V
        if not count_V.any():
            raise EmptyDataError("there are no tokens to count", "give some text")
        count_V.resize(vocab_size, refcheck=False)
        words_V = np.arange(vocab_size, dtype=np.uint64)
        levels = [Counts(words_V, np.zeros(vocab_size, dtype=np.uint32), count_V)]
        if self._runs:
            self._runs.append(list(self._arranged(on_disk=True)))
            longer = self._merged(vocab_size)
        else:
            longer = self._arranged(on_disk=False)
        for level in longer:
            levels.append(level)
            if progress:
                progress(f"{len(levels)}-grams: {len(level):,} distinct")
        return levels

    def _merged(self, vocab_size: int) -> Iterator[Counts]:
        """The levels of all runs together, on disk; the runs are given up level by level."""
        maps = [np.arange(vocab_size, dtype=np.uint32)] * len(self._runs)
        for _ in range(self._order - 1):
            level, maps = merge_level([run.pop(0) for run in self._runs], maps, on_disk=True)
            yield level


def arrange(
    nodes_G2: np.ndarray, place_F: np.ndarray, *, longest: bool, on_disk: bool = False
) -> tuple[Counts, np.ndarray]:
    """Bring a level from the order of appearance into that of context and word.

    Args:
        nodes_G2: as `Shelf` numbers them; used up.
        place_F: uint32, the final place of each node one level down.
        longest: whether nobody will ask for the places of this level.
        on_disk: lay it out in files.

    Returns:
        The level, and the final place of each of its nodes; of the longest level none.
    """
    size = len(nodes_G2)
    key_G = room((size,), np.uint64, on_disk=on_disk)
    suffix_G, count_G = (room((size,), np.uint32, on_disk=on_disk) for _ in range(2))
    place_G = room((0 if longest else size,), np.uint32)
    kernels.group(nodes_G2, place_F, room((len(place_F) + 1,), np.uint32), key_G)
    kernels.settle(nodes_G2, key_G, place_F, place_G, suffix_G, count_G)
    forget(key_G, suffix_G, count_G)
    return Counts(key_G, suffix_G, count_G), place_G


def pieces_of(ids_N: np.ndarray) -> Iterator[np.ndarray[Any, np.dtype[np.uint32]]]:
    """A corpus, memory-mapped or not, as pieces for `Counter.count`."""
    for start in range(0, len(ids_N), PIECE):
        yield np.array(ids_N[start : start + PIECE], dtype=np.uint32)
