from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.kernels.ngram import merge
from lmlab.kernels.ngram.layout import Counts
from lmlab.kernels.ngram.merge import merge_level
from lmlab.models.ngram.counts import count_ngrams

from .reference import lay

V = 9
DOCUMENTS = st.lists(st.lists(st.integers(4, 7), max_size=9), min_size=1, max_size=5)


def merged(parts: list[list[Counts]]) -> list[Counts]:
    """The levels of all parts from 2 on, merged one after the other."""
    maps, levels = [np.arange(V, dtype=np.uint32)] * len(parts), []
    for k in range(1, len(parts[0])):
        level, maps = merge_level([part[k] for part in parts], maps)
        levels.append(level)
    return levels


def same(found: list[Counts], expected: list[Counts]) -> bool:
    return len(found) == len(expected) and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for pair in zip(found, expected, strict=True)
        for a, b in zip(*(vars(level).values() for level in pair), strict=True)
    )


@settings(deadline=None, max_examples=60)
@given(corpora=st.lists(DOCUMENTS, min_size=1, max_size=5), order=st.integers(1, 5), piece=st.integers(1, 12))
def test_merged_counts_are_the_counts_of_all_together(corpora: list[list[list[int]]], order: int, piece: int) -> None:
    parts = [count_ngrams(lay(corpus), order, V) for corpus in corpora]
    expected = count_ngrams(lay([document for corpus in corpora for document in corpus]), order, V)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_PIECE", piece)
        assert same(merged(parts), expected[1:])


def test_parts_may_lie_on_disk_and_stay_as_they_were(tmp_path: Path) -> None:
    corpora = [[[4, 5, 6, 4, 5]], [[5, 6], [4]]]
    parts = []
    for i, corpus in enumerate(corpora):
        levels = []
        for k, level in enumerate(count_ngrams(lay(corpus), 3, V)):
            for name, array in vars(level).items():
                np.save(tmp_path / f"{i}{k}{name}.npy", array)
            mapped = {name: np.load(tmp_path / f"{i}{k}{name}.npy", mmap_mode="r") for name in vars(level)}
            levels.append(Counts(**mapped))
        parts.append(levels)
    assert same(merged(parts), count_ngrams(lay(corpora[0] + corpora[1]), 3, V)[1:])
