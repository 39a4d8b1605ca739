"""A mixture whose weights follow how well each part foretold the last tokens.

The log-probabilities that the parts gave the last M tokens are averaged at three paces (the last one alone, a few, a
dozen); a few hidden units and a softmax make the weights of them: a mixture of experts (Jacobs et al. 1991) with a gate
so small that a few thousand held-out tokens fit it. It needs no rows, so known text is still scored part by part.

    model = Gated([lstm, ngram], fit_gate(logp_PN))

Shapes: P parts, B contexts, V words, N tokens, M last tokens, D paces, F = P*D inputs of the gate, K hidden units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lmlab.errors import SettingError
from lmlab.models.base import LanguageModel, State, is_unnormalised
from lmlab.models.mixture import fit_weights

_MEMORY = 32  # tokens M that a gate looks back
_PACES = (0.0, 0.5, 0.9)  # what a token more leaves of a token's weight
_LEAST = -8.0  # a log-probability counts no lower than that
_HIDDEN = 8
_RIDGE = 1e-3  # keeps a gate nearly constant where that is nearly as good


@dataclass(frozen=True)
class Gate:
    """From what each part gave the last tokens to its weight. The last row of each matrix is a bias.

    Attributes:
        inner: of shape (F + 1, K).
        outer: of shape (K + 1, P).
    """

    inner: np.ndarray
    outer: np.ndarray

    def __post_init__(self) -> None:
        parts = self.outer.shape[1]
        wanted = (len(_PACES) * parts + 1, len(self.outer) - 1)
        if self.inner.shape != wanted:
            raise SettingError("gate", self.inner.shape, f"of shape {wanted}", "fit it with fit_gate")

    def log_weights(self, recent_NPM: np.ndarray) -> np.ndarray:
        """What to add to each part's log-probability of the next token, log_weights_NP."""
        hidden_NK = np.tanh(gate_inputs(recent_NPM) @ self.inner[:-1] + self.inner[-1])
        score_NP = hidden_NK @ self.outer[:-1] + self.outer[-1]
        return np.asarray(score_NP - np.logaddexp.reduce(score_NP, axis=1, keepdims=True))


@dataclass(frozen=True)
class GatedState:
    """What each part remembers, what each gave the last M tokens, and what it gives the next."""

    parts: tuple[State, ...]
    recent_BPM: Tensor
    logp_BPV: Tensor

    def select(self, rows_K: Tensor) -> GatedState:
        """The state of these rows, part by part."""
        parts = tuple(part.select(rows_K) for part in self.parts)
        return GatedState(parts, self.recent_BPM[rows_K], self.logp_BPV[rows_K])


class Gated:
    """A gated mixture.

    Args:
        parts: models of one vocabulary.
        gate: as `fit_gate` gives it for these parts.
    """

    family: ClassVar[str] = "composed"

    def __init__(self, parts: Sequence[LanguageModel], gate: Gate) -> None:
        if gate.outer.shape[1] != len(parts):
            raise SettingError("gate", gate.outer.shape[1], f"for {len(parts)} parts", "fit it with fit_gate")
        self.parts, self._gate = tuple(parts), gate
        self.vocab_size, self.bos, self.eos = parts[0].vocab_size, parts[0].bos, parts[0].eos
        self.unnormalised = any(map(is_unnormalised, parts))

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, GatedState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        recent_BPM = torch.stack([self._recent(prompt) for prompt in prompts])
        return self._gated([part.start(prompts) for part in self.parts], recent_BPM)

    def step(self, state: GatedState, tokens_B: Tensor) -> tuple[Tensor, GatedState]:
        """logp_BV one token further, and the new state."""
        said_BP1 = state.logp_BPV.gather(2, tokens_B[:, None, None].expand(-1, len(self.parts), 1))
        recent_BPM = torch.cat([state.recent_BPM[..., 1:], said_BP1.clamp(_LEAST, 0)], dim=2)
        answers = [part.step(known, tokens_B) for part, known in zip(self.parts, state.parts, strict=True)]
        return self._gated(answers, recent_BPM)

    def _gated(self, answers: Sequence[tuple[Tensor, State]], recent_BPM: Tensor) -> tuple[Tensor, GatedState]:
        logp_BPV = torch.stack([logp_BV for logp_BV, _ in answers], dim=1)
        log_weights_BP = torch.from_numpy(self._gate.log_weights(recent_BPM.numpy())).to(logp_BPV.dtype)
        state = GatedState(tuple(known for _, known in answers), recent_BPM, logp_BPV)
        return (logp_BPV + log_weights_BP[..., None]).logsumexp(dim=1), state

    def _recent(self, prompt: Sequence[int]) -> Tensor:
        """What each part gave the last tokens of a prompt, the latest last, zeros before the text: recent_PM."""
        at = max(0, len(prompt) - _MEMORY)
        recent_PM = torch.zeros(len(self.parts), _MEMORY)
        for part, recent_M in zip(self.parts, recent_PM, strict=True):
            logp_1V, state = part.start([prompt[:at]])
            for place, token in enumerate(prompt[at:], _MEMORY - (len(prompt) - at)):
                recent_M[place] = logp_1V[0, token].clamp(_LEAST, 0)
                logp_1V, state = part.step(state, torch.tensor([token]))
        return recent_PM

    def blend(self, documents: Iterable[np.ndarray], logp: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Blend.blend`; what was last said is remembered across documents."""
        for recent_NPM, logp_PN in _remembered(logp):
            yield np.logaddexp.reduce(logp_PN + self._gate.log_weights(recent_NPM).T)


def _remembered(logp: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Beside each piece of log-probabilities logp_PN, what the parts gave the M tokens before each of its tokens."""
    past_PM: np.ndarray | None = None
    for logp_PN in logp:
        past_PM = np.zeros((len(logp_PN), _MEMORY)) if past_PM is None else past_PM
        known = np.concatenate([past_PM, np.clip(logp_PN, _LEAST, 0)], axis=1)
        past_PM = known[:, -_MEMORY:]
        yield np.lib.stride_tricks.sliding_window_view(known[:, :-1], _MEMORY, axis=1).transpose(1, 0, 2), logp_PN


def gate_inputs(recent_NPM: np.ndarray) -> np.ndarray:
    """What a gate sees: each part's mean log-probability at each pace, inputs_NF."""
    age_M = np.arange(_MEMORY - 1, -1, -1)
    weights_MD = np.stack([(1 - pace) * np.power(pace, age_M) for pace in _PACES], axis=1)
    return (recent_NPM @ weights_MD).reshape(len(recent_NPM), -1)


def fit_gate(logp_PN: np.ndarray, rounds: int = 150) -> Gate:
    """The gate that fits held-out tokens best.

    Args:
        logp_PN: natural log-probability that each part gives each held-out token, in the order of the text.
        rounds: of L-BFGS, which begins near the best constant weights.
    """
    ((recent_NPM, _),) = _remembered(iter([logp_PN]))
    inputs_NF, heard_NP = gate_inputs(recent_NPM), torch.from_numpy(logp_PN.T.astype(np.float64))
    mean_F, spread_F = inputs_NF.mean(0), inputs_NF.std(0) + 1e-6
    known_NF = torch.from_numpy((inputs_NF - mean_F) / spread_F)
    rng, best_P = np.random.default_rng(0), np.log(np.maximum(fit_weights(logp_PN), 1e-6))
    inner_FK = rng.normal(0, inputs_NF.shape[1] ** -0.5, (inputs_NF.shape[1], _HIDDEN))
    start = inner_FK, np.zeros(_HIDDEN), np.zeros((_HIDDEN, len(logp_PN))), best_P - best_P.mean()
    weights = [torch.from_numpy(value).requires_grad_() for value in start]
    optimizer = torch.optim.LBFGS(weights, max_iter=rounds, line_search_fn="strong_wolfe")

    def nats() -> Tensor:
        optimizer.zero_grad()
        inner_FK, inner_K, outer_KP, outer_P = weights
        log_weights_NP = (torch.tanh(known_NF @ inner_FK + inner_K) @ outer_KP + outer_P).log_softmax(1)
        loss = -(log_weights_NP + heard_NP).logsumexp(1).mean()
        loss = loss + _RIDGE * (inner_FK.square().sum() + outer_KP.square().sum())
        loss.backward()
        return loss

    optimizer.step(nats)
    inner_FK, inner_K, outer_KP, outer_P = (weight.detach().numpy() for weight in weights)
    inner_FK = inner_FK / spread_F[:, None]
    return Gate(np.vstack([inner_FK, inner_K - mean_F @ inner_FK]), np.vstack([outer_KP, outer_P]))
