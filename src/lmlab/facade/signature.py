"""The signature that `help` shows of a function which takes any setting as a keyword."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

from lmlab.facade.keywords import Keywords

F = TypeVar("F", bound=Callable[..., object])


def takes_settings(function: F) -> F:
    """Name each setting in the signature, in place of `**keywords`; None is not named."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    settings = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in Keywords.__annotations__.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
    return function
