"""The rank of every token of known text, and whole rows at every position.

After a context, a word that followed it has its own log-probability; any other has that of the shorter context and the
weight that leads there. What followed a context followed the shorter one too. So the words likelier than x are counted
without a row: all words, and for each longer context its children as they are, less the same words as the shorter
context has them. Each count is a bisection, since a context's children are sorted by log-probability once for all
positions that ask. The order of float32 sums is kept, so that ranks are those of the rows, ties included.

Shapes: N tokens of all documents, M positions of one length of context, C contexts, Q children of them, V words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lmlab.kernels.ngram.layout import low, pack
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS

_PIECE = 1 << 20  # tokens ranked together
_CHILDREN = 1 << 22  # sorted at once
_ROWS = 1 << 22  # log-probabilities held at once
_SIGN = np.uint32(1 << 31)


def rank_array(trie: Trie, ids_N: np.ndarray) -> np.ndarray:
    """The rank of each id, 1 the likeliest, equals sharing the better one; of `<bos>` it means nothing."""
    rank_N = np.empty(len(ids_N), dtype=np.int64)
    for start in range(0, len(ids_N), _PIECE):
        warm = min(start, trie.order - 1)  # tokens before the piece that its first contexts reach
        piece_N = np.asarray(ids_N[start - warm : start + _PIECE]).astype(np.int64)
        rank_N[start : start + _PIECE] = _ranks(trie, piece_N)[warm:]
    return rank_N


def rows(trie: Any, ids_N: np.ndarray) -> Iterator[np.ndarray]:
    """rows_NV of every id but `<bos>`, in pieces; the trie is of either layout."""
    size = max(1, _ROWS // trie.ngrams[0])
    inside_N = _inside(np.asarray(ids_N))
    for start in range(0, len(ids_N), size):
        at_M = start + np.flatnonzero(inside_N[start : start + size])
        parts = [part.copy() for part in trie.parts(trie.begin([[]] * len(at_M)))]
        for back in range(trie.order - 1, 0, -1):
            (reach,) = np.nonzero(inside_N[at_M] >= back)
            words = np.asarray(ids_N[at_M[reach] - back]).astype(np.int64)
            after = trie.advance(trie.contexts(*(part[..., reach] for part in parts)), words)
            for part, longer in zip(parts, trie.parts(after), strict=True):
                part[..., reach] = longer
        yield trie.rows(trie.contexts(*parts))


def _inside(ids_N: np.ndarray) -> np.ndarray:
    """How many tokens of its document lie before each."""
    place_N = np.arange(len(ids_N))
    return np.asarray(place_N - np.maximum.accumulate(np.where(ids_N == BOS, place_N, 0)))


def _ranks(trie: Trie, ids_N: np.ndarray) -> np.ndarray:
    node_KN, weight_KN, logp_N = _paths(trie, ids_N)
    words_V = np.sort(trie.levels[0].logp_G)
    nothing_N = np.zeros(len(ids_N), dtype=np.int64)
    above_N = _above(words_V, nothing_N, nothing_N + len(words_V), weight_KN[0], logp_N)
    for k in range(1, trie.order):
        (at_M,) = np.nonzero(node_KN[k - 1, :-1] >= 0)
        at_M = at_M[ids_N[at_M + 1] != BOS] + 1
        node_C, order_M = np.unique(node_KN[k - 1, at_M - 1], return_inverse=True)
        place_M = np.argsort(order_M, kind="stable")
        at_M, order_M = at_M[place_M], order_M[place_M]
        for contexts in _chunks(*trie.levels[k].children(node_C)):
            first, last = np.searchsorted(order_M, [contexts.start, contexts.stop])
            chosen_M, context_M = at_M[first:last], order_M[first:last] - contexts.start
            begin_C, own_Q, lower_Q = _children(trie, k, node_C[contexts])
            bounds, x_M = (begin_C[context_M], begin_C[context_M + 1]), logp_N[chosen_M]
            above_N[chosen_M] += _above(own_Q, *bounds, weight_KN[k, chosen_M], x_M)
            above_N[chosen_M] -= _above(lower_Q, *bounds, weight_KN[k - 1, chosen_M], x_M)
    return 1 + above_N


def _paths(trie: Trie, ids_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a row at each position is made of.

    Returns:
        node_KN: of the k-gram that ends at each token, -1 where it is not stored.
        weight_KN: what is added to the children of each length of context, float32; 0 words first.
        logp_N: what the row has at the token itself.
    """
    node_KN = np.full((trie.order, len(ids_N)), -1)
    node_KN[0] = ids_N
    for k in range(1, trie.order):
        (at_M,) = np.nonzero((node_KN[k - 1, :-1] >= 0) & (ids_N[1:] != BOS))
        node_KN[k, at_M + 1] = trie.levels[k].find(node_KN[k - 1, at_M], ids_N[at_M + 1])
    context_KN = np.full((trie.order, len(ids_N)), -1)  # of 1, 2 .. words
    context_KN[:-1, 1:] = np.where(ids_N[1:] != BOS, node_KN[:-1, :-1], -1)
    missing_N = np.minimum(_inside(ids_N), trie.order - 1) - np.count_nonzero(context_KN >= 0, axis=0)
    weight_KN = np.empty(node_KN.shape, dtype=np.float32)
    weight_N = (trie.absent * missing_N).astype(np.float32)
    logp_N, known_N = np.empty(len(ids_N), np.float32), np.zeros(len(ids_N), dtype=bool)
    for k in range(trie.order - 1, -1, -1):  # from the longest context down, as a row does
        weight_KN[k] = weight_N
        (at_M,) = np.nonzero((node_KN[k] >= 0) & ~known_N)
        logp_N[at_M], known_N[at_M] = trie.levels[k].logp_G[node_KN[k, at_M]] + weight_N[at_M], True
        if k:
            (at_M,) = np.nonzero(context_KN[k - 1] >= 0)
            weight_N[at_M] += trie.levels[k - 1].backoff_G[context_KN[k - 1, at_M]]
    return node_KN, weight_KN, logp_N


def _chunks(start_C: np.ndarray, stop_C: np.ndarray) -> Iterator[slice]:
    """Contexts in a row that have so many children together, or one that has more."""
    many_C1, at = np.append(0, np.cumsum(stop_C - start_C)), 0
    while at < len(start_C):
        end = max(at + 1, int(np.searchsorted(many_C1, many_C1[at] + _CHILDREN, side="right")) - 1)
        yield slice(at, end)
        at = end


def _children(trie: Trie, k: int, node_C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The children of contexts of k words, one context after the other.

    Returns:
        Where each context's begin, and the end; their log-probabilities, sorted in each context; those of the same
        words after the shorter context, sorted likewise.
    """
    level, shorter = trie.levels[k], trie.levels[k - 1]
    start_C, stop_C = level.children(node_C)
    begin_C = np.append(0, np.cumsum(stop_C - start_C))
    context_Q = np.repeat(np.arange(len(node_C)), stop_C - start_C)
    child_Q = np.arange(begin_C[-1]) + (start_C - begin_C[:-1])[context_Q]
    word_Q = low(level.key_G)[child_Q]
    if k == 1:
        lower_Q = word_Q.astype(np.int64)
    elif len(level.suffix_G):
        lower_Q = level.suffix_G[child_Q].astype(np.int64)
    else:  # the longest have no links
        lower_Q = shorter.find(trie.levels[k - 1].suffix_G[node_C][context_Q], word_Q)
    return begin_C, _sorted(level.logp_G[child_Q], context_Q), _sorted(shorter.logp_G[lower_Q], context_Q)


def _sorted(logp_Q: np.ndarray, context_Q: np.ndarray) -> np.ndarray:
    """The log-probabilities, ascending in each context: as integers, whose order is theirs, beside their context."""
    bits_Q = logp_Q.view(np.uint32)
    key_Q = np.sort(pack(context_Q, np.where(bits_Q >> 31, ~bits_Q, bits_Q | _SIGN)))
    return np.asarray(np.where(low(key_Q) & _SIGN, low(key_Q) ^ _SIGN, ~low(key_Q)).view(np.float32))


def _above(
    sorted_Q: np.ndarray, start_M: np.ndarray, stop_M: np.ndarray, weight_M: np.ndarray, x_M: np.ndarray
) -> np.ndarray:
    """How many of the ascending `sorted_Q[start:stop]` are, with the weight added, above x."""
    low_M, high_M = start_M.copy(), stop_M.copy()
    (open_M,) = np.nonzero(low_M < high_M)
    while len(open_M):
        middle = (low_M[open_M] + high_M[open_M]) >> 1
        over = sorted_Q[middle] + weight_M[open_M] > x_M[open_M]
        high_M[open_M[over]] = middle[over]
        low_M[open_M[~over]] = middle[~over] + 1
        open_M = open_M[low_M[open_M] < high_M[open_M]]
    return np.asarray(stop_M - low_M)
