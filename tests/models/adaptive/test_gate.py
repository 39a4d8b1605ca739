"""The gate of a mixture: fitted, it beats any constant weights where a component is good for a while."""

from __future__ import annotations

import numpy as np
import pytest

from lmlab.errors import SettingError
from lmlab.models.adaptive.gate import Gate, Gated, fit_gate
from lmlab.models.mixture import fit_weights
from lmlab.models.toy import Uniform


def in_turns(tokens: int, seed: int = 0) -> np.ndarray:
    """Two components, of which one is good for a hundred tokens, then the other."""
    rng = np.random.default_rng(seed)
    good_N = (np.arange(tokens) // 100) % 2
    p_MN = np.where(good_N == np.arange(2)[:, None], 0.6, 0.2) * rng.uniform(0.5, 1.5, (2, tokens))
    return np.log(p_MN)


def nats(gate: Gate, logp_MN: np.ndarray) -> float:
    model = Gated([Uniform(7), Uniform(7)], gate)
    return -float(np.concatenate(list(model.blend([], iter([logp_MN])))).mean())


def test_a_fitted_gate_follows_the_component_that_is_good():
    gate, held_out = fit_gate(in_turns(5000)), in_turns(5000, seed=1)
    constant = -np.logaddexp.reduce(held_out + np.log(fit_weights(in_turns(5000)))[:, None]).mean()
    assert nats(gate, held_out) < constant - 0.1


def test_a_gate_that_does_not_help_is_the_constant_mixture():
    logp_MN = np.log(np.random.default_rng(0).dirichlet([1, 1, 2], 20_000)).T[:2]
    weights_M, gate = fit_weights(logp_MN), fit_gate(logp_MN)
    constant = -np.logaddexp.reduce(logp_MN + np.log(weights_M)[:, None]).mean()
    assert nats(gate, logp_MN) == pytest.approx(constant, abs=2e-3)


def test_pieces_make_no_difference():
    rng, logp_MN = np.random.default_rng(1), in_turns(300)
    gate = Gate(rng.normal(0, 1, (7, 3)), rng.normal(0, 1, (4, 2)))
    model = Gated([Uniform(7), Uniform(7)], gate)
    whole = np.concatenate(list(model.blend([], iter([logp_MN]))))
    pieces = np.concatenate(list(model.blend([], iter(np.split(logp_MN, [1, 20, 170], axis=1)))))
    assert pieces == pytest.approx(whole)


def test_a_gate_of_other_components_is_refused():
    with pytest.raises(SettingError, match="gate"):
        Gated([Uniform(7)], Gate(np.zeros((7, 3)), np.zeros((4, 2))))
    with pytest.raises(SettingError, match="gate"):
        Gate(np.zeros((6, 3)), np.zeros((4, 2)))
