"""The optimiser, and how its rate and dropout change through a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from lmlab.train_settings import TrainSettings

_MEMORY = ("exp_avg", "exp_avg_sq", "step")


class Optimizer(Protocol):
    """Moves parameters by their gradients; `memory` is all that its next step depends on besides."""

    memory: dict[str, Tensor]

    def step(self, lr: float) -> None:
        """Move the parameters that have a gradient."""


class SGD:
    """Plain gradient descent, without momentum."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self.memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the parameters that have a gradient."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-lr)


class AdamW:
    """torch's fused step (Loshchilov and Hutter 2019); matrices alone decay.

    torch's optimiser classes take a second to import (its compiler), so the moments are kept here.

    Attributes:
        memory: moments and step counts, by `parameter/name`; matrices come first.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], beta2: float, weight_decay: float) -> None:
        self._beta2, self._weight_decay = beta2, weight_decay
        self._parameters = sorted(parameters, key=lambda parameter: parameter.ndim <= 1)
        self.memory = {
            f"{nth}/{name}": made
            for nth, parameter in enumerate(self._parameters)
            for name, made in zip(_MEMORY, _nothing_yet(parameter), strict=True)
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the parameters that have a gradient."""
        learning = {nth: p for nth, p in enumerate(self._parameters) if p.grad is not None}
        for decays in (True, False):
            chosen = {nth: p for nth, p in learning.items() if (p.ndim > 1) == decays}
            gradients = [p.grad for p in chosen.values() if p.grad is not None]
            means, squares, steps = ([self.memory[f"{nth}/{name}"] for nth in chosen] for name in _MEMORY)
            adamw(
                list(chosen.values()),
                gradients,
                means,
                squares,
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=self._beta2,
                lr=lr,
                weight_decay=self._weight_decay if decays else 0.0,
                eps=1e-8,
                maximize=False,
            )


def _nothing_yet(parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(parameter), torch.zeros_like(parameter), torch.zeros((), device=parameter.device)


def make_optimizer(model: nn.Module, settings: TrainSettings) -> Optimizer:
    """What the settings name, over the model's parameters where they are now."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "sgd":
        return SGD(parameters)
    return AdamW(parameters, settings.beta2, settings.weight_decay)


def learning_rate(settings: TrainSettings, progress: float) -> float:
    """The rate at a share of the budget: up in a line, then down along a cosine.

    >>> settings = TrainSettings(lr=1.0, warmup=0.1, floor=0.0)
    >>> [round(learning_rate(settings, p), 2) for p in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if progress < settings.warmup:
        return settings.lr * progress / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    fallen = (progress - settings.warmup) / (1 - settings.warmup)
    return settings.lr * (settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * fallen)))


def dropout_times(settings: TrainSettings, progress: float) -> float:
    """How many times its share is dropped at a share of the budget.

    >>> [dropout_times(TrainSettings(dropout_schedule="falling"), p) for p in (0.0, 0.5, 1.0)]
    [2.0, 1.0, 0.0]
    """
    return 2 * (1 - progress) if settings.dropout_schedule == "falling" else 1.0
