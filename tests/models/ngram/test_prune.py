from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import SettingError, UsageError
from lmlab.kernels.ngram.layout import high, low
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.prune import by_entropy, histories
from lmlab.models.ngram.smoothing import smooth
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, EOS

from .reference import lay

V = 9
PREDICTED = [1, *range(3, V)]
TEXT = st.lists(st.lists(st.integers(4, 7), max_size=9), min_size=1, max_size=8)
NORMALISED = ("kneser-ney", "witten-bell", "absolute", "mle", "add-k")
Words = tuple[int, ...]


def model(documents: list[list[int]], order: int, smoothing: str = "witten-bell", prune: tuple[int, ...] = ()) -> Trie:
    counts = count_ngrams(lay(documents), order, V)
    return Trie.join(counts, smooth(counts, smoothing, prune=prune))


def spelled(trie: Trie) -> list[list[Words]]:
    """Every k-gram of every level, in words."""
    grams: list[list[Words]] = [[(w,) for w in range(V)]]
    for level in trie.levels[1:]:
        pairs = zip(high(level.key_G).tolist(), low(level.key_G).tolist(), strict=True)
        grams.append([(*grams[-1][c], w) for c, w in pairs])
    return grams


def p(trie: Trie, grams: list[dict[Words, int]], words: Words) -> float:
    """P of the last word after the others, by the definition of backoff."""
    if words in grams[len(words) - 1]:
        return math.exp(trie.levels[len(words) - 1].logp_G[grams[len(words) - 1][words]])
    context = words[:-1]
    place = grams[len(context) - 1].get(context)
    weight = 1.0 if place is None else math.exp(trie.levels[len(context) - 1].backoff_G[place])
    return weight * p(trie, grams, words[1:])


def worth(trie: Trie, k: int, place: int) -> float:
    """By how much perplexity rises without one k-gram: both rows written out, and their relative entropy."""
    grams = [{gram: i for i, gram in enumerate(level)} for level in spelled(trie)]
    gram = spelled(trie)[k - 1][place]
    h, w = gram[:-1], gram[-1]
    before = {v: p(trie, grams, (*h, v)) for v in PREDICTED}
    shorter = {v: p(trie, grams, (*h[1:], v)) for v in PREDICTED}
    known = {v for v in PREDICTED if (*h, v) in grams[k - 1]} - {w}
    rest = (1 - sum(before[v] for v in known)) / (1 - sum(shorter[v] for v in known))
    after = {v: before[v] if v in known else rest * shorter[v] for v in PREDICTED}
    history = math.prod(p(trie, grams, (EOS,) if h[: i + 1] == (BOS,) else h[: i + 1]) for i in range(len(h)))
    entropy = sum(before[v] * math.log(before[v] / after[v]) for v in PREDICTED if before[v] > 0)
    return math.expm1(history * entropy)


@pytest.mark.parametrize("smoothing", ["witten-bell", "kneser-ney"])
def test_the_threshold_is_stolckes(smoothing: str) -> None:
    """The longest k-grams go exactly where their relative entropy says; shorter ones, where nothing needs them too."""
    rng = np.random.default_rng(1)
    documents = [rng.choice([4, 5, 6, 7], 8, p=[0.5, 0.3, 0.1, 0.1]).tolist() for _ in range(12)]
    trie = model(documents, 3, smoothing)
    grams = spelled(trie)
    worths = [[worth(trie, k, i) for i in range(len(grams[k - 1]))] for k in (2, 3)]
    for threshold in (1e-4, 1e-3, 3e-3):
        kept = spelled(by_entropy(trie, threshold))
        longest = {gram for gram, rise in zip(grams[2], worths[1], strict=True) if rise >= threshold}
        assert 0 < len(longest) < len(grams[2])
        needed = {gram[1:] for gram in longest} | {gram[:2] for gram in longest}
        assert set(kept[2]) == longest
        assert set(kept[1]) == needed | {g for g, rise in zip(grams[1], worths[0], strict=True) if rise >= threshold}


@pytest.mark.parametrize("smoothing", NORMALISED)
@settings(deadline=None, max_examples=40)
@given(documents=TEXT, order=st.integers(1, 5), share=st.floats(0, 1), prune=st.booleans())
def test_rows_sum_to_one_and_stay_within_the_number(
    documents: list[list[int]], order: int, share: float, prune: bool, smoothing: str
) -> None:
    trie = model(documents, order, smoothing, (0, 0, 1) if prune else ())
    whole = sum(len(level.key_G) for level in trie.levels)
    ngrams = V + int(share * (whole - V))
    pruned = by_entropy(trie, ngrams=ngrams)
    assert sum(len(level.key_G) for level in pruned.levels) <= ngrams
    prompts = [[BOS], [4], [BOS, 4, 5], [5, 4, 5, 6], *([BOS, *document][-4:] for document in documents)]
    sums = np.exp(pruned.rows(pruned.begin(prompts)).astype(np.float64)).sum(axis=1)
    assert sums == pytest.approx(1, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(documents=TEXT, order=st.integers(2, 5), threshold=st.floats(0, 0.1))
def test_contexts_and_suffixes_of_what_stays_stay(documents: list[list[int]], order: int, threshold: float) -> None:
    trie = model(documents, order)
    kept, were = spelled(by_entropy(trie, threshold)), spelled(trie)
    for k in range(1, order):
        assert {gram[1:] for gram in kept[k]} | {gram[:-1] for gram in kept[k]} <= set(kept[k - 1])
        assert set(kept[k]) <= set(were[k])


def test_what_stays_keeps_its_probability_and_all_of_it_its_weights() -> None:
    trie = model([[4, 5, 6, 4, 5], [5, 6, 7], []], 3)
    whole = by_entropy(trie, 0.0)
    for before, after in zip(trie.levels, whole.levels, strict=True):
        assert np.array_equal(before.logp_G, after.logp_G)
        assert np.array_equal(before.backoff_G, after.backoff_G)
    nothing = by_entropy(trie, ngrams=V)
    assert [len(level.key_G) for level in nothing.levels] == [V, 0, 0]
    assert np.array_equal(nothing.levels[0].logp_G, trie.levels[0].logp_G)
    assert nothing.levels[0].backoff_G == pytest.approx(np.zeros(V), abs=1e-6)


def test_histories_are_shares_of_the_corpus() -> None:
    documents = [[4, 5, 6, 4, 5], [5, 6], []]
    text = [[BOS, *document, EOS] for document in documents]
    counts = count_ngrams(lay(documents), 3, V)
    shares = histories(counts)
    for grams, share_G in zip(spelled(model(documents, 3)), shares, strict=False):
        for gram, share in zip(grams, share_G, strict=True):
            occurs = sum(tuple(t[i : i + len(gram)]) == gram for t in text for i in range(len(t)))
            assert share == pytest.approx(occurs / sum(len(t) - 1 for t in text))


def test_given_histories_take_the_place_of_the_models() -> None:
    """What follows a history that never comes is worth nothing; what follows one that always comes stays longest."""
    trie = model([[4, 5, 6, 4, 5], [5, 6, 7], [4]], 2)
    for only in (4, 5, 6):
        pruned = by_entropy(trie, 1e-9, histories=[np.eye(V)[only]])
        assert {gram[0] for gram in spelled(pruned)[1]} == {only}


def test_what_cannot_be_pruned_is_refused() -> None:
    trie = model([[4, 5]], 2)
    for asked in ({}, {"threshold": 1e-8, "ngrams": 20}):
        with pytest.raises(SettingError, match="threshold"):
            by_entropy(trie, **asked)
    with pytest.raises(SettingError, match="threshold is -1"):
        by_entropy(trie, threshold=-1)
    with pytest.raises(SettingError, match="at least the 9 words"):
        by_entropy(trie, ngrams=8)
    with pytest.raises(UsageError, match="no distribution"):
        by_entropy(model([[4, 5]], 2, "stupid-backoff"), threshold=1e-8)
    with pytest.raises(UsageError, match="not those of this model"):
        by_entropy(trie, 1e-8, histories=[np.ones(V - 1)])
