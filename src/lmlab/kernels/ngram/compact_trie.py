"""The compact layout: a model as its counts, about a dozen bits a k-gram, and the same scores as the fast one.

Smoothing is arithmetic on counts, so counts alone need to be kept, and p is worked out when it is
asked for: kept(h w) and total(h) from the children of h, and p(h' w) from the level below, which was asked before.

    level 2   a b          children of a:  b c d        b is number 0, c number 1, d number 2
    level 3   x a b        children of x a: b d         kept as 0 2, their numbers among the children of a
    level 4   z x a d      children of z x a: d         kept as 1, its number among the children of x a

A word is kept as its number among the children of the context without its first word, all of which must be there. Those
are few: at length 5 mostly one. So a question goes up from the shortest context to the longest, and carries
the number along. Counts are mostly 1, and a context's children mostly none or one: what is small takes a bit or two, by
the ladders of compact.py. Where pruning dropped k-grams, the sum of their counts is kept with their context.

Everything here runs compiled: a model worth packing is large.

Shapes: N tokens of all documents, M of a piece; B contexts, K lengths of them; G nodes of a level, F of that below.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, reduce
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from lmlab.errors import ArtifactError, UsageError
from lmlab.kernels import engine
from lmlab.kernels.ngram import compact as kernels
from lmlab.kernels.ngram.compact import BLOCK, CODES, COUNTS, DROPPED, HEAD, LEAST, RULE, WIDE
from lmlab.kernels.ngram.layout import NONE, UNSEEN, Counts, Rule, high, log_of, low
from lmlab.memory import fixed, map_npy
from lmlab.packed import pieces
from lmlab.vocabulary import BOS, NEVER_PREDICTED

PIECE = 1 << 14  # words scored together: what they need stays in the second-level cache
_STEPS = 4  # of a ladder, at most
_FINE = 1 << 20  # numbers from here on are not told apart when a ladder's steps are chosen
_SLACK = 256  # words of 64 bits after the last run, where the loops may read
_LADDERS = (DROPPED, COUNTS, CODES)


@dataclass(frozen=True)
class CompactTrie:
    """Levels of k-grams in few bits, the shortest first.

    A context of the first words is held as the nodes of its last 1, 2 .. order - 1 words, (K, B) uint32: UNSEEN where
    they are not stored, NONE where the document does not reach so far back.

    Attributes:
        levels: the k-grams of each length, uint64; compact.py says how they lie.
        absent: ln of the weight that every context gives to the shorter one; 0 where each has its own.
        notes: what was done otherwise than asked, in words.
    """

    levels: tuple[np.ndarray, ...]
    absent: float
    notes: tuple[str, ...] = ()
    lacks: ClassVar[Sequence[int]] = ()  # `Trie.lacks`: none is imported

    @classmethod
    def of(cls, counts: Sequence[Counts], rules: Iterable[Rule], prune: Sequence[int], absent: float) -> CompactTrie:
        """Pack what was counted.

        Args:
            counts: a level for each length, the shortest first.
            rules: what smoothing does with each level; asked for one by one.
            prune: of each length, the count up to which its k-grams are dropped; the last holds for all longer.
            absent: ln of the weight that every context gives to the shorter one; 0 where each has its own.
        """
        notes: list[str] = []
        return cls(tuple(_pack_levels(counts, rules, prune, notes)), absent, tuple(notes))

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.levels)

    @property
    def ngrams(self) -> tuple[int, ...]:
        """How many n-grams are stored of each length; of length 1, the whole vocabulary."""
        return tuple(int(level[kernels.SIZE]) for level in self.levels)

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        return sum(level.nbytes for level in self.levels)

    @cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """The probability of each word without a context, float64, and its logarithm, float32."""
        rule = _rule(self.levels[0])
        count_V = self._unpack(0, 0, self.ngrams[0])[1]
        discount_V = rule[np.minimum(count_V, 3)]
        besides = rule[5] + rule[4] * np.count_nonzero(count_V)
        total, mass = (float(np.cumsum(of_V)[-1]) + besides for of_V in (count_V.astype(np.float64), discount_V))
        weight, total = (mass / total, total) if total > 0 else (1.0, 1.0)
        p_V = (count_V - discount_V) / total + weight * (1 / (len(count_V) - len(NEVER_PREDICTED)))
        p_V[list(NEVER_PREDICTED)] = 0
        return p_V, log_of(p_V)

    # ---- known text

    def logp_array(self, ids_N: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Log-probability of each id, float32; every `<bos>` opens a new document and itself scores 0."""
        logp_N = np.empty(len(ids_N), dtype=np.float32)
        self._words  # noqa: B018  made once, before threads ask for it

        def score(start: int) -> None:
            warm = min(start, self.order - 1)  # tokens before the piece that its first contexts reach
            logp_N[start : start + PIECE] = self._score(np.asarray(ids_N[start - warm : start + PIECE]))[warm:]

        engine.each(score, range(0, len(ids_N), PIECE), threads)
        return logp_N

    def scorer(self, tokens: int | None) -> Callable[[np.ndarray], np.ndarray]:
        """`logp_array`, however many tokens there are."""
        return self.logp_array

    def _score(self, ids_M: np.ndarray) -> np.ndarray:
        p_V, logp_V = self._words
        p_M, logp_M, rank_M = p_V[ids_M], logp_V[ids_M], ids_M.astype(np.uint32)
        opens_M = ids_M == BOS
        nodes_M1 = np.full(len(ids_M) + 1, NONE, dtype=np.uint32)  # that end at each place, the one before it first
        nodes_M1[1:] = ids_M
        unseen_M = np.zeros(len(ids_M), dtype=np.int64)  # how many contexts of each place are not stored
        for below, level in pairwise(self.levels):
            context_M = np.where(opens_M, np.uint32(NONE), nodes_M1[:-1])
            chosen_M = np.empty(len(ids_M))
            kernels.lookup(below, level, context_M, nodes_M1[1:], rank_M, p_M, chosen_M)
            chosen_M = log_of(chosen_M)
            if self.absent:
                chosen_M[(nodes_M1[1:] == UNSEEN) & (context_M < UNSEEN)] = self.absent
                unseen_M += context_M == UNSEEN
            logp_M = np.where(nodes_M1[1:] < UNSEEN, chosen_M, logp_M + chosen_M)
        if self.absent:
            logp_M += np.float32(self.absent) * unseen_M
        logp_M[opens_M] = 0
        return logp_M

    # ---- contexts, stepping

    def parts(self, nodes_KB: np.ndarray) -> tuple[np.ndarray, ...]:
        """Contexts as arrays of int64, the batch last."""
        return (nodes_KB.astype(np.int64),)

    def contexts(self, nodes_KB: np.ndarray) -> np.ndarray:
        """Contexts from their `parts`."""
        return nodes_KB.astype(np.uint32)

    def begin(self, prompts: list[list[int]]) -> np.ndarray:
        """The contexts after these tokens, ragged and possibly empty."""
        nodes_KB = np.full((self.order - 1, len(prompts)), NONE, dtype=np.uint32)
        for row, prompt in enumerate(prompts):
            nodes_K1 = nodes_KB[:, row : row + 1]
            for word in prompt[max(0, len(prompt) - self.order + 1) :]:
                nodes_K1 = self.advance(nodes_K1, np.array([word]))
            nodes_KB[:, row : row + 1] = nodes_K1
        return nodes_KB

    def advance(self, nodes_KB: np.ndarray, word_B: np.ndarray) -> np.ndarray:
        """The contexts one word further."""
        longer_KB = np.full(nodes_KB.shape, NONE, dtype=np.uint32)
        longer_KB[:1] = word_B
        p_B, rank_B, chosen_B = self._words[0][word_B], word_B.astype(np.uint32), np.empty(len(word_B))
        for k, (below, level) in enumerate(pairwise(self.levels[:-1])):
            context_B = np.where(word_B == BOS, np.uint32(NONE), nodes_KB[k])
            longer_KB[k + 1] = longer_KB[k]
            kernels.lookup(below, level, context_B, longer_KB[k + 1], rank_B, p_B, chosen_B)
        return longer_KB

    def rows(self, nodes_KB: np.ndarray) -> np.ndarray:
        """The log-probability of every word after each context, (B, V) float32."""
        p_V, logp_V = self._words
        logp_BV = np.tile(logp_V, (nodes_KB.shape[1], 1))
        for row, logp_V in enumerate(logp_BV):
            word_Q, p_Q = np.arange(len(p_V)), p_V  # the children of the context so far
            for k, node in enumerate(nodes_KB[:, row]):
                if node < UNSEEN:
                    start, stop = kernels.children(self.levels[k], int(node))
                    total, mass = kernels.sums(self.levels[k], self.levels[k + 1], int(node), start, stop)
                    weight, total = (mass / total, total) if total > 0 else (1.0, 1.0)
                    code_Q, count_Q = self._unpack(k + 1, start, stop - start)
                    if (code := int(code_Q.max(initial=-1))) >= len(word_Q):
                        raise ArtifactError(f"a compact level names child {code:,} of {len(word_Q):,}", "make it again")
                    kept_Q = count_Q - _rule(self.levels[k + 1])[np.minimum(count_Q, 3)]
                    word_Q, p_Q = word_Q[code_Q], kept_Q / total + weight * p_Q[code_Q]
                    logp_V += np.float32(self.absent) or log_of(np.array([weight]))
                    logp_V[word_Q] = log_of(p_Q)
            if self.absent:
                logp_V += np.float32(self.absent) * np.count_nonzero(nodes_KB[:, row] == UNSEEN)
        return logp_BV

    def _unpack(self, below: int, start: int, many: int) -> tuple[np.ndarray, np.ndarray]:
        code_Q, count_Q = np.empty(many, dtype=np.int64), np.empty(many, dtype=np.int64)
        kernels.unpack(self.levels[below], start, code_Q, count_Q)
        return code_Q, count_Q

    # ---- keeping

    def save(self, folder: Path) -> None:
        """Write a file for every level, and `compact.json` to know them by, into an existing folder."""
        for k, level in enumerate(self.levels, 1):
            np.save(folder / _file_name(k), level)
        checksums = [_checksum(folder / _file_name(k)) for k in range(1, self.order + 1)]
        about = {"absent": self.absent, "notes": self.notes, "crc32": checksums}
        (folder / "compact.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> CompactTrie:
        """Open what `save` wrote, memory-mapped.

        Raises:
            ArtifactError: a file is missing, or is not as it was written.
        """
        levels: list[np.ndarray] = []
        try:
            about = json.loads(b"".join(pieces(folder / "compact.json")))
            for k, checksum in enumerate(about["crc32"], 1):
                if _checksum(folder / _file_name(k)) != checksum:
                    raise _damaged(folder, f"{_file_name(k)} is not as it was written")
                levels.append(fixed(map_npy(folder / _file_name(k))))
            absent, notes = float(about["absent"]), tuple(map(str, about["notes"]))
        except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise _damaged(folder, f"{type(error).__name__}: {error}") from error
        if not -math.inf < absent <= 0:
            raise _damaged(folder, f"its log {absent} is none up to 0")
        if not levels or any(level.dtype != "<u8" or level.ndim != 1 or len(level) < HEAD + _SLACK for level in levels):
            raise _damaged(folder, "its levels are none")
        sizes = [int(level[kernels.SIZE]) for level in levels]
        for k, (level, children) in enumerate(zip(levels, [*sizes[1:], 0], strict=True), 1):
            if not _fits(level, k, children):
                raise _damaged(folder, f"{_file_name(k)} contradicts itself or the next")
        return cls(tuple(levels), absent, notes)


def _checksum(path: Path) -> int:
    return reduce(lambda sum, piece: zlib.crc32(piece, sum), pieces(path), 0)


def _rule(level: np.ndarray) -> np.ndarray:
    """The discounts of counts of 0, 1, 2, 3 and more; the mass for the shorter context per type, and per context."""
    return level[RULE:LEAST].view(np.float64)


def _fits(level: np.ndarray, k: int, children: int) -> bool:
    """Whether the loops will stay inside a level, whatever its runs hold."""
    size, children_said, starts, wides, many_wide, directory, runs = map(int, level[:DROPPED][:7])
    blocks = -(-size // BLOCK)
    laid_out = HEAD if k > 1 else HEAD + size // 2 + 1
    steps_fit = all(1 <= level[at] <= _STEPS and level[at + 1 : at + 1 + _STEPS].max() <= 32 for at in _LADDERS)
    if (
        (children_said, starts, wides) != (children, HEAD if k == 1 else 0, laid_out)
        or directory != wides + 3 * many_wide
        or runs != directory + 2 * blocks + 2
        or runs + _SLACK > len(level)
        or not steps_fit
        or level[LEAST] > 1
        or not _sums_fit(level, wides, directory)
    ):
        return False
    entry_K, code_K = level[directory:runs:2].copy(), level[directory + 1 : runs : 2]
    firsts = level[HEAD:laid_out].view("<u4")[: size + 1] if k == 1 else low(entry_K)
    bytes_K = np.diff(high(entry_K).astype(np.int64))
    degrees_K = np.diff(firsts.astype(np.int64)) if k > 1 else np.zeros(1, dtype=np.int64)
    return (
        (int(firsts[0]), int(firsts[-1])) == (0, children)
        and bool(np.all(firsts[1:] >= firsts[:-1]))
        and bool(np.all(code_K >> np.uint64(32) < BLOCK * _SLACK // 2))
        and bool(np.all(bytes_K * 8 >= degrees_K) and np.all(bytes_K >= 0))
        and runs + (int(high(entry_K[-1:])[0]) >> 3) + _SLACK <= len(level)
    )


def _sums_fit(level: np.ndarray, wides: int, directory: int) -> bool:
    """Whether discounts take no more than there is, and no context with many children gives more than it has."""
    rule, sums_W2 = _rule(level), level[wides:directory].reshape(-1, 3)[:, 1:].view(np.float64)
    total_W, mass_W = sums_W2.T
    rule_fits = np.all(rule >= 0) and np.all(rule[:4] <= np.arange(4)) and np.all(rule[4:] < np.inf)
    return bool(rule_fits and np.all((mass_W >= 0) & (mass_W <= total_W) & (total_W >= 1) & (total_W < np.inf)))


def _file_name(k: int) -> str:
    return f"compact_{k}.npy"


def _damaged(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{folder} is no sound compact n-gram model: {what}", "make it again")


# ---- making


@dataclass(frozen=True)
class _Level:
    """A level without what was pruned, before it is packed; empty arrays where there is nothing.

    Attributes:
        count_G: the counts that smoothing starts from.
        code_G: the numbers of the words among their suffix contexts' children.
        wide_W: the contexts with many children.
        sums_W2: their totals and what they give to the shorter context.
        rule: the discounts of counts of 0, 1, 2, 3 and more; the mass per type, and per context.
    """

    count_G: np.ndarray
    code_G: np.ndarray
    wide_W: np.ndarray
    sums_W2: np.ndarray
    rule: np.ndarray


_NOTHING = np.empty(0, dtype=np.uint32)


def _pack_levels(
    counts: Sequence[Counts], rules: Iterable[Rule], prune: Sequence[int], notes: list[str]
) -> Iterator[np.ndarray]:
    """Each level, packed when its children are known; notes are added to those given."""
    ready: _Level | None = None
    place_F = np.zeros(1, dtype=np.int64)  # where each node of the level below is kept; -1 where it was pruned
    rank_F = np.zeros(1, dtype=np.uint32)  # of those kept, which of its context's children it is
    for k, (level, rule) in enumerate(zip(counts, rules, strict=True), 1):
        notes += [f"order {k}: {rule.note}"] if rule.note else []
        pruned_G = level.count_G <= (prune[min(k, len(prune)) - 1] if prune and k > 1 else -1)
        kept_G = ~pruned_G
        context_G = place_F[high(level.key_G)]
        start_C = _starts(context_G[kept_G], int(np.count_nonzero(place_F >= 0)))
        if ready:
            yield _pack(ready, start_C, _dropped(rule, context_G, pruned_G, start_C), words=k == 2)
        code_G = rank_F[place_F[level.suffix_G[kept_G]]] if k > 2 else level.key_G[kept_G].astype(np.uint32)
        count_G = np.asarray(rule.count_G, dtype=np.uint32)
        numbers = np.array([*rule.discounts, rule.per_type, rule.per_context])
        sums = _wide_sums(level, count_G, pruned_G, start_C, numbers)
        ready = _Level(count_G[kept_G], _NOTHING if k == 1 else code_G, *sums, numbers)
        rank_F = (np.arange(len(ready.count_G)) - start_C[context_G[kept_G]]).astype(np.uint32)
        place_F = np.where(kept_G, np.cumsum(kept_G) - 1, -1)
    if ready:
        yield _pack(ready, _NOTHING, _NOTHING, words=len(counts) == 1)


def _starts(context_G: np.ndarray, contexts: int) -> np.ndarray:
    """The first child of each context, and the end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.bincount(context_G, minlength=contexts))])


def _dropped(rule: Rule, context_G: np.ndarray, pruned_G: np.ndarray, start_C: np.ndarray) -> np.ndarray:
    """What each context hands down because k-grams were pruned; whole numbers, as `per_type` is 0 or 1."""
    if not pruned_G.any():
        return _NOTHING
    lost_G = pruned_G & (context_G >= 0)
    count_Q = np.asarray(rule.count_G)[lost_G]
    each_Q = count_Q + rule.per_type * (count_Q > 0)
    return np.bincount(context_G[lost_G], weights=each_Q, minlength=len(start_C) - 1).astype(np.uint32)


def _wide_sums(
    level: Counts, count_G: np.ndarray, pruned_G: np.ndarray, start_C: np.ndarray, rule: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The contexts with many children, and their total and mass, to which what was pruned belongs."""
    wide_W = np.flatnonzero(np.diff(start_C) > WIDE)
    context_W = high(level.key_G)[np.flatnonzero(~pruned_G)[start_C[wide_W]]].astype(np.uint64)
    start_W, stop_W = (np.searchsorted(level.key_G, context << np.uint64(32)) for context in (context_W, context_W + 1))
    sums_W2 = np.empty((len(wide_W), 2))
    kernels.add_up(count_G, pruned_G, start_W, stop_W, rule, sums_W2)
    return wide_W.astype(np.uint32), sums_W2


def _steps(number_G: np.ndarray) -> tuple[int, ...]:
    """The widths of a ladder's steps that make these numbers, none below 0, take the fewest bits."""
    most = int(number_G.max(initial=0))
    more = np.bincount(np.minimum(number_G, _FINE), minlength=1)[::-1].cumsum()[::-1].tolist()

    @cache
    def best(base: int, least: int, left: int) -> tuple[int, tuple[int, ...]]:
        many, all_bits = (more[base] if base < len(more) else 0), (most - base).bit_length()
        choices: list[tuple[int, tuple[int, ...]]] = [(many * all_bits, (all_bits,))]
        for width in range(least, all_bits if left else 0):
            on = base + (1 << width)
            bits, widths = best(on, width, left - 1)
            going_on = more[on] if on < len(more) else 0
            choices.append((many + (many - going_on) * width + bits, (width, *widths)))
        return min(choices)

    return best(0, 0, _STEPS - 1)[1]


def _bits_of(number_G: np.ndarray, widths: tuple[int, ...]) -> int:
    """How many bits a ladder takes."""
    bits, many, base = 0, len(number_G), 0
    for width in widths[:-1]:
        base += 1 << width
        on = int(np.count_nonzero(number_G >= base))
        bits, many = bits + many + (many - on) * width, on
    return bits + many * widths[-1]


def _pack(level: _Level, start_C: np.ndarray, dropped_G: np.ndarray, *, words: bool) -> np.ndarray:
    """A level, given the first child of each of its nodes, and what pruning took from each."""
    size, children = len(level.count_G), int(start_C[-1]) if len(start_C) else 0
    least = int(level.count_G.min(initial=1) > 0)
    degree_G = np.diff(start_C).astype(np.uint32) if children and not words else _NOTHING
    numbers = (dropped_G, level.count_G - np.uint32(least), level.code_G)
    widths = [_steps(number_G) for number_G in numbers]
    blocks = -(-size // BLOCK)
    bits = sum(map(_bits_of, numbers, widths)) + len(degree_G) + children + blocks * 8
    if bits >> 35:
        raise UsageError(f"{size:,} n-grams of one length are more than the compact layout holds", "prune the model")
    wides = HEAD + (size // 2 + 1 if words else 0)
    directory = wides + 3 * len(level.wide_W)
    runs = directory + 2 * blocks + 2
    packed = np.zeros(runs + (bits >> 6) + 2 * _SLACK, dtype=np.uint64)
    packed[:7] = size, children, HEAD if words else 0, wides, len(level.wide_W), directory, runs
    packed[RULE:LEAST] = level.rule.view(np.uint64)
    packed[LEAST] = least
    for at, steps in zip(_LADDERS, widths, strict=True):
        packed[at : at + 1 + len(steps)] = [len(steps), *steps]
    if words:
        packed[HEAD:wides].view(np.uint32)[: len(start_C)] = start_C
    wide_W3 = packed[wides:directory].reshape(-1, 3)
    wide_W3[:, 0], wide_W3[:, 1:] = level.wide_W, level.sums_W2.view(np.uint64)
    used = kernels.pack(packed, degree_G, numbers[0], numbers[1], numbers[2])
    return fixed(packed[: used + 1 + _SLACK].copy())
