"""lmlab: from any text to an honest language model, in minutes, on the machine you have.

    import lmlab

    lm = lmlab.train("tinyshakespeare", tokenizer="char", model="lstm", minutes=3, seed=0)
    lm.score("To be, or not to be").table
    lm.generate("ROMEO:", lmlab.Sample(temperature=0.8, top_p=0.95), n=3, max_tokens=200)
    lm.save("runs/x")
    lm = lmlab.load("runs/x")

The counted models learn in a second, so the whole way fits in a docstring:

>>> import lmlab
>>> text = "the cat sat on the mat. the dog sat on the log. " * 20
>>> lm = lmlab.train(text=text, tokenizer="word", model="ngram", order=3)
>>> lm.generate("the cat sat on", lmlab.Greedy(), max_tokens=2)[0].text.split()[0]
'the'
>>> figures = lm.evaluate()
>>> figures["perplexity"] < 3 and figures["unk_tokens"] == 0
True
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "train": "lmlab.facade.learn",
    "resume": "lmlab.facade.learn",
    "compare": "lmlab.facade.compare",
    "estimate": "lmlab.facade.estimate",
    "encode": "lmlab.facade.encode",
    "TextModel": "lmlab.facade.text_model",
    "filter": "lmlab.facade.text_model",
    "compress": "lmlab.compression",
    "decompress": "lmlab.compression",
    "Greedy": "lmlab.decoding",
    "Sample": "lmlab.decoding",
    "Beam": "lmlab.decoding",
    "LmlabError": "lmlab.errors",
    "tune_process": "lmlab.training.machine",
}

__all__ = [*sorted(_LAZY), "load"]


def load(path: str) -> Any:
    """The `TextModel` of a model directory, or of a Hugging Face model.

    Args:
        path: the directory, or `hf:PATH_OR_NAME`.

    Raises:
        ArtifactError: it is none, or damaged.
    """
    from lmlab.facade.text_model import TextModel

    return TextModel.load(path)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lmlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
