"""Text classifiers: a network over any architecture, or a language model a class and Bayes' rule.

>>> from lmlab.classify import Classifier
>>> texts = ["a good day", "good, very good", "what a bad day", "bad, so bad"] * 5
>>> classifier = Classifier(settings={"order": 2}).fit(texts, ["+", "+", "-", "-"] * 5)
>>> classifier.predict(["a bad thing", "all good"]).tolist()
['-', '+']
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Classifier": "lmlab.classify.classifier",
    "RNNModel": "lmlab.classify.many_to_one",
    "LSTMModel": "lmlab.classify.many_to_one",
    "GRUModel": "lmlab.classify.many_to_one",
    "fit_numbers": "lmlab.classify.learning",
    "adding": "lmlab.classify.toy",
    "parity": "lmlab.classify.toy",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lmlab.classify' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
