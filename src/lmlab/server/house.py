"""The models that are served: loaded when one is asked for, unloaded by least use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from lmlab import store
from lmlab.decoding.chance import Floats
from lmlab.decoding.grammar import Grammar
from lmlab.errors import ArtifactError, DataError, MissingExtraError, UnknownNameError, UsageError
from lmlab.facade.text_model import TextModel
from lmlab.models.base import LanguageModel
from lmlab.models.readers import reader_of
from lmlab.server.bounds import Bounds
from lmlab.server.worker import Worker
from lmlab.tokens.base import Tokenizer
from lmlab.vocabulary import SPECIALS

_GRAMMARS, _POSITIONS, _STEPS = 8, 8, 16


@contextmanager
def own_files() -> Iterator[None]:
    """Reading what the server was started with: what is wrong with it is no fault of a request, and names paths."""
    try:
        yield
    except MissingExtraError:
        raise
    except (UsageError, DataError) as error:
        raise ArtifactError(str(error)) from error


def names_of(tokenizer: Tokenizer) -> list[str]:
    """A name for every id of a vocabulary, no two alike: its text where that is whole and its own.

    A part of a character is `bytes:` and the bytes, as OpenAI's server writes it.
    """
    names: dict[str, None] = {}
    for id in range(tokenizer.vocab_size):
        spelled = tokenizer.specials[id].encode() if id < len(SPECIALS) else tokenizer.surface(id, None)
        try:
            name = spelled.decode()
        except UnicodeDecodeError:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
        named = (each for each in (name, tokenizer.tokens[id], f"{name} [{id}]") if each and each not in names)
        names[next(named)] = None
    return list(names)


class Positions:
    """Where prompts of late stand, so that a text that grows by a key is read from there and not from its beginning."""

    def __init__(self, model: LanguageModel) -> None:
        self._reader = reader_of(model)
        self._known: dict[tuple[int, ...], Any] = {}  # the row after a prompt, and the state; the latest last

    def after(self, prompt: Sequence[int]) -> Floats:
        """The log-probabilities, (1, V), of what follows a prompt."""
        ids = tuple(prompt)
        before = max((known for known in self._known if known == ids[: len(known)]), key=len, default=None)
        if before is None or len(ids) - len(before) > _STEPS:
            position = self._reader.start([ids])
        else:
            position = self._known.pop(before)
            self._known[before] = position
            for id in ids[len(before) :]:
                position = self._reader.step(position[1], [id])
        self._known[ids] = position
        if len(self._known) > _POSITIONS:
            del self._known[next(iter(self._known))]
        row_BV: Floats = position[0]
        return row_BV


class Served:
    """A model in memory, with its thread.

    Attributes:
        id: by which clients name it.
        lm: the model and its tokenizer.
        worker: its thread.
        positions: where prompts of late stand.
    """

    def __init__(self, id: str, lm: TextModel, bounds: Bounds) -> None:
        self.id, self.lm, self.bounds = id, lm, bounds
        self.positions = Positions(lm.model)
        self._grammars: dict[tuple[str, str], Grammar] = {}
        self.worker = Worker(lm.model, bounds.waiting, bounds.together, 2 * bounds.seconds)

    def grammar(self, language: tuple[str, str]) -> Grammar:
        """The grammar of a language, as `Grammar` names and takes it; that of the last few is kept."""
        if language not in self._grammars:
            self._grammars[language] = Grammar(self.lm.tokenizer, **dict([language]))
            for old in [*self._grammars][:-_GRAMMARS]:
                del self._grammars[old]
        return self._grammars[language]

    @cached_property
    def components(self) -> list[str]:
        """The names of a mixture's components."""
        mixed = self.lm.composition.get("mixture")
        given = [each["component"] for each in mixed] if mixed else [*self.lm.manifest["results"].get("weights", ())]
        return [self.id.partition("+")[0] if name == "this run" else _name(name) for name in given]

    @cached_property
    def names(self) -> list[str]:
        """A name for every token."""
        return names_of(self.lm.tokenizer)


class Entry:
    """A model that can be asked for.

    Args:
        id: by which clients name it.
        load: reads it.
        told: what `/v1/models` says of it.
    """

    def __init__(self, id: str, load: Callable[[], TextModel], told: dict[str, Any]) -> None:
        self.id, self.load, self.told = id, load, told
        self.served: Served | None = None
        self.users, self.used = 0, 0.0
        self.loading = asyncio.Lock()

    def about(self) -> dict[str, Any]:
        """The entry in the form of OpenAI's, with ours beside it."""
        told = {**self.told, "loaded": self.served is not None}
        return {"id": self.id, "object": "model", "created": 0, "owned_by": "lmlab", "lmlab": told}


async def _loaded(load: Callable[[], TextModel]) -> TextModel:
    """A model, read and built in a thread that ends then: its team of OpenMP threads would wait on beside the worker's.

    Where such threads are more than processors they sleep between operations: an LSTM read a text in 1.7 s, not in 0.7.
    """
    passing = ThreadPoolExecutor(1)
    try:
        lm, _ = await asyncio.wrap_future(passing.submit(lambda: (lm := load(), lm.model)))
        return lm
    finally:
        passing.shutdown(wait=False)


class House:
    """All models that are served."""

    def __init__(self, entries: Sequence[Entry], bounds: Bounds) -> None:
        self.entries, self.bounds = {entry.id: entry for entry in entries}, bounds

    @asynccontextmanager
    async def using(self, id: str | None) -> AsyncIterator[Served]:
        """A model, which stays in memory meanwhile; the first where None is named.

        Raises:
            UnknownNameError: no model has that id.
            LmlabError: it cannot be read.
        """
        entry = self.entries.get(next(iter(self.entries)) if id is None else id)
        if entry is None:
            raise UnknownNameError("model", str(id), self.entries)
        entry.users += 1
        try:
            async with entry.loading:
                if entry.served is None:
                    self._make_room()
                    with own_files():
                        lm = await _loaded(entry.load)
                    entry.served = Served(entry.id, lm, self.bounds)
                    if entry.told["vocab_size"] is None:
                        entry.told = told_of(lm.manifest, lm.tokenizer.vocab_size)
            entry.used = time.monotonic()
            yield entry.served
        finally:
            entry.users -= 1

    def _make_room(self) -> None:
        loaded = sorted((each for each in self.entries.values() if each.served), key=lambda each: each.used)
        for entry in [each for each in loaded if not each.users][: max(0, len(loaded) - self.bounds.loaded + 1)]:
            assert entry.served is not None
            entry.served.worker.end()
            entry.served = None

    def gauges(self) -> dict[str, dict[str, float]]:
        """What is loaded, and how many requests are at work or wait, by model."""
        entries = self.entries.items()
        asked = {id: float(entry.served.worker.asked if entry.served else 0) for id, entry in entries}
        return {"lmlab_model_loaded": {id: float(bool(entry.served)) for id, entry in entries}, "lmlab_requests": asked}

    def end(self) -> None:
        """Let every thread end; a model that is asked for again is loaded again."""
        for entry in self.entries.values():
            if entry.served is not None:
                entry.served.worker.end()
                entry.served = None


def told_of(manifest: Any, vocab_size: int | None = None) -> dict[str, Any]:
    """What `/v1/models` says of a run."""
    config = manifest.get("config") or {"model": {"kind": "hf"}, "tokenizer": {"kind": "hf"}}
    kind = config["model"]["kind"]
    return {
        "family": {"ngram": "n-gram", "mixture": "mixture", "hf": "hf"}.get(kind, "neural"),
        "kind": manifest.get("architecture") or kind,
        "tokenizer": config["tokenizer"]["kind"],
        "vocab_size": vocab_size or manifest.get("vocab_size"),
        "corpus": manifest["data"]["name"].removeprefix("hf:").rpartition("/")[2],
    }


def entries_of(runs: Sequence[str], adapt: str | None = None, mix: Sequence[str] = ()) -> list[Entry]:
    """The models of runs, each under the name of its folder; of equal names the later ones get a number.

    Args:
        runs: model directories, or `hf:PATH_OR_NAME`.
        adapt: makes one model more, the first run adapted and mixed.
        mix: as `adapt`.

    Raises:
        ArtifactError: there is no such run.
    """
    entries: list[Entry] = []
    for run in runs:
        told = {"family": "hf", "kind": None, "tokenizer": "hf", "vocab_size": None, "corpus": None}
        if not run.startswith("hf:"):
            told = told_of(store.read_manifest(Path(run)))
        entries.append(Entry(_free(_name(run), entries), lambda run=run: TextModel.load(run), told))  # type: ignore[misc]
    if adapt is not None or mix:
        told = {**entries[0].told, "family": "mixture" if mix else "adapted"}
        parts = [entries[0].id, *(_name(spec.rpartition(":")[0] or spec) for spec in mix), *([adapt] if adapt else [])]
        load = lambda: TextModel.load(runs[0]).composed(adapt, mix)  # noqa: E731
        entries.append(Entry(_free("+".join(parts), entries), load, told))
    return entries


def _name(run: str) -> str:
    path = run.removeprefix("hf:") if run.startswith("hf:") else str(Path(run).resolve())
    return path.rstrip("/").rpartition("/")[2]


def _free(name: str, entries: Sequence[Entry]) -> str:
    taken = {entry.id for entry in entries}
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
    return next(each for each in names if each not in taken)
