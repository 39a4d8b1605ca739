"""The `start` and `step` of any model in NumPy: its own, or torch's, which are converted.

Shapes: B contexts of a batch, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lmlab.models.base import LanguageModel, Reader

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]


def reader_of(model: LanguageModel, rows: int = 1) -> Reader:
    """The model's `start` and `step` in NumPy: its own for so many rows, or torch's, which are converted."""
    declared = getattr(model, "reader", None)
    return (declared(rows) if declared else None) or _ByTorch(model)


def log_softmax(logits_BV: np.ndarray) -> np.ndarray:
    """Log-probabilities of rows that sum to one; in place as far as it goes, so the logits are lost."""
    logits_BV -= logits_BV.max(-1, keepdims=True)
    return np.asarray(logits_BV - np.log(np.exp(logits_BV).sum(-1, keepdims=True)))


class Following(Protocol):
    """One text that grows, and what the model says of what comes next: `logp_V`."""

    logp_V: np.ndarray

    def take(self, token: int) -> None:
        """Read one token more."""
        ...


def follow(model: LanguageModel) -> Following:
    """A text after `<bos>` alone: in the model's own way where it declares one, else by its `start` and `step`."""
    declared = getattr(model, "follow", None)
    return declared() if declared else _Stepping(reader_of(model))


class _Stepping:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        logp_BV, self._state = reader.start([[]])
        self.logp_V: np.ndarray = logp_BV[0]

    def take(self, token: int) -> None:
        logp_BV, self._state = self._reader.step(self._state, [token])
        self.logp_V = logp_BV[0]


class _ByTorch:
    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Floats, Any]:
        import torch

        with torch.no_grad():
            logp_BV, state = self._model.start([list(prompt) for prompt in prompts])
        return as_array(logp_BV), _TorchState(state, logp_BV.device)

    def step(self, state: _TorchState, token_B: Sequence[int]) -> tuple[Floats, Any]:
        import torch

        with torch.no_grad():
            logp_BV, after = self._model.step(state.state, torch.tensor(token_B, device=state.device))
        return as_array(logp_BV), _TorchState(after, state.device)


@dataclass(frozen=True)
class _TorchState:
    state: Any
    device: torch.device

    def select(self, rows: Sequence[int]) -> _TorchState:
        import torch

        return _TorchState(self.state.select(torch.tensor(rows, device=self.device)), self.device)

    def joined(self, other: _TorchState) -> _TorchState:
        return _TorchState(self.state.joined(other.state), self.device)


def as_array(logp_BV: torch.Tensor) -> Floats:
    """The rows in NumPy, float64."""
    return np.asarray(logp_BV.double().cpu().numpy())
