"""How many steps a run makes: named by the user, or as many as fit into a budget of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmlab.errors import SettingError
from lmlab.tokens.batches import Batches
from lmlab.train_settings import MOST_STEPS, TrainSettings
from lmlab.training.budget import Budget
from lmlab.training.ranks import Ranks

_DRIFT = 0.02  # a timed run plans again when it would miss its budget by this share
_LOOKS = 40  # times that it compares its pace with its budget


@dataclass(frozen=True)
class Plan:
    """How many steps a run makes, and how that was changed on the way: pairs (at step, total).

    A timed run measures its speed and plans again when the machine turns out slower or faster. Its progress, on which
    the learning rate hangs, stays continuous; and the recorded plan repeats the run exactly. Where no time is left at
    all, the last pair ends the run at once: its progress stays below 1.

    >>> plan = Plan(((0, 100), (50, 60)))
    >>> plan.total, [plan.progress(step) for step in (25, 50, 55, 60)]
    (60, [0.25, 0.5, 0.75, 1.0])
    """

    changes: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        """Steps as now planned."""
        return self.changes[-1][1]

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
            bound = f"pairs step:total that begin at step 0, rise, and end at {MOST_STEPS:g} at most"
            raise SettingError("train.plan", text, bound)
        return Plan(changes)


def _rising(changes: Sequence[tuple[int, int]]) -> bool:
    steps = [step for step, _ in changes]
    lengths = [total - step for step, total in changes]
    lengths[-1] += len(steps) > 1 or lengths == [0]  # the last may end the run at once, or it makes no step at all
    return steps == sorted(set(steps)) and min(lengths) > 0 and max(total for _, total in changes) <= MOST_STEPS


def named_plan(settings: TrainSettings, batches: Batches) -> Plan | None:
    """The plan that the settings name by a plan, steps or epochs; None if they leave it to the clock."""
    if settings.plan:
        return Plan.parse(settings.plan)
    if settings.steps is not None:
        return Plan(((0, settings.steps),))
    if settings.epochs:
        steps = len(batches.epoch(0)) * settings.epochs / settings.accumulate
        return Plan(((0, min(MOST_STEPS, max(1, math.ceil(steps)))),))
    return None


class Replanner:
    """Keeps a timed run within its budget: changes the number of steps when the machine is slower or faster.

    The pace is that since the last call but one.

    Args:
        budget: of the command.
        afterwards: stages after training, and how many tokens each reads.
        step: steps made so far.
        ranks: the processes that train together; the first decides.
    """

    def __init__(self, budget: Budget, afterwards: Mapping[str, float], step: int, ranks: Ranks) -> None:
        self._budget, self._afterwards, self._ranks = budget, afterwards, ranks
        self._mark = self._mark_before = (step, budget.spent)

    @property
    def due(self) -> bool:
        """Whether the last look was long ago."""
        return self._budget.spent - self._mark[1] > self._budget.seconds / _LOOKS

    def measured(self, seconds_a_token: float) -> None:
        """Expect of the stages after training what reading a token now takes."""
        for stage, tokens in self._afterwards.items():
            self._budget.expect(stage, tokens * seconds_a_token)

    def replanned(self, plan: Plan, step: int) -> Plan:
        """The plan, changed after `step` if it would miss the budget."""
        (from_step, since), now = self._mark_before, self._budget.spent
        self._mark_before, self._mark = self._mark, (step, now)
        seconds_a_step = (now - since) / max(1, step - from_step)
        total = step + max(0, int(self._budget.left / max(seconds_a_step, 1e-9)))
        drifted = abs(total - plan.total) * seconds_a_step > _DRIFT * self._budget.seconds
        total = int(self._ranks.agree(total if drifted else plan.total))
        return plan if total == plan.total or step >= plan.total else plan.change(step, min(total, MOST_STEPS))
