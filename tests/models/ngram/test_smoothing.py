from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.models.ngram import Ngram
from lmlab.models.ngram.smoothing import SMOOTHINGS, Lmplz, counts_of_counts, discounts
from lmlab.vocabulary import BOS, NEVER_PREDICTED, UNK

from .reference import Plain, lay

V = 9
SEEN = st.sampled_from([UNK, 4, 5, 6])  # 7 and 8 never occur
DOCUMENTS = st.lists(st.lists(SEEN, max_size=10), min_size=1, max_size=8)
HISTORIES = st.lists(st.lists(st.integers(4, V - 1), max_size=6), max_size=5)
PREDICTED = [w for w in range(V) if w not in NEVER_PREDICTED]


def rows_of(model: Ngram, histories: list[list[int]]) -> np.ndarray:
    trie = model.trie
    return np.exp(trie.rows(trie.begin([[BOS, *history] for history in histories])).astype(np.float64))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None)
@given(documents=DOCUMENTS, unseen=HISTORIES, order=st.integers(1, 5), k=st.sampled_from([0.1, 1.0, 2.5]))
def test_textbook(documents: list[list[int]], unseen: list[list[int]], order: int, k: float, smoothing: str) -> None:
    model = Ngram.estimate(Ngram.Settings(order, smoothing, k), V, lay(documents))
    plain = Plain(documents, order, V, smoothing, k)
    histories = [document[:i] for document in documents[:3] for i in range(len(document) + 1)] + unseen
    rows_BV = rows_of(model, histories)
    assert rows_BV[:, PREDICTED] == pytest.approx(np.array([plain.row(history) for history in histories]), abs=1e-6)
    assert not rows_BV[:, NEVER_PREDICTED].any()
    if not model.unnormalised:
        assert rows_BV.sum(axis=1) == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("smoothing", ["kneser-ney", "absolute"])
def test_textbook_where_discounts_are_found(smoothing: str) -> None:
    """Small random corpora fall back; a skewed one of some size does not."""
    rng = np.random.default_rng(3)
    documents = [(3 + rng.zipf(1.6, rng.integers(1, 12))).clip(max=99).tolist() for _ in range(150)]
    model = Ngram.estimate(Ngram.Settings(3, smoothing), 100, lay(documents))
    assert not model.notes
    plain = Plain(documents, 3, 100, smoothing, 0.1)
    histories = [documents[0], documents[1][:1], [], [98], [4, 97], [99, 98]]
    expected = np.array([plain.row(history) for history in histories])
    assert rows_of(model, histories)[:, plain.words] == pytest.approx(expected, abs=1e-6)


def test_only_stupid_backoff_is_unnormalised() -> None:
    ids_N = lay([[4, 5, 4]])
    declared = {s: Ngram.estimate(Ngram.Settings(2, s), V, ids_N).unnormalised for s in SMOOTHINGS}
    assert [s for s, value in declared.items() if value] == ["stupid-backoff"]


def test_stupid_backoff_by_hand() -> None:
    """`4 5` occurs once after two 4s; a context that was never seen costs 0.4 as well."""
    model = Ngram.estimate(Ngram.Settings(3, "stupid-backoff"), V, lay([[4, 5, 4, 6]]))
    after_bos_4, after_unseen = rows_of(model, [[4], [7, 8]])
    assert after_bos_4[5] == pytest.approx(1)  # <bos> 4 5
    assert after_bos_4[6] == pytest.approx(0.4 * 1 / 2)  # 4 6
    assert after_bos_4[4] == pytest.approx(0.4 * 0.4 * 2 / 5)  # 4, of five predicted tokens
    assert after_unseen[5] == pytest.approx(0.4 * 0.4 * 1 / 5)


def test_discounts_by_hand() -> None:
    """n = 4, 2, 1, 1: Y = 4 / 8, D = 1 - 2 Y 2/4, 2 - 3 Y 1/2, 3 - 4 Y 1/1."""
    found, note = discounts(counts_of_counts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 0, 9])))
    assert found == [0, 0.5, 1.25, 1]
    assert not note


@pytest.mark.parametrize("counts", [[2, 2, 3], [1, 3, 3]])
def test_discounts_fall_back_to_constants_and_say_so(counts: list[int]) -> None:
    found, note = discounts(counts_of_counts(np.array(counts)))
    assert found == [0, 0.5, 1, 1.5]
    assert "fell back to 0.5, 1 and 1.5" in note


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 3, *[4] * 9], [1, *[2] * 9, *[3] * 300]])
def test_discounts_fall_back_to_multiples_of_one_and_say_so(counts: list[int]) -> None:
    n = counts_of_counts(np.array(counts))
    y = n[1] / (n[1] + 2 * n[2])
    found, note = discounts(n)
    assert found == pytest.approx([0, y, 2 * y, 3 * y])
    assert f"fell back to {y:.3g}, {2 * y:.3g} and {3 * y:.3g}" in note
    assert discounts(n, lmplz=Lmplz())[0] == [0, 0.5, 1, 1.5]


def test_the_compatible_model_falls_back_as_lmplz_does() -> None:
    ids_N = lay([[4, 4, 5, 6, 6]])
    ours, theirs = (Ngram.estimate(Ngram.Settings(1, compat=c), V, ids_N).notes for c in ("none", "lmplz"))
    assert "fell back to 0.333, 0.667 and 1" in ours[0]
    assert "fell back to 0.5, 1 and 1.5" in theirs[0]


def test_notes_name_the_order() -> None:
    notes = Ngram.estimate(Ngram.Settings(4), V, lay([[4]])).notes
    assert [note.partition(":")[0] for note in notes] == ["order 1", "order 2", "order 3"]  # there is no 4-gram
