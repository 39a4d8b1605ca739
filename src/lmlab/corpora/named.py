"""The corpora that have a name: where they come from, under which licence, and how they are split (`named.toml`).

A file is looked for in `$LMLAB_DATA`, then in the cache, then downloaded. Its SHA-256 is checked wherever we know it;
where we do not, the one of the first download is noted beside it and holds from then on.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmlab.corpora import stdlib
from lmlab.corpora.cache import data_dir, find
from lmlab.corpora.raw import Origin, Progress, file_origin, sliced, zip_origins
from lmlab.corpora.settings import SPLITS, DataSettings
from lmlab.corpora.splits import DEFAULT_SHARES, SplitRule
from lmlab.disk import cache_dir
from lmlab.errors import DataError
from lmlab.integrity import file_sha256


@dataclass(frozen=True)
class CorpusFile:
    """A file of a named corpus."""

    name: str  # in $LMLAB_DATA and in the cache
    sha256: str | None = None  # None where we do not know it
    urls: Sequence[str] = ()  # where it can be had, in order of preference; none: it must be placed by hand
    members: Sequence[tuple[str, str]] = ()  # of a zip file: patterns of what to read, each with its split
    partition: str = ""  # the split that the whole file belongs to, or empty


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus that `open_corpus` knows by name."""

    name: str
    title: str
    licence: str
    rule: SplitRule
    files: tuple[CorpusFile, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)  # settings of its own, where the user gives none
    cuts: Sequence[int] = ()  # where valid and test begin, in bytes of its only text
    group_field: str = ""  # the field of a record whose equal values stay in one split
    by_hand: str = ""  # how to come by its file, where it cannot be downloaded
    made_here: bool = False  # from this machine's Python, by `stdlib`

    def settings(self, asked: DataSettings) -> DataSettings:
        """What the user asks for, and the corpus's own defaults for the rest."""
        plain, own_text = DataSettings(), asked.template is not None or asked.text_field is not None
        free = {name for name in self.defaults if getattr(asked, name) == getattr(plain, name)}
        free -= {"template", "text_field"} if own_text else set()
        return dataclasses.replace(asked, **{name: self.defaults[name] for name in free})


@dataclass(frozen=True)
class CorpusRow:
    """A line of the table of named corpora; `where` is a path, "download", "by hand" or "made on this machine"."""

    name: str
    title: str
    licence: str
    where: str
    rule: str


def corpus_table() -> list[CorpusRow]:
    """Every named corpus, and where it is found now."""
    rows = []
    for corpus in CORPORA.values():
        found = [find(file.name) for file in corpus.files]
        if corpus.made_here:
            where = str(stdlib.made_path()) if stdlib.made_path().is_file() else "made on this machine"
        elif all(found):
            where = ", ".join(map(str, found))
        else:
            where = "by hand" if corpus.by_hand else "download"
        rows.append(CorpusRow(corpus.name, corpus.title, corpus.licence, where, corpus.rule.sentence))
    return rows


def origins(corpus: NamedCorpus, settings: DataSettings, progress: Progress | None = None) -> list[Origin]:
    """The streams of a named corpus, its files downloaded where need be; DataError where one is missing or damaged."""
    if corpus.made_here:
        return [file_origin(stdlib.ensure(), name=f"{corpus.name}.jsonl.gz")]
    streams: list[Origin] = []
    for file in corpus.files:
        path = _locate(corpus, file, progress)
        found = zip_origins(path, file.members) if file.members else [file_origin(path, file.partition, file.name)]
        if not found:
            patterns = ", ".join(pattern for pattern, _ in file.members)
            raise DataError(f"{path} holds none of {patterns}", "remove it, so that it is fetched again")
        streams += found
    if corpus.cuts and settings.split == "auto":
        starts, stops = (0, *corpus.cuts), (*corpus.cuts, None)
        return [sliced(streams[0], *bounds) for bounds in zip(starts, stops, SPLITS, strict=True)]
    return streams


def _locate(corpus: NamedCorpus, file: CorpusFile, progress: Progress | None) -> Path:
    """The path of a file, that is downloaded if it is not found, and checked."""
    path = find(file.name)
    if path is None and not file.urls:
        places = f"in {cache_dir()}" + (f" or {data_dir()}" if data_dir() else ", or in a folder that LMLAB_DATA names")
        raise DataError(f"{corpus.name} cannot be downloaded ({corpus.by_hand})", f"place {file.name} {places}")
    target = cache_dir() / file.name
    noted = target.with_name(target.name + ".sha256")
    known = file.sha256 or (noted.read_text(encoding="ascii").strip() if noted.is_file() else None)
    if path is None:
        from lmlab.corpora.download import download  # imports the network's libraries

        found = download(file.urls, target, known, progress=progress)
        if file.sha256 is None:
            noted.write_text(found + "\n", encoding="ascii")
        return target
    if known is not None and (file.sha256 or path == target) and file_sha256(path) != known:
        raise DataError(f"{path} is not the file of {corpus.name} (its sha256 is not {known})", "remove or replace it")
    return path


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(held) for key, held in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _read_table() -> dict[str, NamedCorpus]:
    corpora = {}
    for name, row in _frozen(tomllib.loads(Path(__file__).with_name("named.toml").read_text(encoding="utf-8"))).items():
        rule = SplitRule(row.pop("shares", DEFAULT_SHARES), sentence=row.pop("rule"))
        files = tuple(CorpusFile(**file) for file in row.pop("files", ()))
        corpora[name] = NamedCorpus(name, rule=rule, files=files, **row)
    return corpora


CORPORA = _read_table()
