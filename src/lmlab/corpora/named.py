"""The corpora that have a name: where they come from, under which licence, and how they are split.

A file is looked for in `$LMLAB_DATA`, then in the cache, then downloaded. Its SHA-256 is checked wherever we know it;
where we do not, the one of the first download is noted beside it and holds from then on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmlab.corpora import stdlib
from lmlab.corpora.cache import cache_dir, data_dir, file_sha256, find
from lmlab.corpora.raw import Origin, file_origin, sliced, zip_origins
from lmlab.corpora.settings import DataSettings
from lmlab.corpora.splits import SPLITS, SplitRule, shares_in_words
from lmlab.errors import DataError

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class CorpusFile:
    """A file of a named corpus."""

    name: str  # in $LMLAB_DATA and in the cache
    sha256: str | None = None  # None where we do not know it
    urls: tuple[str, ...] = ()  # where it can be had, in order of preference; none: it must be placed by hand
    members: tuple[tuple[str, str], ...] = ()  # of a zip file: patterns of what to read, each with its split
    partition: str = ""  # the split that the whole file belongs to, or empty


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus that `open_corpus` knows by name."""

    name: str
    title: str
    licence: str
    rule: SplitRule
    files: tuple[CorpusFile, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()  # settings of its own, where the user gives none
    cuts: tuple[int, ...] = ()  # where valid and test begin, in bytes of its only text
    group_field: str = ""  # the field of a record whose equal values stay in one split
    by_hand: str = ""  # how to come by its file, where it cannot be downloaded
    make: Callable[[], Path] | None = None  # makes its file on this machine
    made_path: Callable[[], Path] | None = None  # where `make` puts it

    def settings(self, asked: DataSettings) -> DataSettings:
        """What the user asks for, and the corpus's own defaults for the rest."""
        plain = DataSettings()
        own_text = asked.template is not None or asked.text_field is not None
        chosen = {
            name: value
            for name, value in self.defaults
            if getattr(asked, name) == getattr(plain, name) and not (own_text and name in ("template", "text_field"))
        }
        return dataclasses.replace(asked, **chosen)


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
        if corpus.made_path is not None:
            where = str(corpus.made_path()) if corpus.made_path().is_file() else "made on this machine"
        elif all(found):
            where = ", ".join(map(str, found))
        else:
            where = "by hand" if corpus.by_hand else "download"
        rows.append(CorpusRow(corpus.name, corpus.title, corpus.licence, where, corpus.rule.sentence))
    return rows


def origins(corpus: NamedCorpus, settings: DataSettings, progress: Progress | None = None) -> list[Origin]:
    """The streams of a named corpus, its files downloaded where need be.

    Raises:
        DownloadError: a file cannot be fetched or is not the one expected.
        DataError: a file must be placed by hand, or lies there damaged.
    """
    if corpus.make is not None:
        return [file_origin(corpus.make(), name=f"{corpus.name}.jsonl.gz")]
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


_GITHUB = "https://raw.githubusercontent.com"
_HUB = "https://huggingface.co/datasets"
_MAHONEY = "mattmahoney.net/dc"
_TINYSHAKESPEARE = CorpusFile(
    "tinyshakespeare.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    (f"{_GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
)
_AG_NEWS = f"{_GITHUB}/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"
_AG_NEWS_LICENCE = "non-commercial use (AG's corpus of news articles)"
_AG_NEWS_DEFAULTS = (("columns", ("class", "title", "description")), ("template", "{title} ; {description}"))
_AG_NEWS_TRAIN, _AG_NEWS_TEST = (
    CorpusFile(f"ag_news_{part}.csv", sha256, (f"{_AG_NEWS}/{part}.csv",))
    for part, sha256 in (
        ("train", "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e"),
        ("test", "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699"),
    )
)
_WIKITEXT = CorpusFile(
    "wikitext-2-raw-v1.zip",
    "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
    (f"{_HUB}/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip", "https://wikitext.smerity.com/wikitext-2-raw-v1.zip"),
    members=tuple((f"wikitext-2-raw/wiki.{split}.raw", split) for split in SPLITS),
)
_CODESEARCHNET = CorpusFile(
    "codesearchnet-python.zip",
    urls=(
        f"{_HUB}/code-search-net/code_search_net/resolve/main/data/python.zip",
        "https://s3.amazonaws.com/code-search-net/CodeSearchNet/v2/python.zip",
    ),
    members=tuple((f"python/final/jsonl/{split}/*.jsonl.gz", split) for split in SPLITS),
)
_BY_HASH = SplitRule(sentence=f"by hash of each document's content: {shares_in_words(SplitRule().shares)}")


def _of_mahoney(name: str, title: str, sha256: str) -> NamedCorpus:
    """One of the two texts of 100 MB whose splits are customary."""
    urls = tuple(f"{scheme}://{_MAHONEY}/{name}.zip" for scheme in ("https", "http"))
    rule = SplitRule(sentence="by position: 90 MB train, 5 MB valid, 5 MB test")
    file = CorpusFile(f"{name}.zip", sha256, urls, members=((name, ""),))
    return NamedCorpus(name, title, "CC BY-SA 3.0", rule, (file,), cuts=(90_000_000, 95_000_000))


_TABLE = (
    NamedCorpus(
        "tinyshakespeare",
        "a million characters of Shakespeare's plays",
        "public domain",
        SplitRule(sentence="by position: first 85 % train, next 5 % valid, last 10 % (from 1,003,854 on) test"),
        (_TINYSHAKESPEARE,),
        cuts=(948_084, 1_003_854),
    ),
    NamedCorpus(
        "ag_news",
        "127,600 news items: title and description",
        _AG_NEWS_LICENCE,
        SplitRule((0.95, 0.05, 0.0), sentence="its own test file; of the train file 5 % valid, by hash"),
        (_AG_NEWS_TRAIN, dataclasses.replace(_AG_NEWS_TEST, partition="test")),
        _AG_NEWS_DEFAULTS,
    ),
    NamedCorpus(
        "ag_news_test",
        "the 7,600 news items of ag_news's test file alone",
        _AG_NEWS_LICENCE,
        _BY_HASH,
        (_AG_NEWS_TEST,),
        _AG_NEWS_DEFAULTS,
    ),
    NamedCorpus(
        "wikitext-2",
        "two million words of Wikipedia's good articles, raw",
        "CC BY-SA 3.0",
        SplitRule(sentence="its own files"),
        (_WIKITEXT,),
    ),
    _of_mahoney(
        "text8",
        "100 MB of Wikipedia as a-z and spaces",
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    ),
    _of_mahoney(
        "enwik8",
        "100 MB of Wikipedia's XML dump of 2006",
        "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    ),
    NamedCorpus(
        "codesearchnet-python",
        "460,000 documented Python functions as tokens",
        "that of each repository it was collected from",
        SplitRule(sentence="its own partition, by repository"),
        (_CODESEARCHNET,),
        defaults=(("text_field", "code_tokens"),),
        group_field="repo",
    ),
    NamedCorpus(
        "arxiv",
        "titles and abstracts of arXiv's papers",
        "CC0 (metadata)",
        _BY_HASH,
        (CorpusFile("arxiv-metadata-oai-snapshot.json"),),
        defaults=(("template", "{title} ; {abstract}"),),
        by_hand="Kaggle's Cornell-University/arxiv asks for an account",
    ),
    NamedCorpus(
        "python-stdlib",
        "the functions of this machine's Python standard library as tokens",
        "PSF-2.0",
        SplitRule(sentence=f"by hash of the module: {shares_in_words(stdlib.SHARES)}"),
        defaults=(("text_field", "code_tokens"),),
        group_field="path",
        make=stdlib.ensure,
        made_path=stdlib.made_path,
    ),
)

CORPORA = {corpus.name: corpus for corpus in _TABLE}
