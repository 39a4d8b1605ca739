"""Batch scoring at the speed of memory: pieces of a text go up through the levels, on as many threads as there are.

What limits this is how often memory is waited for, so everything that a question can ask lies in one place. Each level
above the words has a hash table of entries of 16 bytes,

    context and word | ln p | ln b

and a k-gram is named by where its entry lies, in the entries of the level above too. One look finds a k-gram, its
probability, and its weight as a context of the next word; a k-gram that is not there costs one look as well.

Shapes: N ids, M places of a piece, M + 1 where the place before it is included, S entries of a level, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmlab import engine
from lmlab.memory import room
from lmlab.models.ngram import kernels, scoring_kernels
from lmlab.models.ngram.index import fixed
from lmlab.models.ngram.trie import context_lengths
from lmlab.vocab import BOS

if TYPE_CHECKING:
    from lmlab.models.ngram.trie import Level

PIECE = 1 << 14  # words scored together: what lies between the levels stays in the second-level cache
_FULL = 0.7


class Tables:
    """The entries of a model.

    Args:
        levels: of the model.
        absent: what a context that was never seen adds.
    """

    def __init__(self, levels: Sequence[Level], absent: float) -> None:
        self._absent = np.float32(absent)
        self._words_V2 = np.stack([levels[0].logp_G, _backoffs(levels[0])], axis=1)
        self._words_V2[BOS, 0] = 0  # as it is said to score
        self._tables = []
        place_F = np.arange(len(self._words_V2), dtype=np.uint32)
        for k, level in enumerate(levels[1:], 2):
            table_S2 = room((1 << int(len(level.key_G) / _FULL + 1).bit_length(), 2), np.uint64)
            place_G = room((0 if k == len(levels) else len(level.key_G),), np.uint32)
            weights = fixed(_backoffs(level))
            kernels.enter(fixed(level.key_G), fixed(level.logp_G), weights, place_F, table_S2, place_G)
            self._tables.append((fixed(table_S2), fixed(table_S2.view(np.float32).ravel())))
            place_F = place_G

    @property
    def nbytes(self) -> int:
        """What all entries take, in bytes."""
        return self._words_V2.nbytes + sum(table_S2.nbytes for table_S2, _ in self._tables)

    def logp_array(self, ids_N: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Log-probability of each id, float32; every `<bos>` opens a new document and itself scores 0.

        Args:
            ids_N: documents laid end to end, memory-mapped or not.
            threads: how many to use; None is one a core. The result is the same.
        """
        logp_N = np.empty(len(ids_N), dtype=np.float32)

        def score(start: int) -> None:
            warm = min(start, len(self._tables))  # tokens before the piece that its first contexts reach
            piece = np.array(ids_N[start - warm : start + PIECE], dtype=np.uint32)
            logp_N[start : start + PIECE] = self._score(piece)[warm:]

        engine.each(score, range(0, len(ids_N), PIECE), threads)
        return logp_N

    def _score(self, ids_M: np.ndarray) -> np.ndarray:
        many = len(ids_M)
        known_H, entry_M = (np.empty(many, dtype=np.uint32) for _ in range(2))
        logp_M, weight_M = (np.empty(many, dtype=np.float32) for _ in range(2))
        reached_M = np.empty(many, dtype=np.uint8)
        scoring_kernels.look_up_words(ids_M, self._words_V2, known_H, reached_M, entry_M, weight_M, logp_M)
        stored_M = np.zeros(
            len(ids_M) if self._absent else 0, dtype=np.uint8
        )  # how long a context of each place is stored
        for k, (table_S2, halves) in enumerate(self._tables, 2):
            if self._absent:
                after_H = known_H[:many] + 1
                stored_M[after_H[after_H < len(ids_M)]] = k - 1
            many = scoring_kernels.look_up(
                ids_M, k, known_H, many, reached_M, entry_M, weight_M, table_S2, halves, logp_M
            )
        if self._absent:
            logp_M += self._absent * (context_lengths(ids_M, len(self._tables) + 1) - stored_M)
            logp_M[ids_M == BOS] = 0
        return logp_M


def _backoffs(level: Level) -> np.ndarray:
    """The weights of a level's k-grams as contexts; the longest are none."""
    return level.backoff_G if len(level.backoff_G) else np.zeros(len(level.key_G), dtype=np.float32)
