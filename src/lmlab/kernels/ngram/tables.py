"""Batch scoring at the speed of memory: pieces of a text go up through the levels, on as many threads as there are.

What limits this is how often memory is waited for, so everything that a question can ask lies in one place. Each level
above the words has a hash table, its lines 64 bytes long (score.py), and a k-gram is named by where its entry
lies, in the entries of the level above too. One look finds a k-gram, its probability, and its weight as a context of
the next word; a k-gram that is not there costs one look as well.

Shapes: N ids, M places of a piece, L lines of a table, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.errors import UsageError
from lmlab.kernels import engine
from lmlab.kernels.ngram import score as loops
from lmlab.kernels.ngram.layout import Level, context_lengths
from lmlab.memory import fixed, room
from lmlab.vocabulary import BOS

PIECE = 1 << 14  # words scored together: what lies between the levels stays in the second-level cache
_FULL = 0.65  # of the slots, that is; fuller tables make longer searches
_LEAST_RUN = 4  # lines that may send n-grams on to the next, one after the other: enough where few slots are taken
_MOST = 1 << 28  # lines of a table: 16 GB


class Tables:
    """The entries of a model.

    Args:
        levels: of the model.
        absent: what a context that was never seen adds.
        places: receives where the entries of each level but the longest lie; see `enter`.

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
            table_L16 = room((lines + loops.FARTHEST, 16), np.uint32)
            shape = word_bits, 64 - key_bits, slots, lines
            farthest = min(lines >> spread, loops.FARTHEST)
            if loops.enter(*arrays, *shape, farthest, table_L16, place_G):
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
        loops.look_up_words(ids_M, self.words_V2, entry_M, weight_M, reached_M, logp_M)
        for k, table in enumerate(self.tables, 2):
            loops.look_up(ids_M, k, *table, entry_M, weight_M, reached_M, logp_M)
        if self._absent:
            order = len(self.tables) + 1
            stored_M = np.minimum(np.append(0, reached_M[:-1]), order - 1)  # how long the context of each place is
            logp_M += self._absent * (context_lengths(ids_M, order) - stored_M)
            logp_M[ids_M == BOS] = 0
        return logp_M


def _backoffs(level: Level) -> np.ndarray:
    """The weights of a level's k-grams as contexts; the longest are none."""
    return level.backoff_G if len(level.backoff_G) else np.zeros(len(level.key_G), dtype=np.float32)
