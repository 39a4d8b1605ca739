"""Ray's workers as a `concurrent.futures.Executor`: a call is a task; placement, retries and transport are Ray's.

ray.init()                                     # or with an address
lmlab.estimate("big.txt", out="runs/kn5", shards=64, executor=RayExecutor())
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any

from lmlab.errors import MissingExtraError, WorkerError


class RayExecutor(Executor):
    """Runs calls as tasks of the Ray that this process is connected to; a call that is cancelled is ended there.

    Args:
        **options: of each task, as `num_cpus=2`, `memory=2 << 30`, `max_retries=0`.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, **options: Any) -> None:
        self._ray = _ray()
        task = self._ray.remote(_called)
        self._task = task.options(**options) if options else task
        self._begun: list[Future[Any]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Start a task; its future raises what the call raised, or `BrokenExecutor` where the call never ended."""
        done: Future[Any] = Future()
        if not self._ray.is_initialized():  # else a task would start a Ray of its own
            raise BrokenExecutor("the connection to Ray is lost")
        try:
            task = self._task.remote(function, arguments, named)
            task.future().add_done_callback(lambda found: self._settle(done, found))
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise BrokenExecutor(_line(error)) from error
        done.add_done_callback(lambda future: self._ray.cancel(task) if future.cancelled() else None)
        self._begun.append(done)
        return done

    def _settle(self, done: Future[Any], found: Future[Any]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        error = found.exception()
        if error is None:
            done.set_result(found.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            done.set_exception(error.cause)
        else:
            done.set_exception(BrokenExecutor(_line(error)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was begun, or cancel it; the connection stays."""
        if cancel_futures:
            for future in self._begun:
                future.cancel()
        if wait:
            futures.wait(self._begun)


def _called(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return function(*arguments, **named)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("a Ray cluster", "ray") from error
    return ray


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


@contextlib.contextmanager
def connected(address: str) -> Iterator[Executor]:
    """The workers of a Ray cluster whose head answers at an address such as ray://10.0.0.1:10001.

    Raises:
        MissingExtraError: Ray is not installed.
        WorkerError: nobody answers there.
    """
    ray = _ray()
    try:
        with warnings.catch_warnings(action="ignore"):  # the error says it
            connection = ray.init(address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkerError(f"no Ray answers at {address} ({_line(error)})", "start one: ray start --head") from error
    with connection:
        yield RayExecutor()
