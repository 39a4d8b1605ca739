"""One thread a model, in which all that is asked of it takes turns: a token each, or a piece of a scored text.

    async for step in worker.turns(lambda: decode(...)):
        ...

What is asked for is an iterator, made and driven in the thread. One that nobody waits for any more is dropped before
its next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from lmlab.errors import LmlabError


class BusyError(LmlabError):
    """More is asked for than can wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests are at work or wait for this model already", "try again a little later")


class _Turn:
    """One iterator, and where its results are awaited."""

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self.begin, self.gone = begin, False
        self.results: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def tell(self, kind: str, value: Any = None) -> None:
        """Hand a result to who waits, unless the event loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.results.put_nowait, (kind, value))


class Worker:
    """The thread of one model.

    Args:
        most: how many requests may be at work or wait.
    """

    def __init__(self, most: int) -> None:
        self._most, self.asked = most, 0
        self._inbox: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    async def turns(self, begin: Callable[[], Iterator[Any]]) -> AsyncGenerator[Any]:
        """What an iterator gives, made and driven in the thread.

        Raises:
            BusyError: too much waits already.
        """
        if self.asked >= self._most:
            raise BusyError(self.asked)
        turn = _Turn(begin)
        self.asked += 1
        self._inbox.put(turn)
        try:
            while True:
                kind, value = await turn.results.get()
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                yield value
        finally:
            turn.gone = True
            self.asked -= 1

    async def call(self, function: Callable[[], Any]) -> Any:
        """The value of a function, called in the thread."""
        return await self.last(lambda: (function() for _ in range(1)))

    async def last(self, begin: Callable[[], Iterator[Any]]) -> Any:
        """The last of what an iterator gives."""
        value = None
        async with contextlib.aclosing(self.turns(begin)) as turns:
            async for each in turns:
                value = each
        return value

    def end(self) -> None:
        """Let the thread end, once all that is at work is done."""
        self._inbox.put(None)

    def _run(self) -> None:
        open, ending = list[Any](), False
        while not (ending and not open):
            with contextlib.suppress(queue.Empty):
                while True:
                    turn = self._inbox.get(block=not open and not ending)
                    if turn is None:
                        ending = True
                        break
                    open.append((turn, None))
            open = [kept for turn, steps in open if (kept := self._step(turn, steps))]

    def _step(self, turn: _Turn, steps: Any) -> Any:
        """One turn; the iterator again, or None once it is done."""
        if turn.gone:
            return None
        try:
            steps = turn.begin() if steps is None else steps
            turn.tell("step", next(steps))
        except StopIteration:
            turn.tell("end")
            return None
        except Exception as error:  # noqa: BLE001 - told to who asked
            turn.tell("error", error)
            return None
        return turn, steps
