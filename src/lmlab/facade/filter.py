"""Many records scored each on its own, and kept or sorted into buckets by that: perplexity filtering.

    for record in lm.filter("web.jsonl.gz", at_most=500): ...
    for record in lm.filter(texts, cuts=(0.3, 0.6), keep="head"): ...

Buckets are those of CCNet (Wenzek et al. 2020, arXiv:1911.00359, section 3.3): `head` is what lies below the first
quantile of a reference, `middle` what lies below the second, `tail` the rest. The reference is a text of its own, or
the records themselves, which are then read twice: once to score, once to give out. Nothing else grows with them but
24 bytes a record.

Shapes: D documents, N ids.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lmlab import scoring
from lmlab.corpora import DataSettings, objects
from lmlab.corpora.document import Document
from lmlab.corpora.raw import named_origin
from lmlab.corpora.records import Record, document_of, read_records
from lmlab.errors import LmlabError, SettingError, UnknownNameError, UsageError, check_integer
from lmlab.models.base import whole
from lmlab.models.scorers import scorer_of
from lmlab.vocabulary import spelling_nats

if TYPE_CHECKING:
    from lmlab.models.base import LanguageModel
    from lmlab.progress import Reporter
    from lmlab.tokens import Tokenizer

FIGURES = ("perplexity", "bits_per_byte", "length")
BUCKETS = ("head", "middle", "tail")
CUTS = (0.3, 0.6)
_BATCH_CHARS, _BATCH_RECORDS = 1 << 22, 1 << 15  # scored at once: enough for compiled loops to repay their start
_MOST_PROCESSES = 1_000
_AHEAD = 2  # batches that wait for each process

Batch = Sequence[tuple[Record, Document]]


class Figures(NamedTuple):
    """What a document scores.

    Attributes:
        perplexity: per token, its `<eos>` included; that of `scoring.Report`.
        bits_per_byte: total bits over the bytes of the text as it stood.
        length: its tokens, `<eos>` not counted.
    """

    perplexity: float
    bits_per_byte: float
    length: int


@dataclass(frozen=True)
class Rule:
    """Which records are given out, and whether they are told their bucket.

    Attributes:
        by: the figure that decides.
        at_least, at_most: its bounds; None is none.
        cuts: the quantiles that end `head` and `middle`; None makes no buckets.
        keep: the buckets given out; empty is all.
    """

    by: str = "perplexity"
    at_least: float | None = None
    at_most: float | None = None
    cuts: tuple[float, float] | None = None
    keep: tuple[str, ...] = ()

    @classmethod
    def make(
        cls, by: str, at_least: float | None, at_most: float | None, cuts: Any, keep: Any, *, reference: bool
    ) -> Rule:
        """Check what is asked for; a reference, or buckets to keep, ask for cuts.

        Raises:
            UnknownNameError: no such figure, or no such bucket.
            SettingError: a bound that is no number, or cuts that are no two rising shares.
        """
        if by not in FIGURES:
            raise UnknownNameError("figure", by, FIGURES)
        for name, bound in (("at_least", at_least), ("at_most", at_most)):
            if bound is not None and not (isinstance(bound, int | float) and not math.isnan(bound)):
                raise SettingError(name, bound, "a number")
        kept = (keep,) if isinstance(keep, str) else tuple(keep)
        if (wrong := next((name for name in kept if name not in BUCKETS), None)) is not None:
            raise UnknownNameError("bucket", wrong, BUCKETS)
        if cuts is None and not (kept or reference):
            return cls(by, at_least, at_most)
        match tuple(cuts) if isinstance(cuts, Sequence) else CUTS if cuts is None else ():
            case (int() | float() as first, int() | float() as second) if 0 <= first <= second <= 1:
                return cls(by, at_least, at_most, (first, second), kept)
        raise SettingError("cuts", cuts, "two shares that rise from 0 to 1", "for example 0.3,0.6")

    def admits(self, value: float) -> bool:
        """Whether a figure lies within the bounds."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


def filtered(
    model: LanguageModel,
    tokenizer: Tokenizer,
    source: Any,
    rule: Rule,
    *,
    folder: Path | None = None,
    reference: Any = None,
    spelling: bool = True,
    data: Mapping[str, Any] | None = None,
    processes: int = 1,
    reporter: Reporter,
) -> Generator[dict[str, Any], None, None]:
    """The records of a source that a rule admits, in order, each with its figures, and its bucket where there are any.

    Args:
        model: any that has probabilities and does not learn from what it reads.
        tokenizer: its own.
        source: a file, "-", or an object that holds texts or records.
        rule: which ones.
        folder: where the model lies, so that several processes can load it.
        reference: what the quantiles are those of; None is the source itself.
        spelling: whether the spelling of unknown tokens is charged.
        data: how the source is read, as for training.
        processes: that score.
        reporter: shows progress.

    Raises:
        UsageError: a model that has no probabilities or learns as it reads; a source to be read twice that cannot be.
        SettingError: processes is no integer from 1 to 1,000.
    """
    check_integer("processes", processes)
    if processes > _MOST_PROCESSES:
        raise SettingError("processes", processes, f"at most {_MOST_PROCESSES:,}", "one a core is enough")
    scoring.check_normalised(model)
    if scorer_of(model).adapts:
        raise UsageError("this model learns from what it scores", "filter with the run itself, not adapted")
    if processes > 1 and folder is None:
        raise UsageError(f"{processes} processes need a model that lies in a folder", "save it, or take one process")
    if rule.cuts and reference is None and ((isinstance(source, str) and source == "-") or objects.is_stream(source)):
        raise UsageError("what can be read only once has no quantiles of its own", "name a reference, or a file")
    settings = DataSettings.make({"split": "none", **(data or {})}, "data")
    if settings.unit == "document":
        raise UsageError("filter takes records or lines", "leave unit out, or name line or record")
    score = functools.partial(figures_of, model, tokenizer, spelling)
    job = _Job(score, settings, (str(folder), spelling, processes), reporter)
    return _given_out(job, source, reference, rule)


def _given_out(job: _Job, source: Any, reference: Any, rule: Rule) -> Generator[dict[str, Any], None, None]:
    place = FIGURES.index(rule.by)
    if rule.cuts is None:
        for (_, record), figures in job.scored(source, "filtering"):
            if rule.admits(figures[place]):
                yield {**record, **figures._asdict()}
        return
    kept = [array("d") for _ in FIGURES]
    for _, figures in job.scored(source if reference is None else reference, "scoring the reference"):
        for column, value in zip(kept, figures, strict=True):
            column.append(value)
    if not kept[place]:
        return
    edges = np.quantile(np.array(kept[place]), rule.cuts, method="linear")
    again: Iterator[tuple[Record, Figures]]
    if reference is None:
        known = (Figures(perplexity, bits, int(length)) for perplexity, bits, length in zip(*kept, strict=True))
        again = zip(job.records(source, "filtering"), known, strict=False)
    else:
        again = job.scored(source, "filtering")
    for (_, record), figures in again:
        bucket = BUCKETS[int(np.searchsorted(edges, figures[place], side="right"))]
        if rule.admits(figures[place]) and (not rule.keep or bucket in rule.keep):
            yield {**record, **figures._asdict(), "bucket": bucket}


@dataclass(frozen=True)
class _Job:
    """How records are read and scored."""

    score: Callable[[Sequence[Document]], list[Figures]]
    settings: DataSettings
    shared: tuple[str, bool, int]  # what each of several processes is given, and how many there are
    reporter: Reporter

    def records(self, source: Any, title: str) -> Iterator[Record]:
        """The records of a source, with progress."""
        if not isinstance(source, str | Path):
            items = itertools.islice(objects.items_of(source), self.settings.limit)
            yield from ((where, objects.record_of(where, item)) for where, item in items)
            return
        origin = named_origin(str(source))
        with self.reporter.stage(f"{title} {Path(origin.name).name}", origin.size) as advance:

            def watched() -> Iterator[bytes]:
                done = 0
                for chunk in origin.read():
                    yield chunk
                    done += len(chunk)
                    advance(done)

            records = read_records(dataclasses.replace(origin, read=watched), self.settings)
            yield from itertools.islice(records, self.settings.limit)

    def scored(self, source: Any, title: str) -> Iterator[tuple[Record, Figures]]:
        """The records of a source beside their figures, in order."""
        with contextlib.closing(self._batches(self.records(source, title))) as batches, self._scoring() as score:
            for batch, figures in score(batches):
                yield from zip((record for record, _ in batch), figures, strict=True)

    def _batches(self, records: Iterable[Record]) -> Generator[Batch, None, None]:
        batch: list[tuple[Record, Document]] = []
        chars = 0
        for where, record in records:
            document = document_of(where, record, self.settings)
            if self.settings.max_chars is not None and document.tokens is None:
                document = dataclasses.replace(document, text=document.text[: self.settings.max_chars])
            batch.append(((where, record), document))
            chars += len(document.text)
            if chars >= _BATCH_CHARS or len(batch) >= _BATCH_RECORDS:
                yield batch
                batch, chars = [], 0
        if batch:
            yield batch

    @contextlib.contextmanager
    def _scoring(self) -> Iterator[Callable[[Iterable[Batch]], Iterator[tuple[Batch, Sequence[Figures]]]]]:
        """A way to score batches: here, or in processes of which each has the model."""
        processes = self.shared[-1]
        if processes == 1:
            yield lambda batches: ((batch, self.score([document for _, document in batch])) for batch in batches)
            return
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, self.shared)

        def ordered(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Sequence[Figures]]]:
            waiting: deque[tuple[Batch, Any]] = deque()
            for batch in batches:
                waiting.append((batch, pool.submit(_score, [document for _, document in batch])))
                if len(waiting) >= _AHEAD * processes:
                    first, scores = waiting.popleft()
                    yield first, scores.result()
            for first, scores in waiting:
                yield first, scores.result()

        try:
            yield ordered
        except BrokenProcessPool as error:
            raise LmlabError("a process that scored has ended", "take fewer, they may lack memory") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def figures_of(
    model: LanguageModel, tokenizer: Tokenizer, spelling: bool, documents: Sequence[Document]
) -> list[Figures]:
    """The figures of some documents, each read on its own."""
    encoded = tokenizer.encode_documents(documents)
    bytes_D = np.array([len(document.text.encode("utf-8", "surrogatepass")) for document in documents])
    nats_D = scoring.document_nats(model, encoded.ids_N)
    if spelling:
        nats_D += list(map(spelling_nats, encoded.unknown_tokens_D.tolist(), encoded.unknown_bytes_D.tolist()))
    with np.errstate(over="ignore"):
        perplexity_D = np.exp(nats_D / (encoded.length_D + 1))
    bits_D = nats_D / math.log(2) / np.maximum(bytes_D, 1)
    columns = (perplexity_D.tolist(), bits_D.tolist(), encoded.length_D.tolist())
    return list(map(Figures._make, zip(*columns, strict=True)))


# -- in a process of its own ------------------------------------------------------------------------------------------

_held: list[Callable[[Sequence[Document]], list[Figures]]] = []


def _begin(folder: str, spelling: bool, processes: int) -> None:
    """Load the model, and leave Ctrl-C to the process that asks."""
    import signal

    from lmlab import store
    from lmlab.kernels import engine

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stored = store.load(Path(folder))
    if stored.model.family == "neural":
        import torch

        torch.set_num_threads(max(1, engine.cores() // processes))
    _held.append(functools.partial(figures_of, whole(stored.model), stored.tokenizer, spelling))


def _score(documents: Sequence[Document]) -> list[Figures]:
    return _held[0](documents)
