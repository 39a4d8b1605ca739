"""Which engine does the work, compiled loops or their plain twin; threads; and what compiling costs.

Importing Numba takes longer than counting a megabyte of text in NumPy, so plain twins do what is small. Both give the
same numbers up to rounding; tests force either with `only`.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

_WORTH = 2_000_000  # bytes or n-grams looked at, from which Numba's import pays
_forced: bool | None = None
_watches: list[Compilation] = []


def worthwhile(work: int, least: int) -> bool:
    """Whether compiled loops do work of this size: from `least` on, unless `only` decides."""
    return work >= least if _forced is None else _forced


def compiled(work: int) -> bool:
    """Whether so many bytes of text, or n-grams to look at, are work for the compiled kernels."""
    return worthwhile(work, _WORTH)


@contextmanager
def only(kernels: bool) -> Iterator[None]:
    """Within this block run compiled loops wherever the processor and the precision allow, or never; for tests."""
    global _forced
    before, _forced = _forced, kernels
    try:
        yield
    finally:
        _forced = before


class Compilation:
    """What compiling takes within `watch_compiling`.

    Attributes:
        seconds: so far; 0.0 if all was on disk or loaded.
    """

    def __init__(self, on_compile: Callable[[], None]) -> None:
        self.seconds = 0.0
        self._on_compile, self._depth, self._began, self._said = on_compile, 0, 0.0, False

    def note(self, *, begins: bool) -> None:
        """A function begins to be compiled, which may make others be compiled first, or is done."""
        if begins and not self._said:
            self._said = True
            self._on_compile()
        if begins and not self._depth:
            self._began = time.perf_counter()
        self._depth += 1 if begins else -1
        if not self._depth:
            self.seconds += time.perf_counter() - self._began


@contextmanager
def watch_compiling(on_compile: Callable[[], None]) -> Iterator[Compilation]:
    """Within this block, say that loops are compiled, and count the seconds.

    Machine code is kept on disk, so that a machine compiles once, which can take ten seconds.

    Args:
        on_compile: called once, before the first function is compiled; never if all of them are on disk.
    """
    watch = Compilation(on_compile)
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


def note_compiling(*, begins: bool) -> None:
    """Tell those who watch that a function begins to be compiled, or is done."""
    for watch in list(_watches):
        watch.note(begins=begins)


def each(work: Callable[[T], None], items: Iterable[T], threads: int | None = None) -> None:
    """Do some work for every item, on so many threads (None: one a core); for work that releases the interpreter lock.

    Where an item fails, the others end before its error is raised. Work must not call this with threads of its own.
    """
    threads = threads or cores()
    if threads == 1:
        for item in items:
            work(item)
        return
    begun = [_pool(threads).submit(work, item) for item in items]
    try:
        for one in begun:
            one.result()
    except BaseException:
        from concurrent.futures import wait

        wait([one for one in begun if not one.cancel()])
        raise


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that are kept: starting them takes longer than a layer's work on a small batch."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):  # a child has no threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def block_of(rows: int, part: int, parts: int) -> slice:
    """The rows of the `part`th of `parts` workers: consecutive, and as many as any other's or one more or less.

    >>> [block_of(5, part, 2) for part in (0, 1)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(part * rows // parts, (part + 1) * rows // parts)


def cores() -> int:
    """How many processors this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(allowed(0)) if allowed else os.cpu_count() or 1
