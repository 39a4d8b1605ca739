"""The straight way from text to an n-gram model: a line is a sentence, a run of non-space a word, every word is kept.

What `lmplz` of KenLM does, and a model directory comes out that every verb knows. `learn.train` also splits, evaluates
and knows other tokenizers; this reads the text once, as bytes, and holds neither it nor its ids.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmlab import store
from lmlab.config import described
from lmlab.corpora import DataSettings
from lmlab.corpora.settings import IN_HAND
from lmlab.errors import UsageError
from lmlab.facade.counting import (
    Counted,
    Texts,
    commonest,
    count,
    described_text,
    words_of_texts,
)
from lmlab.facade.signature import takes_settings
from lmlab.facade.text_model import TextModel
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.count_files import CountFiles
from lmlab.models.ngram.smoothing import IMPORTED
from lmlab.models.ngram.trie import Trie
from lmlab.progress import Reporter, default_reporter
from lmlab.run_config import RunConfig, from_tables
from lmlab.tokens.base import Vocabulary
from lmlab.tokens.scan import scanner
from lmlab.tokens.word import WordTokenizer
from lmlab.vocabulary import SPECIALS

if TYPE_CHECKING:
    from concurrent.futures import Executor


@takes_settings([field.name for field in described(Ngram.Settings)])
def estimate(
    *sources: Any,
    out: str | Path | None = None,
    vocab_size: int | None = None,
    min_count: int = 1,
    errors: str = "strict",
    skip_symbols: bool = False,
    shards: int | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **settings: Any,
) -> TextModel:
    """Estimate an n-gram model of the whitespace words of some texts.

    Args:
        *sources: UTF-8 text files, compressed or not, or "-" for standard input; or what a program holds: strings of
            one or more lines in a list, lists of words, a frame, a data set.
        out: the model directory to write; None keeps the model in memory.
        vocab_size: keep only the commonest words, so that there are so many ids with the four specials; None keeps all.
        min_count: a word seen less often is unknown.
        errors: "replace" reads bytes that are no UTF-8 as U+FFFD; "strict" refuses them.
        skip_symbols: whether `<s>`, `</s>` and `<unk>` are white space; else a text with one of these words is refused.
        shards: count so many parts of the files apart, each within `memory`, and merge them: the same model. Counts
            stay in `OUT.counts` until the model is written, so that a call that was interrupted goes on from there.
        executor: runs the shards: any of `concurrent.futures`, or a cluster's, as Dask's `client.get_executor()`,
            whose workers see the same files, `out` too; None is a process a core.
        overwrite: whether a run that is at `out` is replaced, once the new one is written.
        reporter: shows progress; None draws a bar in a terminal.
        **settings: of the model, see `Ngram.Settings`: `order`, `smoothing`, `prune`...

    Raises:
        LmlabError: see `lmlab.errors`.
    """
    reporter = reporter or default_reporter()
    if not sources:
        raise UsageError("no text is named", "name a file, or - for standard input")
    if out is not None:
        store.check_free(Path(out), overwrite=overwrite)
    held = not isinstance(sources[0], str | Path)
    config = _configuration(
        settings, {"vocab_size": vocab_size, "min_count": min_count}, IN_HAND if held else str(sources[0])
    )
    DataSettings(errors=errors)
    began, model_settings = time.perf_counter(), config.model.settings
    with contextlib.ExitStack() as stack:
        if shards is None and executor is None:
            texts = Texts.of(sources, model_settings, reporter, errors=errors, skip_symbols=skip_symbols)
            counted = _count(texts, model_settings, vocab_size, min_count, reporter)
        else:
            from lmlab.facade import sharding  # which one process does without
            from lmlab.facade import shards as by_shards

            parts = by_shards.Shard.all_of(sources, shards, model_settings, errors, skip_symbols)
            work = stack.enter_context(sharding.work_folder(None if out is None else Path(out)))
            executor = executor or stack.enter_context(sharding.processes())
            counts = by_shards.count_shards(parts, work, executor, reporter)
            on_disk = bool(model_settings.memory)
            counted = by_shards.merge_counts(counts, work, executor, reporter, vocab_size, min_count, on_disk)
        return _smoothed(counted, config, out, overwrite, reporter, began)


def merge(
    *folders: str | Path,
    out: str | Path | None = None,
    vocab_size: int | None = None,
    min_count: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **settings: Any,
) -> TextModel:
    """The model of counts that `lmlab ngram count` wrote: that of one process that reads all their texts.

    Args:
        *folders: the counts of all shards of one text or more; texts follow each other in the order of their mention.
        out: as for `estimate`.
        vocab_size: as for `estimate`.
        min_count: as for `estimate`.
        executor: as for `estimate`; None is a thread a core.
        overwrite: as for `estimate`.
        reporter: as for `estimate`.
        **settings: of the model, but its order.

    Raises:
        LmlabError: see `lmlab.errors`.
    """
    from lmlab.facade import sharding
    from lmlab.facade import shards as by_shards

    reporter, began = reporter or default_reporter(), time.perf_counter()
    if out is not None:
        store.check_free(Path(out), overwrite=overwrite)
    counts = sharding.in_order([CountFiles.open(Path(folder)) for folder in folders])
    about = counts[0].about
    defaults = {field.name: field.default for field in described(Ngram.Settings)}
    counted = {"order": counts[0].order, "compat": about["settings"]["compat"]}
    settings |= {name: value for name, value in counted.items() if value != defaults[name]}  # else it was not asked for
    config = _configuration(settings, {"vocab_size": vocab_size, "min_count": min_count}, about["texts"][0][0])
    on_disk = bool(config.model.settings.memory)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(sharding.work_folder(None if out is None else Path(out)))
        executor = executor or stack.enter_context(sharding.threads())
        merged = by_shards.merge_counts(counts, work, executor, reporter, vocab_size, min_count, on_disk)
        return _smoothed(merged, config, out, overwrite, reporter, began)


def import_arpa(
    path: str | Path, *, out: str | Path | None = None, reporter: Reporter | None = None, **options: str
) -> TextModel:
    """A model from an ARPA file of KenLM, SRILM or IRSTLM, compressed or not.

    Args:
        path: the file.
        out: the model directory to write; None keeps the model in memory.
        reporter: shows progress; None draws a bar in a terminal.
        **options: of reading, see `arpa.read`: `errors="replace"`, `positive="zero"`.

    Raises:
        ArtifactError: it is no sound ARPA file.
    """
    from lmlab.models.ngram import arpa

    reporter, path, began = reporter or default_reporter(), Path(path), time.perf_counter()
    if out is not None:
        store.check_free(Path(out))
    with reporter.stage(f"reading {path.name}"):
        trie, words = arpa.read(path, **options)
    config = _configuration({"order": trie.order, "smoothing": IMPORTED}, {}, str(path))
    tokenizer = WordTokenizer(config.tokenizer.settings, Vocabulary([*SPECIALS, *(word.decode() for word in words)]))
    data = {**described_text(path.name, None, 0), "splits": {}}
    lm = _text_model(Ngram(config.model.settings, trie), tokenizer, config, data, time.perf_counter() - began)
    if out is not None:
        lm.save(out)
    return lm


def ngram_of(lm: TextModel) -> Ngram:
    """The model of a text model.

    Raises:
        UsageError: it is no n-gram.
    """
    if not isinstance(lm.model, Ngram):
        raise UsageError(f"{lm.folder or 'the model'} is no n-gram model", "name one")
    return lm.model


def words_of(lm: TextModel) -> list[bytes]:
    """The spelling of every word of an n-gram model, from id 4 on.

    Raises:
        UsageError: its tokens are not runs of non-space.
    """
    where = lm.folder or "the model"
    if getattr(lm.config.tokenizer.settings, "split", None) != "space":
        raise UsageError(f"the tokens of {where} are not words between spaces", "build it with `lmlab ngram estimate`")
    return [*map(str.encode, lm.tokenizer.tokens[len(SPECIALS) :])]


def with_trie(lm: TextModel, trie: Trie, note: str) -> TextModel:
    """A model with other n-grams in place of its own, and a note of how they came about."""
    model = ngram_of(lm)
    changed: Any = Ngram(model.settings, trie, [*model.notes, note])
    results = {**lm.manifest["results"], "notes": list(changed.notes), "ngrams": list(changed.ngrams)}
    return TextModel(changed, lm.tokenizer, lm.config, {**lm.manifest, "results": results})


def _configuration(model: Mapping[str, Any], tokenizer: Mapping[str, Any], source: str) -> RunConfig:
    named = {
        "source": source,
        **from_tables({"model": {"kind": "ngram", **model}, "data": {"unit": "line", "split": "none"}}),
        **from_tables({"tokenizer": {"kind": "word", "vocab_size": None, "split": "space", **tokenizer}}),
    }
    return RunConfig.build(named)


def _count(texts: Texts, settings: Any, vocab_size: int | None, min_count: int, reporter: Reporter) -> Counted:
    known: list[str] | None = None
    if vocab_size is not None or min_count > 1:
        if texts.size is None:
            problem = "a stream can be read only once, but a smaller vocabulary takes two readings"
            raise UsageError(problem, "name a file")
        words, count_V = words_of_texts(texts)
        known = [words[i - len(SPECIALS)] for i in commonest(count_V, vocab_size, min_count)]
    scanned = scanner(texts.text_size, known or (), learn=known is None)
    levels = count(texts, settings, scanned, reporter)
    return Counted(levels, scanned.words(), texts.describe())


def _smoothed(
    counted: Counted, config: RunConfig, out: str | Path | None, overwrite: bool, reporter: Reporter, began: float
) -> TextModel:
    """The model of what was counted, which is used up; saved, where there is a place."""
    count_V = counted.levels[0].count_G.astype(np.int64)
    with reporter.stage("smoothing"):
        model: Any = Ngram.from_counts(config.model.settings, counted.levels)
    tokenizer = WordTokenizer(config.tokenizer.settings, Vocabulary([*SPECIALS, *counted.words], count_V=count_V))
    for note in model.notes:
        reporter.say(note)
    lm = _text_model(model, tokenizer, config, counted.data, time.perf_counter() - began)
    if out is not None:
        lm.model = model.reopened(lm.save(out, overwrite=overwrite))
    return lm


def _text_model(
    model: Any, tokenizer: WordTokenizer, config: RunConfig, data: Mapping[str, Any], seconds: float
) -> TextModel:
    manifest = store.new_manifest(config, data) | {"status": "done"}
    manifest["results"] = {"train_seconds": seconds, "notes": list(model.notes), "ngrams": list(model.ngrams)}
    return TextModel(model, tokenizer, config, manifest)
