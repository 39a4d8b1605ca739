from __future__ import annotations

import copy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import SettingError, UsageError
from lmlab.kernels import engine, jit
from lmlab.models.ngram import Ngram, drawing
from lmlab.models.ngram.counts import pack
from lmlab.models.ngram.smoothing import SMOOTHINGS
from lmlab.models.ngram.trie import Contexts, Level, Trie
from lmlab.vocabulary import BOS, EOS, UNK

from .reference import lay

V = 11
DRAWS = 100_000
NORMALISED = [name for name in SMOOTHINGS if name != "stupid-backoff"]
TEXT = st.lists(st.lists(st.sampled_from([UNK, 4, 5, 6, 7, 8]), max_size=9), min_size=1, max_size=6)
PROMPTS = st.lists(st.lists(st.integers(4, V - 1), max_size=6), min_size=1, max_size=5)


def model_of(smoothing: str = "kneser-ney", order: int = 4, prune: tuple[int, ...] = (), seed: int = 0) -> Ngram:
    rng = np.random.default_rng(seed)
    documents = [(4 + rng.geometric(0.35, rng.integers(0, 12))).clip(max=V - 2).tolist() for _ in range(60)]
    return Ngram.estimate(Ngram.Settings(order, smoothing, prune=prune), V, lay(documents))


def contexts_of(model: Ngram, prompts: list[list[int]]) -> Contexts:
    return model.trie.begin([[BOS, *prompt] for prompt in prompts])


def misfit(counted_V: np.ndarray, logp_V: np.ndarray) -> float:
    """How many standard deviations chi-square lies above its mean (Wilson and Hilferty's approximation)."""
    expected_V = np.exp(logp_V.astype(np.float64)) * counted_V.sum()
    assert not counted_V[expected_V == 0].any()
    rare_V = expected_V < 10
    expected = np.append(expected_V[~rare_V], expected_V[rare_V].sum() + 1e-9)
    found = np.append(counted_V[~rare_V], counted_V[rare_V].sum())
    freedom = len(expected) - 1
    if expected[-1] < 5:
        assert found[-1] <= 30
        expected, found, freedom = expected[:-1], found[:-1], freedom - 1
    if not freedom:
        return 0.0
    ratio = ((found - expected) ** 2 / expected).sum() / freedom
    return (ratio ** (1 / 3) - 1 + 2 / (9 * freedom)) / (2 / (9 * freedom)) ** 0.5


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=40)
@given(TEXT, PROMPTS, st.integers(1, 5), st.sampled_from([(), (0, 1), (0, 0, 1)]), st.integers(1, V))
def test_rows_and_their_best(
    smoothing: str, train: list[list[int]], prompts: list[list[int]], order: int, prune: tuple[int, ...], k: int
) -> None:
    model = Ngram.estimate(Ngram.Settings(order, smoothing, prune=prune), V, lay(train))
    contexts = contexts_of(model, prompts)
    with engine.only(False):
        row_BV = model.trie.rows(contexts)
    with engine.only(True):
        assert np.array_equal(model.trie.rows(contexts), row_BV)
    if smoothing != "stupid-backoff":
        assert np.exp(row_BV.astype(np.float64)).sum(axis=1) == pytest.approx(1, abs=1e-6)
    ids_BK, logp_BK = model.top_k(prompts, k)
    assert np.array_equal(ids_BK, np.argsort(-row_BV, axis=1, kind="stable")[:, :k])
    assert np.array_equal(logp_BK, np.take_along_axis(row_BV, ids_BK, 1))
    assert (ids_BK.dtype, logp_BK.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("words", [2000, 2011])
@pytest.mark.parametrize("picks", [True, False])
def test_rows_of_words_that_share_values(words: int, picks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if picks and not jit.picks():
        pytest.skip("this processor does not pick")
    monkeypatch.setattr(jit, "picks", lambda: picks)
    rng = np.random.default_rng(0)
    named = rng.permutation(np.arange(4, words))
    text = [named[rng.zipf(1.1, 20) % len(named)].tolist() for _ in range(500)]
    model = Ngram.estimate(Ngram.Settings(3), words, lay(text))
    contexts = contexts_of(model, [[], *text[:20], [named[-1]]])
    with engine.only(False):
        row_BV = model.trie.rows(contexts)
    with engine.only(True):
        assert np.array_equal(model.trie.rows(contexts), row_BV)
    keys, _, codes, _, (many, plain) = model.trie.drawing._coded
    assert (len(keys), len(codes)) == (many, words - plain)
    assert (len(np.unique(codes)) > 20 and many > 10) if picks else plain == words


def test_what_rounding_makes_equal_is_ordered_by_id() -> None:
    logp_V = np.log(np.full(6, 0.25, dtype=np.float32))
    logp_V[4] = np.nextafter(logp_V[5], np.float32(-2))  # less than the next, until a weight is added
    nothing = np.empty(0, dtype=np.uint32)
    words = Level(np.arange(6, dtype=np.uint64), np.zeros(6, np.uint32), logp_V, np.full(6, -9, dtype=np.float32))
    pairs = Level(
        pack(np.array([4]), np.array([0])), nothing, np.array([-3], dtype=np.float32), np.array([], dtype=np.float32)
    )
    trie = Trie((words, pairs), 0.0)
    for prompt in ([], [4]):
        contexts = trie.begin([prompt])
        expected = np.argsort(-trie.rows(contexts)[0], kind="stable").tolist()
        assert trie.drawing.top_k(contexts, 6)[0][0].tolist() == expected
    assert expected == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("prune", [(), (0, 0, 1)])
@pytest.mark.parametrize("smoothing", NORMALISED)
def test_samples_follow_the_row(smoothing: str, prune: tuple[int, ...], order: int) -> None:
    model = model_of(smoothing, order, prune)
    contexts = contexts_of(model, [[], [5, 6, 5], [9, 9, 8, 9], [V - 1], [6, 5]])
    contexts.level_B[-1] = contexts.node_B[-1] = contexts.length_B[-1] = 0
    row_BV = model.trie.rows(contexts)
    for row, logp_V in enumerate(row_BV):
        same = Contexts(*(np.repeat(array[row], DRAWS) for array in vars(contexts).values()))
        with engine.only(True):
            texts = model.trie.drawing.sample(same, 1, seed=row)
        assert misfit(np.bincount(np.concatenate(texts), minlength=V), logp_V) < 4.5


@pytest.mark.parametrize("smoothing", NORMALISED)
def test_later_tokens_follow_what_was_drawn(smoothing: str) -> None:
    model = model_of(smoothing, 3)
    with engine.only(True):
        texts = model.sample([[]] * DRAWS, 4, seed=3)
    follows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for text in texts:
        if len(text) == 4:
            follows[tuple(text[:3].tolist())].append(text[3])
    common = [prefix for prefix, words in follows.items() if len(words) >= 500]
    assert len(common) > 10
    for prefix, logp_V in zip(common, model.trie.rows(contexts_of(model, [[*p] for p in common])), strict=True):
        assert misfit(np.bincount(follows[prefix], minlength=V), logp_V) < 4.5


@pytest.mark.parametrize("smoothing", NORMALISED)
@settings(deadline=None, max_examples=30)
@given(TEXT, PROMPTS, st.integers(1, 5), st.sampled_from([(), (0, 0, 1)]), st.integers(0, 2**64 - 1), st.integers(0, 9))
def test_python_draws_the_same_words(
    smoothing: str,
    train: list[list[int]],
    prompts: list[list[int]],
    order: int,
    prune: tuple[int, ...],
    seed: int,
    most: int,
) -> None:
    model = Ngram.estimate(Ngram.Settings(order, smoothing, prune=prune), V, lay(train))
    with engine.only(True):
        compiled = model.sample(prompts, most, seed)
    with engine.only(False):
        plain = model.sample(prompts, most, seed)
    assert [text.tolist() for text in plain] == [text.tolist() for text in compiled]
    for text in plain:
        assert text.dtype == np.uint32
        assert EOS not in text[:-1]
        assert len(text) == most or text[-1] == EOS


@pytest.mark.parametrize("kernels", [True, False])
def test_a_text_does_not_depend_on_its_company(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = model_of(), [[5], [], [6, 5], [], [7]]
    with engine.only(kernels):
        together = model.sample(prompts, 20, seed=7)
        monkeypatch.setattr(drawing, "_TOKENS", 41)  # two texts at a time
        apart = [model.sample([prompt], 20, 7, first=row)[0] for row, prompt in enumerate(prompts)]
        pieces = model.sample(prompts, 20, seed=7)
        other = model.sample(prompts, 20, seed=8)
    as_lists = [[text.tolist() for text in texts] for texts in (together, apart, pieces, other)]
    assert as_lists[0] == as_lists[1] == as_lists[2] != as_lists[3]
    assert as_lists[0][1] != as_lists[0][3]


@pytest.mark.parametrize("kernels", [True, False])
def test_children_that_leave_nothing_below_end_the_redraws(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the draws after a word look below, where only its own children are."""
    monkeypatch.setattr(drawing, "MOST_REDRAWS", 50)
    nothing, half = np.empty(0, dtype=np.uint32), np.log(np.array([0.25, 0.25], dtype=np.float32))
    logp_V = np.log(np.array([1e-45, 1e-45, 1e-45, 1e-45, 0.5, 0.5], dtype=np.float32))
    words = Level(np.arange(6, dtype=np.uint64), np.zeros(6, np.uint32), logp_V, np.zeros(6, dtype=np.float32))
    pairs = Level(pack(np.array([4, 4]), np.array([4, 5])), nothing, half, np.array([], dtype=np.float32))
    trie = Trie((words, pairs), 0.0)
    with engine.only(kernels):
        drawn = np.concatenate(trie.drawing.sample(trie.begin([[4]] * 500), 1, seed=0))
    assert 200 < (drawn == 4).sum() < 300
    assert set(drawn.tolist()) == {4, 5}


def test_a_copy_and_a_loaded_model_draw_the_same(tmp_path: Path) -> None:
    model = model_of()
    with engine.only(True):
        expected = np.concatenate(model.sample([[], [5]], 30, seed=1)).tolist()
        row_BV = model.trie.rows(contexts_of(model, [[5, 6]]))
        model.save(tmp_path)
        for again in (copy.deepcopy(model), Ngram.load(tmp_path, model.settings, V)):
            assert np.concatenate(again.sample([[], [5]], 30, seed=1)).tolist() == expected
            assert np.array_equal(again.trie.rows(contexts_of(again, [[5, 6]])), row_BV)


def test_what_cannot_be_asked() -> None:
    model = model_of()
    for k in (0, V + 1):
        with pytest.raises(SettingError, match="k is"):
            model.top_k([[]], k)
    with pytest.raises(SettingError, match="seed is -1"):
        model.sample([[]], 5, seed=-1)
    with pytest.raises(SettingError, match="max_tokens is -1"):
        model.sample([[]], -1, seed=1)
    with pytest.raises(UsageError, match="no probabilities to draw from"):
        model_of("stupid-backoff").sample([[]], 5, seed=1)


def test_asking_nothing() -> None:
    model = model_of()
    assert model.sample([], 5, seed=0) == []
    assert [text.tolist() for text in model.sample([[]], 0, seed=0)] == [[]]
    assert [array.shape for array in model.top_k([], 3)] == [(0, 3), (0, 3)]
