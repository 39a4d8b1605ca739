"""Telling a person how long work goes: stages with a rate and an ETA, training events, short notices.

`Silent` says nothing; `Console` draws on standard error, so that standard output stays clean for results.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lmlab.training.events import Event

Advance = Callable[[int], None]
"""Told how much is done so far, in the stage's unit."""


class Reporter(Protocol):
    """Who is told what goes on."""

    def say(self, text: str) -> None:
        """A notice of one line."""
        ...

    def stage(
        self, title: str, total: int | None = None, unit: str = "B"
    ) -> contextlib.AbstractContextManager[Advance]:
        """A piece of work of `total` units (None: unknown)."""
        ...

    def event(self, event: Event) -> None:
        """Something happened in training."""
        ...

    def rest(self) -> None:
        """Training is over, however it ended: nothing is drawn any more."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "B") -> Iterator[Advance]:
        """Nothing is shown."""
        yield lambda done: None

    def event(self, event: Event) -> None:
        """Nothing."""

    def rest(self) -> None:
        """Nothing."""


class Console:
    """Draws on standard error: live bars in a terminal, plain lines where there is none."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole

        self._console = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._training: Any = None
        self._last_percent = -1

    def say(self, text: str) -> None:
        """One dim line."""
        self._console.print(text, style="dim", markup=False)

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "B") -> Iterator[Advance]:
        """A bar with rate and ETA; gone when it ends."""
        if not self._console.is_terminal:
            yield lambda done: None
            return
        with self._bar(transient=True) as bar:
            task = bar.add_task(title, total=total, unit=unit, note="")
            yield lambda done: bar.update(task, completed=done)

    def event(self, event: Event) -> None:
        """Training as one bar: loss, rate, ETA; evaluations and samples as lines."""
        from lmlab.training.events import Began, Ended, Evaluated, Sampled, Stepped

        match event:
            case Began():
                self._begin(event)
            case Stepped():
                self._advance(event)
            case Evaluated():
                mark = " (best)" if event.best else ""
                self._valid = f"valid {event.valid_nats:.4f} nats/token{mark}"
            case Sampled():
                text = " ".join(event.text.split())
                self.say(f"  sample at step {event.step}: {text[:160]}")
            case Ended():
                self.rest()

    def rest(self) -> None:
        """Take the bar away, lest it hide the cursor for good."""
        if self._training is not None:
            self._training.stop()
            self._training = None

    def _begin(self, event: Any) -> None:
        self._valid = ""
        self._last_percent = -1
        self.say(
            f"training {event.parameters:,} parameters for {event.total_steps:,} steps, "
            f"{event.precision}, {event.threads} thread(s){_shared(event)}"
        )
        if self._console.is_terminal:
            self._training = self._bar(transient=False)
            self._training.start()
            self._task = self._training.add_task("train", total=event.total_steps, unit=" steps", note="")

    def _advance(self, event: Any) -> None:
        rate = f"{event.tokens_per_second / 1e3:.1f} k tokens/s"
        note = " · ".join(filter(None, (f"{event.train_nats:.3f} nats/token", rate, self._valid)))
        if self._training is not None:
            self._training.update(self._task, completed=event.step, total=event.total_steps, note=note)
            return
        percent = 10 * (10 * event.step // event.total_steps)
        if percent > self._last_percent:
            self._last_percent = percent
            self.say(f"  {percent:3d} % · step {event.step:,} · {note} · {event.remaining:.0f} s to go")

    def _bar(self, *, transient: bool) -> Any:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            _rate_column(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=transient,
        )


def _shared(event: Any) -> str:
    parts = f", {event.parts} blocks a batch" if event.parts > 1 else ""
    return parts + (f", {event.processes} processes" if event.processes > 1 else "")


def _rate_column() -> Any:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units a second, scaled."""

        def render(self, task: Any) -> Text:
            speed, unit = task.speed or 0.0, task.fields["unit"]
            for scale, prefix in ((1e6, "M"), (1e3, "k")):
                if speed >= scale:
                    return Text(f"{speed / scale:.1f} {prefix}{unit.strip()}/s")
            return Text(f"{speed:.0f} {unit.strip()}/s")

    return Rate()


def default_reporter() -> Reporter:
    """`Console` where a person looks on (a terminal), else `Silent`."""
    return Console() if sys.stderr.isatty() else Silent()
