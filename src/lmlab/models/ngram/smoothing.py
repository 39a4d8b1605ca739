"""Smoothing: counts to probabilities, in one form that every lookup shares.

Every smoothing here gives each stored k-gram h w a probability p and each context h a weight b, such that

    P(w | h) = p(h w)                where h w is stored
             = b(h) P(w | h')        where it is not; h' is h without its first word, b = 1 for a context never seen

and each but stupid backoff is one interpolation, from the shortest k-grams up to the longest:

    p(h w) = (kept(h w) + mass(h) p(h' w)) / total(h)      b(h) = mass(h) / total(h)

down to the uniform distribution over the words that can be predicted. They differ in what is kept of a count and what
mass is handed down: see `_SCHEMES`. All is computed in float64 and stored as natural logs in float32.

Shapes: G k-grams of a level, C contexts (the k-grams one level down; one empty context below level 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lmlab.models.ngram.counts import Counts, high
from lmlab.vocab import NEVER_PREDICTED

STUPID_BACKOFF = "stupid-backoff"
_STUPID_WEIGHT = 0.4  # Brants et al. 2007, Large Language Models in Machine Translation, section 4
_FALLBACK = (0.5, 1.0, 1.5)  # what KenLM's --discount_fallback defaults to


@dataclass(frozen=True)
class Smoothed:
    """What a lookup needs of each level, the shortest k-grams first.

    Attributes:
        logp: of each level, float32 ln p of each k-gram.
        backoff: of each level, float32 ln b of each k-gram as a context; empty for the last.
        absent: ln b of a context that was never seen.
        notes: what was done otherwise than asked, in words.
    """

    logp: tuple[np.ndarray, ...]
    backoff: tuple[np.ndarray, ...]
    absent: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Shares:
    """How the contexts of one level share their probability out."""

    kept_G: np.ndarray
    mass_C: np.ndarray
    total_C: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class _Task:
    """One level as a scheme sees it: the counts as they are and as Kneser-Ney adjusts them, and its surroundings."""

    k: int
    raw_G: np.ndarray
    adjusted_G: np.ndarray
    context_G: np.ndarray
    whole_C: np.ndarray  # whether a context is as long as contexts get: order - 1 words, or from <bos> on
    words: int  # that can be predicted
    add: float

    def sum(self, values_G: np.ndarray) -> np.ndarray:
        """The sum over each context's children, float64."""
        sum_C = np.bincount(self.context_G, weights=values_G, minlength=len(self.whole_C))
        return sum_C.astype(np.float64, copy=False)  # bincount of nothing is of integers


def smooth(levels: Sequence[Counts], smoothing: str, add: float) -> Smoothed:
    """Turn counts into log-probabilities and backoff weights.

    Args:
        levels: what `count_ngrams` returned.
        smoothing: a name of `SMOOTHINGS`.
        add: what add-k adds to every count.
    """
    scheme = _SCHEMES[smoothing]
    words = len(levels[0]) - len(NEVER_PREDICTED)
    shorter_G = np.array([1 / words])  # below level 1, uniform
    logp, backoff, notes = [], [], []
    for k in range(1, len(levels) + 1):
        level = levels[k - 1]
        shares = scheme(_task(levels, k, words, add))
        handed_C = np.divide(shares.mass_C, shares.total_C, out=np.ones_like(shares.mass_C), where=shares.total_C > 0)
        context_G = high(level.key_G)
        p_G = shares.kept_G / shares.total_C[context_G] + handed_C[context_G] * shorter_G[level.suffix_G]
        if k == 1:
            p_G[list(NEVER_PREDICTED)] = 0
        else:
            weight_C = np.full_like(handed_C, _STUPID_WEIGHT) if smoothing == STUPID_BACKOFF else handed_C
            backoff.append(_log(weight_C))
        logp.append(_log(p_G))
        notes += [f"order {k}: {shares.note}"] if shares.note else []
        shorter_G = p_G
    absent = float(np.log(_STUPID_WEIGHT)) if smoothing == STUPID_BACKOFF else 0.0
    nothing = np.empty(0, dtype=np.float32)  # the longest k-grams are no contexts
    return Smoothed(tuple(logp), (*backoff, nothing), absent, tuple(notes))


def _task(levels: Sequence[Counts], k: int, words: int, add: float) -> _Task:
    level = levels[k - 1]
    raw_G, adjusted_G = level.count_G, adjusted(levels, k)
    if k == 1:
        raw_G, adjusted_G = raw_G.copy(), adjusted_G.copy()
        raw_G[list(NEVER_PREDICTED)] = adjusted_G[list(NEVER_PREDICTED)] = 0
    if k == len(levels):
        whole_C = np.ones(1 if k == 1 else len(levels[k - 2]), dtype=bool)
    else:
        whole_C = np.zeros(1, dtype=bool) if k == 1 else levels[k - 2].opens_G
    return _Task(k, raw_G, adjusted_G, high(level.key_G), whole_C, words, add)


def adjusted(levels: Sequence[Counts], k: int) -> np.ndarray:
    """Kneser-Ney's counts of level k: in how many different ways each k-gram is preceded.

    The longest k-grams, and those that begin with `<bos>` and so are preceded by nothing, keep their own counts.
    """
    level = levels[k - 1]
    if k == len(levels):
        return level.count_G
    preceded_G = np.bincount(levels[k].suffix_G, minlength=len(level)).astype(np.uint32)
    return np.where(level.opens_G, level.count_G, preceded_G)


def discounts(count_G: np.ndarray) -> tuple[np.ndarray, str]:
    """What modified Kneser-Ney takes off a count of 0, 1, 2 and of 3 and more, and a note where it had to fall back.

    D_j = j - (j + 1) Y n_{j+1} / n_j with Y = n_1 / (n_1 + 2 n_2), where n_j k-grams have the count j (Chen and
    Goodman 1998, section 3). Where n_1, n_2 or n_3 is 0, or a D_j lies outside [0, j], KenLM's fallback stands in.

    >>> discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4]))[0].round(3).tolist()
    [0.0, 0.5, 1.25, 1.0]
    >>> discounts(np.array([1, 1, 3]))[1]
    'the counts of counts 2, 0, 1, 0 allow no Kneser-Ney discounts; fell back to 0.5, 1 and 1.5'
    """
    n = np.bincount(np.minimum(count_G, 5), minlength=6)
    if n[1] and n[2] and n[3]:
        y = n[1] / (n[1] + 2 * n[2])
        found = [j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)]
        if all(0 <= d <= j for j, d in enumerate(found, 1)):
            return np.array([0.0, *found]), ""
    shown = ", ".join(f"{c:,}" for c in n[1:5])
    note = f"the counts of counts {shown} allow no Kneser-Ney discounts; fell back to 0.5, 1 and 1.5"
    return np.array([0.0, *_FALLBACK]), note if n[1:].any() else ""


def _kneser_ney(task: _Task) -> _Shares:
    discount, note = discounts(task.adjusted_G)
    taken_G = discount[np.minimum(task.adjusted_G, 3)]
    return _Shares(task.adjusted_G - taken_G, task.sum(taken_G), task.sum(task.adjusted_G), note)


def _absolute(task: _Task) -> _Shares:
    once, twice = (int(np.count_nonzero(task.raw_G == j)) for j in (1, 2))
    discount, note = 0.5, ""
    if once and twice:
        discount = once / (once + 2 * twice)
    elif task.raw_G.any():
        note = f"{once:,} counts of 1 and {twice:,} of 2 allow no absolute discount; fell back to 0.5"
    taken_G = np.where(task.raw_G > 0, discount, 0.0)
    return _Shares(task.raw_G - taken_G, task.sum(taken_G), task.sum(task.raw_G), note)


def _witten_bell(task: _Task) -> _Shares:
    types_C = task.sum(task.raw_G > 0)
    return _Shares(task.raw_G, types_C, task.sum(task.raw_G) + types_C)


def _maximum_likelihood(task: _Task) -> _Shares:
    total_C = task.sum(task.raw_G)
    return _Shares(task.raw_G, np.zeros_like(total_C), total_C)


def _add_k(task: _Task) -> _Shares:
    """Only whole contexts count; the shorter hand everything down, and so are uniform."""
    kept_G = task.raw_G * task.whole_C[task.context_G]
    mass_C = np.full(len(task.whole_C), task.add * task.words)
    return _Shares(kept_G, mass_C, task.sum(kept_G) + mass_C)


_SCHEMES: dict[str, Callable[[_Task], _Shares]] = {
    "kneser-ney": _kneser_ney,
    "absolute": _absolute,
    "witten-bell": _witten_bell,
    "mle": _maximum_likelihood,
    "add-k": _add_k,
    STUPID_BACKOFF: _maximum_likelihood,
}
SMOOTHINGS = tuple(_SCHEMES)


def _log(p: np.ndarray) -> np.ndarray:
    """Natural logs in float32; sums that rounding took past 1 are 1."""
    with np.errstate(divide="ignore"):
        return np.log(np.minimum(p, 1.0)).astype(np.float32)
