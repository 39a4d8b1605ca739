"""Weighing processes: CPU seconds, wall seconds, peak memory; several in turn, on chosen cores; and what comes of it.

The standard library alone, to stay small: on Linux, a process is said to have had at least the peak memory of the one
that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, MB; and what it printed."""

    cpu: float
    wall: float
    peak: float
    said: str


def run(*command: str | Path, stdin: str | Path = os.devnull, cwd: Path | None = None) -> Cost:
    """Run a process to its end."""
    with Path(stdin).open("rb") as source, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        began = time.perf_counter()
        named = list(map(str, command))
        process = subprocess.Popen(named, stdin=source, stdout=said, stderr=told, cwd=cwd, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        told.seek(0)
        if process.returncode:
            print(told.read().decode(errors="replace"), file=sys.stderr)
            raise subprocess.CalledProcessError(process.returncode, command)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
        return Cost(usage.ru_utime + usage.ru_stime, wall, peak, said.read().decode())


def _environment() -> dict[str, str]:
    """As a user has it: Python may keep the bytecode of what it imports."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A process that is set up once, says so, and is asked often: a line of JSON to a line of JSON."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(self, *question: Any) -> Any:
        """Its answer."""
        assert self._process.stdin
        print(json.dumps(question, default=str), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        answer = self._process.stdout.readline()
        if not answer:
            raise ChildProcessError(f"{self._process.args!r} died")
        return json.loads(answer)


def in_turn(rounds: int, *works: Callable[[], Any] | None) -> list[list[Any]]:
    """The answers of each work, asked in turn; of a work that is None, none."""
    answers = [[work() if work else None for work in works] for _ in range(rounds)]
    return [[answer for answer in column if answer is not None] for column in zip(*answers, strict=True)]


@contextlib.contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Within this, the process and those it starts use these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Line:
    """A figure of both sides, of every round; `more` where more is better. Theirs may be missing."""

    figure: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    more: bool = False
    ratio: float | None = field(init=False, default=None)  # how many times better ours is, by the medians

    def __post_init__(self) -> None:
        if self.theirs:
            ours, theirs = median(self.ours), median(self.theirs)
            object.__setattr__(self, "ratio", ours / theirs if self.more else theirs / ours)


def of(answers: Sequence[Any], name: str) -> list[float]:
    """One figure of all answers."""
    return [answer[name] for answer in answers]


def costs(figure: str, ours: Sequence[Cost], theirs: Sequence[Cost]) -> list[Line]:
    """CPU, wall and memory as three lines."""
    units = (("CPU s", "cpu"), ("wall s", "wall"), ("peak MB", "peak"))
    return [
        Line(figure, unit, [getattr(cost, name) for cost in ours], [getattr(cost, name) for cost in theirs])
        for unit, name in units
    ]
