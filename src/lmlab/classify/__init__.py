"""Text classifiers: a network over any architecture, or a language model a class and Bayes' rule.

>>> from lmlab.classify import Classifier
>>> texts = ["the team won", "a late goal won the cup", "the bank raised its rates", "oil and stocks fell"] * 10
>>> classifier = Classifier().fit(texts, ["sport", "sport", "money", "money"] * 10)
>>> classifier.predict(["a goal", "stocks and rates"]).tolist()
['sport', 'money']
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Classifier": "lmlab.classify.classifier",
    "RNNModel": "lmlab.classify.many_to_one",
    "LSTMModel": "lmlab.classify.many_to_one",
    "GRUModel": "lmlab.classify.many_to_one",
    "fit_numbers": "lmlab.classify.many_to_one",
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
