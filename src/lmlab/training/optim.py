"""The optimiser, its schedule, and the plan of a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lmlab.errors import SettingError
from lmlab.training.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW (fused; decay on matrices alone) or SGD over the model's parameters."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    if settings.optimizer == "sgd":
        return torch.optim.SGD([*matrices, *others], lr=settings.lr)
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, settings.beta2), fused=True)


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


@dataclass(frozen=True)
class Plan:
    """How many steps a run makes, and how that was changed on the way: pairs (at step, total).

    A timed run measures its speed and plans again when the machine turns out slower or faster. Its progress, on which
    the learning rate hangs, stays continuous; and the recorded plan repeats the run exactly.

    >>> plan = Plan(((0, 100), (50, 60)))
    >>> plan.total, [plan.progress(step) for step in (25, 50, 55, 60)]
    (60, [0.25, 0.5, 0.75, 1.0])
    """

    changes: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        """Steps as now planned."""
        return self.changes[-1][1]

    def total_at(self, step: int) -> int:
        """Steps as planned when this step was made; a change at a step begins after it.

        >>> plan = Plan(((0, 100), (50, 60)))
        >>> plan.total_at(50), plan.total_at(51)
        (100, 60)
        """
        return next(total for start, total in reversed(self.changes) if start < max(1, step))

    def progress(self, step: int) -> float:
        """The share of the run that lies before a step, 0 to 1."""
        progress = 0.0
        for (start, total), following in zip(self.changes, [*self.changes[1:], None], strict=True):
            end = step if following is None or step < following[0] else following[0]
            progress += (1 - progress) * (end - start) / max(1, total - start)
            if end == step:
                break
        return min(1.0, progress)

    def change(self, step: int, total: int) -> Plan:
        """The plan with another total from `step` on."""
        return Plan((*self.changes, (step, total)))

    def __str__(self) -> str:
        return ",".join(f"{step}:{total}" for step, total in self.changes)

    @staticmethod
    def parse(text: str) -> Plan:
        """What `str(plan)` gave.

        Raises:
            SettingError: it is no such text.
        """
        try:
            changes = tuple((int(a), int(b)) for a, b in (part.split(":") for part in text.split(",")))
        except ValueError as error:
            raise SettingError("train.plan", text, "pairs step:total, such as 0:900,450:880") from error
        if changes[0][0] != 0 or not _rising(changes):
            raise SettingError("train.plan", text, "pairs step:total that begin at step 0 and rise")
        return Plan(changes)


def _rising(changes: Sequence[tuple[int, int]]) -> bool:
    steps = [step for step, _ in changes]
    return steps == sorted(set(steps)) and all(step < total for step, total in changes)
