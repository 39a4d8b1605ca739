"""Smoothing: counts to probabilities and backoff weights, in one form that every lookup shares.

Every smoothing here gives each stored k-gram h w a probability p and each context h a backoff weight b, such that

    P(w | h) = p(h w)                where h w is stored
             = b(h) P(w | h')        where it is not; h' is h without its first word, b = 1 for a context never seen

and each but stupid backoff interpolates, from the shortest k-grams up to the longest, down to the uniform distribution
over the words that can be predicted:

    p(h w) = (c(h w) - D(h w) + mass(h) p(h' w)) / total(h)        b(h) = mass(h) / total(h)

c are the counts that a smoothing starts from, raw ones or Kneser-Ney's adjusted ones; D is their discount, by count;
total(h) is the sum of c(h w), and mass(h) that of D(h w), over all w; Witten-Bell and add-k add to both. `_SCHEMES` has
a function for each smoothing that chooses c and D. A k-gram that pruning drops has all of its count as its discount.

The children of a context lie side by side, so a level is smoothed in pieces of whole contexts, in memory that the
processor's cache holds. All is computed in float64 and stored as natural logs in float32.

Shapes: G k-grams of a level, C contexts (the k-grams one level down; one empty context below level 1), g and c of a
piece of whole contexts, F k-grams one level down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lmlab.errors import DataError
from lmlab.kernels import engine
from lmlab.kernels.ngram import twin
from lmlab.kernels.ngram.layout import Counts, Rule, high, log_of, low
from lmlab.memory import forget, room
from lmlab.vocabulary import BOS, NEVER_PREDICTED, SPECIALS, UNK

STUPID_BACKOFF = "stupid-backoff"
IMPORTED = "imported"
"""Of a model that was not estimated here: what another tool made of its counts."""
STUPID = np.log(np.float32(0.4))  # Brants et al. 2007, Large Language Models in Machine Translation, section 4
_FALLBACK = (0.5, 1.0, 1.5)  # what KenLM's --discount_fallback defaults to
_PIECE = 1 << 16
_FORGET_AFTER = 4  # pieces


class Smoothed(NamedTuple):
    """What a lookup needs of each level, the shortest k-grams first.

    Attributes:
        logp: of each level, float32 ln p of each k-gram.
        backoff: of each level, float32 ln b of each k-gram as a context; empty for the last.
        pruned: of each level, which k-grams pruning drops; None where it drops none.
        absent: ln b of a context that was never seen.
        notes: what was done otherwise than asked, in words.
    """

    logp: tuple[np.ndarray, ...]
    backoff: tuple[np.ndarray, ...]
    pruned: tuple[np.ndarray | None, ...]
    absent: float
    notes: tuple[str, ...]


class Lmplz(NamedTuple):
    """What KenLM's lmplz does in its own way; it repeats its error in the counts of counts, too.

    Attributes:
        fallback: discounts for counts of 1, 2 and of 3 and more where the counts of counts allow none; None refuses.
        interpolate_unigrams: whether what unigrams are discounted goes to all words alike; else all to the unknown.
        vocab_pad: take the vocabulary to have so many words, if it has fewer.
        allowed_V: the words that n-grams may have; None allows all.
    """

    fallback: Sequence[float] | None = _FALLBACK
    interpolate_unigrams: bool = True
    vocab_pad: int = 0
    allowed_V: np.ndarray | None = None


class Task(NamedTuple):
    """One level as a scheme sees it."""

    levels: Sequence[Counts]
    k: int
    words: int  # that can be predicted
    add: float
    lmplz: Lmplz | None

    @property
    def raw_G(self) -> np.ndarray:
        """The counts as they are."""
        return _predicted(self.levels[self.k - 1].count_G, self.k)

    @property
    def adjusted_G(self) -> np.ndarray:
        """The counts as Kneser and Ney adjust them."""
        return _predicted(adjusted(self.levels, self.k), self.k)


def smooth(
    levels: list[Counts],
    smoothing: str,
    add: float = 0.1,
    prune: Sequence[int] = (),
    *,
    lmplz: Lmplz | None = None,
    on_disk: bool = False,
) -> Smoothed:
    """Turn counts into log-probabilities and backoff weights.

    Args:
        levels: what `count_ngrams` returned; the counts are let go of one by one as they are used up.
        smoothing: a name of `SMOOTHINGS`.
        add: what add-k adds to every count.
        prune: of each length, from 1 on, the count up to which its k-grams are dropped; the last holds for all longer.
            Never less than the one before.
        lmplz: do as lmplz does.
        on_disk: keep what is large in files.
    """
    wishes = lmplz or Lmplz()
    shorter_F, barred_F = np.empty(0), np.zeros(1, bool)  # below level 1: uniform, with no word that is not allowed
    logp, backoff, dropped, notes = [], [], [], []
    for k, (level, rule) in enumerate(zip(levels, rules_of(levels, smoothing, add, lmplz), strict=True), 1):
        most = prune[min(k, len(prune)) - 1] if prune else 0
        pruned_G = level.count_G <= most if most else None
        if wishes.allowed_V is not None:
            barred_F = barred_F[high(level.key_G)] | ~wishes.allowed_V[low(level.key_G)]
            pruned_G = barred_F if pruned_G is None else pruned_G | barred_F
        if k == 1:
            words = len(level) - len(NEVER_PREDICTED)
            if pruned_G is not None:
                pruned_G[: len(SPECIALS)] = False
                words -= int(np.count_nonzero(pruned_G))
            shorter_F = np.array([1 / max(words, wishes.vocab_pad) if wishes.interpolate_unigrams else 0.0])
        level = levels[k - 1] = replace(level, count_G=np.empty(0, dtype=np.uint32))
        logp_G, backoff_C, shorter_F = _interpolate(
            level, rule, shorter_F, pruned_G, longest=1 < k == len(levels), on_disk=on_disk
        )
        if k == 1:
            if not wishes.interpolate_unigrams:
                logp_G[UNK] = backoff_C[0]
            logp_G[list(NEVER_PREDICTED)], shorter_F[list(NEVER_PREDICTED)] = -np.inf, 0
        else:
            backoff.append(np.full_like(backoff_C, STUPID) if smoothing == STUPID_BACKOFF else backoff_C)
        logp.append(logp_G)
        dropped.append(pruned_G)
        notes += [f"order {k}: {rule.note}"] if rule.note else []
    nothing = np.empty(0, dtype=np.float32)  # the longest k-grams are no contexts
    return Smoothed(tuple(logp), (*backoff, nothing), tuple(dropped), absent_of(smoothing), tuple(notes))


def rules_of(levels: Sequence[Counts], smoothing: str, add: float = 0.1, lmplz: Lmplz | None = None) -> Iterator[Rule]:
    """What a smoothing does with each level, worked out when it is asked for; the arguments are those of `smooth`."""
    for k in range(1, len(levels) + 1):
        yield _SCHEMES[smoothing](Task(levels, k, len(levels[0]) - len(NEVER_PREDICTED), add, lmplz))


def absent_of(smoothing: str) -> float:
    """Ln of the backoff weight of a context that was never seen."""
    return float(STUPID) if smoothing == STUPID_BACKOFF else 0.0


def _interpolate(
    level: Counts, rule: Rule, shorter_F: np.ndarray, pruned_G: np.ndarray | None, *, longest: bool, on_disk: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ln p of each k-gram and ln b of each context, and p once more in float64 for the level above, if there is one."""
    if on_disk:
        logp_G = room((len(level),), np.float32, on_disk=True)
    else:
        logp_G = rule.count_G.view(np.float32)  # each count is used up when its piece has been read
    backoff_C = room((len(shorter_F),), np.float32, on_disk=on_disk)
    p_G = room((0 if longest else len(level),), np.float64, on_disk=on_disk)
    share_out = twin(share, len(level))

    def smooth_piece(piece: slice) -> None:
        count_g = rule.count_G[piece]
        dropped_g = np.zeros(len(count_g), dtype=bool) if pruned_G is None else pruned_G[piece]
        p_g, first, weight_c = share_out(level.key_G[piece], level.suffix_G[piece], count_g, dropped_g, rule, shorter_F)
        logp_G[piece] = log_of(p_g)
        backoff_C[first : first + len(weight_c)] = log_of(weight_c)
        if not longest:
            p_G[piece] = p_g
        if on_disk and piece.start // _PIECE % _FORGET_AFTER == 0:
            forget(level.key_G, level.suffix_G, rule.count_G, shorter_F, logp_G, backoff_C, p_G)

    engine.each(smooth_piece, _whole_contexts(level), threads=1 if share_out is share else None)
    return logp_G, backoff_C, p_G


def share(
    key_g: np.ndarray,
    suffix_g: np.ndarray,
    count_g: np.ndarray,
    dropped_g: np.ndarray,
    rule: Rule,
    shorter_F: np.ndarray,
) -> tuple[np.ndarray, int, np.ndarray]:
    """Of some whole contexts: p of each child, the first context, and b of each context from there on; float64."""
    context_g = high(key_g)
    first, contexts = int(context_g[0]), int(context_g[-1]) - int(context_g[0]) + 1
    context_g = (context_g - np.uint32(first)).astype(np.intp)
    discount_g = np.asarray(rule.discounts).take(np.minimum(count_g, 3))
    besides_c = np.full(contexts, rule.per_context)
    if rule.per_type:
        besides_c += rule.per_type * np.bincount(context_g, weights=count_g > 0)
    total_c = np.bincount(context_g, weights=count_g) + besides_c
    mass_c = np.bincount(context_g, weights=np.where(dropped_g, count_g, discount_g)) + besides_c
    nothing_c = total_c == 0  # hands all down
    total_c += nothing_c
    mass_c += nothing_c
    weight_c = mass_c / total_c
    shared_g = weight_c.take(context_g) * shorter_F.take(suffix_g)
    return (count_g - discount_g) / total_c.take(context_g) + shared_g, first, weight_c


def _whole_contexts(level: Counts) -> Iterator[slice]:
    """A level in pieces that end where a context's children do."""
    start, context_G = 0, high(level.key_G)
    while start < len(level):
        stop = start + _PIECE
        if stop < len(level):
            following = np.array([context_G[stop - 1] + np.uint64(1)], dtype=np.uint64) << np.uint64(32)
            stop = int(np.searchsorted(level.key_G, following[0]))
        yield slice(start, stop)
        start = stop


def tally(suffix_G: np.ndarray, nodes: int) -> np.ndarray:
    """How many k-grams of a level have each suffix: uint32, one for each node one level down."""
    return np.bincount(suffix_G, minlength=nodes).astype(np.uint32)


def adjusted(levels: Sequence[Counts], k: int) -> np.ndarray:
    """Kneser-Ney's counts of level k: in how many different ways each k-gram is preceded.

    The longest k-grams, and those that begin with `<bos>` and so are preceded by nothing, keep their own counts.
    """
    level = levels[k - 1]
    if k == len(levels):
        return level.count_G
    count_G = twin(tally, len(levels[k]))(levels[k].suffix_G, len(level))
    for start in range(0, len(count_G), _PIECE):
        piece = slice(start, start + _PIECE)
        np.copyto(count_G[piece], level.count_G[piece], where=count_G[piece] == 0)
    forget(level.count_G)
    return count_G


def _predicted(count_G: np.ndarray, k: int) -> np.ndarray:
    """Counts of level k, with none for the words that are never predicted."""
    if k == 1:
        count_G = count_G.copy()
        count_G[list(NEVER_PREDICTED)] = 0
    return count_G


def counts_of_counts(count_G: np.ndarray) -> np.ndarray:
    """How many k-grams have the count 0, 1, 2, 3, 4, and 5 or more: int64, 6.

    >>> counts_of_counts(np.array([1, 1, 3, 9], dtype=np.uint32)).tolist()
    [0, 2, 0, 1, 0, 1]
    """
    n = np.zeros(6, dtype=np.int64)
    for start in range(0, len(count_G), _PIECE):
        piece = count_G[start : start + _PIECE]
        n[:5] += [np.count_nonzero(piece == count) for count in range(5)]
    n[5] = len(count_G) - n.sum()
    return n


def discounts(n: np.ndarray, lmplz: Lmplz | None = None) -> tuple[list[float], str]:
    """The discounts of modified Kneser-Ney for counts of 0, 1, 2 and of 3 and more, and a note where it fell back.

    D_j = j - (j + 1) Y n_{j+1} / n_j with Y = n_1 / (n_1 + 2 n_2), where n_j k-grams have the count j (Chen and
    Goodman 1998, section 3). Where n_1, n_2 or n_3 is 0, or a D_j lies outside [0, j], j Y stands in: D_1 is Y anyway,
    and on held-out text small corpora fare better so than with KenLM's constants. Those remain where n_1 or n_2 is 0.

    Args:
        n: what `counts_of_counts` returned.
        lmplz: fall back to its constants always.

    Raises:
        DataError: lmplz has none to fall back to.

    >>> [round(d, 3) for d in discounts(np.array([0, 4, 2, 1, 1, 0]))[0]]
    [0.0, 0.5, 1.25, 1.0]
    >>> discounts(np.array([0, 6, 2, 0, 1, 0]))[1]
    'the counts of counts 6, 2, 0, 1 allow no Kneser-Ney discounts; fell back to 0.6, 1.2 and 1.8'
    """
    fallback = lmplz.fallback if lmplz else _FALLBACK
    if n[1] and n[2]:
        y = float(n[1] / (n[1] + 2 * n[2]))
        found = [float(j - (j + 1) * y * n[j + 1] / n[j]) for j in (1, 2, 3) if n[j]]
        if len(found) == 3 and all(0 <= d <= j for j, d in enumerate(found, 1)):
            return [0.0, *found], ""
        fallback = fallback if lmplz else (y, 2 * y, 3 * y)
    shown = ", ".join(f"{c:,}" for c in n[1:5])
    if fallback is None:
        raise DataError(f"the counts of counts {shown} allow no Kneser-Ney discounts", "give --discount_fallback")
    instead = "{:.3g}, {:.3g} and {:.3g}".format(*fallback)
    note = f"the counts of counts {shown} allow no Kneser-Ney discounts; fell back to {instead}"
    return [0.0, *fallback], note if n[1:].any() else ""


def _kneser_ney(task: Task) -> Rule:
    count_G = task.adjusted_G
    n = counts_of_counts(count_G)
    if task.lmplz and task.k < len(task.levels):
        _miscount(task, count_G, n)
    found, note = discounts(n, task.lmplz)
    return Rule(count_G, found, note=note)


def _miscount(task: Task, count_G: np.ndarray, n: np.ndarray) -> None:
    """Repeat lmplz's error (kpu/kenlm issue 405).

    The k-gram that comes last, read from its last word back, words in the order of their ids, enters the counts of
    counts with its raw count.
    """
    last = int(task.levels[1].suffix_G.max())
    for length in range(2, task.k + 1):
        before_G = np.flatnonzero(task.levels[length - 1].suffix_G == last)
        first_G = _first_word(task.levels, length, before_G)
        last = int(before_G[first_G.argmax()])
        if first_G.max() == BOS:
            return  # counted raw anyway
    n[min(int(count_G[last]), 5)] -= 1
    n[min(int(task.levels[task.k - 1].count_G[last]), 5)] += 1


def _first_word(levels: Sequence[Counts], k: int, node_Q: np.ndarray) -> np.ndarray:
    for length in range(k, 1, -1):
        node_Q = high(levels[length - 1].key_G)[node_Q]
    return node_Q


def _absolute(task: Task) -> Rule:
    count_G = task.raw_G
    n = counts_of_counts(count_G)
    discount, note = 0.5, ""
    if n[1] and n[2]:
        discount = float(n[1] / (n[1] + 2 * n[2]))
    elif n[1:].any():
        note = f"{n[1]:,} counts of 1 and {n[2]:,} of 2 allow no absolute discount; fell back to 0.5"
    return Rule(count_G, (0.0, discount, discount, discount), note=note)


def _witten_bell(task: Task) -> Rule:
    return Rule(task.raw_G, per_type=1.0)


def _maximum_likelihood(task: Task) -> Rule:
    return Rule(task.raw_G)


def _add_k(task: Task) -> Rule:
    """Only whole contexts count, of order - 1 words or from <bos> on; the shorter hand all down, and so are uniform."""
    count_G, k = task.raw_G, task.k
    if k == 1 and k < len(task.levels):
        count_G = np.zeros_like(count_G)
    elif k < len(task.levels):
        own, shorter = task.levels[k - 1], task.levels[k - 2]
        opens_C = twin(tally, len(own))(own.suffix_G, len(shorter)) == 0
        if k == 2:
            opens_C = np.arange(len(opens_C)) == BOS  # of words, those never seen are preceded by nothing either
        count_G = count_G * opens_C[high(task.levels[k - 1].key_G)]
    return Rule(count_G, per_context=task.add * task.words)


_SCHEMES: dict[str, Callable[[Task], Rule]] = {
    "kneser-ney": _kneser_ney,
    "absolute": _absolute,
    "witten-bell": _witten_bell,
    "mle": _maximum_likelihood,
    "add-k": _add_k,
    STUPID_BACKOFF: _maximum_likelihood,
}
SMOOTHINGS = tuple(_SCHEMES)
