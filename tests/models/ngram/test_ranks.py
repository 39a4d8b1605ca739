"""Ranks by bisection are those of whole rows, ties included. Shapes: N tokens, V words."""

import numpy as np
import pytest

from lmlab.models.ngram import Ngram, ranks
from lmlab.models.scorers import Stepwise, scorer_of
from lmlab.vocabulary import BOS, EOS

V = 40
SETTINGS = [
    {"order": 1},
    {"order": 2},
    {"order": 4},
    {"order": 4, "prune": (0, 1, 1)},
    {"order": 4, "prune_to": 300},
    {"order": 5, "smoothing": "witten-bell"},
    {"order": 3, "smoothing": "add-k"},
    {"order": 3, "smoothing": "mle"},
    {"order": 3, "smoothing": "stupid-backoff"},
    {"order": 3, "layout": "compact"},
]


def corpora():
    """A corpus of short and empty documents of frequent and rare words, and another with what the first never says."""
    rng = np.random.default_rng(0)
    documents = [rng.zipf(1.3, size=rng.integers(0, 60)) % (V - 4) + 4 for _ in range(60)]
    others = [rng.permutation(document) for document in documents[:10]] + [[1, 5, V - 1], []]
    return (np.array([id for each in texts for id in (BOS, *each, EOS)], np.uint32) for texts in (documents, others))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_ranks_and_rows_are_those_step_by_step(monkeypatch, settings, size):
    for name in ("_PIECE", "_CHILDREN", "_ROWS"):
        monkeypatch.setattr(ranks, name, size)
    train_N, other_N = corpora()
    model = Ngram.estimate(Ngram.Settings(**settings), V, train_N)
    for ids_N in (train_N[: np.flatnonzero(train_N == EOS)[15] + 1], other_N):
        logp_N, rank_N = map(np.concatenate, zip(*scorer_of(model).token_ranks(ids_N), strict=True))
        expected_N, expected_ranks_N = map(np.concatenate, zip(*Stepwise(model).token_ranks(ids_N), strict=True))
        assert rank_N.tolist() == expected_ranks_N.tolist()
        assert logp_N == pytest.approx(expected_N, abs=1e-5)
        rows_NV = np.concatenate([*scorer_of(model).token_rows(ids_N)])
        assert np.array_equal(rows_NV, np.concatenate([*Stepwise(model).token_rows(ids_N)]))
