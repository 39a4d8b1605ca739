"""A mixture whose weights follow how well each component predicted the last tokens.

The log-probabilities that the components gave the last W tokens are averaged with three decays (the last one alone, a
few, a dozen); a few hidden units and a softmax turn them into weights: a mixture of experts (Jacobs et al. 1991) with a
gate so small that a few thousand held-out tokens fit it. It sees log-probabilities of known tokens alone, so that known
text is scored component by component.

    model = Gated([lstm, ngram], fit_gate(logp_MN))

Shapes: M components, B contexts, V words, N tokens, W last tokens, D decays, F = M*D inputs, K hidden units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np
import torch
from torch import Tensor

from lmlab.errors import SettingError
from lmlab.models.base import LanguageModel, Scorer
from lmlab.models.mixture import Components, MixtureState, fit_weights, log_sum
from lmlab.models.scorers import Blend, beside, scorer_of

_WINDOW = 32  # tokens W that a gate looks back
_DECAYS = (0.0, 0.5, 0.9)  # factor on a token's weight for each token after it
_LEAST = -8.0  # a log-probability counts no lower than that
_HIDDEN = 8
_RIDGE = 1e-3  # keeps a gate nearly constant where that is nearly as good


@dataclass(frozen=True)
class Gate:
    """From what each component gave the last tokens to its weight. The last row of each matrix is a bias.

    Attributes:
        inner: of shape (F + 1, K).
        outer: of shape (K + 1, M).

    Raises:
        SettingError: the shapes do not fit each other.
    """

    inner: np.ndarray
    outer: np.ndarray

    def __post_init__(self) -> None:
        wanted = (len(_DECAYS) * self.outer.shape[1] + 1, len(self.outer) - 1)
        if self.inner.shape != wanted:
            raise SettingError("gate", self.inner.shape, f"of shape {wanted}", "fit it with fit_gate")

    def log_weights(self, recent_NMW: np.ndarray) -> np.ndarray:
        """What to add to each component's log-probability of the next token, log_weights_NM."""
        hidden_NK = np.tanh(gate_inputs(recent_NMW) @ self.inner[:-1] + self.inner[-1])
        score_NM = hidden_NK @ self.outer[:-1] + self.outer[-1]
        return np.asarray(score_NM - np.logaddexp.reduce(score_NM, axis=1, keepdims=True))


@dataclass(frozen=True)
class GatedState:
    """The components' states, what each gave the last W tokens, and what it predicts now."""

    components: MixtureState
    recent_BMW: Tensor
    logp_MBV: Tensor

    def select(self, rows_K: Tensor) -> GatedState:
        """The state of these rows, component by component."""
        return GatedState(self.components.select(rows_K), self.recent_BMW[rows_K], self.logp_MBV[:, rows_K])

    def joined(self, other: GatedState) -> GatedState:
        """The state of these rows, then of the other's."""
        recent_BMW = torch.cat([self.recent_BMW, other.recent_BMW])
        logp_MBV = torch.cat([self.logp_MBV, other.logp_MBV], 1)
        return GatedState(self.components.joined(other.components), recent_BMW, logp_MBV)


class Gated(Components):
    """A gated mixture.

    Args:
        components: models of one vocabulary.
        gate: as `fit_gate` gives it for these components.

    Raises:
        SettingError: the gate is for another number of components.
    """

    def __init__(self, components: Sequence[LanguageModel], gate: Gate) -> None:
        super().__init__(components)
        if gate.outer.shape[1] != len(components):
            bound = f"for {len(components)} components"
            raise SettingError("gate", gate.outer.shape[1], bound, "fit it with fit_gate")
        self._gate = gate

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, GatedState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        recent_BMW = torch.stack([self._recent(prompt) for prompt in prompts])
        return self._gated(*self.start_each(prompts), recent_BMW)

    def step(self, state: GatedState, tokens_B: Tensor) -> tuple[Tensor, GatedState]:
        """logp_BV one token further, and the new state."""
        given_BM = state.logp_MBV[:, torch.arange(len(tokens_B)), tokens_B].T
        recent_BMW = torch.cat([state.recent_BMW[..., 1:], given_BM[..., None].clamp(_LEAST, 0)], dim=2)
        return self._gated(*self.step_each(state.components, tokens_B), recent_BMW)

    def _gated(self, logp_MBV: Tensor, components: MixtureState, recent_BMW: Tensor) -> tuple[Tensor, GatedState]:
        log_weights_BM = torch.from_numpy(self._gate.log_weights(recent_BMW.numpy())).to(logp_MBV.dtype)
        logp_BV = log_sum(logp_MBV + log_weights_BM.T[..., None])
        return logp_BV, GatedState(components, recent_BMW, logp_MBV)

    def _recent(self, prompt: Sequence[int]) -> Tensor:
        """What each component gave the last tokens of a prompt, the latest last, zeros before the text: recent_MW."""
        at = max(0, len(prompt) - _WINDOW)
        recent_MW = torch.zeros(len(self.components), _WINDOW)
        logp_M1V, state = self.start_each([prompt[:at]])
        for place, token in enumerate(prompt[at:], _WINDOW - (len(prompt) - at)):
            recent_MW[:, place] = logp_M1V[:, 0, token].clamp(_LEAST, 0)
            logp_M1V, state = self.step_each(state, torch.tensor([token]))
        return recent_MW

    def scorer(self) -> Scorer:
        """Scores component by component; the last scores count across documents."""
        return Blend(self.components, self.blend, self.blend_rows, learns=True)

    def account(self, ids_N: np.ndarray) -> dict[str, np.ndarray]:
        """The weights of the components at each token of a document but `<bos>`."""
        logp_MN = np.stack([np.concatenate([*scorer_of(each).token_logp(ids_N)]) for each in self.components])
        ((recent_NMW, _),) = _with_recent(iter([logp_MN]))
        return {"weights": np.exp(self._gate.log_weights(recent_NMW))}

    def blend(self, documents: Iterable[np.ndarray], logp: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The gated mixture of known scores: from pieces of logp_MN to pieces of logp_N."""
        for recent_NMW, logp_MN in _with_recent(logp):
            yield np.logaddexp.reduce(logp_MN + self._gate.log_weights(recent_NMW).T)

    def blend_rows(self, documents: Iterable[np.ndarray], rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The gated mixture of whole rows: from pieces of rows_MNV to pieces of rows_NV."""
        known, mixed = tee(beside(documents, rows))
        logp = (rows_MNV[:, np.arange(len(ids_N)), ids_N] for ids_N, rows_MNV in known)
        for (recent_NMW, _), (_, rows_MNV) in zip(_with_recent(logp), mixed, strict=True):
            log_weights_MN1 = torch.from_numpy(self._gate.log_weights(recent_NMW).T[..., None])
            yield log_sum(torch.from_numpy(rows_MNV) + log_weights_MN1.to(torch.float32)).numpy()


def _with_recent(logp: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What the components gave the W tokens before each token, recent_NMW, beside each piece of scores logp_MN."""
    past_MW: np.ndarray | None = None
    for logp_MN in logp:
        past_MW = np.zeros((len(logp_MN), _WINDOW)) if past_MW is None else past_MW
        known = np.concatenate([past_MW, np.clip(logp_MN, _LEAST, 0)], axis=1)
        past_MW = known[:, -_WINDOW:]
        yield np.lib.stride_tricks.sliding_window_view(known[:, :-1], _WINDOW, axis=1).transpose(1, 0, 2), logp_MN


def gate_inputs(recent_NMW: np.ndarray) -> np.ndarray:
    """What a gate sees: each component's mean log-probability under each decay, inputs_NF."""
    age_W = np.arange(_WINDOW - 1, -1, -1)
    weights_WD = np.stack([(1 - decay) * np.power(decay, age_W) for decay in _DECAYS], axis=1)
    return (recent_NMW @ weights_WD).reshape(len(recent_NMW), -1)


def fit_gate(logp_MN: np.ndarray, rounds: int = 150) -> Gate:
    """The gate that fits held-out tokens best.

    Args:
        logp_MN: natural log-probability that each component gives each held-out token, in the order of the text.
        rounds: of L-BFGS, which begins near the best constant weights.
    """
    ((recent_NMW, _),) = _with_recent(iter([logp_MN]))
    inputs_NF, logp_NM = gate_inputs(recent_NMW), torch.from_numpy(logp_MN.T.astype(np.float64))
    mean_F, spread_F = inputs_NF.mean(0), inputs_NF.std(0) + 1e-6
    scaled_NF = torch.from_numpy((inputs_NF - mean_F) / spread_F)
    rng, best_M = np.random.default_rng(0), np.log(np.maximum(fit_weights(logp_MN), 1e-6))
    inner_FK = rng.normal(0, inputs_NF.shape[1] ** -0.5, (inputs_NF.shape[1], _HIDDEN))
    start = inner_FK, np.zeros(_HIDDEN), np.zeros((_HIDDEN, len(logp_MN))), best_M - best_M.mean()
    weights = [torch.from_numpy(value).requires_grad_() for value in start]
    optimizer = torch.optim.LBFGS(weights, max_iter=rounds, line_search_fn="strong_wolfe")

    def nats() -> Tensor:
        optimizer.zero_grad()
        inner_FK, inner_K, outer_KM, outer_M = weights
        log_weights_NM = (torch.tanh(scaled_NF @ inner_FK + inner_K) @ outer_KM + outer_M).log_softmax(1)
        loss = -(log_weights_NM + logp_NM).logsumexp(1).mean()
        loss = loss + _RIDGE * (inner_FK.square().sum() + outer_KM.square().sum())
        loss.backward()
        return loss

    optimizer.step(nats)
    inner_FK, inner_K, outer_KM, outer_M = (weight.detach().numpy() for weight in weights)
    inner_FK = inner_FK / spread_F[:, None]
    return Gate(np.vstack([inner_FK, inner_K - mean_F @ inner_FK]), np.vstack([outer_KM, outer_M]))
