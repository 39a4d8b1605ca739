"""The signature that `help` shows of a function which takes any setting as a keyword."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from lmlab.facade.keywords import DEFAULTS, Keywords

F = TypeVar("F", bound=Callable[..., object])


class _Shown:
    """A default as `help` shows it: a keyword that is left out is not named, whatever its default is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def takes_settings(names: Collection[str] = tuple(Keywords.__annotations__)) -> Callable[[F], F]:
    """Name each of these settings in the signature, in place of `**keywords`, with its default.

    Where the default hangs on the kind of model or tokenizer, it is shown as `<by kind>`.
    """

    def named(function: F) -> F:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        given = {one.name for one in own}
        settings = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(name), annotation=kind)
            for name, kind in Keywords.__annotations__.items()
            if name in names and name not in given
        ]
        function.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
        return function

    return named


def _default(name: str) -> Any:
    if name in ("data", "model", "tokenizer", "train"):
        return None
    return _Shown(repr(DEFAULTS[name]) if name in DEFAULTS else "<by kind>")
