"""Reporting how work goes: stages with a rate and a time to go, training events, short notices.

`Silent` says nothing; `Console` draws on standard error, so that standard output stays clean for results; `Notebook`
keeps one display up to date below a cell.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmlab.training.events import Event

_REDRAW_SECONDS = 0.5  # of a notebook's display
_MOST_NOTES = 6  # in it
_LONGEST_SAMPLE = 400  # characters

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

    def level(self, name: str, nats: float) -> None:
        """Learn what a baseline makes of the validation split, in nats/token."""

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
                return Text(_rate(task.speed or 0.0, task.fields["unit"]))

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        return Progress(*columns, console=self._console, transient=transient)


class Notebook(Reporter):
    """One display below a cell, redrawn in place: what is at work, a bar with rate and time to go, curve, sample.

    It shows HTML where the front end can, else its first line as text. What is left at the end is the last picture.

    Args:
        show: receives the HTML, the text, and whether it is the first time.
    """

    def __init__(self, show: Callable[[str, str, bool], None]) -> None:
        self._show, self._shown, self._first = show, 0.0, True
        self._notes: list[str] = []
        self._title, self._share, self._note = "", 0.0, ""
        self._levels: dict[str, float] = {}
        self._train: list[tuple[float, float]] = []
        self._valid: list[tuple[float, float]] = []
        self._sample = ""

    def say(self, text: str) -> None:
        """Put a line below the bar; the last few are kept."""
        self._notes = [*self._notes, text][-_MOST_NOTES:]
        self._draw(now=True)

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "B") -> Iterator[Advance]:
        """Show a bar with a rate and the time to go."""
        before, began = (self._title, self._share, self._note), time.monotonic()

        def advance(done: int) -> None:
            took = max(1e-3, time.monotonic() - began)
            self._share = min(1.0, done / total) if total else 0.0
            to_go = f", {took / done * (total - done):.0f} s to go" if total and done else ""
            self._note = _rate(done / took, unit) + to_go
            self._draw()

        self._title, self._share, self._note = title, 0.0, ""
        self._draw()
        try:
            yield advance
        finally:
            self._title, self._share, self._note = before
            self._draw(now=True)

    def level(self, name: str, nats: float) -> None:
        """Draw a level line in the curve."""
        self._levels[name] = nats

    def event(self, event: Event) -> None:
        """Move the bar and the curve."""
        from lmlab.training.events import Began, Ended, Evaluated, Sampled, Stepped

        match event:
            case Began():
                self._train, self._valid, self._sample = [], [], ""
                self._title = f"training {event.parameters:,} parameters, {event.total_steps:,} steps"
                self._draw(now=True)
            case Stepped():
                self._train.append((event.seconds, event.train_nats))
                rate = f"{_rate(event.tokens_per_second, ' tokens')}, {event.remaining:.0f} s to go"
                self._share, self._note = event.step / event.total_steps, f"step {event.step:,}, {rate}"
                self._draw()
            case Evaluated():
                self._valid.append((event.seconds, event.valid_nats))
                self._draw()
            case Sampled():
                self._sample = event.text
                self._draw(now=True)
            case Ended():
                ended = {"done": "trained", "early": "stopped early"}.get(event.reason, event.reason)
                self._title, self._note = f"{ended}: {event.step:,} steps", f"{event.seconds:.0f} s"
                self._draw(now=True)

    def rest(self) -> None:
        """Draw the last picture."""
        self._draw(now=True)

    def _draw(self, *, now: bool = False) -> None:
        from lmlab.report.curve import curves_figure
        from lmlab.report.html import escape, fragment

        if not now and time.monotonic() - self._shown < _REDRAW_SECONDS:
            return
        self._shown = time.monotonic()
        line = " · ".join(filter(None, (self._title, f"{100 * self._share:.0f} %" if self._share else "", self._note)))
        bar = f'<i style="width:{100 * self._share:.1f}%"></i>'
        parts = [f"<p>{escape(line)}</p>", f'<div class="progress">{bar}</div>']
        if self._train:
            parts.append(curves_figure({"": (self._train, self._valid)}, self._levels))
        if self._sample:
            parts.append(f'<p class="note">sample</p><pre>{escape(self._sample.strip()[:_LONGEST_SAMPLE])}</pre>')
        parts += [f'<p class="note">{escape(note)}</p>' for note in self._notes]
        last = f"valid {self._valid[-1][1]:.4f} nats/token" if self._valid else ""
        self._show(fragment(*parts), "\n".join(filter(None, (line, last, *self._notes))), self._first)
        self._first = False


def _rate(speed: float, unit: str) -> str:
    """Units a second, with a prefix.

    >>> _rate(12_345, "B"), _rate(12_345, " tokens"), _rate(12, " steps")
    ('12.3 kB/s', '12.3 k tokens/s', '12 steps/s')
    """
    number = f"{speed / 1e6:.1f} M" if speed >= 1e6 else f"{speed / 1e3:.1f} k" if speed >= 1e3 else f"{speed:.0f} "
    return f"{number}{unit}/s".replace("  ", " ")


def _in_kernel() -> Callable[[str, str, bool], None] | None:
    """What shows HTML below the cell at work, and replaces what it has shown; None outside a Jupyter kernel."""
    shell = getattr(builtins, "get_ipython", lambda: None)()  # IPython puts it there
    if getattr(shell, "kernel", None) is None:
        return None
    import os

    from IPython.display import publish_display_data

    id = f"lmlab-{os.urandom(6).hex()}"

    def show(html: str, text: str, first: bool) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # a front end that has gone is not worth a run
            data = {"text/html": html, "text/plain": text}
            publish_display_data(data, transient={"display_id": id}, update=not first)

    return show


def default_reporter() -> Reporter:
    """`Notebook` in a Jupyter kernel; else `Console`: bars in a terminal, a line now and then in a log."""
    show = _in_kernel()
    return Notebook(show) if show is not None else Console()
