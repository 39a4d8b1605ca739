"""Names to classes, imported only when asked for.

`resolve("model", "lstm")` imports `lmlab.models.neural.rnn` and returns its `LSTM`. Other packages add names through
the entry-point groups `lmlab.models` and `lmlab.tokenizers`. `resolve` finds what `names` lists, and a name that two
packages claim is an error in both.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from lmlab.errors import MissingTorchError, UnknownNameError, UsageError

_BUILT_IN = {
    "model": {
        "ngram": "lmlab.models.ngram:Ngram",
        "cache": "lmlab.models.cache:Cache",
        "cm": "lmlab.models.cm:CM",
        "cnn": "lmlab.models.neural.cnn:CNN",
        "rnn": "lmlab.models.neural.rnn:RNN",
        "lstm": "lmlab.models.neural.rnn:LSTM",
        "gru": "lmlab.models.neural.rnn:GRU",
        "transformer": "lmlab.models.neural.transformer:Transformer",
        "uniform": "lmlab.models.toy:Uniform",
        "scripted": "lmlab.models.toy:Scripted",
        "mixture": "lmlab.models.mixture:Mixture",
    },
    "stored": {  # of these models what can be told and done without torch
        "rnn": "lmlab.models.neural.stored:StoredRecurrent",
        "lstm": "lmlab.models.neural.stored:StoredLSTM",
        "gru": "lmlab.models.neural.stored:StoredGRU",
        "cnn": "lmlab.models.neural.stored:StoredCNN",
        "transformer": "lmlab.models.neural.stored:StoredTransformer",
    },
    "tokenizer": {
        "char": "lmlab.tokens.char:CharTokenizer",
        "byte": "lmlab.tokens.byte_level:ByteTokenizer",
        "word": "lmlab.tokens.word:WordTokenizer",
        "code": "lmlab.tokens.word:CodeTokenizer",
        "bpe": "lmlab.tokens.byte_level:BPETokenizer",
        "sentencepiece": "lmlab.tokens.pieces:SentencePieceTokenizer",
    },
}


@functools.cache  # looking through all installed packages takes milliseconds
def _table(kind: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # takes longer than all else here

    table = dict(_BUILT_IN[kind])
    for point in entry_points(group=f"lmlab.{kind}s"):
        if table.setdefault(point.name, point.value) != point.value:
            package = point.dist.name if point.dist else "an installed package"
            raise UsageError(
                f"two {kind}s are called {point.name!r}: {table[point.name]} and {point.value} of {package}",
                "uninstall one, or rename it in its entry points",
            )
    return table


def names(kind: str) -> list[str]:
    """Every registered name of a kind (`"model"` or `"tokenizer"`), sorted, importing none of the classes.

    Raises:
        UsageError: two packages claim one name.
    """
    return sorted(_table(kind))


def stored(name: str) -> Any:
    """What has the settings of a kind of model, and loads it: its class, or one in its place that needs no torch.

    Raises:
        UnknownNameError, UsageError: as `resolve`.
    """
    return resolve("stored" if name in _BUILT_IN["stored"] else "model", name)


def resolve(kind: str, name: str) -> Any:
    """The class registered under a name; a name of lmlab's own without a look at what other packages register.

    Raises:
        UnknownNameError: no such name; the closest known names are offered.
        UsageError: two packages claim one name, or the package that registered this one cannot be imported.
        MissingTorchError: it needs torch, which is not installed.

    >>> resolve("tokenizer", "char").__name__
    'CharTokenizer'
    """
    table = _BUILT_IN[kind] if name in _BUILT_IN[kind] else _table(kind)  # looking takes 30 ms, a megabyte's count 100
    if name not in table:
        raise UnknownNameError(kind, name, table)
    module, _, attribute = table[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise MissingTorchError(f"the {kind} {name}") from error
        if table is _BUILT_IN[kind]:
            raise
        problem = f"the {kind} {name!r} ({table[name]}) cannot be imported ({error})"
        raise UsageError(problem, "mend or uninstall the package that registers it") from error
