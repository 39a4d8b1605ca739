"""One thread a model, in which all that is asked of it takes turns: a token each, or a piece of a scored text.

    async for steps in worker.turns(lambda: decode_all(..., batch=worker.batch)):
        ...

What is asked for is an iterator, made and driven in the thread; None says that it is at work still. New texts share the
batch of those that grow already. An iterator that nobody waits for any more is closed before its next turn.

Answers are made in the event loop's thread, which takes turns with this one (Python's lock). So that telling costs a
bounded share of the time, however many clients there are, the thread keeps what it found until it has worked for
`_WORK_PER_TELLING` times as long as the last telling took, and then hands over all at once; an answer that is whole it
does not keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from lmlab.decoding import Batch
from lmlab.errors import LmlabError
from lmlab.models.base import LanguageModel

_WORK_PER_TELLING = 10  # of the time, a tenth at most is spent on telling
_LONGEST_HOLD = 0.05  # seconds


class BusyError(LmlabError):
    """More is asked for than can wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests are at work or wait for this model already", "try again a little later")


class TooLongError(LmlabError):
    """An answer took longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the answer took longer than {seconds:g} s", "ask for less, or try again a little later")


class _Turn:
    """An iterator that takes turns in the thread, and where the event loop awaits what it gave."""

    def __init__(self, begin: Callable[[], Iterator[Any]], rows: int) -> None:
        self.rows, self.gone = rows, False
        self._begin = begin
        self._steps: Iterator[Any] | None = None
        self.loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._values: list[Any] = []
        self._end: Exception | None = None

    def step(self) -> Any:
        """Take a turn, the first of which makes the iterator: what it gave, or `_End` or another error that ends it."""
        try:
            if self.gone:
                if close := getattr(self._steps, "close", None):
                    close()
                return _End()
            if self._steps is None:
                self._steps = self._begin()
            return next(self._steps)
        except StopIteration:
            return _End()
        except Exception as error:  # noqa: BLE001 - told to who asked
            return error

    def put(self, values: Sequence[Any]) -> None:
        """Hand over what was given, in the event loop."""
        if values and isinstance(values[-1], Exception):
            *values, self._end = values
        self._values += values
        self._came.set()

    async def taken(self) -> AsyncGenerator[list[Any]]:
        """All that was given since, until the end."""
        while self._values or self._end is None:
            await self._came.wait()
            self._came.clear()
            values, self._values = self._values, []
            if values:
                yield values
        if not isinstance(self._end, _End):
            raise self._end


class _End(Exception):
    """An iterator has no more to give."""


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
        self._quiet_until = 0.0  # nothing is told before, by time.monotonic
        threading.Thread(target=self._run, daemon=True).start()

    async def turns(self, begin: Callable[[], Iterator[Any]], rows: int = 1) -> AsyncGenerator[list[Any]]:
        """What an iterator gives, made and driven in the thread; at a time all that came since the last time.

        Args:
            begin: makes the iterator.
            rows: how many texts it grows at once.

        Raises:
            BusyError: too much waits already.
            TooLongError: it took too long.
        """
        if self.asked >= self._most:
            raise BusyError(self.asked)
        turn = _Turn(begin, rows)
        late = turn.loop.call_later(self._seconds, turn.put, [TooLongError(self._seconds)])
        self.asked += 1
        with self._change:
            self._waiting.append(turn)
            self._change.notify()
        try:
            async with contextlib.aclosing(turn.taken()) as taken:
                async for values in taken:
                    yield values
        finally:
            late.cancel()
            turn.gone = True
            self.asked -= 1

    async def last(self, begin: Callable[[], Iterator[Any]], rows: int = 1) -> Any:
        """The last of what an iterator gives."""
        value = None
        async with contextlib.aclosing(self.turns(begin, rows)) as turns:
            async for values in turns:
                value = values[-1]
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
        held: dict[_Turn, list[Any]] = {}  # what nobody has been told yet
        while running or self._awaited():
            running += self._admitted(running)
            ended = set[_Turn]()
            for turn in running:
                value = turn.step()
                if value is not None:
                    held.setdefault(turn, []).append(value)
                    if isinstance(value, Exception):
                        ended.add(turn)
            if ended:
                running = [turn for turn in running if turn not in ended]
                self._tell({turn: held.pop(turn) for turn in ended})
            if held and time.monotonic() >= self._quiet_until:
                self._tell(held)
                held = {}

    def _tell(self, held: dict[_Turn, list[Any]]) -> None:
        """Hand over to the event loops what was given, all of a loop at once."""
        self._quiet_until = time.monotonic() + _LONGEST_HOLD
        for loop in {turn.loop for turn in held}:
            of_it = [(turn, values) for turn, values in held.items() if turn.loop is loop]
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(self._put, loop, of_it)

    def _put(self, loop: asyncio.AbstractEventLoop, told: list[tuple[_Turn, list[Any]]]) -> None:
        """Hand each what it was given; what they do with it at once decides how soon more is told."""
        began = time.thread_time()
        for turn, values in told:
            turn.put(values)

        def done() -> None:  # runs after those that were woken
            hold = min((_WORK_PER_TELLING - 1) * (time.thread_time() - began), _LONGEST_HOLD)
            self._quiet_until = time.monotonic() + hold

        loop.call_soon(done)

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
