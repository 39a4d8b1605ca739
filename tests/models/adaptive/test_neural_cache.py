"""Shapes: T positions, H features, N ids."""

import math

import numpy as np
import pytest
import torch

from lmlab.errors import UsageError
from lmlab.models.adaptive import neural_cache
from lmlab.models.adaptive.dynamic import Dynamic
from lmlab.models.adaptive.neural_cache import NeuralCache
from lmlab.vocabulary import BOS, EOS
from tests.models.adaptive.test_dynamic import DOCUMENTS, REPETITIVE, scores, unadapted
from tests.models.neural.acceptance import make

STILL = Dynamic(make("lstm"), Dynamic.Settings(lr=0))


def cached(window=2000, theta=1.0, lam=0.5):
    return NeuralCache(STILL, NeuralCache.Settings(window, theta, lam))


A, B, E = 4, 5, math.e
BY_HAND = {  # a b a b, the states alternate too; the model gives each token 1/4
    3: [1 / 4, 1 / 8, 1 / 8 + E / (E + 1) / 2, 1 / 8 + E / (E + 2) / 2],
    2: [1 / 4, 1 / 8, 1 / 8 + E / (E + 1) / 2, 1 / 8 + E / (E + 1) / 2],
    1: [1 / 4, 1 / 8, 1 / 8, 1 / 8],
}


@pytest.mark.parametrize("window", BY_HAND)
@pytest.mark.parametrize("piece", [1, 3, 4])
def test_four_tokens_by_hand(window, piece):
    logp_T = torch.full((4,), math.log(1 / 4))
    features_TH = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    ids_T = torch.tensor([A, B, A, B])
    observed = zip(logp_T.split(piece), features_TH.split(piece), ids_T.split(piece), strict=True)
    got = np.concatenate(list(cached(window).rescored(observed)))
    assert np.exp(got) == pytest.approx(BY_HAND[window])


def test_a_weight_of_zero_is_the_model():
    assert scores(cached(lam=0), DOCUMENTS) == pytest.approx(unadapted(make("lstm"), DOCUMENTS), abs=1e-5)


@pytest.mark.parametrize("piece", [1, 4, 7])
@pytest.mark.parametrize("window", [1, 5, 30])
def test_scores_do_not_depend_on_pieces(monkeypatch, window, piece):
    expected = scores(cached(window), [*DOCUMENTS, REPETITIVE])
    monkeypatch.setattr(neural_cache, "_PIECE", piece)
    assert scores(cached(window), [*DOCUMENTS, REPETITIVE]) == pytest.approx(expected, abs=1e-5)


def test_the_cache_goes_on_and_the_context_does_not():
    document = np.array([BOS, 9, 4, 10, EOS])
    first, second = np.split(scores(cached(), [document, document]), 2)
    assert (second > first).all()
    assert second[0] == pytest.approx(
        math.log(np.exp(first[0]) / 2 + share_of_first(document) / 2), abs=1e-5
    )  # no token before it but <bos>


def share_of_first(document):
    """What the cache gives the first token in the state after `<bos>`, having seen the document once."""
    _, features_TH, ids_T = next(STILL.observe([document]))
    weight_T = (features_TH @ features_TH[0]).softmax(0)
    return float(weight_T[ids_T == int(document[1])].sum())


def test_it_learns_a_repetitive_text():
    assert scores(cached(theta=5), [REPETITIVE]).mean() > unadapted(make("lstm"), [REPETITIVE]).mean() + 0.5


def test_no_prompts_are_refused():
    with pytest.raises(UsageError, match="no prompts"):
        cached().start([])
