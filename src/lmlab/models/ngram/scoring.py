"""Batch scoring at the speed of memory: pieces of a text go up through the levels, on as many threads as there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lmlab import engine
from lmlab.models.ngram import kernels
from lmlab.models.ngram.counts import NONE
from lmlab.models.ngram.index import fixed
from lmlab.vocab import BOS

if TYPE_CHECKING:
    from lmlab.models.ngram.trie import Trie

PIECE = 1 << 15  # words scored together: what they need of each level's loop stays in the second-level cache


def logp_array(trie: Trie, ids_N: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Log-probability of each id, float32; every `<bos>` opens a new document and itself scores 0.

    Args:
        trie: the model.
        ids_N: documents laid end to end, memory-mapped or not.
        threads: how many to use; None is one a core. The result is the same.
    """
    logp_N = np.empty(len(ids_N), dtype=np.float32)
    trie.indices  # noqa: B018  made once, before threads ask for it

    def score(start: int) -> None:
        warm = min(start, trie.order - 1)  # tokens before the piece that its first contexts reach
        piece = np.array(ids_N[start - warm : start + PIECE], dtype=np.uint32)
        logp_N[start : start + PIECE] = _score(trie, piece)[warm:]

    engine.each(score, range(0, len(ids_N), PIECE), threads)
    return logp_N


def _score(trie: Trie, ids_M: np.ndarray) -> np.ndarray:
    logp_M = trie.levels[0].logp_G[ids_M]
    shorter_M1, longer_M1 = (np.full(len(ids_M) + 1, NONE, dtype=np.uint32) for _ in range(2))
    shorter_M1[1:] = ids_M
    for below, level, index in zip(trie.levels, trie.levels[1:], trie.indices, strict=False):
        kernels.lookup(
            ids_M,
            shorter_M1,
            fixed(level.key_G),
            fixed(index.slots),
            index.bits,
            fixed(level.logp_G),
            fixed(below.backoff_G),
            np.float32(trie.absent),
            longer_M1,
            logp_M,
        )
        shorter_M1, longer_M1 = longer_M1, shorter_M1
        shorter_M1[0] = NONE
    logp_M[ids_M == BOS] = 0
    return logp_M
