"""Entropy pruning: a smaller model that predicts almost alike (Stolcke 1998, Entropy-based Pruning of Backoff LMs).

Without the k-gram h w, the model would back off: P(w | h) becomes b'(h) P(w | h'), and b(h) becomes b'(h) for all words
that h does not know. What that costs is the relative entropy of the two models, weighed by how often h is met:

    D = P(h) { P(w | h) [ln P(w | h) - ln b'(h) P(w | h')]  +  unknown(h) [ln b(h) - ln b'(h)] }

    unknown(h) = b(h) left(h)      left(h) = 1 - sum of P(v | h') over all stored h v
    b'(h) = (unknown(h) + P(w | h)) / (left(h) + P(w | h'))

and exp(D) - 1 is by how much, relatively, perplexity rises: what SRILM's `-prune` compares with its threshold. P(h) is
the product of the model's own conditional probabilities, P(<eos>) standing in for P(<bos>).

What a kept k-gram needs is kept: its context, as with SRILM, and its suffix too, which SRILM may drop; our tries have
both. So every k-gram is worth at least what those are that need it, and any threshold cuts a sound trie out.

That product fails Kneser-Ney models, whose shorter k-grams are estimated to complement the longer ones and are no
frequencies (Siivola et al. 2007; Chelba et al. 2010). Where the counts are at hand, give `by_entropy` their `histories`
for P(h): on 15 M words of English, Kneser-Ney then loses less than by count pruning to the same size, else more.

Shapes: G k-grams of one level, F nodes one level down (the contexts), g and f of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lmlab.errors import ArtifactError, SettingError, UsageError
from lmlab.kernels.ngram.layout import Counts, Level, high, low
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, EOS

_PIECE = 1 << 16
_LEAST = 1e-12  # a left(h) that rounding took to 0 or below
_TINY = 1e-300
_MOST = 80.0  # a loss beyond all bounds, whose exponential float32 still holds
_LOWEST = np.float32(-1e30)  # instead of ln 0


def by_entropy(
    trie: Trie,
    threshold: float | None = None,
    ngrams: int | None = None,
    histories: Sequence[np.ndarray] | None = None,
) -> Trie:
    """The model without the k-grams (k > 1) that matter least, its backoff weights normalised anew.

    Args:
        trie: any model whose rows sum to one.
        threshold: a k-gram stays whose loss would raise perplexity, relatively, by at least so much; 1e-9 to 1e-6 are
            usual.
        ngrams: or how many k-grams of all lengths to keep at most, all words among them.
        histories: of each level but the last, P(h) of its k-grams; None takes it from the model.

    Raises:
        SettingError: neither or both are given, or out of bounds.
        UsageError: the model's rows do not sum to one, or the histories are not its own.
    """
    if (threshold is None) == (ngrams is None):
        raise SettingError("threshold", threshold, "given where ngrams is not", "give one of the two")
    if trie.absent:
        raise UsageError("stupid backoff is no distribution, so it has no entropy", "prune it by count instead")
    if histories and [len(history_F) for history_F in histories] != [len(level.key_G) for level in trie.levels[:-1]]:
        raise UsageError("the histories are not those of this model's k-grams", "take them before pruning by count")
    words, whole = len(trie.levels[0].key_G), sum(len(level.key_G) for level in trie.levels)
    if threshold is not None and not threshold >= 0:
        raise SettingError("threshold", threshold, "a number >= 0")
    if ngrams is not None and ngrams < words:
        raise SettingError("ngrams", ngrams, f"at least the {words:,} words")
    if ngrams is not None and ngrams >= whole:
        return trie
    suffixes = [*(level.suffix_G for level in trie.levels[:-1]), _longest_suffixes(trie)]
    worths = _worths(trie, suffixes, histories)
    if ngrams is None:
        dropped = [worth_G < threshold for worth_G in worths]
    else:
        all_worths = np.concatenate(worths)
        all_worths.partition(whole - ngrams - 1)  # so many must go, and those as worthless go with them
        dropped = [worth_G <= all_worths[whole - ngrams - 1] for worth_G in worths]
    return _normalised(trie, suffixes, dropped).without([None, *dropped])


def histories(counts: Sequence[Counts]) -> list[np.ndarray]:
    """P(h) of each level but the last as its share of the corpus, float32; smoothing uses the counts up."""
    tokens = counts[0].count_G.sum(dtype=np.int64) - counts[0].count_G[BOS]
    return [level.count_G / np.float32(tokens) for level in counts[:-1]]


def _longest_suffixes(trie: Trie) -> np.ndarray:
    """The suffixes of the longest k-grams, which a trie does not keep: the suffix of the context, and the word."""
    level, below = trie.levels[-1], trie.levels[max(trie.order - 2, 0)]
    suffix_G = np.empty(len(level.key_G), dtype=np.uint32)
    for piece in _pieces(level, 1 << 20):
        word_g = low(level.key_G[piece])
        if trie.order > 2:
            found_g = below.find(below.suffix_G[high(level.key_G[piece])], word_g)
            if found_g.min(initial=0) < 0:
                raise ArtifactError(f"the model has a {trie.order}-gram without its suffix", "train it again")
            suffix_G[piece] = found_g
        else:
            suffix_G[piece] = word_g
    return suffix_G


def _worths(trie: Trie, suffixes: list[np.ndarray], histories: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """Of each level above the words, by how much perplexity rises without each k-gram and all that need it, float32."""
    history_F = np.exp(trie.levels[0].logp_G)
    history_F[BOS] = history_F[EOS]
    worths = []
    for k, (below, level, suffix_G) in enumerate(zip(trie.levels, trie.levels[1:], suffixes[1:], strict=False)):
        history_F = histories[k] if histories else history_F
        worth_G, history_G = (np.empty(len(level.key_G), dtype=np.float32) for _ in range(2))
        left_F = _left(level, below, suffix_G)
        for piece in _pieces(level):
            context_g = high(level.key_G[piece])
            history_g, left_g = history_F[context_g], left_F[context_g]
            logp_g, shorter_g = _logs(level.logp_G[piece]), _logs(below.logp_G[suffix_G[piece]])
            log_b_g = _logs(below.backoff_G[context_g])
            p_g, unknown_g = np.exp(logp_g), np.exp(log_b_g) * left_g
            log_new_g = np.log(np.maximum(unknown_g + p_g, _TINY)) - np.log(left_g + np.exp(shorter_g))
            loss_g = p_g * (logp_g - log_new_g - shorter_g) + unknown_g * (log_b_g - log_new_g)
            worth_G[piece] = np.expm1(np.clip(history_g * loss_g, 0, _MOST))
            history_G[piece] = history_g * p_g
        worths.append(worth_G)
        history_F = history_G
    for k in range(trie.order, 2, -1):
        np.maximum.at(worths[k - 3], high(trie.levels[k - 1].key_G), worths[k - 2])
        np.maximum.at(worths[k - 3], suffixes[k - 1], worths[k - 2])
    return worths


def _normalised(trie: Trie, suffixes: list[np.ndarray], dropped: list[np.ndarray]) -> Trie:
    """The trie with the backoff weights that fit once the k-grams are dropped."""
    levels = list(trie.levels)
    for k, dropped_G in enumerate(dropped, 1):
        below, level = levels[k - 1], levels[k]
        left_F = _left(level, below, suffixes[k])
        unknown_F = np.exp(_logs(below.backoff_G)) * left_F
        more_unknown_F, more_left_F = _sums(level, below, suffixes[k], dropped_G)
        changed_F = np.zeros(len(left_F), dtype=bool)
        changed_F[high(level.key_G)[dropped_G]] = True
        with np.errstate(divide="ignore"):
            log_b_F = np.log((unknown_F + more_unknown_F) / (left_F + more_left_F)).astype(np.float32)
        levels[k - 1] = replace(below, backoff_G=np.where(changed_F, log_b_F, below.backoff_G))
    return Trie(tuple(levels), trie.absent, bos_logp=trie.bos_logp)


def _left(level: Level, below: Level, suffix_G: np.ndarray) -> np.ndarray:
    """What each context's shorter one gives to the words that the context does not know, float64."""
    left_G: np.ndarray = np.maximum(1 - _sums(level, below, suffix_G)[1], _LEAST)
    return left_G


def _sums(
    level: Level, below: Level, suffix_G: np.ndarray, chosen_G: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each context h, the sums of P(v | h) and of P(v | h') over its children h v, all or the chosen ones."""
    sum_F, shorter_F = np.zeros(len(below.key_G)), np.zeros(len(below.key_G))
    for piece in _pieces(level):
        context_g = high(level.key_G[piece])
        here = slice(int(context_g[0]), int(context_g[-1]) + 1)
        context_g = (context_g - context_g[0]).astype(np.intp)
        for all_F, log_g in ((sum_F, level.logp_G[piece]), (shorter_F, below.logp_G[suffix_G[piece]])):
            p_g = np.exp(_logs(log_g))
            all_F[here] += np.bincount(context_g, weights=p_g if chosen_G is None else p_g * chosen_G[piece])
    return sum_F, shorter_F


def _pieces(level: Level, size: int = _PIECE) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, len(level.key_G), size))


def _logs(log_G: np.ndarray) -> np.ndarray:
    """Logs in float64, finite, so that 0 times the log of 0 is 0."""
    bounded_G: np.ndarray = np.maximum(log_G, _LOWEST).astype(np.float64)
    return bounded_G
