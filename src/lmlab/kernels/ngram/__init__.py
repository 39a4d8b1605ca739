"""Compiled n-gram code: counting, smoothing, scoring, ARPA files, whole rows, the compact layout.

`models/ngram` says in NumPy what these do; what both share lies in `layout`. A compiled function that has a plain twin
has its name, its signature and its results, and `twin` chooses between the two by the size of the work.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

from lmlab.kernels import engine

T = TypeVar("T")
_HOMES = {"count_sorted": "counter", "tally": "count", "share": "count", "Loops": "arpa"}


def twin(plain: T, work: int) -> T:
    """The compiled twin of a plain function or class where the work is worth loading it, else the plain one.

    Args:
        plain: found by its name.
        work: n-grams to look at, or bytes of text.
    """
    if not engine.compiled(work):
        return plain
    name: Any = plain
    compiled: T = getattr(import_module(f"{__name__}.{_HOMES[name.__name__]}"), name.__name__)
    return compiled
