"""Lookup: the score of known text, whole rows, and a context that steps from word to word.

One form serves every smoothing: a stored k-gram has a log-probability; a context that does not know the next word adds
its backoff weight, and the shorter context is asked. Log-probabilities are natural.

Shapes: N tokens of all documents, B contexts, V words, G k-grams of one level, Q questions put to it, M of them open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lmlab.kernels import engine
from lmlab.kernels.ngram.layout import Contexts, Counts, Level, context_lengths, high, low, pack
from lmlab.memory import forget
from lmlab.models.base import ArrayState
from lmlab.models.ngram.smoothing import Smoothed
from lmlab.vocabulary import BOS, EOS

if TYPE_CHECKING:
    from lmlab.kernels.ngram.rows import RowTables
    from lmlab.kernels.ngram.score import Tables

_PIECE = 1 << 20  # tokens scored together: what bounds the memory of a long text
_ROWS = 200_000  # log-probabilities of next words asked for, from which compiled rows repay their import
_PAYS = 20  # n-grams can be entered in a table in the time in which one token is scored without


class _Asked:
    """How many log-probabilities a trie has been asked for in rows so far; rows come one by one, in unknown number."""

    def __init__(self) -> None:
        self.logps = 0


@dataclass(frozen=True)
class Trie:
    """Sorted levels of k-grams, and what looks them up.

    Attributes:
        levels: the shortest k-grams first.
        absent: ln of the backoff weight of a context that was never seen.
        bos_logp: what ARPA files say of `<s>` where it stands as a word: ln p, 0 if lmplz wrote them; None where it is
            missing. In `levels`, its probability is 0.
    """

    levels: tuple[Level, ...]
    absent: float
    bos_logp: float | None = 0.0
    _asked: _Asked = field(default_factory=_Asked, init=False, repr=False, compare=False)

    @classmethod
    def join(cls, counts: list[Counts], smoothed: Smoothed) -> Trie:
        """The lookup form of counted and smoothed levels, without what was pruned."""
        triples = zip(counts, smoothed.logp, smoothed.backoff, strict=True)
        levels = [Level(level.key_G, level.suffix_G, logp_G, backoff_G) for level, logp_G, backoff_G in triples]
        levels[-1] = replace(levels[-1], suffix_G=np.empty(0, dtype=np.uint32))
        return cls(tuple(levels), smoothed.absent).without(smoothed.pruned)

    def without(self, dropped: Sequence[np.ndarray | None]) -> Trie:
        """The trie without some k-grams: of each level a mask, or None where all stay.

        Nothing may be dropped that is the context or the suffix of what stays.
        """
        if all(dropped_G is None for dropped_G in dropped):
            return self
        levels: list[Level] = []
        place_F: np.ndarray | None = None  # the new node of each old one, one level down; None where they are the same
        for level, dropped_G in zip(self.levels, dropped, strict=True):
            kept_G = np.ones(len(level.key_G), dtype=bool) if dropped_G is None else ~dropped_G
            longest = len(levels) == self.order - 1  # and so never a context
            key_G = level.key_G[kept_G]
            suffix_G, backoff_G = (a if longest else a[kept_G] for a in (level.suffix_G, level.backoff_G))
            if place_F is not None:
                key_G = pack(place_F[high(key_G)], low(key_G))
                suffix_G = suffix_G if longest else place_F[suffix_G]
            levels.append(Level(key_G, suffix_G, level.logp_G[kept_G], backoff_G))
            forget(level.key_G, level.suffix_G, level.logp_G, level.backoff_G)
            place_F = None if dropped_G is None else np.cumsum(kept_G, dtype=np.uint32) - np.uint32(1)
        return Trie(tuple(levels), self.absent, bos_logp=self.bos_logp)

    @property
    def lacks(self) -> list[int]:
        """Which of `<s>` and `</s>` the model does not know; only imported ones do not."""
        bos = [BOS] if self.bos_logp is None else []
        return bos + [EOS] * bool(self.levels[0].logp_G[EOS] == -np.inf)

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.levels)

    @property
    def ngrams(self) -> tuple[int, ...]:
        """How many n-grams are stored of each length; of length 1, the whole vocabulary."""
        return tuple(len(level.key_G) for level in self.levels)

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        return sum(array.nbytes for level in self.levels for array in vars(level).values())

    def pieces(self, k: int, size: int = _PIECE) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The k-grams of one length, so many at a time, in order: their ids, ln p, and ln b (empty for the longest)."""
        level = self.levels[k - 1]
        for start in range(0, len(level.key_G), size):
            piece = slice(start, start + size)
            key_M = np.array(level.key_G[piece])
            ids_MK = np.empty((len(key_M), k), dtype=np.uint32)
            for place in range(k - 1, -1, -1):
                ids_MK[:, place] = low(key_M)
                if place:
                    key_M = np.asarray(self.levels[place - 1].key_G[high(key_M)])
            yield ids_MK, np.array(level.logp_G[piece]), np.array(level.backoff_G[piece])

    # ---- known text

    @cached_property
    def tables(self) -> Tables:
        """The hash tables of batch scoring, made when first asked for."""
        from lmlab.kernels.ngram.score import Tables

        return Tables(self.levels, self.absent)

    def scorer(self, tokens: int | None) -> Callable[[np.ndarray], np.ndarray]:
        """`logp_array` in the way that is quickest for so many tokens in all (None: very many), piece by piece."""
        return self.tables.logp_array if tokens is None or self._pays_for_tables(tokens) else self.logp_array

    def _pays_for_tables(self, tokens: int) -> bool:
        return engine.compiled(tokens * self.order) and ("tables" in vars(self) or tokens > sum(self.ngrams) // _PAYS)

    def logp_array(self, ids_N: np.ndarray) -> np.ndarray:
        """Log-probability of each id, float32; every `<bos>` opens a new document and itself scores 0."""
        if self._pays_for_tables(len(ids_N)):
            return self.tables.logp_array(ids_N)
        logp_N = np.empty(len(ids_N), dtype=np.float32)
        for start in range(0, len(ids_N), _PIECE):
            warm = min(start, self.order - 1)  # tokens before the piece that its first contexts reach
            piece = np.asarray(ids_N[start - warm : start + _PIECE])
            logp_N[start : start + _PIECE] = self._score(piece)[warm:]
        return logp_N

    def _score(self, ids_N: np.ndarray) -> np.ndarray:
        logp_N = self.levels[0].logp_G[ids_N]
        stored_N = np.zeros(len(ids_N), dtype=np.int32)  # how long a context of each token is stored
        at_M, node_M = _next_tokens(np.arange(len(ids_N)), ids_N.astype(np.int64), ids_N)
        for k in range(2, self.order + 1):
            stored_N[at_M] = k - 1
            found_M = self.levels[k - 1].find(node_M, ids_N[at_M])
            known_M = found_M >= 0
            logp_N[at_M[~known_M]] += self.levels[k - 2].backoff_G[node_M[~known_M]]
            at_M, found_M = at_M[known_M], found_M[known_M]
            logp_N[at_M] = self.levels[k - 1].logp_G[found_M]
            at_M, node_M = _next_tokens(at_M, found_M, ids_N)
        opens_N = ids_N == BOS
        if self.absent:
            logp_N += np.float32(self.absent) * (context_lengths(ids_N, self.order) - stored_N)
        logp_N[opens_N] = 0
        return np.asarray(logp_N)

    def matched(self, ids_N: np.ndarray) -> np.ndarray:
        """The length of the longest stored n-gram that ends at each id, and so decides its score; 1 at `<bos>`."""
        matched_N = np.ones(len(ids_N), dtype=np.int64)
        at_M, node_M = _next_tokens(np.arange(len(ids_N)), ids_N.astype(np.int64), ids_N)
        for k in range(2, self.order + 1):
            found_M = self.levels[k - 1].find(node_M, ids_N[at_M])
            known_M = found_M >= 0
            matched_N[at_M[known_M]] = k
            at_M, node_M = _next_tokens(at_M[known_M], found_M[known_M], ids_N)
        return matched_N

    # ---- contexts, stepping

    def parts(self, contexts: Contexts) -> tuple[np.ndarray, ...]:
        """Contexts as arrays of int64, the batch last."""
        return contexts.level_B, contexts.node_B, contexts.length_B

    def contexts(self, level_B: np.ndarray, node_B: np.ndarray, length_B: np.ndarray) -> Contexts:
        """Contexts from their `parts`."""
        return Contexts(level_B, node_B, length_B)

    def begin(self, prompts: list[list[int]]) -> Contexts:
        """The contexts after these tokens, ragged and possibly empty."""
        nothing_B = np.zeros(len(prompts), dtype=np.int64)
        level_B, node_B, length_B = nothing_B, nothing_B.copy(), nothing_B.copy()
        tails = [prompt[max(0, len(prompt) - self.order + 1) :] for prompt in prompts]
        for place in range(self.order - 1):
            rows = np.flatnonzero([len(tail) > place for tail in tails])
            words = np.array([tails[row][place] for row in rows], dtype=np.int64)
            after = self.advance(Contexts(level_B[rows], node_B[rows], length_B[rows]), words)
            level_B[rows], node_B[rows], length_B[rows] = after.level_B, after.node_B, after.length_B
        return Contexts(level_B, node_B, length_B)

    def advance(self, contexts: Contexts, word_B: np.ndarray) -> Contexts:
        """The contexts one word further: the longest stored one, found by dropping first words along suffix links."""
        full = self.order - 1
        length_B = np.minimum(np.where(word_B == BOS, 1, contexts.length_B + 1), full)
        from_B, at_B = self._drop(contexts.level_B, contexts.node_B, contexts.level_B == full)
        level_B, node_B = np.zeros_like(from_B), np.zeros_like(at_B)
        for k in range(full, 0, -1):
            open_B = (from_B == k - 1) & (level_B == 0)
            found_M = self.levels[k - 1].find(at_B[open_B], word_B[open_B])
            level_B[open_B] = np.where(found_M >= 0, k, 0)
            node_B[open_B] = np.maximum(found_M, 0)
            from_B, at_B = self._drop(from_B, at_B, open_B & (level_B == 0))
        return Contexts(level_B, node_B, length_B)

    def _drop(self, level_B: np.ndarray, node_B: np.ndarray, chosen_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Drop the first word of the chosen contexts, all of one level."""
        level_B, node_B = level_B.copy(), node_B.copy()
        rows = np.flatnonzero(chosen_B & (level_B > 0))
        if len(rows):
            node_B[rows] = self.levels[level_B[rows[0]] - 1].suffix_G[node_B[rows]]
            level_B[rows] -= 1
        return level_B, node_B

    @cached_property
    def row_tables(self) -> RowTables:
        """What compiled rows are made from, made when first asked for."""
        from lmlab.kernels.ngram.rows import RowTables

        return RowTables(self.levels, self.absent)

    def rows(self, contexts: Contexts) -> np.ndarray:
        """The log-probability of every word after each context, (B, V) float32.

        The unigrams lie below; each longer context then lays its own children over them, so that every word ends up
        with the score of the longest n-gram that is stored.
        """
        self._asked.logps += len(contexts.level_B) * len(self.levels[0].key_G)
        if engine.worthwhile(self._asked.logps, _ROWS):
            return self.row_tables.rows(contexts)
        weight_B = (self.absent * (contexts.length_B - contexts.level_B)).astype(np.float32)
        level_B, node_B = contexts.level_B, contexts.node_B
        layers = []  # of each length of context: the rows that have it, its node, and the weight that leads there
        for k in range(self.order - 1, 0, -1):
            rows = np.flatnonzero(level_B == k)
            layers.append((rows, node_B[rows], weight_B[rows]))
            weight_B[rows] += self.levels[k - 1].backoff_G[node_B[rows]]
            level_B, node_B = self._drop(level_B, node_B, level_B == k)
        logp_BV = self.levels[0].logp_G + weight_B[:, None]
        for level, (rows, node_M, weight_M) in zip(self.levels[1:], reversed(layers), strict=True):
            start_M, stop_M = level.children(node_M)
            many_M = stop_M - start_M
            child_Q = np.arange(many_M.sum()) + np.repeat(stop_M - many_M.cumsum(), many_M)
            row_Q, weight_Q = np.repeat(rows, many_M), np.repeat(weight_M, many_M)
            logp_BV[row_Q, low(level.key_G)[child_Q]] = level.logp_G[child_Q] + weight_Q
        return np.asarray(logp_BV)


@dataclass(frozen=True)
class TrieReader:
    """`start` and `step` of a language model, in NumPy."""

    trie: Trie

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        return self._answer(self.trie.begin([[BOS, *prompt] for prompt in prompts]))

    def step(self, state: ArrayState, token_B: Sequence[int]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV one token further, and the new state."""
        return self._answer(self.trie.advance(Contexts(*state.arrays), np.array(token_B, np.int64)))

    def _answer(self, contexts: Contexts) -> tuple[np.ndarray, ArrayState]:
        return self.trie.rows(contexts), ArrayState(self.trie.parts(contexts))


def _next_tokens(at_M: np.ndarray, node_M: np.ndarray, ids_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places after these, as far as their documents go, each with the node that lies before it."""
    at_M = at_M + 1
    inside_M = at_M < len(ids_N)
    at_M, node_M = at_M[inside_M], node_M[inside_M]
    same_M = ids_N[at_M] != BOS
    return at_M[same_M], node_M[same_M]
