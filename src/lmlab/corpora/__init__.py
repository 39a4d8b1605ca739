"""Any source of text -> `Corpus`: the text as it stood, document by document, each in its split.

    corpus = open_corpus("my.txt")                 # a file, a folder, "-", or a named corpus
    corpus.sizes["train"].chars
    for document in corpus.documents("valid"):     # again and again, in bounded memory
        document.text

The story runs through `raw` (bytes), `records` (text and documents), `splits`, `corpus`; `named`, `download`, `cache`
and `stdlib` provide the corpora that have a name. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmlab.corpora.cache import cache_dir
    from lmlab.corpora.corpus import Corpus, SplitSize, open_corpus, open_text
    from lmlab.corpora.document import PIECE_CHARS, Document
    from lmlab.corpora.named import CorpusRow, NamedCorpus, corpus_table
    from lmlab.corpora.settings import DataSettings

__all__ = [
    "PIECE_CHARS",
    "Corpus",
    "CorpusRow",
    "DataSettings",
    "Document",
    "NamedCorpus",
    "SplitSize",
    "cache_dir",
    "corpus_table",
    "open_corpus",
    "open_text",
]

_HOME = {
    "PIECE_CHARS": "document",
    "Corpus": "corpus",
    "CorpusRow": "named",
    "DataSettings": "settings",
    "Document": "document",
    "NamedCorpus": "named",
    "SplitSize": "corpus",
    "cache_dir": "cache",
    "corpus_table": "named",
    "open_corpus": "corpus",
    "open_text": "corpus",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
