"""Reporting how work goes: stages with a rate and a time to go, training events, short notices.

`Silent` says nothing; `Console` draws on standard error, so that standard output stays clean for results.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmlab.training.events import Event

Advance = Callable[[int], None]
"""Called with how much of a stage is done so far, in its unit."""


class Reporter:
    """Is called as work goes on; this one does nothing."""

    def say(self, text: str) -> None:
        """Give a notice of one line."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "B") -> Iterator[Advance]:
        """Show the progress of work of `total` units (None: unknown) while the block runs."""
        yield lambda done: None

    def event(self, event: Event) -> None:
        """Show something that happened in training."""

    def rest(self) -> None:
        """End what is drawn of training, however it ended."""


class Silent(Reporter):
    """Says nothing."""


class _Forgiving:
    """A stream that drops what it cannot write: no notice is worth a run."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class Console(Reporter):
    """Draws on standard error: live bars in a terminal, plain lines where there is none."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole

        stream: Any = _Forgiving(sys.stderr)
        self._console = RichConsole(file=stream, highlight=False, soft_wrap=True)
        self._training: Any = None  # the bar of a training run, and its task
        self._task: Any = None
        self._valid = ""
        self._last_percent = -1

    def say(self, text: str) -> None:
        """Print one dim line."""
        self._console.print(text, style="dim", markup=False)

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "B") -> Iterator[Advance]:
        """Show a bar with a rate and the time to go, gone when the block ends; nothing where there is no terminal."""
        if not self._console.is_terminal:
            yield lambda done: None
            return
        with self._bar(transient=True) as bar:
            task = bar.add_task(title, total=total, unit=unit, note="")
            yield lambda done: bar.update(task, completed=done)

    def event(self, event: Event) -> None:
        """Show training as one bar with loss and rate, or as a line each tenth of it; samples as lines."""
        from lmlab.training.events import Began, Ended, Evaluated, Sampled, Stepped

        match event:
            case Began():
                self._begin(event)
            case Stepped():
                self._advance(event)
            case Evaluated():
                self._valid = f"valid {event.valid_nats:.4f} nats/token{' (best)' if event.best else ''}"
            case Sampled():
                self.say(f"  sample at step {event.step}: {' '.join(event.text.split())[:160]}")
            case Ended():
                self.rest()

    def rest(self) -> None:
        """Take the bar away, lest it hide the cursor for good."""
        if self._training is not None:
            self._training.stop()
            self._training = None

    def _begin(self, event: Any) -> None:
        self._valid, self._last_percent = "", -1
        shared = f", {event.row_blocks} row blocks a batch" if event.row_blocks > 1 else ""
        shared += f", {event.processes} processes" if event.processes > 1 else ""
        run = f"training {event.parameters:,} parameters for {event.total_steps:,} steps"
        self.say(f"{run}, {event.precision}, {event.threads} thread(s){shared}")
        if self._console.is_terminal:
            self._training = self._bar(transient=False)
            self._training.start()
            self._task = self._training.add_task("train", total=event.total_steps, unit=" steps", note="")

    def _advance(self, event: Any) -> None:
        rate = f"{event.tokens_per_second / 1e3:.1f} k tokens/s"
        note = " · ".join(filter(None, (f"{event.train_nats:.3f} nats/token", rate, self._valid)))
        percent = 10 * (10 * event.step // event.total_steps)
        if self._training is not None:
            self._training.update(self._task, completed=event.step, total=event.total_steps, note=note)
        elif percent > self._last_percent:
            self._last_percent = percent
            self.say(f"  {percent:3d} % · step {event.step:,} · {note} · {event.remaining:.0f} s to go")

    def _bar(self, *, transient: bool) -> Any:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class Rate(ProgressColumn):
            """Units a second, with a prefix."""

            def render(self, task: Any) -> Text:
                speed, unit = task.speed or 0.0, task.fields["unit"].strip()
                if speed >= 1e6:
                    return Text(f"{speed / 1e6:.1f} M{unit}/s")
                return Text(f"{speed / 1e3:.1f} k{unit}/s" if speed >= 1e3 else f"{speed:.0f} {unit}/s")

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        return Progress(*columns, console=self._console, transient=transient)


def default_reporter() -> Reporter:
    """`Console` where standard error is a terminal, else `Silent`."""
    return Console() if sys.stderr.isatty() else Silent()
