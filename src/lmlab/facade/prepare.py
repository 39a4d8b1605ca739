"""From a source to what models learn from: corpus, tokenizer (made from the training split), encoded splits, batches.

The encoded splits are kept in the cache under a key of the text's hash, the split rule and the tokenizer's settings, so
a text is encoded once however many models are trained on it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab import corpora, disk, tokens
from lmlab.corpora.document import Document, text_pieces
from lmlab.corpora.settings import IN_HAND, SPLITS
from lmlab.errors import ArtifactError, DataError, EmptyDataError, UnknownNameError, UsageError
from lmlab.facade import encode
from lmlab.integrity import Verified, read_json, sha256_of
from lmlab.progress import Reporter
from lmlab.tokens.base import Tokenizer
from lmlab.tokens.id_store import TokenStore

if TYPE_CHECKING:
    from lmlab.corpora import Corpus, DataSettings
    from lmlab.run_config import Component, RunConfig
    from lmlab.tokens.batches import Batches, Epoch
    from lmlab.train_settings import TrainSettings

_SUMS = "sums.json"
_KEY_VERSION = 3  # changes when the encoding does
_LONG = 2  # documents this many times longer than a row are read in columns
_VALIDATION_ROWS = 16
_MOST_SCORED = 2_000_000  # characters of the validation split that the figures of training are taken on


@dataclass(frozen=True)
class Prepared:
    """A corpus, its tokenizer, and its encoded splits (`train`; `valid` and `test` where they are not empty)."""

    corpus: Corpus
    tokenizer: Tokenizer
    stores: Mapping[str, TokenStore]

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the data."""
        sizes = {name: vars(size) | {"tokens": self.stores[name].tokens} for name, size in self._sizes().items()}
        return {
            "name": self.corpus.name,
            "sha256": self.corpus.sha256,
            "split_rule": self.corpus.rule,
            "splits": sizes,
            "normalisation": self.tokenizer.normalisation or "none: decoding gives the text back exactly",
        }

    def head(self, split: str, tokens: float = math.inf) -> TokenStore:
        """A split, or about so many tokens of its beginning; two million characters at most.

        Where a document is cut, its `<eos>` is not among the tokens.
        """
        whole = self.stores[split]
        chars = max(1, int(min(_MOST_SCORED, tokens / whole.tokens * whole.text_chars)))
        if whole.text_chars <= chars:
            return whole
        documents = list(_head(self.corpus.documents(split), chars))
        last = documents[-1]
        room = max(1, chars - sum(len(document.text) for document in documents[:-1]))
        if last.tokens is not None or len(last.text) <= room:  # a record that came as tokens is read whole
            return TokenStore.from_documents(self.tokenizer, documents)
        text, _ = next(text_pieces([last.text], room))
        documents[-1] = dataclasses.replace(last, text=text, last=True)
        store = TokenStore.from_documents(self.tokenizer, documents)
        offsets = store.offsets.copy()
        offsets[-1] -= 1
        return dataclasses.replace(store, ids=store.ids[:-1], offsets=offsets, tokens=store.tokens - 1)

    def scored_tokens(self, split: str) -> int:
        """About how many tokens `head` has at most, without encoding anything."""
        whole = self.stores[split]
        return int(whole.tokens * min(1.0, _MOST_SCORED / max(1, whole.text_chars)))

    def _sizes(self) -> dict[str, Any]:
        return {name: self.corpus.sizes[name] for name in SPLITS if name in self.stores}


def open_source(source: Any, settings: DataSettings, reporter: Reporter) -> Corpus:
    """Open a corpus by its name, or what a program holds, showing progress."""
    if not isinstance(source, str | Path):
        with reporter.stage("reading texts"):
            return corpora.open_objects(source, settings)
    source = str(source)
    if encode.is_encoded(source):
        return encode.Encoded.open(Path(source)).corpus()
    with reporter.stage(f"reading {source}") as advance:
        return corpora.open_corpus(source, settings, progress=lambda done, total: advance(done))


def prepare(corpus: Corpus, wanted: Component, reporter: Reporter) -> Prepared:
    """Build the tokenizer from the training split, encode every split, or find both, in the cache or with the text."""
    if corpus.encoded:
        return _encoded_before(encode.Encoded.open(Path(corpus.encoded)), corpus, wanted, reporter)
    if not corpus.sizes["train"].documents:
        raise EmptyDataError(f"{corpus.name} leaves the training split empty ({corpus.rule})", "give it a share")
    folder = disk.cache_dir() / "tokens" / _key(corpus, wanted)
    splits = [split for split in SPLITS if corpus.sizes[split].documents]
    if all((folder / name).is_dir() for name in ("tokenizer", *splits)):  # it may lie where nobody may write
        return _prepared(folder, corpus, wanted, splits, reporter)
    with disk.held(folder, lambda holder: reporter.say(f"waiting for {holder}, which encodes the same text")):
        return _prepared(folder, corpus, wanted, splits, reporter)


def _encoded_before(found: encode.Encoded, corpus: Corpus, wanted: Component, reporter: Reporter) -> Prepared:
    tokenizer, stores = found.tokenizer(wanted), found.stores()
    _tell_coverage(tokenizer, stores, reporter)
    return Prepared(corpus, tokenizer, stores)


def _prepared(folder: Path, corpus: Corpus, wanted: Component, splits: Sequence[str], reporter: Reporter) -> Prepared:
    tokenizer = _find_tokenizer(folder, wanted)
    if tokenizer is None:
        with reporter.stage("building the vocabulary", corpus.sizes["train"].bytes) as advance:
            tokenizer = tokens.build_tokenizer(
                wanted.kind, wanted.settings.dump(), _counted(corpus.documents("train"), advance)
            )
        with disk.atomic_folder(folder / "tokenizer") as beside:
            tokenizer.save(beside)
            disk.write_json(beside / _SUMS, {path.name: [sha256_of(path)] for path in beside.iterdir()})
    stores = {split: _encoded(folder / split, corpus, tokenizer, split, reporter) for split in splits}
    _tell_coverage(tokenizer, stores, reporter)
    return Prepared(corpus, tokenizer, stores)


def _tell_coverage(tokenizer: Tokenizer, stores: Mapping[str, TokenStore], reporter: Reporter) -> None:
    shares = (f"{100 * s.unknown_tokens / max(1, s.tokens):.2g} % of {split}" for split, s in stores.items())
    reporter.say(
        f"{tokenizer.kind} tokenizer: vocabulary {tokenizer.vocab_size:,}; unknown tokens: {', '.join(shares)}"
    )


def _key(corpus: Corpus, wanted: Component) -> str:
    parts = [_KEY_VERSION, corpus.sha256, corpus.rule, wanted.dump()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _find_tokenizer(folder: Path, wanted: Component) -> Tokenizer | None:
    if not (folder / "tokenizer").is_dir():
        return None
    try:
        verified = Verified(folder / "tokenizer", read_json(folder / "tokenizer" / _SUMS, ""), "")
        verified.remember()
        return tokens.load_tokenizer(folder / "tokenizer", wanted.kind, wanted.settings.dump())
    except ArtifactError:
        shutil.rmtree(folder)  # damaged: made anew
        return None


def _encoded(folder: Path, corpus: Corpus, tokenizer: Tokenizer, split: str, reporter: Reporter) -> TokenStore:
    if folder.is_dir():
        try:
            return TokenStore.open(folder)
        except ArtifactError:
            reporter.say(f"the cached tokens in {folder} are damaged; encoding again")
            shutil.rmtree(folder)
    with reporter.stage(f"encoding {split}", corpus.sizes[split].bytes) as advance:
        return TokenStore.build(folder, tokenizer, corpus.documents(split), advance)


def _counted(documents: Iterable[Document], advance: Any) -> Iterable[Document]:
    done = 0
    for document in documents:
        yield document
        done += len(document.text)
        advance(done)


def _head(documents: Iterable[Document], chars: float) -> Iterable[Document]:
    """Documents until they hold so many characters."""
    for document in documents:
        if chars <= 0:
            return
        chars -= len(document.text)
        yield document


def training_batches(tokens: TokenStore, settings: TrainSettings, seed: int) -> Batches:
    """The training split cut as the settings say."""
    from lmlab.tokens.batches import Columns, Lines, Windows

    kind = settings.batching
    if kind == "auto":
        kind = "columns" if tokens.tokens / len(tokens) > _LONG * settings.length else "lines"
    if kind == "columns":
        return Columns(tokens, settings.batch_size, settings.length, seed, restart=settings.restart)
    if kind == "windows":
        return Windows(tokens, settings.batch_size, settings.length, seed)
    return Lines(
        tokens, settings.batch_size, settings.length, seed, budget=settings.batch_tokens, bucket=settings.bucket
    )


def validation_batches(
    tokens: TokenStore | None, batches: Batches, settings: TrainSettings, rows: int = _VALIDATION_ROWS
) -> Epoch | None:
    """The validation split in order: columns for a run in columns, else lines as they come."""
    from lmlab.tokens.batches import Columns, Lines

    if tokens is None:
        return None
    if batches.carries:
        return Columns(tokens, rows, 4 * settings.length, roll=False).epoch(0)
    return Lines(tokens, rows, max(settings.length, 512)).epoch(0)


def whole_texts(documents: Iterable[Document], chars: float = math.inf) -> list[str]:
    """The texts of documents whose pieces follow each other, up to so many characters in all."""
    texts: list[str] = []
    ended, room = True, chars
    for document in _head(documents, chars):
        text = document.text if len(document.text) <= room else document.text[: int(room)]
        texts[len(texts) - (not ended) :] = [text if ended else texts[-1] + text]
        ended, room = document.last, room - len(text)
    return texts


def encode_held_out(
    corpus: Corpus, tokenizer: Tokenizer, split: str, reporter: Reporter, chars: float = math.inf
) -> TokenStore:
    """Encode one split of another text, or about so many characters of it, for evaluation; kept in memory.

    Raises:
        UnknownNameError: there is no such split.
    """
    if split not in corpus.sizes:
        raise UnknownNameError("split", split, corpus.sizes)
    with reporter.stage(f"encoding {corpus.name}", corpus.sizes[split].bytes):
        return TokenStore.from_documents(tokenizer, _head(corpus.documents(split), chars))


def open_again(config: RunConfig, manifest: Mapping[str, Any], reporter: Reporter) -> Corpus:
    """Open the text behind a run.

    Raises:
        UsageError: it came from a program or from standard input, which nothing keeps.
        DataError: it is not what the run was trained on.
    """
    if config.source in (None, IN_HAND):
        raise UsageError("this run's text came from a program, which is not kept", "train from a file, or name a text")
    if config.source == "-":
        raise UsageError("this run's text came from standard input, which is gone", "name a text with --on")
    corpus = open_source(config.source, config.data, reporter)
    before = manifest["data"]["sha256"]
    if corpus.sha256 != before:
        raise DataError(
            f"{corpus.name} is not the text of this run (sha256 {corpus.sha256[:12]}, trained on {before[:12]})",
            "put the old text back, or name a text with --on",
        )
    return corpus
