from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import DataError, EmptyDataError
from lmlab.kernels.ngram.layout import Counts, high, low
from lmlab.models.ngram import counts
from lmlab.models.ngram.counts import count_ngrams
from lmlab.vocabulary import BOS, EOS, PAD

from .reference import lay

V = 8
DOCUMENTS = st.lists(st.lists(st.integers(4, V - 1), max_size=12), min_size=1, max_size=8)


def grams(levels: list[Counts], k: int) -> list[tuple[int, ...]]:
    """The words of every node of level k, read back through the contexts."""
    if k == 0:
        return [()]
    shorter = grams(levels, k - 1)
    key_G = levels[k - 1].key_G
    return [(*shorter[c], w) for c, w in zip(high(key_G).tolist(), low(key_G).tolist(), strict=True)]


@settings(deadline=None)
@given(DOCUMENTS, st.integers(1, 20), st.sampled_from([np.uint16, np.uint32]))
def test_counts_are_those_of_a_counter(documents: list[list[int]], order: int, dtype: type) -> None:
    levels = count_ngrams(lay(documents, dtype), order, V)
    assert len(levels) == order
    for k, level in enumerate(levels, 1):
        expected = Counter[tuple[int, ...]]({(w,): 0 for w in range(V)} if k == 1 else {})
        for document in documents:
            text = (BOS, *document, EOS)
            expected.update(text[i : i + k] for i in range(len(text) - k + 1))
        names = grams(levels, k)
        assert names == sorted(names)  # and so each once, children side by side
        assert dict(zip(names, level.count_G.tolist(), strict=True)) == dict(expected)
        shorter = grams(levels, k - 1)
        assert [shorter[i] for i in level.suffix_G] == [name[1:] for name in names]
        assert (level.key_G.dtype, level.suffix_G.dtype, level.count_G.dtype) == (np.uint64, np.uint32, np.uint32)


def test_what_does_not_fit_in_one_number_is_counted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    ids_N = lay([[4, 5, 4, 5, 6], [5, 4, 5]])
    sorted_levels = count_ngrams(ids_N, 4, V)
    monkeypatch.setattr(counts, "_BITS", 10)
    for ours, theirs in zip(sorted_levels, count_ngrams(ids_N, 4, V), strict=True):
        for name in ("key_G", "suffix_G", "count_G"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_the_corpus_is_left_as_it_was() -> None:
    ids_N = lay([[4, 5], [6]])
    ids_N.flags.writeable = False
    count_ngrams(ids_N, 3, V)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([], EmptyDataError, "no tokens"),
        ([BOS, BOS], EmptyDataError, "no token to predict"),
        ([4, EOS], DataError, "begin with id 4"),
        ([BOS, V, EOS], DataError, r"token id 8 is outside 0\.\.7"),
        ([BOS, 4, EOS, PAD], DataError, "1 padding token"),
    ],
)
def test_data_that_cannot_be_counted(ids: list[int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        count_ngrams(np.array(ids, dtype=np.uint16), 2, V)
