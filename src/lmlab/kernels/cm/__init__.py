"""Context mixing: reading text, learning or not, whole rows, and steps.

`loops` are compiled, `plain` says the same in NumPy for what is small; `layout` is what both share.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from lmlab.kernels import engine

_LOADED = 3_000  # tokens read, or rows made, from which loading compiled loops pays


def code(work: int) -> Any:
    """The module that has `read`, `rows` and `step`, for so many tokens."""
    return _module("loops" if engine.worthwhile(work, _LOADED) else "plain")


@functools.cache  # to look for it takes longer than a small step
def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
