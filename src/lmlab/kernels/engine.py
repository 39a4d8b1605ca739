"""Which engine does the work: NumPy for what is small, the compiled kernels for what is large.

Importing Numba takes longer than counting a megabyte of text in NumPy, so it is imported when the work is worth it, or
is there already. Both give the same numbers; tests force either with `only`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

_WORTH = 4_000_000  # bytes or n-grams looked at, from which Numba's import pays
_forced: bool | None = None
_so_far = 0


def compiled(work: int) -> bool:
    """Whether so many bytes of text, or n-grams to look at, are work for the compiled kernels."""
    if _forced is not None:
        return _forced
    return work >= (_WORTH // 50 if "lmlab.kernels.jit" in sys.modules else _WORTH)


def compiled_by_now(work: int) -> bool:
    """The same of work that comes in small pieces: once all of it so far would have been worth it."""
    global _so_far
    _so_far += work
    return compiled(_so_far)


@contextmanager
def only(kernels: bool) -> Iterator[None]:
    """Within this, use the compiled kernels always, or never."""
    global _forced
    before, _forced = _forced, kernels
    try:
        yield
    finally:
        _forced = before


def each(work: Callable[[T], None], items: Iterable[T], threads: int | None = None) -> None:
    """Do some work for every item, on so many threads (None: one a core); for work that lets go of the interpreter.

    Where an item fails the others end before that is raised. Work must not call this with threads of its own.
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
    """Threads that are kept, as to start them takes longer than a layer's work on a small batch."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads)


if hasattr(os, "register_at_fork"):  # threads are not in a child
    os.register_at_fork(after_in_child=_pool.cache_clear)


def block_of(rows: int, part: int, parts: int) -> slice:
    """Which rows the `part`th of `parts` workers has: consecutive, as many as any other's or one more or less.

    >>> [block_of(5, part, 2) for part in (0, 1)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(part * rows // parts, (part + 1) * rows // parts)


def cores() -> int:
    """How many processors this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(allowed(0)) if allowed else os.cpu_count() or 1
