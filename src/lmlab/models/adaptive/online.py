"""A log-linear mixture whose weights learn from each token that it predicted: the mixer of a PAQ, over whole tokens.

    p(w) ~ prod_m p_m(w) ** weight_m

After a token each weight takes a step along the gradient of its log-probability: what the component gave the token,
less what it gives the mixture's tokens on average (Mattern 2012). Components may be of any kind and learn as they read.

    model = Online(Online.Settings(), [dynamic_lstm, cm.online()], (0.55, 0.45))

Shapes: M components, B contexts, V words, N tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.errors import SettingError
from lmlab.models.base import LanguageModel, Scorer
from lmlab.models.mixture import Components, MixtureState
from lmlab.models.scorers import Blend, beside, rows_of

_LEAST = -16.0  # a log-probability counts no lower than that, so that no component vetoes what another expects


@dataclass(frozen=True)
class OnlineState:
    """The components' states, the weights of each text, and what each component and the mixture predict now."""

    components: MixtureState
    weights_BM: Tensor
    logp_MBV: Tensor
    mixed_BV: Tensor

    def select(self, rows_K: Tensor) -> OnlineState:
        """The state of these rows."""
        weights_BM, logp_MBV = self.weights_BM[rows_K], self.logp_MBV[:, rows_K]
        return OnlineState(self.components.select(rows_K), weights_BM, logp_MBV, self.mixed_BV[rows_K])

    def joined(self, other: OnlineState) -> OnlineState:
        """The state of these rows, then of the other's."""
        pairs = ((self.weights_BM, other.weights_BM, 0), (self.logp_MBV, other.logp_MBV, 1))
        weights_BM, logp_MBV = (torch.cat([mine, theirs], axis) for mine, theirs, axis in pairs)
        mixed_BV = torch.cat([self.mixed_BV, other.mixed_BV])
        return OnlineState(self.components.joined(other.components), weights_BM, logp_MBV, mixed_BV)


class Online(Components):
    """A log-linear mixture that learns its weights as it reads.

    Args:
        settings: how fast.
        components: models of one vocabulary.
        weights: of each component at the beginning of a text; none for equal shares.

    Raises:
        SettingError: not as many weights as components, or components of different vocabularies.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """How fast the weights of what is mixed learn."""

        rate: float = setting(1e-3, "learning rate of the weights of what is mixed; 0 learns nothing", ge=0, le=1)

    def __init__(
        self, settings: Online.Settings, components: Sequence[LanguageModel], weights: Sequence[float] = ()
    ) -> None:
        super().__init__(components)
        self.settings = settings
        self.weights = tuple(weights) or (1 / len(components),) * len(components)
        if len(self.weights) != len(components):
            raise SettingError("weights", self.weights, f"{len(components)} numbers", "give one for each component")

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, OnlineState]:
        """logp_BV of what follows `<bos>` and each prompt, learned from as it is read, and the state."""
        return functools.reduce(_joined, map(self._started, prompts))

    def _started(self, prompt: Sequence[int]) -> tuple[Tensor, OnlineState]:
        answer = self._answer(torch.tensor([self.weights], dtype=torch.float64), *self.start_each([[]]))
        for token in prompt:
            answer = self.step(answer[1], torch.tensor([token]))
        return answer

    def step(self, state: OnlineState, tokens_B: Tensor) -> tuple[Tensor, OnlineState]:
        """logp_BV one token further, and the new state."""
        logp_MBV = state.logp_MBV.double().clamp(min=_LEAST)
        expected_MB = torch.einsum("bv,mbv->mb", state.mixed_BV.exp(), logp_MBV)
        given_MB = logp_MBV[:, torch.arange(len(tokens_B)), tokens_B]
        weights_BM = state.weights_BM + self.settings.rate * (given_MB - expected_MB).T
        return self._answer(weights_BM, *self.step_each(state.components, tokens_B))

    def _answer(self, weights_BM: Tensor, logp_MBV: Tensor, components: MixtureState) -> tuple[Tensor, OnlineState]:
        total_BV = torch.einsum("bm,mbv->bv", weights_BM, logp_MBV.double().clamp(min=_LEAST))
        mixed_BV = total_BV.masked_fill(torch.isneginf(logp_MBV).all(0), -torch.inf).log_softmax(-1)
        return mixed_BV.to(logp_MBV.dtype), OnlineState(components, weights_BM, logp_MBV, mixed_BV)

    def scorer(self) -> Scorer:
        """Scores documents in order by whole rows; the weights are carried on."""
        return Blend(self.components, None, self.blend_rows, learns=True)

    def blend_rows(self, documents: Iterable[np.ndarray], rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The mixture of whole rows: from pieces of rows_MNV to pieces of rows_NV."""
        return (rows_NV for rows_NV, _ in self._read(documents, rows))

    def account(self, ids_N: np.ndarray) -> dict[str, np.ndarray]:
        """The weights of the components at each token of a document but `<bos>`."""
        rows_MNV = np.stack([np.concatenate([*rows_of(each, ids_N)]) for each in self.components])
        ((_, weights_NM),) = self._read(iter([ids_N]), iter([rows_MNV]))
        return {"weights": weights_NM}

    def _read(
        self, documents: Iterable[np.ndarray], rows: Iterator[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """rows_NV of the mixture and the weights_NM that made them, piece by piece."""
        weights_M = np.array(self.weights, np.float64)
        for ids_N, rows_MNV in beside(documents, rows):
            impossible_NV: np.ndarray = np.all(np.isneginf(rows_MNV), axis=0)
            logp_NMV = np.maximum(rows_MNV, _LEAST).swapaxes(0, 1).astype(np.float64)
            rows_NV, weights_NM = np.empty(impossible_NV.shape, np.float32), np.empty(logp_NMV.shape[:2])
            for n, (id, logp_MV) in enumerate(zip(ids_N.tolist(), logp_NMV, strict=True)):
                mixed_V = weights_M @ logp_MV
                mixed_V[impossible_NV[n]] = -np.inf
                mixed_V -= mixed_V.max()
                p_V = np.exp(mixed_V)
                total = p_V.sum()
                rows_NV[n], weights_NM[n] = mixed_V - np.log(total), weights_M
                weights_M += self.settings.rate * (logp_MV[:, id] - logp_MV @ p_V / total)
            yield rows_NV, weights_NM


def _joined(one: tuple[Tensor, OnlineState], other: tuple[Tensor, OnlineState]) -> tuple[Tensor, OnlineState]:
    return torch.cat([one[0], other[0]]), one[1].joined(other[1])
