"""What comes next: the whole row, its best words, and words drawn from it, without a look at every word.

The children of a context lie side by side, so the row after a context is the unigrams with a few children laid over:

    empty context     the  a  of  to  in  ..   all words, times the weights of the contexts above
    ..    "of"        the  a      ..           its children, times the weights above it
    ..    "one of"    the         ..           its children

Ranking takes the best of each line until no line can hold a better one. Drawing takes a child of the longest context
with their joint probability, else a word from the lines below that is no child of it.

Small work is done in Python, over memoryviews, as fast as Python can; large work by drawing_kernels.py. Both draw the
same words from the same seed.

Shapes: B contexts, T tokens, V words, K best words, G k-grams of a level, C contexts of one length (C1: and an end).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lmlab.errors import SettingError
from lmlab.kernels import engine
from lmlab.memory import room
from lmlab.models.ngram.counts import high, low
from lmlab.vocabulary import EOS

if TYPE_CHECKING:
    from lmlab.models.ngram.trie import Contexts, Level

_RANKED = 1024  # contexts whose children's order is remembered
_DRAW = 200  # n-grams that NumPy looks at in the time that Python draws a token
_TOKENS = 1 << 22  # room made at once
MOST_REDRAWS = 1 << 20
KEY, LOGP, SUFFIX, BACKOFF, START = range(5)  # the columns of the tables
CODES, COMMON = SUFFIX, BACKOFF  # in the last line for rows
_CODES = 32
_PLAIN = 16  # words are read as they are in the time that one takes to be laid over
_LOW, _MASK = (1 << 32) - 1, (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


class Drawing:
    """Next words of a trie. What it needs beyond the levels is made when first asked for.

    Args:
        levels: of the trie.
        absent: what a context never seen adds.
    """

    def __init__(self, levels: tuple[Level, ...], absent: float) -> None:
        self._levels, self._absent = levels, absent
        self._ranked = lru_cache(_RANKED)(self._rank)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy elsewhere makes its own tables, with addresses that hold there."""
        return Drawing, (self._levels, self._absent)

    # ---- tables

    @cached_property
    def starts(self) -> tuple[np.ndarray, ...]:
        """Of each length of context, from 0 on: where the children of each begin in the level above; uint32, C1."""
        starts = [np.array([0, len(self._levels[0].key_G)], dtype=np.uint32)]
        for level, longer in pairwise(self._levels):
            start_C1 = np.zeros(len(level.key_G) + 1, dtype=np.uint32)
            np.cumsum(np.bincount(high(longer.key_G), minlength=len(level.key_G)), out=start_C1[1:])
            starts.append(start_C1)
        return tuple(starts)

    @cached_property
    def sums(self) -> tuple[np.ndarray, ...]:
        """Of each level, the running sum of its probabilities, from 0 on; float64, G + 1."""
        sums = []
        for level in self._levels:
            sum_G1 = np.zeros(len(level.logp_G) + 1)
            np.exp(level.logp_G, out=sum_G1[1:], dtype=np.float64)
            np.cumsum(sum_G1, out=sum_G1)
            sums.append(sum_G1)
        return tuple(sums)

    @cached_property
    def _lines(self) -> list[tuple[np.ndarray, ...]]:
        """Of each length of context: the keys and logps of its children, suffixes and backoffs, and starts."""
        nothing = np.empty(0, dtype=np.float32)
        below = [(nothing, nothing), *((level.suffix_G, level.backoff_G) for level in self._levels)]
        lines = zip(self._levels, below, self.starts, strict=False)
        return [(level.key_G, level.logp_G, *own, start_C1) for level, own, start_C1 in lines]

    @cached_property
    def _table(self) -> np.ndarray:
        return _addresses(self._lines)

    @cached_property
    def _coded(self) -> tuple[np.ndarray, ...]:
        """The unigrams for rows, as a line: a quarter of what would be read otherwise.

        Most words are so rare that they share a few values. Their codes of 8 bits say which of the 32 commonest values
        they have; words with others are laid over, like children. The first words, which are seldom rare, stay as they
        are, and so do all where the processor does not pick.

        Returns:
            Keys and logps of the words with other values; codes; values; how many others, and how many stay as is.
        """
        from lmlab.kernels.jit import picks

        key_V, logp_V = self._levels[0].key_G, self._levels[0].logp_G
        value_U, value_V, many_U = np.unique(logp_V, return_inverse=True, return_counts=True)
        common = np.argsort(-many_U, kind="stable")[:_CODES]
        code_U = np.full(len(value_U), _CODES, dtype=np.uint8)
        code_U[common] = np.arange(len(common))
        code_V = code_U[value_V]
        other_V = code_V == _CODES
        later_V1 = other_V.sum() - np.append(0, other_V.cumsum())  # others from each word on
        plain = int((later_V1 + np.arange(len(key_V) + 1) / _PLAIN).argmin()) if picks() else len(key_V)
        plain += (len(key_V) - plain) % 16
        others = plain + np.flatnonzero(other_V[plain:])
        values = np.zeros(_CODES, dtype=np.float32)
        values[: len(common)] = value_U[common]
        bounds = np.array([len(others), plain], dtype=np.uint32)
        return key_V[others], logp_V[others], code_V[plain:] % _CODES, values, bounds

    @cached_property
    def _pairs_G2(self) -> np.ndarray:
        """Word and logp of each bigram, side by side: contexts of one word have so many that memory is the limit."""
        pairs_G2 = room((len(self._levels[1].key_G), 2), np.uint32)
        pairs_G2[:, 0], pairs_G2[:, 1] = low(self._levels[1].key_G), self._levels[1].logp_G.view(np.uint32)
        return pairs_G2

    @cached_property
    def _row_table(self) -> np.ndarray:
        """The addresses of the lines, with the bigrams in pairs; and, in a last line, of the unigrams in codes."""
        lines = [*self._lines, self._coded]
        if len(self._levels) > 1:
            lines[1] = (self._pairs_G2, self._pairs_G2[:, 1:], *lines[1][SUFFIX:])
        return _addresses(lines)

    @cached_property
    def _sum_table(self) -> np.ndarray:
        return _addresses([(sum_G1,) for sum_G1 in self.sums])

    @cached_property
    def _views(self) -> list[list[memoryview]]:
        """The lines for Python, which reads a number out of a memoryview three times faster than out of an array."""
        return [[array.data for array in line] for line in self._lines]

    @cached_property
    def _sum_views(self) -> list[memoryview]:
        return [sum_G1.data for sum_G1 in self.sums]

    def _chain(self, level: int, node: int) -> list[int]:
        """The node of each length of context, up to this one."""
        nodes = [0] * level + [node]
        for length in range(level, 1, -1):
            nodes[length - 1] = self._views[length][SUFFIX][nodes[length]]
        return nodes

    def _find(self, length: int, node: int, word: int) -> int:
        """The place of a word among a context's children, or -1."""
        key, start_C1 = self._views[length][KEY], self._views[length][START]
        wanted, stop = node << 32 | word, start_C1[node + 1]
        place = bisect_left(key, wanted, start_C1[node], stop)
        return place if place < stop and key[place] == wanted else -1

    # ---- whole rows

    @cached_property
    def rows(self) -> Callable[[Contexts], np.ndarray]:
        """What `Trie.rows` returns, compiled; with all at hand, as to look for it takes a twentieth of a row's time."""
        from lmlab.kernels.ngram import draw as drawing_kernels

        fill, table, absent, words = drawing_kernels.rows, self._row_table, self._absent, len(self._levels[0].key_G)

        def rows(contexts: Contexts) -> np.ndarray:
            logp_BV = np.empty((len(contexts.level_B), words), dtype=np.float32)
            fill(table, contexts.level_B, contexts.node_B, contexts.length_B, absent, logp_BV)
            return logp_BV

        return rows

    def _weight_B(self, contexts: Contexts) -> np.ndarray:
        if not self._absent:
            return np.zeros(len(contexts.level_B), dtype=np.float32)
        return (self._absent * (contexts.length_B - contexts.level_B)).astype(np.float32)

    # ---- the best words

    def top_k(self, contexts: Contexts, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k likeliest words after each context, the likeliest first, of equals the lower id first.

        Returns:
            Their ids, int64, and log-probabilities, float32, both (B, K).

        Raises:
            SettingError: more words than there are, or none.
        """
        words = len(self._levels[0].key_G)
        if not 1 <= k <= words:
            raise SettingError("k", k, f"an integer from 1 to {words}, the words there are")
        asked = zip(contexts.level_B.tolist(), contexts.node_B.tolist(), self._weight_B(contexts).tolist(), strict=True)
        best = [self._best(self._chain(level, node), weight, k) for level, node, weight in asked]
        shape = (len(best), k)
        ids_BK = np.array([[word for _, word in row] for row in best], dtype=np.int64).reshape(shape)
        return ids_BK, -np.array([[cost for cost, _ in row] for row in best], dtype=np.float32).reshape(shape)

    def _best(self, nodes: list[int], weight: float, k: int) -> list[tuple[float, int]]:
        """Pairs of -logp and word, the best first."""
        best: list[tuple[float, int]] = []
        for length in range(len(nodes) - 1, -1, -1):
            key, logp, _, backoff, _ = self._views[length]
            for place in self._ranked(length, nodes[length]):
                cost = -_rounded(logp[place] + weight)
                if cost == math.inf or (len(best) == k and cost > best[-1][0]):
                    break  # and so are all that follow
                word = key[place] & _LOW
                if all(self._find(longer, nodes[longer], word) < 0 for longer in range(length + 1, len(nodes))):
                    insort(best, (cost, word))
                    del best[k:]
            if length:
                weight = _rounded(weight + backoff[nodes[length]])
        taken = {word for _, word in best}
        rest = (word for word in range(len(self._views[0][KEY])) if word not in taken)  # all impossible
        return best + [(math.inf, word) for word in islice(rest, k - len(best))]

    def _rank(self, length: int, node: int) -> memoryview:
        """The places of a context's children, the likeliest first."""
        start, stop = self.starts[length][node : node + 2].tolist()
        order = np.argsort(-self._levels[length].logp_G[start:stop], kind="stable")
        return (order + start).astype(np.uint32).data

    # ---- drawing

    def sample(self, contexts: Contexts, max_tokens: int, seed: int, first: int = 0) -> list[np.ndarray]:
        """Draw a text after each context, exactly as `rows` has it.

        P(w | h) = p(h w) for a stored child w of h, else b(h) P(w | h'). So with the children's joint probability one
        of them is drawn; else a word is drawn from P(. | h'), again and again until it is no child of h: what is left
        has the proportions of P(. | h'), as it must. P(. | h') is drawn the same way, with its own redraws inside: a
        word that comes up from a shorter context and meets a child of h is drawn anew from all of P(. | h'), the
        choices of the shorter ones with it; those above, to take no child of h and of the longer ones, stand.

        Where the weights are interpolated, a context makes b(h) <= 1 redraws in the mean. Should its children leave
        nothing below, rounding alone leads there, and after 2^20 redraws only children are drawn: what this loses has
        a probability of at most 1 / (e 2^20), less than float32 tells apart.

        Args:
            contexts: where to begin.
            max_tokens: the longest text.
            seed: the same one gives the same texts.
            first: the number of the first text: text i of all draws the same words whatever others are drawn with it.

        Returns:
            The ids of each text, uint32, with the `<eos>` that ended it.

        Raises:
            SettingError: a negative `max_tokens`, or a seed outside 0..2^64 - 1.
        """
        if max_tokens < 0:
            raise SettingError("max_tokens", max_tokens, "an integer >= 0")
        if not 0 <= seed <= _MASK:
            raise SettingError("seed", seed, "an integer from 0 to 2^64 - 1")
        many = len(contexts.level_B)
        numbers_B = np.arange(first, first + many, dtype=np.uint64)
        stream_B = _mix(numbers_B + np.uint64(_mix(seed)))
        if engine.compiled(many * max_tokens * _DRAW):
            return self._sample_compiled(contexts, stream_B, max_tokens)
        asked = zip(contexts.level_B.tolist(), contexts.node_B.tolist(), stream_B.tolist(), strict=True)
        return [np.array(self._sample_one(*one, max_tokens), dtype=np.uint32) for one in asked]

    def _sample_compiled(self, contexts: Contexts, stream_B: np.ndarray, max_tokens: int) -> list[np.ndarray]:
        from lmlab.kernels.ngram import draw as drawing_kernels

        texts: list[np.ndarray] = []
        piece = max(1, _TOKENS // max(1, max_tokens))
        for start in range(0, len(stream_B), piece):
            part = slice(start, start + piece)
            level_B, node_B = contexts.level_B[part], contexts.node_B[part]
            words_BT = np.empty((len(level_B), max_tokens), dtype=np.uint32)
            many_B = np.zeros(len(level_B), dtype=np.int64)
            model = self._table, self._sum_table, MOST_REDRAWS, EOS
            drawing_kernels.sample(*model, level_B, node_B, stream_B[part], words_BT, many_B)
            texts += [words_T[:many].copy() for words_T, many in zip(words_BT, many_B.tolist(), strict=True)]
        return texts

    def _sample_one(self, level: int, node: int, stream: int, max_tokens: int) -> list[int]:
        """One text, in Python."""
        words: list[int] = []
        full = len(self._levels) - 1
        while len(words) < max_tokens and words[-1:] != [EOS]:
            nodes = self._chain(level, node)
            length, redraws = level, 0
            while True:
                length, place, stream = self._draw(nodes, length, stream, redraws == MOST_REDRAWS)
                word = self._views[length][KEY][place] & _LOW
                longer = range(length + 1, level + 1)
                met = next((known for known in longer if self._find(known, nodes[known], word) >= 0), 0)
                if not met:
                    break
                redraws = min(redraws + 1, MOST_REDRAWS)
                length = met - 1 if redraws < MOST_REDRAWS else level
            words.append(word)
            if length < full:
                level, node = length + 1, place
            else:  # the longest are no contexts; what they end in, a word shorter, is stored
                level, node = full, self._find(full - 1, nodes[full - 1], word) if full else 0
        return words

    def _draw(self, nodes: list[int], length: int, stream: int, children_only: bool) -> tuple[int, int, int]:
        """A word from a context's children or those of a shorter one: its length, the place, the stream behind it."""
        while True:
            _, _, _, backoff, start_C1 = self._views[length]
            sums, start, stop = self._sum_views[length], start_C1[nodes[length]], start_C1[nodes[length] + 1]
            reach = sums[stop] - sums[start]
            stream = (stream + _STEP) & _MASK
            uniform = (_mix(stream) >> 11) * 2.0**-53
            only = length == 0 or children_only or backoff[nodes[length]] == -math.inf
            if start < stop and (only or uniform < reach):
                target = sums[start] + (uniform * reach if only else uniform)
                target = min(target, math.nextafter(sums[stop], 0))  # rounding must not pass the last with a share
                return length, bisect_right(sums, target, start + 1, stop) - 1, stream
            length -= 1


def _mix(x: Any) -> Any:
    """SplitMix64 (Steele et al. 2014), of a number or of an array of uint64."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _rounded(x: float) -> float:
    """The sum of two float32 as float32 has it."""
    return float(np.float32(x))


def _addresses(lines: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    return np.array([[array.ctypes.data for array in line] for line in lines], dtype=np.uint64)
