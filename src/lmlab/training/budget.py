"""A command's budget of time: one object that knows when it ends and what the stages to come are expected to take."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from lmlab.train_settings import TrainSettings

MINUTES = 3.0
"""Of training where no budget is named."""


class Budget:
    """The wall time of a command: what is left of it for the stage that asks, and what each stage took.

    Args:
        seconds: of the whole command; infinite where the clock decides nothing.
        began: when it began by the clock; None is now.
        clock: tells seconds from any origin.
    """

    def __init__(
        self, seconds: float = math.inf, began: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.seconds, self.took = seconds, dict[str, float]()
        self._clock = clock
        self._began = clock() if began is None else began
        self._most: dict[str, float] = {}  # seconds that a stage to come may take
        self._expected: dict[str, float] = {}  # and is expected to take

    @classmethod
    def of(
        cls, settings: TrainSettings, began: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> Budget:
        """The budget that settings name: minutes, or no limit where a plan, steps or epochs are named."""
        named = settings.plan or settings.epochs or settings.steps is not None
        return cls(math.inf if named else 60 * (settings.minutes or MINUTES), began, clock)

    @property
    def timed(self) -> bool:
        """Whether there is a limit."""
        return self.seconds < math.inf

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    @property
    def left(self) -> float:
        """Seconds until the end, less what the stages to come are expected to take."""
        return self.seconds - self.spent - sum(self._expected.values())

    def reserve(self, stage: str, share: float, seconds: float = 0.0) -> None:
        """Set aside a share of the whole, and some seconds, for a stage to come: it will take no more."""
        self._most[stage] = self._expected[stage] = share * self.seconds + seconds if self.timed else 0.0

    def expect(self, stage: str, seconds: float) -> None:
        """Set aside less for a stage to come, or again as much as was reserved."""
        if stage in self._expected:
            self._expected[stage] = min(seconds, self._most[stage])

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, without those within it; what was set aside for it is now `left` to it."""
        self._expected.pop(name, None)
        began = self._clock() - sum(self.took.values())
        try:
            yield
        finally:
            self.took[name] = self.took.get(name, 0.0) + self._clock() - began - sum(self.took.values())
