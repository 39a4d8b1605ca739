"""Batch scoring at the speed of memory: pieces of a text go up through the levels, on as many threads as there are.

What limits this is how often memory is waited for, so everything that a question can ask lies in one place. Each level
above the words has a hash table whose lines are 64 bytes long, so that a question is one wait for memory; of the 16
numbers of 32 bits in a line

    0            has bit s set where slot s is taken, and bit 0 where a k-gram of this line had to go to a later one
    1 to n       are the marks of n slots: 7 on the longest level, 5 on the others
    n+1 to 2n    are their ln p
    2n+1 to 3n   are their ln b, not on the longest level

A k-gram is named by where its entry lies, in the entries of the level above too. Its key, made of where its context's
entry lies one level down and of its word, is mixed one to one. The number that comes out chooses the line by its upper
bits; the lower 32 are the mark. The numbers of a few lines in a row differ by less than 2^32, and no question looks
further: among them, equal marks are equal keys.

Where memory is not waited for, branches that the processor guesses wrong would be most of the time. Whether a k-gram is
stored cannot be guessed; so looking it up does the same whatever comes out, and only then chooses.

Shapes: N ids, M places of a piece, V words, G nodes of a level, F of the level below, L lines of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import uint8, uint32, uint64

from lmlab.errors import UsageError
from lmlab.kernels import engine
from lmlab.kernels.intrinsics import choose, equal_of_8, lowest, prefetch
from lmlab.kernels.jit import inline, jit
from lmlab.kernels.ngram.layout import Level, context_lengths
from lmlab.memory import fixed, room
from lmlab.vocabulary import BOS

PIECE = 1 << 14  # words scored together: what lies between the levels stays in the second-level cache
_FULL = 0.65  # of the slots, that is; fuller tables make longer searches
_LEAST_RUN = 4  # lines that may send n-grams on to the next, one after the other: enough where few slots are taken
_MOST = 1 << 28  # lines of a table: 16 GB
FARTHEST = 64  # lines between where a k-gram belongs and where it lies, at most, in any table
_AHEAD = 32  # nodes whose lines are asked for before they are entered
_BLOCK = 256  # places whose questions are under way together
_LOW = uint64(0xFFFFFFFF)
_ONE = uint64(1)


class Tables:
    """The entries of a model.

    Args:
        levels: of the model.
        absent: what a context that was never seen adds.
        places: receives where the entries of each level but the longest lie, 8 line + slot.

    Attributes:
        words_V2: float32, ln p and ln b of the words.
        tables: of each level above, the table, and its shape as `enter` knows it.
    """

    def __init__(self, levels: Sequence[Level], absent: float, places: list[np.ndarray] | None = None) -> None:
        self._absent = np.float32(absent)
        self.words_V2 = np.stack([levels[0].logp_G, _backoffs(levels[0])], axis=1)
        self.words_V2[BOS, 0] = 0  # as it is said to score
        self.tables: list[tuple[Any, ...]] = []
        place_F, entries = np.arange(len(self.words_V2), dtype=np.uint32), len(self.words_V2)
        for k, level in enumerate(levels[1:], 2):
            if places is not None:
                places.append(place_F)
            place_G = room((0 if k == len(levels) else len(level.key_G),), np.uint32)
            self.tables.append(self._table(level, place_F, entries, place_G))
            place_F, entries = place_G, len(self.tables[-1][0]) // 2

    def _table(self, level: Level, place_F: np.ndarray, entries: int, place_G: np.ndarray) -> tuple[Any, ...]:
        """The table of a level, and its shape as `enter` knows it; `entries` bounds what is in `place_F`."""
        word_bits, slots = (len(self.words_V2) - 1).bit_length(), 5 if len(place_G) else 7
        key_bits = word_bits + (entries - 1).bit_length()
        spread = max(0, key_bits - 31)  # the possible keys are 2^31 times 2^spread
        lines = max(int(len(level.key_G) / _FULL / slots) + 1, _LEAST_RUN << spread)
        arrays = fixed(level.key_G), fixed(level.logp_G), fixed(level.backoff_G), place_F
        while lines < _MOST:
            table_L16 = room((lines + FARTHEST, 16), np.uint32)
            shape = word_bits, 64 - key_bits, slots, lines
            farthest = min(lines >> spread, FARTHEST)
            if enter(*arrays, *shape, farthest, table_L16, place_G):
                return fixed(table_L16.ravel()), *shape
            lines *= 2
        raise UsageError(f"{len(level.key_G):,} n-grams of one length are too many for a table", "use a smaller order")

    @property
    def nbytes(self) -> int:
        """What all entries take, in bytes."""
        return self.words_V2.nbytes + sum(table[0].nbytes for table in self.tables)

    def logp_array(self, ids_N: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Log-probability of each id, float32; every `<bos>` opens a new document and itself scores 0.

        Args:
            ids_N: documents laid end to end, memory-mapped or not.
            threads: how many to use; None is one a core. The result is the same.
        """
        logp_N = np.empty(len(ids_N), dtype=np.float32)

        def score(start: int) -> None:
            warm = min(start, len(self.tables))  # tokens before the piece that its first contexts reach
            piece = np.array(ids_N[start - warm : start + PIECE], dtype=np.uint32)
            logp_N[start : start + PIECE] = self._score(piece)[warm:]

        engine.each(score, range(0, len(ids_N), PIECE), threads)
        return logp_N

    def _score(self, ids_M: np.ndarray) -> np.ndarray:
        entry_M, reached_M = np.empty(len(ids_M), dtype=np.uint32), np.empty(len(ids_M), dtype=np.uint8)
        weight_M, logp_M = np.empty(len(ids_M), dtype=np.float32), np.empty(len(ids_M), dtype=np.float32)
        look_up_words(ids_M, self.words_V2, entry_M, weight_M, reached_M, logp_M)
        for k, table in enumerate(self.tables, 2):
            look_up(ids_M, k, *table, entry_M, weight_M, reached_M, logp_M)
        if self._absent:
            order = len(self.tables) + 1
            stored_M = np.minimum(np.append(0, reached_M[:-1]), order - 1)  # how long the context of each place is
            logp_M += self._absent * (context_lengths(ids_M, order) - stored_M)
            logp_M[ids_M == BOS] = 0
        return logp_M


def _backoffs(level: Level) -> np.ndarray:
    """The weights of a level's k-grams as contexts; the longest are none."""
    return level.backoff_G if len(level.backoff_G) else np.zeros(len(level.key_G), dtype=np.float32)


# ---- loops


@inline
def _mix(context, word, bits, factor):
    key = (uint64(context) << bits) | uint64(word)
    return (key ^ (key >> bits)) * factor  # the upper bits of a uint64: `factor` is shifted up


@inline
def _line(mixed, lines):
    return ((mixed >> uint64(32)) * lines) >> uint64(32)


@inline
def _factor(unused):
    return uint64(0x9E3779B97F4A7C15) << unused


@jit
def enter(key_G, logp_G, backoff_G, place_F, bits, unused, slots, lines, farthest, table_L16, place_G):
    """Fill the empty table of a level.

    Args:
        key_G: of the level.
        logp_G: of the level.
        backoff_G: of the level; empty on the longest.
        place_F: uint32, where the entry of each node one level down lies; of a word, its id.
        bits: of a word's id.
        unused: how many of 64 bits a key leaves.
        slots: of a line.
        lines: among which the keys are spread; the table has `FARTHEST` more.
        farthest: how many lines in a row, at most, share 2^31 of all possible keys; the limit to runs of full ones.
        table_L16: uint32, zeros.
        place_G: uint32, receives where the entry of each node lies, 8 line + slot; empty where nobody asks.

    Returns:
        Whether no two keys can be taken for each other; else more lines are needed.
    """
    bits, unused, lines, places = uint64(bits), uint64(unused), uint64(lines), len(place_G)
    factor, halves = _factor(unused), table_L16.view(np.float32)
    for node in range(len(key_G)):
        if node + _AHEAD < len(key_G):
            key = key_G[node + _AHEAD]
            mixed = _mix(place_F[np.int64(key >> uint64(32))], key & _LOW, bits, factor)
            prefetch(table_L16, np.int64(_line(mixed, lines)) * 16)
        key = key_G[node]
        mixed = _mix(place_F[np.int64(key >> uint64(32))], key & _LOW, bits, factor)
        line = np.int64(_line(mixed, lines))
        slot = lowest(~uint64(table_L16[line, 0] | uint32(1)))
        while slot > slots:
            if table_L16[line, 0] & uint32(1) == 0:
                table_L16[line, 0] |= uint32(1)
                if _run(table_L16, line) >= farthest:
                    return False
            line += 1
            slot = lowest(~uint64(table_L16[line, 0] | uint32(1)))
        table_L16[line, 0] |= uint32(1) << uint32(slot)
        table_L16[line, slot] = uint32(mixed >> unused)
        halves[line, slots + slot] = logp_G[node]
        if len(backoff_G):
            halves[line, 2 * slots + slot] = backoff_G[node]
        if places:
            place_G[node] = uint32(uint64(line) * uint64(8) + slot)
    return True


@inline
def _run(table_L16, line):
    """How many lines in a row sent k-grams on."""
    first, last = line, line
    while first > 0 and table_L16[first - 1, 0] & uint32(1) != 0:
        first -= 1
    while table_L16[last + 1, 0] & uint32(1) != 0:
        last += 1
    return last + 1 - first


@jit
def look_up_words(ids_M, words_V2, entry_M, weight_M, reached_M, logp_M):
    """Begin a piece with the scores of its words without a context, and what `look_up` goes on from."""
    for place in range(len(ids_M)):
        if place + 2 * _AHEAD < len(ids_M):
            prefetch(words_V2, np.int64(ids_M[place + 2 * _AHEAD]) * 2)
        word = ids_M[place]
        reached_M[place], entry_M[place] = 1, word
        logp_M[place], weight_M[place] = words_V2[word, 0], words_V2[word, 1]


@jit
def look_up(ids_M, k, table, bits, unused, slots, lines, entry_M, weight_M, reached_M, logp_M):
    """Take the scores of a piece up to level k: a stored k-gram has its own, any other adds its context's weight.

    Args:
        ids_M: uint32, the words.
        k: the level.
        table: uint32, its lines, end to end.
        bits: of a word's id.
        unused: as for `enter`.
        slots: of a line.
        lines: as for `enter`.
        entry_M: uint32, where the entry lies of the longest n-gram found so far that ends at each place; changed in
            place, as is all that follows.
        weight_M: float32, its weight as a context.
        reached_M: uint8, its length.
        logp_M: float32, the scores as the shorter levels left them.
    """
    many = max(len(ids_M) - 1, 0)
    where_M, asked_M = np.empty(many, np.uint64), np.empty(many, np.uint8)
    question = ids_M[1:], uint8(k - 1), uint64(bits), uint64(unused), uint64(lines)
    _ask(*question, entry_M[:-1], weight_M[:-1], reached_M[:-1], reached_M[1:], logp_M[1:], where_M, asked_M)
    answer = entry_M[1:], weight_M.view(np.uint32)[1:], reached_M[1:], logp_M.view(np.uint32)[1:]
    _answer(asked_M, where_M, uint64(k - 1), table, uint64(slots), *answer)


@jit
def _ask(ids_M, below, bits, unused, lines, entry_M, weight_M, length_M, reached_M, logp_M, where_M, asked_M):
    """Of each place and the one before it: the sum of score and weight, whether the table is asked, and where."""
    factor = _factor(unused)
    for i in range(len(ids_M)):
        known = (length_M[i] == below) & (ids_M[i] != BOS)
        logp_M[i] = choose(uint8(known), logp_M[i] + weight_M[i], logp_M[i])
        asked_M[i] = known & (reached_M[i] == below)  # without its suffix, no k-gram can be stored
        mixed = _mix(entry_M[i], ids_M[i], bits, factor)
        where_M[i] = (_line(mixed, lines) << uint64(36)) | ((mixed >> unused) & _LOW)


@jit
def _answer(asked_M, where_M, below, table, slots, entry_M, weight_M, reached_M, logp_M):
    """Look up what is asked; the scores, of which only bits are moved, are already those of a k-gram not stored."""
    queue, many = np.empty(len(asked_M), np.uint32), uint64(len(asked_M))
    read, waiting = uint64(0), uint64(0)
    while read < many or waiting > uint64(0):
        stop = min(read + uint64(_BLOCK), many)
        while read < stop:
            queue[waiting] = read
            waiting += uint64(asked_M[read])
            prefetch(table, np.int64(choose(asked_M[read], where_M[read] >> uint64(32), uint64(0))))
            read += _ONE
        asked, waiting, q = waiting, uint64(0), uint64(0)
        while q < asked:
            place = uint64(queue[q])
            here = where_M[place]
            line = here >> uint64(32)
            taken = uint64(table[line])
            met = equal_of_8(table, np.int64(line), uint32(here)) & taken & uint64(0xFE)
            found = uint64(met != uint64(0))
            slot = lowest(met) & uint64(7)
            entry_M[place] = (line >> _ONE) + slot
            reached_M[place] = below + found
            logp_M[place] = choose(found, table[line + slots + slot], logp_M[place])
            weight_M[place] = table[line + ((slots + slots + slot) & uint64(15))]
            on = taken & ~found & _ONE
            prefetch(table, np.int64(line + (on << uint64(4))))
            where_M[place] = here + (on << uint64(36))
            queue[waiting] = place
            waiting += on
            q += _ONE
