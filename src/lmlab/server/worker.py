"""One thread a model, in which all that is asked of it takes turns: a token each, or a piece of a scored text.

    async for step in worker.turns(lambda: decode_all(..., batch=worker.batch)):
        ...

What is asked for is an iterator, made and driven in the thread; None says that it is at work still. New texts share the
batch of those that grow already. An iterator that nobody waits for any more is closed before its next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from lmlab.decoding import Batch
from lmlab.errors import LmlabError
from lmlab.models.base import LanguageModel


class BusyError(LmlabError):
    """More is asked for than can wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests are at work or wait for this model already", "try again a little later")


class TooLongError(LmlabError):
    """An answer took longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the answer took longer than {seconds:g} s", "ask for less, or try again a little later")


class _Turn:
    """An iterator that takes turns, and where its results are awaited."""

    def __init__(self, begin: Callable[[], Iterator[Any]], rows: int) -> None:
        self.rows, self.gone = rows, False
        self._begin = begin
        self._steps: Iterator[Any] | None = None
        self.results: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()

    def step(self) -> tuple[str, Any]:
        """Take a turn, the first of which makes the iterator: what came of it, a "step", an "error" or the "end"."""
        try:
            if self.gone:
                if close := getattr(self._steps, "close", None):
                    close()
                return "end", None
            if self._steps is None:
                self._steps = self._begin()
            return "step", next(self._steps)
        except StopIteration:
            return "end", None
        except Exception as error:  # noqa: BLE001 - told to who asked
            return "error", error


class Worker:
    """The thread of one model.

    Args:
        model: whose batch it keeps.
        most: how many requests may be at work or wait.
        rows: how many texts may grow at once; further requests wait, in order.
        seconds: how long one request may wait and take.
    """

    def __init__(self, model: LanguageModel, most: int, rows: int, seconds: float) -> None:
        self.batch, self.asked = Batch(model), 0
        self._most, self._rows, self._seconds = most, rows, seconds
        self._waiting: deque[_Turn] = deque()
        self._change, self._ending = threading.Condition(), False
        threading.Thread(target=self._run, daemon=True).start()

    async def turns(self, begin: Callable[[], Iterator[Any]], rows: int = 1) -> AsyncGenerator[Any]:
        """What an iterator gives, made and driven in the thread.

        Args:
            begin: makes the iterator.
            rows: how many texts it grows at once.

        Raises:
            BusyError: too much waits already.
            TooLongError: it took too long.
        """
        if self.asked >= self._most:
            raise BusyError(self.asked)
        turn, deadline = _Turn(begin, rows), time.monotonic() + self._seconds
        self.asked += 1
        with self._change:
            self._waiting.append(turn)
            self._change.notify()
        try:
            while True:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        kind, value = await turn.results.get()
                except TimeoutError:
                    raise TooLongError(self._seconds) from None
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                yield value
        finally:
            turn.gone = True
            self.asked -= 1

    async def last(self, begin: Callable[[], Iterator[Any]], rows: int = 1) -> Any:
        """The last of what an iterator gives."""
        value = None
        async with contextlib.aclosing(self.turns(begin, rows)) as turns:
            async for each in turns:
                value = each
        return value

    async def call(self, function: Callable[[], Any]) -> Any:
        """The value of a function, called in the thread."""
        return await self.last(lambda: (function() for _ in range(1)))

    def end(self) -> None:
        """Let the thread end, once all that is asked is done."""
        with self._change:
            self._ending = True
            self._change.notify()

    def _run(self) -> None:
        running: list[_Turn] = []
        while running or self._awaited():
            running += self._admitted(running)
            done = [(turn, *turn.step()) for turn in running]
            running = [turn for turn, kind, _ in done if kind == "step"]
            told = [each for each in done if each[1] != "step" or each[2] is not None]
            for loop in {turn.loop for turn, *_ in told}:
                of_it = [(turn.results, (kind, value)) for turn, kind, value in told if turn.loop is loop]
                with contextlib.suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(_put, of_it)

    def _awaited(self) -> bool:
        """Wait until something is asked for; False once the end is and nothing else."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._ending)
            return bool(self._waiting)

    def _admitted(self, running: list[_Turn]) -> list[_Turn]:
        """Those that may begin now, in order; one may where nothing else runs, however many texts it grows."""
        rows, admitted = sum(turn.rows for turn in running), list[_Turn]()
        with self._change:
            while self._waiting and (rows + self._waiting[0].rows <= self._rows or not rows):
                turn = self._waiting.popleft()
                if not turn.gone:
                    admitted.append(turn)
                    rows += turn.rows
        return admitted


def _put(results: list[tuple[asyncio.Queue[Any], Any]]) -> None:
    """Put each result where it is awaited: all of a round wake the event loop once."""
    for queue, result in results:
        queue.put_nowait(result)
