from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.kernels.ngram import layout
from lmlab.models.ngram import Ngram, trie
from lmlab.models.ngram.smoothing import SMOOTHINGS
from lmlab.vocabulary import BOS

from .reference import lay

V = 9
TEXT = st.lists(st.lists(st.integers(4, 7), max_size=9), min_size=1, max_size=6)


def stepped(model: Ngram, documents: list[list[int]]) -> list[float]:
    """The score of each token from whole rows, one step at a time; 0 for each <bos>."""
    scores = []
    for document in documents:
        contexts = model.trie.begin([[BOS]])
        scores.append(0.0)
        for word in document:
            scores.append(model.trie.rows(contexts)[0, word])
            contexts = model.trie.advance(contexts, np.array([word]))
        scores.append(model.trie.rows(contexts)[0, 3])
    return scores


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None)
@given(train=TEXT, test=TEXT, order=st.integers(1, 6))
def test_array_equals_steps(train: list[list[int]], test: list[list[int]], order: int, smoothing: str) -> None:
    model = Ngram.estimate(Ngram.Settings(order, smoothing), V, lay(train))
    logp_N = model.logp_array(lay(test))
    assert logp_N.dtype == np.float32
    assert logp_N == pytest.approx(np.array(stepped(model, test)), abs=2e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 2, 5])
def test_pieces_and_sorted_questions_change_nothing(
    order: int, smoothing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    train, test = ([rng.integers(4, V, rng.integers(0, 30)).tolist() for _ in range(20)] for _ in range(2))
    model = Ngram.estimate(Ngram.Settings(order, smoothing), V, lay(train))
    whole_N = model.logp_array(lay(test))
    monkeypatch.setattr(trie, "_PIECE", 7)
    monkeypatch.setattr(layout, "_SORT_FROM", 0)
    assert np.array_equal(model.logp_array(lay(test)), whole_N)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(4, 8), max_size=8), min_size=1, max_size=5), st.integers(1, 5))
def test_beginning_equals_advancing(prompts: list[list[int]], order: int) -> None:
    model = Ngram.estimate(Ngram.Settings(order, "stupid-backoff"), V, lay([[4, 5, 6, 4, 5], [5, 5, 6], []]))
    together = model.trie.begin([[BOS, *prompt] for prompt in prompts])
    for row, prompt in enumerate(prompts):
        one = model.trie.begin([[BOS]])
        for word in prompt:
            one = model.trie.advance(one, np.array([word]))
        for name in ("level_B", "node_B", "length_B"):
            assert getattr(together, name)[row] == getattr(one, name)[0]


def test_advancing_leaves_the_context_as_it_was() -> None:
    model = Ngram.estimate(Ngram.Settings(3), V, lay([[4, 5, 6, 4, 5]]))
    contexts = model.trie.begin([[BOS, 4, 5], [BOS, 6]])
    before = [array.copy() for array in vars(contexts).values()]
    model.trie.advance(contexts, np.array([6, 4]))
    assert all(np.array_equal(a, b) for a, b in zip(before, vars(contexts).values(), strict=True))


def test_a_bos_within_starts_anew() -> None:
    model = Ngram.estimate(Ngram.Settings(4, "stupid-backoff"), V, lay([[4, 5, 6, 4, 5]]))
    within = model.trie.begin([[BOS, 7, 7, BOS]])
    assert np.array_equal(model.trie.rows(within), model.trie.rows(model.trie.begin([[BOS]])))
