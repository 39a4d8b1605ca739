"""The optimiser, its schedule, and the plan of a budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from lmlab.errors import SettingError
from lmlab.train_settings import TrainSettings

_MEMORY = ("exp_avg", "exp_avg_sq", "step")


class SGD:
    """Every parameter against its gradient; it remembers nothing."""

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

    torch's own class brings a second of imports that nothing here needs, so its memory is kept here.

    Attributes:
        memory: what later steps depend on, as `parameter/name`; matrices come first.
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


def make_optimizer(model: nn.Module, settings: TrainSettings) -> SGD | AdamW:
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
