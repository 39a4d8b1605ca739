"""Encoding by shards: parts of a text become ids apart, by any `concurrent.futures.Executor`, and are laid end to end.

    encoded.json         which texts, how they were read and split, by which tokenizer, what came out; its own SHA-256
    tokenizer/           as a tokenizer saves itself
    train/ valid/ test/  the ids of every split that holds documents (`lmlab.tokens.id_store`)

A shard's folder looks as the whole one. The whole one is that of one process, byte for byte, whatever the number of
shards, and the ids are those that `lmlab train` makes of the text. `lmlab train FOLDER` reads them in place of the
text, which is read again only where spelled text is wanted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lmlab import disk, store, tokens
from lmlab.corpora import DataSettings, raw
from lmlab.corpora.corpus import Corpus, SplitSize, empty_splits, open_part
from lmlab.corpora.document import Document
from lmlab.corpora.settings import SPLITS
from lmlab.corpora.splits import SplitRule, choose_rule
from lmlab.errors import ArtifactError, DataError, RunExistsError, SettingError, UsageError, shown
from lmlab.facade import sharding
from lmlab.integrity import json_sum, read_json, sha256_of, signed, unsigned
from lmlab.progress import Reporter, default_reporter
from lmlab.run_config import Component, RunConfig, from_tables
from lmlab.tokens.base import Tokenizer
from lmlab.tokens.id_store import TokenStore

FORMAT = 1
ABOUT, TOKENIZER = "encoded.json", "tokenizer"
_OWN_SUM = "sha256"
_AGAIN = "encode it again"
_STREAMED = 64 << 20  # bytes of text read at a time where its documents are wanted once more


@dataclass(frozen=True)
class Part:
    """Some documents of a text that are encoded together.

    Attributes:
        texts: files and addresses, as they were named.
        here: the folder that their names start from.
        number: which part it is, from 1 on.
        of: how many there are.
        data: how the text is read and split.
    """

    texts: tuple[str, ...]
    here: str
    number: int
    of: int
    data: DataSettings

    @property
    def name(self) -> str:
        """What tables call the text."""
        return ", ".join(Path(text).name for text in self.texts)

    def corpus(self) -> Corpus:
        """Its documents, each in its split."""
        origins = raw.shard(self.texts, Path(self.here), self.number, self.of, self._whole)
        return open_part(self.name, origins, self.data)

    def _whole(self, name: str) -> bool:
        """Whether a file cannot be cut at lines: one document, or records of which the first lines tell."""
        unit, kind = self.data.unit, raw.kind_of(name)
        return unit == "document" or not (unit == "line" or kind == "jsonl" or (unit == "record" and kind == "text"))

    def stamps(self) -> dict[str, Any]:
        """What tells that the texts are as they were."""
        return sharding.stamps(self.texts, Path(self.here))

    def small(self) -> Iterator[Part]:
        """All of the text in parts that are quick to read, in order."""
        many = 1 + sum(size for _, size in self.stamps()["texts"]) // _STREAMED
        return (replace(self, number=number, of=many) for number in range(1, many + 1))


class EncodedCorpus(Corpus):
    """A text that is encoded already; its documents are read from where it lies, as often as they are wanted."""

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of a split, in order."""
        part = Encoded.open(Path(self.encoded or "")).part()
        for each in part.small():
            yield from each.corpus().documents(split)

    def text(self, split: str, max_bytes: int | None = None) -> bytes:
        """The raw bytes of a split, a newline between documents; at most `max_bytes`, the last ones."""
        part, found, room = Encoded.open(Path(self.encoded or "")).part(), b"", max_bytes
        for each in reversed(list(part.small())):
            more = each.corpus().text(split, room)
            found = more + b"\n" * bool(more and found) + found
            if max_bytes is not None and (room := max_bytes - len(found)) <= 0:
                return found[-max_bytes:]
        return found


class Encoded(NamedTuple):
    """A folder of encoded text, or of a shard of one.

    Attributes:
        folder: where it lies.
        about: what is in it.
    """

    folder: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Encoded:
        """Read what tells about it; ids are checked where they are opened.

        Raises:
            ArtifactError: it holds no encoded text, or is of another format, or damaged.
        """
        if not (folder / ABOUT).is_file():
            raise ArtifactError(f"{folder} holds no encoded text", "make it by `lmlab encode`")
        about = unsigned(folder / ABOUT, read_json(folder / ABOUT, _AGAIN), _OWN_SUM, _AGAIN)
        if about.get("format") != FORMAT:
            problem = f"{folder} has format {shown(about.get('format'))} of ids, but this version reads {FORMAT}"
            raise ArtifactError(problem, "encode it again, or install the version that wrote it")
        if not _is_sound(about):
            raise ArtifactError(f"{folder / ABOUT} is damaged (it lacks what belongs there)", _AGAIN)
        return cls(folder, about)

    @property
    def text(self) -> str:
        """The names of the texts."""
        return ", ".join(Path(name).name for name, _ in self.about["texts"])

    def part(self) -> Part:
        """All of its text.

        Raises:
            DataError: it is not as it was.
        """
        data = DataSettings.make(self.about["settings"]["data"], "data")
        part = Part(tuple(name for name, _ in self.about["texts"]), self.about["here"], 1, 1, data)
        now = part.stamps()
        if any(now[name] != self.about[name] for name in now):
            raise DataError(f"the text {self.text} has changed since it was encoded into {self.folder}", _AGAIN)
        return part

    def tokenizer(self, wanted: Component | None = None) -> Tokenizer:
        """What encoded it.

        Raises:
            ArtifactError: it is damaged.
            UsageError: it is not what is wanted.
        """
        was = self.about["settings"]["tokenizer"]
        if wanted is not None and _as_kept(wanted.dump()) != was:
            problem = f"{self.folder} was encoded with {was}, not with {wanted.dump()}"
            raise UsageError(problem, "name that tokenizer, or encode the text again")
        for name, sum_ in self.about["settings"]["vocabulary"].items():
            if sha256_of(self.folder / TOKENIZER / name) != sum_:
                raise ArtifactError(f"{self.folder / TOKENIZER / name} is damaged (not what was written)", _AGAIN)
        told = dict(self.about["settings"]["tokenizer"])
        return tokens.load_tokenizer(self.folder / TOKENIZER, told.pop("kind"), told)

    def stores(self) -> dict[str, TokenStore]:
        """The ids of every split.

        Raises:
            ArtifactError: some are missing or damaged.
        """
        found = {split: TokenStore.open(self.folder / split) for split in self.about["ids"]}
        for split, ids in found.items():
            if ids.sha256 != self.about["ids"][split]:
                raise ArtifactError(f"{self.folder / split} is damaged (the ids of some other text)", _AGAIN)
        return found

    def corpus(self) -> Corpus:
        """The text as `lmlab.train` wants it."""
        if self.about["shard"] != [1, 1]:
            number, of = self.about["shard"]
            problem = f"{self.folder} is shard {number} of {of} of {self.text}, not all of it"
            raise UsageError(problem, "join all: lmlab encode SHARDS... -o FOLDER")
        sizes = {split: SplitSize(*sizes) for split, sizes in self.about["sizes"].items()}
        sizes["all"] = SplitSize(*map(sum, zip(*self.about["sizes"].values(), strict=True)))
        rule, skipped = self.about["rule"], self.about["skipped"]
        return EncodedCorpus(
            self.text, json_sum(self.about["ids"]), rule, False, skipped, sizes, None, str(self.folder)
        )


def _is_sound(about: dict[str, Any]) -> bool:
    match about:
        case {
            "here": str(),
            "texts": list(texts),
            "changed": list(changed),
            "shard": [int(number), int(of)],
            "settings": {"data": dict(), "tokenizer": {"kind": str()}, "vocabulary": dict(vocabulary)},
            "sizes": dict(sizes),
            "skipped": int(),
            "rule": str(),
            "ids": dict(ids),
        }:
            sound = 1 <= number <= of and len(texts) == len(changed) and sizes.keys() == set(SPLITS) >= ids.keys()
            sound = sound and all(_kinds(text) == [str, int] for text in texts)
            return (
                sound and all(_kinds(size) == [int] * 3 for size in sizes.values()) and all(map(_is_name, vocabulary))
            )
    return False


def _kinds(values: object) -> list[type] | None:
    return list(map(type, values)) if isinstance(values, list) else None


def _is_name(name: str) -> bool:
    return Path(name).name == name


def _as_kept(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def is_encoded(source: object) -> bool:
    """Whether a source is a folder of encoded text."""
    return isinstance(source, str | Path) and os.path.isfile(Path(source, ABOUT))  # False of a name that cannot be


def as_encoded(named: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run on encoded text, with those that it was encoded with.

    Raises:
        UsageError: others are named.
    """
    settings = Encoded.open(Path(named["source"])).about["settings"]
    made = from_tables({group: settings[group] for group in ("data", "tokenizer")})
    for path in named.keys() & made.keys():
        kind = {"tokenizer.kind": made["tokenizer.kind"]} if path.startswith("tokenizer.") else {}
        asked = _as_kept(from_tables(RunConfig.build({**kind, path: named[path]}).dump())[path])
        if asked != made[path]:
            raise UsageError(f"{named['source']} was encoded with {path} {made[path]}, not {asked}", "leave it out")
    if odd := [path for path in named if path.startswith(("data.", "tokenizer.")) and path not in made]:
        raise UsageError(f"{named['source']} was encoded without {odd[0]}", "leave it out")
    return {**named, **made}


# ---- tasks


def encode_part(part: Part, vocabulary: Path, wanted: Component, folder: Path) -> bool:
    """Encode a part into a folder, unless its ids lie there already, whole; returns whether it had to be encoded.

    Args:
        part: what to encode.
        vocabulary: the folder of the tokenizer.
        wanted: its kind and settings.
        folder: where the ids go; what other encoded text is there is replaced.

    Raises:
        RunExistsError: there is something else.
        EmptyDataError: it is all of a text, and leaves a split empty.
    """
    sums = {path.name: sha256_of(path) for path in sorted(vocabulary.iterdir())}
    settings = _as_kept({"data": part.data.dump(), "tokenizer": wanted.dump(), "vocabulary": sums})
    about = {"here": part.here, "shard": [part.number, part.of], **part.stamps(), "settings": settings}
    if _holds(folder, about):
        return False
    if disk.exists(folder) and not (folder / ABOUT).is_file():
        raise RunExistsError(folder)
    corpus = part.corpus()
    tokenizer = tokens.load_tokenizer(vocabulary, wanted.kind, wanted.settings.dump())
    with disk.atomic_folder(folder, overwrite=True) as beside:
        shutil.copytree(vocabulary, beside / TOKENIZER)
        stores = {
            split: TokenStore.build(beside / split, tokenizer, corpus.documents(split))
            for split in SPLITS
            if corpus.sizes[split].documents
        }
        sizes = {split: list(vars(corpus.sizes[split]).values()) for split in SPLITS}
        _finish(beside, part.name, about | {"sizes": sizes, "skipped": corpus.skipped, "rule": corpus.rule}, stores)
    return True


def _holds(folder: Path, about: dict[str, Any]) -> bool:
    try:
        found = Encoded.open(folder)
        return about.items() <= found.about.items() and bool(found.tokenizer()) and found.stores() is not None
    except ArtifactError:
        return False


def _finish(folder: Path, name: str, about: dict[str, Any], stores: Mapping[str, TokenStore]) -> None:
    """Write what tells about a folder; of a whole text no split may lack what it should have."""
    rule = choose_rule(DataSettings.make(about["settings"]["data"], "data"), SplitRule())
    lacking = [split for split, share in zip(SPLITS, rule.shares, strict=True) if share > 0 and split not in stores]
    if about["shard"] == [1, 1] and lacking:
        raise empty_splits(name, lacking, about["rule"])
    about |= {"format": FORMAT, "ids": {split: ids.sha256 for split, ids in stores.items()}}
    disk.write_json(folder / ABOUT, signed(dict(sorted(about.items())), _OWN_SUM))


# ---- the process that asks


def encode(
    *sources: str | Path,
    out: str | Path,
    like: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    shards: int | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Encode a text into a folder that `lmlab.train` takes for it, in one process or many.

    Args:
        *sources: text files, a folder, or addresses; or the folders of all shards of a text, to be joined.
        out: the folder to write.
        like: encoded text, or a model, whose tokenizer is taken; None makes one from the training split.
        shard: encode this part of so many alone, `(2, 4)`.
        shards: encode so many parts apart, and join them.
        executor: runs the shards, as for `lmlab.estimate`; None is a process a core.
        overwrite: whether encoded text that is at `out` is replaced.
        reporter: shows progress; None draws a bar in a terminal.
        settings: of the text and the tokenizer by path, `{"tokenizer.kind": "bpe", "data.unit": "line"}`.

    Raises:
        LmlabError: see `lmlab.errors`.
    """
    reporter, out = reporter or default_reporter(), Path(out)
    if disk.exists(out) and shard is None and not (overwrite and (out / ABOUT).is_file()):
        raise RunExistsError(out)
    if any(map(is_encoded, sources)):
        return _joined([Encoded.open(Path(source)) for source in sources], out, reporter)
    config = RunConfig.build(dict(settings or {}))
    number, of = shard or (1, 1 if shards is None else shards)
    parts = _parts(sources, config.data, of)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(sharding.work_folder(out if shards else None, "shards"))
        wanted = _vocabulary(work / TOKENIZER, parts[0], config, like, reporter)
        if shard or shards is None:
            with reporter.stage(f"encoding {parts[0].name}"):
                if not encode_part(parts[number - 1], work / TOKENIZER, wanted, out):
                    reporter.say(f"{out} was encoded before")
            return out
        executor = executor or stack.enter_context(sharding.processes())
        folders = [work / f"ids-{part.number}" for part in parts]
        calls = [(part, work / TOKENIZER, wanted, folder) for part, folder in zip(parts, folders, strict=True)]
        done = sharding.all_done(executor, reporter, "encoding", encode_part, calls)
        if kept := done.count(False):
            reporter.say(f"{kept} of {of} shards were encoded before")
        return _joined([Encoded.open(folder) for folder in folders], out, reporter)


def _parts(sources: Sequence[str | Path], data: DataSettings, of: int) -> list[Part]:
    of = sharding.checked(of)
    if data.limit is not None:
        raise SettingError("limit", data.limit, "none where a text is encoded by itself", "cut the text")
    texts = list(map(str, sources))
    if not texts or "-" in texts:
        raise UsageError("standard input cannot be encoded by itself", "write it to a file, and name that")
    if len(texts) == 1 and Path(texts[0]).is_dir():
        data = replace(data, unit="document" if data.unit == "auto" else data.unit)
        texts = [str(path) for path in raw.folder_files(Path(texts[0]), data.unit)[0]]
    parts = [Part(tuple(texts), os.getcwd(), number, of, data) for number in range(1, of + 1)]
    raw.shard(texts, Path.cwd(), 1, of)  # what cannot be read is told before work begins
    return parts


def _vocabulary(folder: Path, part: Part, config: RunConfig, like: str | Path | None, reporter: Reporter) -> Component:
    """Put a tokenizer into a folder; returns its kind and settings."""
    wanted = config.tokenizer
    if like is not None and is_encoded(like):
        encoded = Encoded.open(Path(like))
        tokenizer = encoded.tokenizer()
        wanted = RunConfig.build(from_tables({"tokenizer": encoded.about["settings"]["tokenizer"]})).tokenizer
    elif like is not None:
        described = store.read_description(Path(like))
        tokenizer, wanted = described.tokenizer, described.config.tokenizer
    else:
        documents = (document for each in part.small() for document in each.corpus().documents("train"))
        with reporter.stage("building the vocabulary"):
            tokenizer = tokens.build_tokenizer(wanted.kind, wanted.settings.dump(), documents)
    disk.discard(folder)
    with disk.atomic_folder(folder) as beside:
        tokenizer.save(beside)
    return wanted


def _joined(parts: Sequence[Encoded], out: Path, reporter: Reporter) -> Path:
    """All shards of a text laid end to end."""
    parts = sharding.in_order(parts, "encode")
    about: dict[str, Any] = {"here": parts[0].about["here"], "shard": [1, 1], "settings": parts[0].about["settings"]}
    first = [part for part in parts if part.about["shard"][0] == 1]
    about |= {name: [each for part in first for each in part.about[name]] for name in ("texts", "changed")}
    about["skipped"] = sum(part.about["skipped"] for part in parts)
    about["sizes"] = {
        split: list(map(sum, zip(*(part.about["sizes"][split] for part in parts), strict=True))) for split in SPLITS
    }
    rules = {part.about["rule"]: None for part in parts if any(map(sum, part.about["sizes"].values()))}
    about["rule"] = min(rules, key=len, default=parts[0].about["rule"])
    with reporter.stage("joining", len(parts), " shards"), disk.atomic_folder(out, overwrite=True) as beside:
        parts[0].tokenizer()
        shutil.copytree(parts[0].folder / TOKENIZER, beside / TOKENIZER)
        opened = [part.stores() for part in parts]
        stores = {
            split: TokenStore.join(beside / split, [ids[split] for ids in opened if split in ids])
            for split in SPLITS
            if any(split in ids for ids in opened)
        }
        _finish(beside, parts[0].text, about, stores)
    return out
