from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmlab.errors import ArtifactError, DataError, SettingError, UsageError
from lmlab.models.base import LanguageModel, State
from lmlab.models.mixture import Mixture, fit_weights
from lmlab.models.ngram import Ngram
from lmlab.models.scorers import Blend, scorer_of
from lmlab.models.scorers import Stepwise as StepByStep
from lmlab.vocabulary import BOS, EOS

V = 9
PROMPTS = [[4, 5], [], [8, 4, 4]]


def counted(order: int, smoothing: str = "kneser-ney", seed: int = 0, vocab_size: int = V) -> Ngram:
    rng = np.random.default_rng(seed)
    ids = [i for _ in range(12) for i in (BOS, *rng.integers(4, 8, 6).tolist(), EOS)]
    return Ngram.estimate(Ngram.Settings(order, smoothing), vocab_size, np.array(ids, dtype=np.uint16))


class Stepwise:
    """A model that has `start` and `step` alone, and is not registered."""

    bos, eos, vocab_size = BOS, EOS, V

    def __init__(self, inner: Ngram) -> None:
        self.inner = inner

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, State]:
        return self.inner.start(prompts)

    def step(self, state: Any, tokens_B: Tensor) -> tuple[Tensor, State]:
        return self.inner.step(state, tokens_B)


def test_linear_is_the_weighted_sum_of_probabilities() -> None:
    a, b = counted(3), counted(1, seed=1)
    p_BV = Mixture(Mixture.Settings("linear", (0.3, 0.7)), [a, b]).start(PROMPTS)[0].exp()
    assert torch.allclose(p_BV, 0.3 * a.start(PROMPTS)[0].exp() + 0.7 * b.start(PROMPTS)[0].exp(), atol=1e-6)
    assert torch.allclose(p_BV.sum(1), torch.ones(3), atol=1e-5)


def test_log_linear_is_the_renormalised_product() -> None:
    a, b = counted(3), counted(2, "mle", seed=1)
    p_BV = Mixture(Mixture.Settings("log-linear", (1.5, 0.5)), [a, b]).start(PROMPTS)[0].exp()
    product_BV = a.start(PROMPTS)[0].exp() ** 1.5 * b.start(PROMPTS)[0].exp() ** 0.5
    assert torch.allclose(p_BV, product_BV / product_BV.sum(1, keepdim=True), atol=1e-6)
    assert torch.equal(p_BV == 0, b.start(PROMPTS)[0].exp() == 0)


def test_a_weight_of_zero_is_a_component_left_out() -> None:
    a, b = counted(3), counted(2, "mle", seed=1)
    for kind in ("linear", "log-linear"):
        alone_BV = Mixture(Mixture.Settings(kind, (1, 0)), [a, b]).start(PROMPTS)[0]
        assert torch.allclose(alone_BV, a.start(PROMPTS)[0], atol=1e-6)


def test_no_weights_are_equal_shares() -> None:
    components = [counted(3), counted(1, seed=1)]
    implied, said = Mixture(Mixture.Settings(), components), Mixture(Mixture.Settings("linear", (0.5, 0.5)), components)
    assert torch.equal(implied.start(PROMPTS)[0], said.start(PROMPTS)[0])


@pytest.mark.parametrize("kind", ["linear", "log-linear"])
def test_step_equals_start_and_select_gathers(kind: str) -> None:
    model = Mixture(Mixture.Settings(kind, (0.4, 0.6)), [counted(3), Stepwise(counted(4, seed=1))])
    assert isinstance(model, LanguageModel)
    _, state = model.start(PROMPTS)
    logp_KV, _ = model.step(state.select(torch.tensor([2, 0, 0])), torch.tensor([4, 5, 6]))
    assert torch.allclose(logp_KV, model.start([[8, 4, 4, 4], [4, 5, 5], [4, 5, 6]])[0], atol=1e-6)


def test_component_by_component_only_where_it_is_sound() -> None:
    array, stepwise = counted(3), Stepwise(counted(2))
    linear, log_linear = Mixture.Settings("linear"), Mixture.Settings("log-linear")
    assert isinstance(Mixture(linear, [array, array]).scorer(), Blend)
    assert isinstance(Mixture(linear, [Mixture(linear, [array, array]), stepwise]).scorer(), Blend)
    assert isinstance(Mixture(log_linear, [array, array]).scorer(), StepByStep)


def scored(model: LanguageModel, ids: Sequence[int]) -> np.ndarray:
    return np.concatenate([*scorer_of(model).token_logp(np.array(ids))])


def test_scores_component_by_component_equal_stepwise_ones() -> None:
    model = Mixture(Mixture.Settings("linear", (0.4, 0.6)), [counted(3), counted(1, seed=1)])
    texts = [[5, 6, EOS], [7, EOS]]
    expected = []
    for text in texts:
        logp_1V, state = model.start([[]])
        for token in text:
            expected.append(float(logp_1V[0, token]))
            logp_1V, state = model.step(state, torch.tensor([token]))
    laid = [token for text in texts for token in (BOS, *text)]
    assert scored(model, laid) == pytest.approx(expected, abs=2e-6)


def test_unnormalised_components_are_declared() -> None:
    components = [counted(3), counted(3, "stupid-backoff")]
    assert not Mixture(Mixture.Settings("linear"), components).scorer().normalised
    log_linear = Mixture(Mixture.Settings("log-linear"), components)
    assert log_linear.scorer().normalised
    assert torch.allclose(log_linear.start(PROMPTS)[0].exp().sum(1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        ("linear", (0.5, 0.6)),
        ("linear", (1.5, -0.5)),
        ("linear", (float("nan"), 1.0)),
        ("log-linear", (0.0, 0.0)),
        ("log-linear", (-1.0, 1.0)),
        ("product", (0.5, 0.5)),
    ],
)
def test_unsound_weights_are_refused(kind: str, weights: tuple[float, ...]) -> None:
    with pytest.raises(SettingError):
        Mixture.Settings(kind, weights)


def test_unfitting_components_are_refused() -> None:
    with pytest.raises(SettingError, match="must be 1 number"):
        Mixture(Mixture.Settings("linear", (0.5, 0.5)), [counted(2)])
    with pytest.raises(SettingError, match="one vocabulary size"):
        Mixture(Mixture.Settings(), [counted(2), counted(2, vocab_size=10)])
    with pytest.raises(SettingError, match="and a component"):
        Mixture(Mixture.Settings(), [])


def test_components_without_a_common_word_are_refused() -> None:
    one, other = (
        Ngram.estimate(Ngram.Settings(2, "mle"), V, np.array([BOS, word, EOS], dtype=np.uint16)) for word in (4, 5)
    )
    with pytest.raises(DataError, match="no next token in common"):
        Mixture(Mixture.Settings("log-linear"), [one, other]).start([[]])


@pytest.mark.parametrize("kind", ["linear", "log-linear"])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, kind: str) -> None:
    inner = Mixture(Mixture.Settings("linear", (0.25, 0.75)), [counted(2), counted(3, "witten-bell")])
    model = Mixture(Mixture.Settings(kind, (0.4, 0.6)), [counted(4, seed=1), inner])
    model.save(tmp_path)
    again = Mixture.load(tmp_path, model.settings, V)
    assert type(again) is type(model)
    assert torch.equal(again.start(PROMPTS)[0], model.start(PROMPTS)[0])


def test_its_size_is_that_of_its_components() -> None:
    a, b = counted(2), counted(3)
    assert Mixture(Mixture.Settings(), [a, b, Stepwise(a)]).nbytes == a.nbytes + b.nbytes


def test_settings_return_from_json() -> None:
    settings = Mixture.Settings("linear", (0.25, 0.75))
    assert Mixture.Settings.make(json.loads(json.dumps(settings.dump())), "model") == settings


def test_a_component_that_is_not_registered_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Stepwise is not a registered model"):
        Mixture(Mixture.Settings(), [Stepwise(counted(2))]).save(tmp_path)


@pytest.mark.parametrize("written", ["{", "[]", '[{"kind": "ngram"}]', '[{"kind": "no-such", "settings": {}}]', "3"])
def test_a_damaged_folder_is_refused(tmp_path: Path, written: str) -> None:
    model = Mixture(Mixture.Settings(), [counted(2), counted(3)])
    model.save(tmp_path)
    (tmp_path / "components.json").write_text(written)
    with pytest.raises(ArtifactError, match=r"no sound mixture|components\.json"):
        Mixture.load(tmp_path, model.settings, V)


def test_a_missing_component_is_refused(tmp_path: Path) -> None:
    model = Mixture(Mixture.Settings(), [counted(2), counted(3)])
    model.save(tmp_path)
    (tmp_path / "component1" / "logp_1.npy").unlink()
    with pytest.raises(ArtifactError, match="logp_1"):
        Mixture.load(tmp_path, model.settings, V)


def test_fitted_weights_are_those_that_made_the_data() -> None:
    """Of two sources, 30 % of the tokens came from the first."""
    rng = np.random.default_rng(0)
    sources = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    tokens_N = rng.choice(3, 20_000, p=0.3 * sources[0] + 0.7 * sources[1])
    assert fit_weights(np.log(sources[:, tokens_N]), 200) == pytest.approx([0.3, 0.7], abs=0.02)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-9, 0), min_size=3, max_size=3), min_size=1, max_size=30))
def test_fitting_never_makes_it_worse(logp: list[list[float]]) -> None:
    logp_MN = np.array(logp).T
    fits = [np.log(fit_weights(logp_MN, rounds) @ np.exp(logp_MN)).sum() for rounds in (0, 1, 2, 10)]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(fits))


def test_fitting_with_impossible_tokens() -> None:
    logp_MN = np.array([[-np.inf, -1.0, -np.inf], [-2.0, -1.0, -np.inf]])
    assert fit_weights(logp_MN, 500) == pytest.approx([0, 1], abs=0.01)
    with pytest.raises(DataError, match="no component gives"):
        fit_weights(np.full((2, 3), -np.inf))


def test_given_weights_stay() -> None:
    rng = np.random.default_rng(1)
    logp_MN = np.log(rng.dirichlet([1, 1, 1, 5], 300)).T[:3]
    fitted = fit_weights(logp_MN, 300, given=(None, 0.2, None))
    assert fitted[1] == 0.2
    assert fitted.sum() == pytest.approx(1)
    shares = np.linspace(0, 0.8, 81)
    tried = [np.log(np.array([share, 0.2, 0.8 - share]) @ np.exp(logp_MN)).sum() for share in shares]
    assert fitted[0] == pytest.approx(shares[np.argmax(tried)], abs=0.011)
    assert fit_weights(logp_MN, given=(0.3, 0.3, 0.4)).tolist() == [0.3, 0.3, 0.4]
    assert fit_weights(logp_MN, given=(None, 0.6, 0.4))[0] == pytest.approx(0)


def test_a_blend_is_the_mixture_of_known_tokens() -> None:
    mixture = Mixture(Mixture.Settings("linear", (0.3, 0.0, 0.7)), [counted(2), counted(3), Stepwise(counted(1))])
    logp_MN = np.log([[0.5, 0.1], [1.0, 1.0], [0.2, 0.4]])
    (blended_N,) = mixture.blend([], iter([logp_MN]))
    assert np.exp(blended_N) == pytest.approx([0.29, 0.31])


def test_fitted_weights_suit_two_ngram_models_to_held_out_text() -> None:
    """Of a text like the first model's mostly, the second's at times: the mixture beats both, and any other weights."""
    rng = np.random.default_rng(4)
    follow = rng.dirichlet(np.full(V - 4, 0.3), size=(2, V))

    def text(source: int, documents: int) -> list[int]:
        ids: list[int] = []
        for _ in range(documents):
            ids.append(BOS)
            for _ in range(8):
                ids.append(4 + int(rng.choice(V - 4, p=follow[source, ids[-1]])))
            ids.append(EOS)
        return ids

    kinds = Ngram.Settings(2), Ngram.Settings(3, "witten-bell")
    components = [Ngram.estimate(kind, V, np.array(text(i, 150), np.uint16)) for i, kind in enumerate(kinds)]
    held_N = np.array(text(0, 60) + text(1, 20), np.uint16)
    logp_MN = np.stack([component.logp_array(held_N) for component in components])[:, held_N != BOS]
    weights_M = fit_weights(logp_MN)
    assert 0.6 < weights_M[0] < 0.9

    def total(share: float) -> float:
        return float(np.log(share * np.exp(logp_MN[0]) + (1 - share) * np.exp(logp_MN[1])).sum())

    assert total(weights_M[0]) >= max(total(share) for share in np.linspace(0, 1, 51)) - 1e-3
    mixed = Mixture(Mixture.Settings("linear", tuple(weights_M.tolist())), components)
    assert scored(mixed, held_N.tolist()).sum() == pytest.approx(total(weights_M[0]), 1e-4)
