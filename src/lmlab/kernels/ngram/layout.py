"""The arrays that plain and compiled n-gram code share.

The k-grams of one length k form a level. A k-gram's node is its place in its level; levels are sorted by the node of
the context (the first k - 1 words), then by the last word, so that the children of a context lie side by side:

    level 1   a  b  c        every word of the vocabulary, node = word id
    level 2   aa ab ba bc    sorted by (node of the context in level 1, word)
    level 3   ...

A 64-bit key packs both: the context's node in the high half, the word in the low half.

Shapes: G k-grams of one level, Q questions put to it, N tokens, B contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmlab.errors import ArtifactError
from lmlab.vocabulary import BOS

NONE = 0xFFFFFFFF
"""In place of a node: the document does not reach so far back."""
UNSEEN = 0xFFFFFFFE
"""In place of a node: the k-gram is not stored."""
MAX_ORDER = 255
"""The longest n-grams: where compiled loops score, a byte holds the length of the one found."""
_CHECKED = 1 << 14  # k-grams checked together
_MOST_BACKOFF = 1e10  # ln
_AGAIN = "train it again"
_SORT_FROM = 1 << 16  # a level this long is searched faster with the questions in order


def pack(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Two arrays of 32-bit numbers as one of 64 bits, ordered by high, then low.

    >>> pack(np.array([0, 2]), np.array([5, 1])).tolist()
    [5, 8589934593]
    """
    packed = np.empty(len(high), dtype="<u8")
    halves = packed.view("<u4")
    halves[1::2], halves[::2] = high, low  # ten times as fast as shifting
    return packed


def high(packed: np.ndarray) -> np.ndarray:
    """The high halves (contexts) of packed numbers, uint32, as a view.

    >>> high(pack(np.array([0, 2]), np.array([5, 1]))).tolist()
    [0, 2]
    """
    return packed.view("<u4")[1::2]


def low(packed: np.ndarray) -> np.ndarray:
    """The low halves (words) of packed numbers, uint32, as a view.

    >>> low(pack(np.array([0, 2]), np.array([5, 1]))).tolist()
    [5, 1]
    """
    return packed.view("<u4")[::2]


@dataclass(frozen=True)
class Counts:
    """The distinct k-grams of one length k with their counts.

    Attributes:
        key_G: uint64; the context's node one level down, and the last word in the low 32 bits.
        suffix_G: uint32; the node, one level down, of the k-gram without its first word.
        count_G: uint32; how often the k-gram occurs.
    """

    key_G: np.ndarray
    suffix_G: np.ndarray
    count_G: np.ndarray

    def __len__(self) -> int:
        return len(self.key_G)


class Rule(NamedTuple):
    """What a smoothing does with the counts of one level.

    Attributes:
        count_G: the counts it starts from.
        discounts: of a count of 0, 1, 2, and of 3 and more; what they take off goes to the shorter context.
        per_type: mass for the shorter context besides, for each different word that follows (Witten-Bell).
        per_context: mass for the shorter context besides, for each context (add-k).
        note: what was done otherwise than asked.
    """

    count_G: np.ndarray
    discounts: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    per_type: float = 0.0
    per_context: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Level:
    """The k-grams of one length k with their log-probabilities and backoff weights.

    The longest k-grams are never contexts: there, `suffix_G` and `backoff_G` are empty.

    Attributes:
        key_G: uint64; the context's node one level down, and the last word in the low 32 bits.
        suffix_G: uint32; the node, one level down, of the k-gram without its first word.
        logp_G: float32; ln p of the last word after the context.
        backoff_G: float32; ln of the backoff weight of the k-gram as a context.
    """

    key_G: np.ndarray
    suffix_G: np.ndarray
    logp_G: np.ndarray
    backoff_G: np.ndarray

    def find(self, context_Q: np.ndarray, word_Q: np.ndarray) -> np.ndarray:
        """The node of each context and word, int64, or -1 where it was never seen."""
        if not len(self.key_G):
            return np.full(len(word_Q), -1)
        key_Q = pack(context_Q, word_Q)
        if len(self.key_G) < _SORT_FROM or len(key_Q) < 2:
            node_Q = np.searchsorted(self.key_G, key_Q)
        else:
            order_Q = np.argsort(key_Q, kind="stable")
            node_Q = np.empty(len(key_Q), dtype=np.int64)
            node_Q[order_Q] = np.searchsorted(self.key_G, key_Q[order_Q])
        node_Q[node_Q == len(self.key_G)] = 0
        node_Q[self.key_G[node_Q] != key_Q] = -1
        return node_Q

    def children(self, context_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each context's children begin and end in this level."""
        nothing_Q = np.zeros_like(context_Q)
        return (
            np.searchsorted(self.key_G, pack(context_Q, nothing_Q)),
            np.searchsorted(self.key_G, pack(context_Q + 1, nothing_Q)),
        )


def check_arrays(levels: Sequence[Level]) -> None:
    """Raise unless all that reads these levels stays inside their arrays and finds numbers there.

    Nodes and words are in range, keys ascend, no log-probability is NaN or above 0, no backoff weight is NaN or absurd.

    Raises:
        ArtifactError: names the array, the value and the bound.
    """
    words, contexts = len(levels[0].key_G), 1
    for k, level in enumerate(levels, 1):
        for start in range(0, len(level.key_G), _CHECKED):  # in pieces that stay in the second-level cache
            piece = slice(start, start + _CHECKED)
            key_M = level.key_G[max(0, start - 1) : start + _CHECKED]
            if not np.all(key_M[1:] > key_M[:-1]):
                raise ArtifactError(f"key_{k} of the n-gram model does not ascend from number {start:,} on", _AGAIN)
            _check_most(f"the word in key_{k}", low(key_M), words - 1)
            _check_most(f"suffix_{k}", level.suffix_G[piece], contexts - 1)
            _check_most(f"logp_{k}", level.logp_G[piece], 0.0)
            _check_most(f"backoff_{k}", level.backoff_G[piece], _MOST_BACKOFF)
        _check_most(f"the context in key_{k}", high(level.key_G[-1:]), contexts - 1)
        contexts = len(level.key_G)


def _check_most(name: str, array: np.ndarray, most: float) -> None:
    if len(array) and not (found := array.max()) <= most:  # NaN is the greatest
        raise ArtifactError(f"{name} of the n-gram model has {found:,}, but must be at most {most:,}", _AGAIN)


@dataclass(frozen=True)
class Contexts:
    """B contexts: of each the longest suffix that is stored (its level, 0 when empty, and node), and its whole length.

    The length, at most order - 1 words, matters where a context never seen has a backoff weight too (stupid backoff).
    """

    level_B: np.ndarray
    node_B: np.ndarray
    length_B: np.ndarray


def context_lengths(ids_N: np.ndarray, order: int) -> np.ndarray:
    """How many words of its own document lie before each, at most order - 1."""
    place_N = np.arange(len(ids_N))
    first_N = np.maximum.accumulate(np.where(ids_N == BOS, place_N, 0))
    return np.minimum(place_N - first_N, order - 1)


def log_of(p: np.ndarray) -> np.ndarray:
    """Natural logs in float32; sums that rounding took past 1 are 1."""
    with np.errstate(divide="ignore"):
        return np.log(np.minimum(p, 1.0)).astype(np.float32)
