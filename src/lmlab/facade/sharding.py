"""What work by shards has in common: who does it, where it lies meanwhile, and that all shards of a text are there.

Counting (`shards`) and encoding (`encode`) are functions of a few paths and numbers. Each call may run twice, and
writes a folder whole or not at all; where it runs, and what becomes of it when a worker dies, is the business of a
`concurrent.futures.Executor`.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lmlab import disk
from lmlab.corpora import raw
from lmlab.errors import MissingExtraError, SettingError, UsageError, WorkerError
from lmlab.kernels import engine
from lmlab.progress import Reporter

_SHOWN = 10  # missing shards
_ANSWERS = "10 s"  # within which a scheduler does


def checked(shards: int | None) -> int:
    """The number of shards; SettingError where a text cannot be cut into so many."""
    if shards is None or not 1 <= shards <= raw.MOST_SHARDS:
        raise SettingError("shards", shards, f"1 to {raw.MOST_SHARDS:,}")
    return shards


def share(said: str) -> tuple[int, int]:
    """Which shard of how many is named, as in 2/4.

    Raises:
        SettingError: none.
    """
    asked = re.fullmatch(r"(\d{1,6})/(\d{1,6})", said, re.ASCII)
    if not asked or not 1 <= int(asked[1]) <= int(asked[2]):
        raise SettingError("shard", said, "I/N with I from 1 to N, as in 2/4")
    return int(asked[1]), int(asked[2])


def stamps(texts: Sequence[str], here: Path) -> dict[str, Any]:
    """What tells that texts are as they were, ready for JSON.

    Args:
        texts: files and addresses, as they were named.
        here: the folder that the names of files start from.
    """
    sizes, changed = zip(*(raw.stamp(text, here) for text in texts), strict=True)
    return {"texts": list(map(list, zip(texts, sizes, strict=True))), "changed": list(changed)}


class Made(Protocol):
    """What was made of a shard: where it lies, the name of its text, and what it hangs on."""

    @property
    def folder(self) -> Path: ...  # noqa: D102

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def about(self) -> dict[str, Any]: ...  # noqa: D102


Each = TypeVar("Each", bound=Made)


def in_order(counts: Sequence[Each], verb: str = "ngram count") -> list[Each]:
    """What was made of all shards of one text or more, each once, in order; texts in the order of their mention.

    Raises:
        UsageError: shards are missing, named twice, or made in different ways.
    """
    of_text: dict[str, dict[int, Each]] = {}
    for one in counts:
        for name, value in one.about["settings"].items():
            if value != (before := counts[0].about["settings"].get(name)):
                problem = f"{one.folder} was made with {name} {value}, but {counts[0].folder} with {before}"
                raise UsageError(problem, "make all shards alike")
        number, of = one.about["shard"]
        shards = of_text.setdefault(json.dumps([one.about["texts"], of]), {})
        if shards.setdefault(number, one) is not one:
            problem = f"{shards[number].folder} and {one.folder} are both shard {number} of {of} of {one.text}"
            raise UsageError(problem, "name one of them")
    for shards in of_text.values():
        one = next(iter(shards.values()))
        of = one.about["shard"][1]
        if missing := sorted(set(range(1, of + 1)) - shards.keys()):
            listed = ", ".join(map(str, missing[:_SHOWN])) + ", ..." * (len(missing) > _SHOWN)
            raise UsageError(
                f"of the shards of {one.text}, {len(missing)} of {of} are missing: {listed}",
                f"make them, as by `lmlab {verb} --shard {missing[0]}/{of}`, and name all",
            )
    return [shards[number] for shards in of_text.values() for number in sorted(shards)]


def all_done(
    executor: Executor, reporter: Reporter, title: str, task: Callable[..., Any], calls: Iterable[tuple[Any, ...]]
) -> list[Any]:
    """What a task returns for each call, in their order."""
    futures = []
    try:
        futures += [executor.submit(task, *call) for call in calls]
        with reporter.stage(title, len(futures), " tasks") as advance:
            for done, future in enumerate(futures, 1):
                future.result()
                advance(done)
        return [future.result() for future in futures]
    except (BrokenExecutor, CancelledError) as error:
        problem = f"a worker or its scheduler was lost while {title} (killed, or out of memory)"
        remedy = "start again: what was done is kept; more shards, or --memory, take less memory"
        raise WorkerError(problem, remedy) from error
    finally:
        for future in futures:
            future.cancel()


@contextlib.contextmanager
def work_folder(out: Path | None, ending: str = "counts") -> Iterator[Path]:
    """A folder for what workers write: `OUT.counts`, which stays where the block fails, so that all is not lost."""
    if out is None:
        with tempfile.TemporaryDirectory() as unnamed:
            yield Path(unnamed)
        return
    folder = out.absolute().with_name(f"{out.name}.{ending}")
    with disk.held(folder):
        with disk.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield folder
        disk.discard(folder)


@contextlib.contextmanager
def processes() -> Iterator[Executor]:
    """As many processes as there are cores."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(engine.cores(), get_context("spawn")) as pool:
        yield pool


@contextlib.contextmanager
def threads() -> Iterator[Executor]:
    """As many threads as there are cores: merging takes them in NumPy, which lets go of the interpreter."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(engine.cores()) as pool:
        yield pool


@contextlib.contextmanager
def dask(address: str) -> Iterator[Executor]:
    """The workers of a Dask cluster whose scheduler answers at an address such as tcp://10.0.0.1:8786.

    Raises:
        MissingExtraError: Dask is not installed.
        WorkerError: nobody answers there, or its workers die of a task.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise MissingExtraError("a Dask cluster", "dask") from error
    try:
        client = Client(address, timeout=_ANSWERS)
    except (OSError, ValueError) as error:
        raise WorkerError(f"no Dask scheduler answers at {address} ({error})", "start one: dask scheduler") from error
    try:
        with client:
            yield client.get_executor(pure=False)
    except KilledWorker as error:
        raise WorkerError(f"workers of {address} die again and again ({error})", "give them more memory") from error
