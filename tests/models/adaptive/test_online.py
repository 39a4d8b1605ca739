"""Weights that learn as they read: towards the better component, as one text or in pieces, by steps or by rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmlab.errors import SettingError
from lmlab.models.adaptive.online import Online
from lmlab.models.mixture import Mixture
from lmlab.models.scorers import account_of, scorer_of
from lmlab.vocabulary import BOS, EOS
from tests.contracts import zoo

IDS_N = np.array([BOS, *np.random.default_rng(3).integers(4, zoo.VOCAB, 40), EOS])


def mixed(rate):
    return Online(Online.Settings(rate), [zoo.build("uniform", "plain"), zoo.build("ngram", "kneser-ney-3")])


def test_without_a_rate_it_is_the_log_linear_mixture():
    online = mixed(0.0)
    fixed = Mixture(Mixture.Settings("log-linear", (0.5, 0.5)), online.components)
    one, other = (np.concatenate([*scorer_of(model).token_logp(IDS_N)]) for model in (online, fixed))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_component_that_is_right_gains_weight_and_the_text_probability():
    ids_N = zoo.documents()
    weights_NM = account_of(mixed(0.01), ids_N[: 1 + int(np.flatnonzero(ids_N == EOS)[0])])["weights"]
    assert weights_NM[0].tolist() == [0.5, 0.5]
    assert weights_NM[-1, 1] > 0.5
    learned, fixed = (np.concatenate([*scorer_of(mixed(rate)).token_logp(ids_N)]).sum() for rate in (0.01, 0.0))
    assert learned > fixed


def test_a_step_is_the_gradient_of_the_log_probability():
    online, token, by = mixed(1e-3), 6, 1e-4
    _, state = online.start([[5]])
    _, after = online.step(state, torch.tensor([token]))
    for m in range(2):
        weights = [state.weights_BM[0].clone() for _ in range(2)]
        weights[0][m], weights[1][m] = weights[0][m] - by, weights[1][m] + by
        low, high = (online._answer(w[None], state.logp_MBV.double(), state.components)[0][0, token] for w in weights)
        assert float(after.weights_BM[0, m] - state.weights_BM[0, m]) == pytest.approx(
            1e-3 * float(high - low) / 2 / by, rel=1e-3
        )


def test_weights_for_other_components_are_refused():
    with pytest.raises(SettingError, match="weights"):
        Online(Online.Settings(), [zoo.build("uniform", "plain")], (0.5, 0.5))
