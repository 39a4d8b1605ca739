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
class Part:
    """One file of a named corpus.

    Attributes:
        file: its name in `$LMLAB_DATA` and in the cache.
        urls: where it can be had, in order of preference; none: it must be placed by hand.
        sha256: of the file, None where we do not know it.
        members: of a zip file, patterns of the members to read, each with the split they belong to.
        partition: the split that the whole file belongs to, or empty.
    """

    file: str
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    members: tuple[tuple[str, str], ...] = ()
    partition: str = ""


@dataclass(frozen=True)
class NamedCorpus:
    """A corpus that `open_corpus` knows by name.

    Attributes:
        name: what the user types.
        title: what it is, in a line.
        licence: under which it may be used.
        parts: its files.
        rule: how it is split.
        defaults: settings of its own, where the user gives none.
        cuts: where valid and test begin, in bytes of its only text.
        group_field: the field of a record whose equal values stay in one split.
        by_hand: how to come by its file, where it cannot be downloaded.
        make: makes its file on this machine.
        made_path: where `make` puts it.
    """

    name: str
    title: str
    licence: str
    parts: tuple[Part, ...]
    rule: SplitRule
    defaults: tuple[tuple[str, Any], ...] = ()
    cuts: tuple[int, ...] = ()
    group_field: str = ""
    by_hand: str = ""
    make: Callable[[], Path] | None = None
    made_path: Callable[[], Path] | None = None

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
    return [
        CorpusRow(corpus.name, corpus.title, corpus.licence, _where(corpus), corpus.rule.sentence)
        for corpus in CORPORA.values()
    ]


def _where(corpus: NamedCorpus) -> str:
    if corpus.made_path is not None:
        return str(corpus.made_path()) if corpus.made_path().is_file() else "made on this machine"
    found = [find(part.file) for part in corpus.parts]
    if all(found):
        return ", ".join(str(path) for path in found)
    return "by hand" if corpus.by_hand else "download"


def origins(corpus: NamedCorpus, settings: DataSettings, progress: Progress | None = None) -> list[Origin]:
    """The streams of a named corpus, its files fetched where need be.

    Raises:
        DownloadError: a file cannot be fetched or is not the one expected.
        DataError: a file must be placed by hand, or lies there damaged.
    """
    if corpus.make is not None:
        return [file_origin(corpus.make(), name=f"{corpus.name}.jsonl.gz")]
    streams = [stream for part in corpus.parts for stream in _streams(part, _locate(corpus, part, progress))]
    if corpus.cuts and settings.split == "auto":
        bounds = (0, *corpus.cuts, None)
        return [
            sliced(streams[0], start or 0, stop, split)
            for start, stop, split in zip(bounds[:-1], bounds[1:], SPLITS, strict=True)
        ]
    return streams


def _streams(part: Part, path: Path) -> list[Origin]:
    if not part.members:
        return [file_origin(path, part.partition, part.file)]
    found = zip_origins(path, part.members)
    if not found:
        patterns = ", ".join(pattern for pattern, _ in part.members)
        raise DataError(f"{path} holds none of {patterns}", "remove it, so that it is fetched again")
    return found


def _locate(corpus: NamedCorpus, part: Part, progress: Progress | None) -> Path:
    path = find(part.file)
    if path is None and not part.urls:
        places = f"in {cache_dir()}" + (f" or {data_dir()}" if data_dir() else ", or in a folder that LMLAB_DATA names")
        raise DataError(f"{corpus.name} cannot be downloaded ({corpus.by_hand})", f"place {part.file} {places}")
    target = cache_dir() / part.file
    noted = target.with_name(target.name + ".sha256")
    known = part.sha256 or (noted.read_text(encoding="ascii").strip() if noted.is_file() else None)
    if path is None:
        from lmlab.corpora.download import download  # brings the network's libraries along

        found = download(part.urls, target, known, progress=progress)
        if part.sha256 is None:
            noted.write_text(found + "\n", encoding="ascii")
        return target
    if known is not None and (part.sha256 or path == target) and file_sha256(path) != known:
        raise DataError(f"{path} is not the file of {corpus.name} (its sha256 is not {known})", "remove or replace it")
    return path


_AG_NEWS = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv"
_AG_NEWS_TEST = Part(
    "ag_news_test.csv",
    (f"{_AG_NEWS}/test.csv",),
    "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
)
_AG_NEWS_DEFAULTS = (("columns", ("class", "title", "description")), ("template", "{title} ; {description}"))
_BY_HASH = SplitRule(sentence=f"by hash of each document's content: {shares_in_words(SplitRule().shares)}")

_TABLE = (
    NamedCorpus(
        name="tinyshakespeare",
        title="a million characters of Shakespeare's plays",
        licence="public domain",
        parts=(
            Part(
                "tinyshakespeare.txt",
                ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
        rule=SplitRule(sentence="by position: first 85 % train, next 5 % valid, last 10 % (from 1,003,854 on) test"),
        cuts=(948_084, 1_003_854),
    ),
    NamedCorpus(
        name="ag_news",
        title="127,600 news items: title and description",
        licence="non-commercial use (AG's corpus of news articles)",
        parts=(
            Part(
                "ag_news_train.csv",
                (f"{_AG_NEWS}/train.csv",),
                "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e",
            ),
            dataclasses.replace(_AG_NEWS_TEST, partition="test"),
        ),
        rule=SplitRule((0.95, 0.05, 0.0), sentence="its own test file; of the train file 5 % valid, by hash"),
        defaults=_AG_NEWS_DEFAULTS,
    ),
    NamedCorpus(
        name="ag_news_test",
        title="the 7,600 news items of ag_news's test file alone",
        licence="non-commercial use (AG's corpus of news articles)",
        parts=(_AG_NEWS_TEST,),
        rule=_BY_HASH,
        defaults=_AG_NEWS_DEFAULTS,
    ),
    NamedCorpus(
        name="wikitext-2",
        title="two million words of Wikipedia's good articles, raw",
        licence="CC BY-SA 3.0",
        parts=(
            Part(
                "wikitext-2-raw-v1.zip",
                (
                    "https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip",
                    "https://wikitext.smerity.com/wikitext-2-raw-v1.zip",
                ),
                "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
                tuple((f"wikitext-2-raw/wiki.{split}.raw", split) for split in SPLITS),
            ),
        ),
        rule=SplitRule(sentence="its own files"),
    ),
    NamedCorpus(
        name="text8",
        title="100 MB of Wikipedia as a-z and spaces",
        licence="CC BY-SA 3.0",
        parts=(
            Part(
                "text8.zip",
                ("https://mattmahoney.net/dc/text8.zip", "http://mattmahoney.net/dc/text8.zip"),
                "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
                (("text8", ""),),
            ),
        ),
        rule=SplitRule(sentence="by position: 90 MB train, 5 MB valid, 5 MB test"),
        cuts=(90_000_000, 95_000_000),
    ),
    NamedCorpus(
        name="enwik8",
        title="100 MB of Wikipedia's XML dump of 2006",
        licence="CC BY-SA 3.0",
        parts=(
            Part(
                "enwik8.zip",
                ("https://mattmahoney.net/dc/enwik8.zip", "http://mattmahoney.net/dc/enwik8.zip"),
                "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
                (("enwik8", ""),),
            ),
        ),
        rule=SplitRule(sentence="by position: 90 MB train, 5 MB valid, 5 MB test"),
        cuts=(90_000_000, 95_000_000),
    ),
    NamedCorpus(
        name="codesearchnet-python",
        title="460,000 documented Python functions as tokens",
        licence="that of each repository it was collected from",
        parts=(
            Part(
                "codesearchnet-python.zip",
                (
                    "https://huggingface.co/datasets/code-search-net/code_search_net/resolve/main/data/python.zip",
                    "https://s3.amazonaws.com/code-search-net/CodeSearchNet/v2/python.zip",
                ),
                members=tuple((f"python/final/jsonl/{split}/*.jsonl.gz", split) for split in SPLITS),
            ),
        ),
        rule=SplitRule(sentence="its own partition, by repository"),
        defaults=(("text_field", "code_tokens"),),
        group_field="repo",
    ),
    NamedCorpus(
        name="arxiv",
        title="titles and abstracts of arXiv's papers",
        licence="CC0 (metadata)",
        parts=(Part("arxiv-metadata-oai-snapshot.json"),),
        rule=_BY_HASH,
        defaults=(("template", "{title} ; {abstract}"),),
        by_hand="Kaggle's Cornell-University/arxiv asks for an account",
    ),
    NamedCorpus(
        name="python-stdlib",
        title="the functions of this machine's Python standard library as tokens",
        licence="PSF-2.0",
        parts=(),
        rule=SplitRule(sentence=f"by hash of the module: {shares_in_words(stdlib.SHARES)}"),
        defaults=(("text_field", "code_tokens"),),
        group_field="path",
        make=stdlib.ensure,
        made_path=stdlib.made_path,
    ),
)

CORPORA = {corpus.name: corpus for corpus in _TABLE}
