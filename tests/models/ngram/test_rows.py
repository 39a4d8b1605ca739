"""Whole rows, compiled, against the plain ones."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.kernels import engine, intrinsics
from lmlab.kernels.ngram.layout import Contexts
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.smoothing import SMOOTHINGS
from lmlab.vocabulary import BOS, UNK

from .reference import lay

V = 11
TEXT = st.lists(st.lists(st.sampled_from([UNK, 4, 5, 6, 7, 8]), max_size=9), min_size=1, max_size=6)
PROMPTS = st.lists(st.lists(st.integers(4, V - 1), max_size=6), min_size=1, max_size=5)


def model_of(smoothing: str = "kneser-ney", order: int = 4, prune: tuple[int, ...] = (), seed: int = 0) -> Ngram:
    rng = np.random.default_rng(seed)
    documents = [(4 + rng.geometric(0.35, rng.integers(0, 12))).clip(max=V - 2).tolist() for _ in range(60)]
    return Ngram.estimate(Ngram.Settings(order, smoothing, prune=prune), V, lay(documents))


def contexts_of(model: Ngram, prompts: list[list[int]]) -> Contexts:
    return model.trie.begin([[BOS, *prompt] for prompt in prompts])


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=40)
@given(TEXT, PROMPTS, st.integers(1, 5), st.sampled_from([(), (0, 1), (0, 0, 1)]))
def test_rows_are_the_same_compiled(
    smoothing: str, train: list[list[int]], prompts: list[list[int]], order: int, prune: tuple[int, ...]
) -> None:
    model = Ngram.estimate(Ngram.Settings(order, smoothing, prune=prune), V, lay(train))
    contexts = contexts_of(model, prompts)
    with engine.only(False):
        row_BV = model.trie.rows(contexts)
    with engine.only(True):
        assert np.array_equal(model.trie.rows(contexts), row_BV)
    if smoothing != "stupid-backoff":
        assert np.exp(row_BV.astype(np.float64)).sum(axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("words", [2000, 2011])
@pytest.mark.parametrize("picks", [True, False])
def test_rows_of_words_that_share_values(words: int, picks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if picks and not intrinsics.picks():
        pytest.skip("this processor does not pick")
    monkeypatch.setattr(intrinsics, "picks", lambda: picks)
    rng = np.random.default_rng(0)
    named = rng.permutation(np.arange(4, words))
    text = [named[rng.zipf(1.1, 20) % len(named)].tolist() for _ in range(500)]
    model = Ngram.estimate(Ngram.Settings(3), words, lay(text))
    contexts = contexts_of(model, [[], *text[:20], [named[-1]]])
    with engine.only(False):
        row_BV = model.trie.rows(contexts)
    with engine.only(True):
        assert np.array_equal(model.trie.rows(contexts), row_BV)
    keys, _, codes, _, (many, plain) = model.trie.row_tables.coded
    assert (len(keys), len(codes)) == (many, words - plain)
    assert (len(np.unique(codes)) > 20 and many > 10) if picks else plain == words


def test_many_small_questions_are_worth_what_one_large_one_is() -> None:
    """Rows come one by one: a trie goes by all that it was asked for itself, not by what others were."""
    busy, idle = model_of().trie, model_of().trie
    contexts = busy.begin([[BOS]])
    enough = next(2**power for power in range(60) if engine.compiled(2**power))
    row_BV = busy.rows(contexts)
    busy._asked.logps = enough
    assert np.array_equal(busy.rows(contexts), row_BV)
    idle.rows(contexts)
    assert ("row_tables" in vars(busy), "row_tables" in vars(idle)) == (True, engine.compiled(V))


def test_a_copy_and_a_loaded_model_give_the_same_rows(tmp_path: Path) -> None:
    model = model_of()
    with engine.only(True):
        row_BV = model.trie.rows(contexts_of(model, [[5, 6]]))
        model.save(tmp_path)
        for again in (copy.deepcopy(model), Ngram.load(tmp_path, model.settings, V)):
            assert np.array_equal(again.trie.rows(contexts_of(again, [[5, 6]])), row_BV)
