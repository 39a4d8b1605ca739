"""The streaming counter against the plain one: the same levels, number for number."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import SettingError
from lmlab.kernels import engine
from lmlab.kernels.ngram import counter as counting
from lmlab.kernels.ngram import twin
from lmlab.kernels.ngram.counter import Counter, pieces_of
from lmlab.kernels.ngram.layout import Counts
from lmlab.models.ngram import Ngram, arpa, counts, smoothing
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.smoothing import SMOOTHINGS, smooth
from lmlab.models.ngram.trie import Trie

from .reference import lay

V = 9
DOCUMENTS = st.lists(st.lists(st.integers(4, V - 1), max_size=12), min_size=1, max_size=8)


def same(ours: list[Counts], plain: list[Counts]) -> None:
    assert len(ours) == len(plain)
    for k, (level, expected) in enumerate(zip(ours, plain, strict=True), 1):
        for name, array in vars(expected).items():
            assert np.array_equal(vars(level)[name], array), (k, name)


def plainly(ids_N: np.ndarray, order: int, vocab_size: int) -> list[Counts]:
    with engine.only(False):
        return count_ngrams(ids_N, order, vocab_size)


def cut(ids_N: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(ids_N), size):
        yield ids_N[start : start + size].astype(np.uint32)


def corpus(seed: int, tokens: int = 40_000, vocab_size: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    words = (3 + rng.zipf(1.3, tokens)).clip(4, vocab_size - 1)
    return lay([list(line) for line in np.split(words, np.sort(rng.integers(0, tokens, tokens // 12)))])


@pytest.mark.parametrize("plain", [counts.count_sorted, smoothing.tally, smoothing.share, arpa.Loops])
def test_twins_take_the_same_arguments(plain: Any) -> None:
    with engine.only(False):
        assert twin(plain, 10**12) is plain
    with engine.only(True):
        compiled = twin(plain, 0)
    assert compiled is not plain
    methods = [name for name in vars(plain) if not name.startswith("__")] if isinstance(plain, type) else []
    for ours, theirs in [(plain, compiled), *((getattr(plain, name), getattr(compiled, name)) for name in methods)]:
        assert [*inspect.signature(ours).parameters] == [*inspect.signature(theirs).parameters]


@settings(deadline=None)
@given(documents=DOCUMENTS, order=st.integers(1, 7), size=st.integers(1, 30), threads=st.integers(1, 3))
def test_equals_the_plain_counter(documents: list[list[int]], order: int, size: int, threads: int) -> None:
    ids_N = lay(documents)
    counter = Counter(order, threads)
    counter.count(cut(ids_N, size))
    same(counter.levels(V), plainly(ids_N, order, V))


@pytest.mark.parametrize(("threads", "share"), [(1, None), (2, None), (4, None), (1, 1.0), (2, 0.02)])
def test_tables_grow_and_threads_agree(threads: int, share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "PIECE", 64)
    ids_N = corpus(1)
    counter = Counter(5, threads, share=share and (lambda: share))
    counter.count(pieces_of(ids_N))
    same(counter.levels(400), plainly(ids_N, 5, 400))


@pytest.mark.parametrize(("threads", "order"), [(1, 1), (1, 2), (2, 5), (3, 8)])
def test_runs_on_disk_change_nothing(threads: int, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "PIECE", 64)
    monkeypatch.setattr(counting, "_LEAST_RUN", 400_000)
    ids_N = corpus(2)
    counter = Counter(order, threads, memory=1)
    counter.count(pieces_of(ids_N))
    assert (len(counter._runs) > 3) == (order > 2)
    same(counter.levels(400), plainly(ids_N, order, 400))


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_shrinks_ends_no_text(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory moves with what other processes do: full for one thread's look, and not for the next."""
    monkeypatch.setattr(counting, "PIECE", 16)
    monkeypatch.setattr(counting, "_LEAST_RUN", 0)
    looks = iter(range(10**6))
    monkeypatch.setattr(counting, "resident", lambda: 0 if next(looks) % 5 else 1 << 40)
    ids_N = np.random.default_rng(0).integers(1, 20, 2_000).astype(np.uint32)
    counter = Counter(3, threads, memory=1 << 39)
    counter.count(pieces_of(ids_N))
    assert int(counter.levels(20)[0].count_G.sum()) == len(ids_N)


@pytest.mark.parametrize("prune", [(), (0, 1), (0, 0, 2)])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_smoothing_in_compiled_pieces_and_on_disk(smoothing: str, prune: tuple[int, ...]) -> None:
    ids_N = corpus(3)
    tries = []
    for compiled, on_disk in ((False, False), (True, False), (True, True)):
        with engine.only(compiled):
            levels = count_ngrams(ids_N, 4, 400)
            tries.append(Trie.join(levels, smooth(levels, smoothing, 0.3, prune, on_disk=on_disk)))
    for trie in tries[1:]:
        for level, expected in zip(trie.levels, tries[0].levels, strict=True):
            assert all(np.array_equal(vars(level)[name], array) for name, array in vars(expected).items())


@pytest.mark.parametrize("smoothing", ["kneser-ney", "stupid-backoff"])
@pytest.mark.parametrize(("order", "full"), [(1, 0.65), (2, 0.65), (5, 0.65), (5, 0.8), (5, 0.99)])
def test_batch_scores_equal_the_plain_ones(
    order: int, full: float, smoothing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fullest tables must be made larger; whatever their size, pieces meet where a context lies across."""
    from lmlab.kernels.ngram import score

    monkeypatch.setattr(score, "PIECE", 100)
    monkeypatch.setattr(score, "_FULL", full)
    model = Ngram.estimate(Ngram.Settings(order, smoothing), 400, corpus(4, 20_000))
    held_N = corpus(5, 5_000)
    with engine.only(False):
        expected = model.logp_array(held_N)
    for threads in (1, 2):
        assert np.array_equal(model.trie.tables.logp_array(held_N, threads), expected)


def test_a_failing_source_is_told() -> None:
    def pieces() -> Iterator[np.ndarray]:
        yield np.array([2, 4], dtype=np.uint32)
        raise OSError("the disk is gone")

    for threads in (1, 2):
        with pytest.raises(OSError, match="gone"):
            Counter(3, threads).count(pieces())


def test_memory_has_a_least() -> None:
    with pytest.raises(SettingError, match="memory is '1M', but must be at least 512M"):
        Ngram.Settings(memory="1M")
    assert Ngram.estimate(Ngram.Settings(3, memory="600M"), V, lay([[4, 5]])).ngrams == (V, 3, 2)


@pytest.mark.parametrize("prune", [(1,), (0, 2, 1), (0, -1)])
def test_thresholds_never_fall(prune: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="prune is"):
        Ngram.Settings(prune=prune)
