"""Any source of text -> `Corpus`: the text as it stood, document by document, each in its split.

    corpus = open_corpus("my.txt")                 # a file, a folder, "-", or a named corpus
    corpus.sizes["train"].chars
    for document in corpus.documents("valid"):     # again and again, in bounded memory
        document.text
    corpus = open_objects(["a text", "another"])   # a list, a frame, a data set

The story runs through `raw` (bytes), `reading` (text), `records` (documents), `splits`, `corpus`; `objects` reads what
a program holds; `named`, `download`, `cache` and `stdlib` provide the corpora that have a name. Nothing is imported
before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmlab.corpora.corpus import Corpus, open_corpus, open_objects, open_text
    from lmlab.corpora.document import PIECE_CHARS, Document
    from lmlab.corpora.named import corpus_table
    from lmlab.corpora.settings import DataSettings

__all__ = [
    "PIECE_CHARS",
    "Corpus",
    "DataSettings",
    "Document",
    "corpus_table",
    "open_corpus",
    "open_objects",
    "open_text",
]

_HOMES = {
    "corpus": ("Corpus", "open_corpus", "open_objects", "open_text"),
    "document": ("PIECE_CHARS", "Document"),
    "named": ("corpus_table",),
    "settings": ("DataSettings",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
