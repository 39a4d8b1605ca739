"""lmlab: from any text to an honest language model, in minutes, on the machine you have.

    import lmlab

    bench = lmlab.train("tinyshakespeare", codec="char", model="lstm", minutes=3, seed=0)
    bench.score("To be, or not to be").table
    bench.generate("ROMEO:", lmlab.Sample(temperature=0.8, top_p=0.95), n=3, max_tokens=200)
    bench.save("runs/x")
    bench = lmlab.load("runs/x")

The counted models learn in a second, so the whole way fits in a docstring:

>>> import lmlab
>>> text = "the cat sat on the mat. the dog sat on the log. " * 20
>>> bench = lmlab.train(text=text, codec="word", model="ngram", order=3)
>>> bench.generate("the cat sat on", lmlab.Greedy(), max_tokens=2)[0].text.split()[0]
'the'
>>> figures = bench.evaluate()
>>> figures["perplexity"] < 3 and figures["unk_tokens"] == 0
True
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "train": "lmlab.workbench.learn",
    "resume": "lmlab.workbench.learn",
    "compare": "lmlab.workbench.learn",
    "estimate": "lmlab.workbench.estimate",
    "Bench": "lmlab.workbench.bench",
    "Greedy": "lmlab.decode",
    "Sample": "lmlab.decode",
    "Beam": "lmlab.decode",
    "LmlabError": "lmlab.errors",
}

__all__ = [*sorted(_LAZY), "load"]


def load(path: str) -> Any:
    """Read a model directory: the `Bench` that was saved there."""
    from lmlab.workbench.bench import Bench

    return Bench.load(path)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lmlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
