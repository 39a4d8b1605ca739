"""Processes forked from one that has everything loaded and compiled: a command costs what it does, not its start.

The parent has one thread of torch and pins itself to one core, so that there are no threads that a fork would lose.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.cli import main

CRASHED = 70  # the exit code of an exception that `main` let out
SLOW = 20.0  # seconds after which a process hangs
ROOMY = 2 << 30  # bytes of resident memory that are too many
CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate")
GROWS = ("open", "os.rename", "os.mkdir")  # of these, what a full disk refuses


@dataclass
class Ended:
    """How a process ended: its exit code (below 0: the signal that killed it), what it took and said."""

    code: int
    seconds: float
    rss: int
    out: str = ""
    err: str = ""

    def wrong(self, *, quiet: bool = True) -> str:
        """What is wrong with this end of a command; empty where nothing is: well, or one line and an exit code."""
        if self.code == -signal.SIGKILL and self.seconds >= SLOW:
            return f"hangs for {SLOW:.0f} s"
        if self.code < 0:
            return f"dies of {signal.Signals(-self.code).name}"
        if self.code not in (0, 1, 2) or "Traceback" in self.err:
            return f"ends with code {self.code} and a traceback: {last(self.err)}"
        if "did not foresee" in self.err:
            return self.err[:200]
        if self.code and not (self.err.startswith("lmlab: ") and self.err.count("\n") == 1):
            return f"ends with code {self.code} and says not one line but {self.err!r}"
        if not self.code and self.err and quiet:
            return f"ends well, but says {self.err!r}"
        return f"takes {self.rss >> 20:,} MiB" if self.rss > ROOMY else ""


def last(text: str) -> str:
    """The last line of a text."""
    return (text.strip().splitlines() or [""])[-1]


class Child:
    """A forked process that does some work in a folder.

    Args:
        work: gives the exit code.
        folder: where it works.
    """

    def __init__(self, work: Callable[[], int], folder: Path) -> None:
        pipes = [os.pipe() for _ in range(2)]  # what is said stays below what a pipe holds
        self.began = time.perf_counter()
        self.pid = os.fork()
        if not self.pid:
            _work(work, folder, [writing for _, writing in pipes])
        for _, writing in pipes:
            os.close(writing)
        self._said = [reading for reading, _ in pipes]
        self._watch = os.pidfd_open(self.pid)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        poll = select.poll()
        poll.register(self._watch, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    def end(self, limit: float = SLOW) -> Ended:
        """Wait for its end; kill it after the limit."""
        if not self.wait(limit):
            os.kill(self.pid, signal.SIGKILL)
        _, status, used = os.wait4(self.pid, 0)
        seconds = time.perf_counter() - self.began
        os.close(self._watch)
        said = [os.fdopen(reading, errors="replace").read() for reading in self._said]
        return Ended(os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss << 10, *said)


def _work(work: Callable[[], int], folder: Path, said: list[int]) -> None:
    code = CRASHED
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, writing in zip((1, 2), said, strict=True):
            os.dup2(writing, number)
        os.chdir(folder)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001  # that is what is looked for
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def command(
    words: list[str], folder: Path, cache: Path | None = None, before: Callable[[], Any] | None = None
) -> Child:
    """`lmlab WORDS` in a process of its own, after it did something else."""

    def work() -> int:
        os.environ["LMLAB_CACHE"] = str(cache or folder / "cache")
        if before is not None:
            before()
        return main(words)

    return Child(work, folder)


def at_change(number: int, act: Callable[[], Any], events: Sequence[str] = CHANGES) -> Callable[[], None]:
    """From the so-manieth change of the disk on (the first is 1), act right before each."""

    def install() -> None:
        changes = 0

        def hook(event: str, details: tuple[Any, ...]) -> None:
            nonlocal changes
            if event in events and (event != "open" or _writes(*details)):
                changes += 1
                if changes >= number:
                    act()

        sys.addaudithook(hook)

    return install


def _writes(path: Any, mode: Any, flags: Any) -> bool:
    """Whether an `open` may change something; not where the process speaks."""
    if isinstance(path, int) or str(path).startswith("/dev/"):
        return False
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def changes_of(
    words: list[str], folder: Path, before: Callable[[], Any], events: Sequence[str] = CHANGES
) -> tuple[int, float]:
    """How often a command changes the disk, and how many seconds it takes."""
    counted, changes = folder / ".changes", 0

    def count() -> None:
        nonlocal changes
        changes += 1

    def work() -> int:
        os.environ["LMLAB_CACHE"] = str(folder / "cache")
        before()
        at_change(1, count, events)()
        code = main(words)
        many = changes
        counted.write_text(str(many))
        return code

    ended = Child(work, folder).end()
    if ended.code:
        raise RuntimeError(f"{words} fails unharmed: {ended.err}")
    many = int(counted.read_text())
    counted.unlink()
    return many, ended.seconds
