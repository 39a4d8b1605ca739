"""The straight way from text to an n-gram model: a line is a sentence, a run of non-space a word, every word is kept.

What `lmplz` of KenLM does, and a model directory comes out that every verb knows. `learn.train` also splits, evaluates
and knows other tokenizers; this reads the text once, as bytes, and holds neither it nor its ids.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lmlab import store
from lmlab.config import described
from lmlab.corpora import DataSettings
from lmlab.corpora.raw import Origin, named_origin
from lmlab.corpora.reading import inflate, packed, utf8, whole_words
from lmlab.corpora.settings import IN_HAND
from lmlab.errors import DataError, EmptyDataError, UsageError
from lmlab.facade.signature import takes_settings
from lmlab.facade.text_model import TextModel
from lmlab.kernels import engine
from lmlab.kernels.ngram.layout import Counts
from lmlab.memory import parse_size
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.smoothing import IMPORTED
from lmlab.models.ngram.trie import Trie
from lmlab.progress import Reporter, default_reporter
from lmlab.run_config import RunConfig, from_tables
from lmlab.tokens.base import Vocabulary
from lmlab.tokens.scan import WordScanner, scanner
from lmlab.tokens.word import WordTokenizer
from lmlab.vocabulary import EOS, SPACES, SPECIALS

_SYMBOL = re.compile(f"<(?<![^{SPACES}]<)(?:/?s|unk)>(?![^{SPACES}])".encode())
"""A word that ARPA files reserve."""
_NORMALISATION = "Every run of white space (also newlines) becomes one space."


@takes_settings([field.name for field in described(Ngram.Settings)])
def estimate(
    *sources: Any,
    out: str | Path | None = None,
    vocab_size: int | None = None,
    min_count: int = 1,
    errors: str = "strict",
    skip_symbols: bool = False,
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
    origins = [_origin(source, errors) for source in sources]
    held = not isinstance(sources[0], str | Path)
    name = IN_HAND if held else str(sources[0])
    config = _configuration(settings, {"vocab_size": vocab_size, "min_count": min_count}, name)
    model_settings = config.model.settings
    DataSettings(errors=errors)
    ended = model_settings.compat == "none"  # lmplz gives a last line without newline no end
    texts = Texts(origins, reporter, errors=errors, ended=ended, skip_symbols=skip_symbols)
    if texts.size is None and (vocab_size is not None or min_count > 1):
        raise UsageError("a stream can be read only once, but a smaller vocabulary takes two readings", "name a file")
    began = time.perf_counter()
    known = None if vocab_size is None and min_count == 1 else _common_words(texts, vocab_size, min_count)
    words = scanner(texts.text_size, known or (), learn=known is None)
    levels = _count(texts, model_settings, words, reporter)
    count_V = levels[0].count_G.astype(np.int64)  # smoothing uses the levels up
    with reporter.stage("smoothing"):
        model: Any = Ngram.from_counts(model_settings, levels)
    spelled = words.words()
    del words, known  # each may take as much as the tokenizer
    tokenizer = WordTokenizer(config.tokenizer.settings, Vocabulary([*SPECIALS, *spelled], count_V=count_V))
    for note in model.notes:
        reporter.say(note)
    lm = _text_model(model, tokenizer, config, texts.describe(), time.perf_counter() - began)
    if out is not None:
        lm.model = model.reopened(lm.save(out, overwrite=overwrite))
    return lm


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
    data: dict[str, Any] = {
        "name": path.name,
        "sha256": None,
        "split_rule": "none",
        "splits": {},
        "normalisation": _NORMALISATION,
    }
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
    return [token.encode() for token in lm.tokenizer.tokens[len(SPECIALS) :]]


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


def _text_model(
    model: Any, tokenizer: WordTokenizer, config: RunConfig, data: Mapping[str, Any], seconds: float
) -> TextModel:
    manifest = store.new_manifest(config, data) | {"status": "done"}
    manifest["results"] = {"train_seconds": seconds, "notes": list(model.notes), "ngrams": list(model.ngrams)}
    return TextModel(model, tokenizer, config, manifest)


def _origin(source: Any, errors: str) -> Origin:
    """The bytes of a file or of an object's texts; of a generator only once, so that nobody knows their size."""
    if isinstance(source, str | Path):
        return named_origin(str(source))
    from lmlab.corpora import objects  # which files do without

    size = None if objects.is_stream(source) else sum(map(len, objects.lines(source, errors)))
    return Origin(objects.NAME, lambda: objects.lines(source, errors), size)


class Texts:
    """The texts to count, read as often as needed, with a bar."""

    def __init__(
        self, origins: Sequence[Origin], reporter: Reporter, *, errors: str, ended: bool, skip_symbols: bool
    ) -> None:
        self._origins = [dataclasses.replace(origin, read=self._watched(origin)) for origin in origins]
        self._reporter, self._errors, self._ended, self._skip = reporter, errors, ended, skip_symbols
        self._digest = hashlib.sha256()
        self._read, self._bytes = 0, 0

    def _watched(self, origin: Origin) -> Callable[[], Iterator[bytes]]:
        def read() -> Iterator[bytes]:
            for chunk in origin.read():
                self._read += len(chunk)
                yield chunk

        return read

    @cached_property
    def size(self) -> int | None:
        """How many bytes the sources have; None where nobody knows beforehand."""
        sizes = [origin.size for origin in self._origins]
        return None if None in sizes else sum(size or 0 for size in sizes)

    @cached_property
    def text_size(self) -> int | None:
        """How many bytes of text they hold; None where nobody knows beforehand."""
        return None if self.size is None or any(packed(origin.read()) for origin in self._origins) else self.size

    def share(self) -> float:
        """How much of them has been read this time."""
        return self._read / (self.size or 1)

    def ids(self, words: WordScanner, title: str) -> Iterator[np.ndarray]:
        """Their ids, in pieces."""
        self._digest, self._read, self._bytes = hashlib.sha256(), 0, 0
        with self._reporter.stage(title, self.size) as advance:
            for origin in self._origins:
                lines = 0
                pieces = utf8(inflate(origin.read(), origin.name), origin.name, self._errors)
                for piece in whole_words(pieces, origin.name):
                    self._digest.update(piece)
                    self._bytes += len(piece)
                    ids_N = words.feed(self._plain(piece, origin.name, lines))
                    lines += int(np.count_nonzero(ids_N == EOS))
                    advance(self._read)
                    yield ids_N
                last = words.close()
                if self._ended:
                    yield last

    def _plain(self, piece: bytes, name: str, lines: int) -> bytes:
        """A piece of text after so many lines, without the words that ARPA files reserve."""
        if b">" not in piece or not (found := _SYMBOL.search(piece)):
            return piece
        if self._skip:
            return _SYMBOL.sub(b" ", piece)
        line = 1 + lines + piece.count(b"\n", 0, found.start())
        problem = f"{name}:{line} holds the word {found[0].decode()}, which models have for their own"
        raise DataError(problem, "take it out, or read it as white space by --skip-symbols")

    def describe(self) -> Mapping[str, Any]:
        """What the manifest says of the data."""
        return {
            "name": ", ".join(Path(origin.name).name for origin in self._origins),
            "sha256": self._digest.hexdigest(),
            "split_rule": "none",
            "splits": {"train": {"bytes": self._bytes}},
            "normalisation": _NORMALISATION,
        }


def _count(texts: Texts, settings: Any, words: WordScanner, reporter: Reporter) -> list[Counts]:
    pieces = (ids for ids in texts.ids(words, "counting") if len(ids))
    memory = parse_size(settings.memory) if settings.memory else None
    if memory is None and texts.text_size is not None and not engine.compiled(texts.text_size):
        ids_N = np.concatenate([np.empty(0, dtype=np.uint32), *pieces])
        return count_ngrams(ids_N, settings.order, len(words))
    from lmlab.kernels.ngram.counter import Counter

    counter = Counter(settings.order, memory=memory, share=texts.share if texts.size else None)
    counter.count(pieces)
    words.seal()
    with reporter.stage("bringing n-grams into order"):
        return counter.levels(len(words), reporter.say)


def _common_words(texts: Texts, vocab_size: int | None, min_count: int) -> list[str]:
    """The words that are frequent enough, the commonest first, equals in order of appearance."""
    words = scanner(texts.text_size)
    count_V = np.zeros(0, dtype=np.int64)
    for ids_M in texts.ids(words, "building the vocabulary"):
        more_V = np.bincount(ids_M, minlength=len(count_V))
        more_V[: len(count_V)] += count_V
        count_V = more_V
    count_W = count_V[len(SPECIALS) :]
    order_W = np.argsort(-count_W, kind="stable")
    order_W = order_W[count_W[order_W] >= min_count]
    if not len(order_W):
        raise EmptyDataError(f"no word occurs min_count={min_count} times", "give more text or lower min_count")
    spelled = words.words()
    return [spelled[i] for i in order_W[: None if vocab_size is None else vocab_size - len(SPECIALS)]]
