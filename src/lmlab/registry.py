"""Names to classes, resolved only when asked for.

`resolve("model", "lstm")` imports `lmlab.models.neural.rnn` and returns its `LSTM`. Other packages add names through
the entry-point groups `lmlab.models` and `lmlab.tokens`.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from lmlab.errors import UnknownNameError

_BUILT_IN = {
    "model": {
        "ngram": "lmlab.models.ngram:Ngram",
        "cache": "lmlab.models.cache:Cache",
        "cnn": "lmlab.models.neural.cnn:CNN",
        "rnn": "lmlab.models.neural.rnn:RNN",
        "lstm": "lmlab.models.neural.rnn:LSTM",
        "gru": "lmlab.models.neural.rnn:GRU",
        "transformer": "lmlab.models.neural.transformer:Transformer",
        "uniform": "lmlab.models.toy:Uniform",
        "scripted": "lmlab.models.toy:Scripted",
        "mixture": "lmlab.models.mixture:Mixture",
    },
    "tokenizer": {
        "char": "lmlab.tokens.char:CharTokenizer",
        "byte": "lmlab.tokens.byte_level:ByteTokenizer",
        "word": "lmlab.tokens.word:WordTokenizer",
        "code": "lmlab.tokens.word:CodeTokenizer",
        "bpe": "lmlab.tokens.byte_level:BPETokenizer",
    },
}


@functools.cache  # looking through all installed packages takes milliseconds
def _table(kind: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # takes longer than all else here

    added = {point.name: point.value for point in entry_points(group=f"lmlab.{kind}s")}
    return _BUILT_IN[kind] | added


def names(kind: str) -> list[str]:
    """Every registered name of a kind (`"model"` or `"tokenizer"`), sorted, importing nothing."""
    return sorted(_table(kind))


def resolve(kind: str, name: str) -> Any:
    """The class registered under a name.

    Raises:
        UnknownNameError: naming the closest known names.

    >>> resolve("tokenizer", "char").__name__
    'CharTokenizer'
    """
    table = _BUILT_IN[kind] if name in _BUILT_IN[kind] else _table(kind)
    if name not in table:
        raise UnknownNameError(kind, name, table)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
