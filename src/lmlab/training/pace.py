"""The pace of training on this machine: the ways to use its cores, and the seconds that a step takes in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lmlab.train_settings import TrainSettings
from lmlab.training.ranks import Ranks
from lmlab.training.stepper import Stepper

_HOPELESS = 5  # a way whose first step takes so many times as long as the best needs is tried no further


class Way(NamedTuple):
    """How to use the cores: threads that work inside each operation, and row blocks computed side by side."""

    threads: int
    row_blocks: int


@dataclass(frozen=True)
class Pace:
    """What was measured of the fastest way."""

    way: Way
    seconds_a_step: float
    tokens_a_step: float


def ways(settings: TrainSettings, ranks: Ranks, *, on_cpu: bool, blocks: bool) -> list[Way]:
    """The ways that the settings leave open: one thread, all cores in every operation, and a row block a core.

    Args:
        settings: what they name stands.
        ranks: the processes that train together; each of several has one row block.
        on_cpu: elsewhere there is nothing to choose.
        blocks: whether row blocks may be chosen: they change the masks of dropout, threads change nothing but rounding.
    """
    alone = ranks.count == 1
    row_blocks = (settings.row_blocks or 1) if alone else 1
    most = settings.threads or ranks.cores
    most = most if alone else min(most, ranks.cores)
    found = {Way(most, row_blocks)}
    if on_cpu and settings.threads is None:
        found.add(Way(1, row_blocks))
        if blocks and alone and settings.row_blocks is None:
            found.add(Way(most, most))
    return sorted(found)


def fastest(
    ways: Sequence[Way],
    begin: Callable[[Way], Stepper],
    seconds: float,
    ranks: Ranks,
    clock: Callable[[], float],
    most_steps: int | None = None,
    limit: float = math.inf,
) -> Pace:
    """Try each way for so many seconds and steps (two steps at least), on the same batches and with a rate of 0.

    Where steps are so slow that the limit is reached, what was measured until then decides: two steps in all, at least.

    Args:
        ways: what to try; the first is the one that a busy machine hurts least.
        begin: makes a stepper at the start of the text; nothing of it remains.
        seconds: for each way.
        ranks: the processes that train together; the first decides.
        clock: tells seconds.
        most_steps: timed in each way at most; None sets no bound.
        limit: seconds for all ways together.
    """
    paces: list[Pace] = []
    start = clock()

    def over() -> bool:
        return ranks.agree(clock() - start) > limit

    for way in ways:
        if paces and over():
            break
        best = min((pace.seconds_a_step for pace in paces), default=math.inf)
        with begin(way) as stepper:
            began, steps = clock(), 0
            stepper.step(0.0)  # pays first-time costs
            spent = ranks.agree(clock() - began)
            if spent < _HOPELESS * best and not (paces and over()):
                began = clock()
                while steps < 2 or (steps != most_steps and ranks.agree(clock() - began) < seconds):
                    stepper.step(0.0)
                    steps += 1
                    if over():
                        break
                spent = ranks.agree(clock() - began) / steps
            paces.append(Pace(way, spent, stepper.progress.tokens / stepper.progress.step))
    return min(paces, key=lambda pace: pace.seconds_a_step)
