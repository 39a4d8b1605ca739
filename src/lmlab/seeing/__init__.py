"""Pictures of models and of what happens inside them: `lm.plot.temperature("to be")`, `lmlab plot temperature RUN`.

A picture is a function in the file of its name: `lmlab.seeing.temperature.temperature(lm, ...)`. Its keywords are the
flags of the command line, and what its docstring says of them is their help.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from lmlab.errors import UnknownNameError

PLOTS = {
    "beams": "the tree of a beam: every hypothesis, where it was pruned and why, beside greedy",
    "temperature": "the next token under several temperatures, and what a cut leaves",
    "curves": "learning curves of runs, beside what an n-gram and context mixing make of the same text",
    "surprisal": "a text on the colour of its surprisal",
    "context": "how far back models look: bits per byte against truncated history",
    "calibration": "whether what is predicted with probability p comes true so often",
    "compare": "two runs on the same documents, and how certain their difference is",
    "zipf": "rank and frequency of a corpus' tokens, and how many cover how much",
    "ngram": "the n-grams that predicted a text, their counts, and where they stood in training",
    "mixture": "which component of a mixture predicted each token",
}
"""The pictures of any model, and what they show."""

INSPECTIONS = {
    "gates": "gates, candidate and state of a recurrent network at every token",
    "cells": "units that follow quotes, brackets, lines; a text coloured by one",
    "gradients": "how a gradient falls on its way back through time",
    "attention": "what each token of a Transformer attends to",
    "neighbours": "the embedding: each token's nearest, and a map",
}
"""The pictures of what happens inside a network, and what they show."""

WORDS = {"plot": PLOTS, "inspect": INSPECTIONS}
"""The names of all pictures, by the word that stands before them."""


def function_of(word: str, name: str) -> Callable[..., Any]:
    """The function that draws a picture.

    Raises:
        UnknownNameError: there is none of this name.
    """
    if name not in WORDS[word]:
        raise UnknownNameError("picture", name, WORDS[word])
    function: Callable[..., Any] = getattr(importlib.import_module(f"lmlab.seeing.{name}"), name)
    return function


class Pictures:
    """The pictures of one model, a method each; `dir` lists them."""

    def __init__(self, lm: Any, word: str) -> None:
        self._lm, self._word = lm, word

    def _names(self) -> Mapping[str, str]:
        return WORDS[self._word]

    def __dir__(self) -> list[str]:
        return sorted(self._names())

    def __getattr__(self, name: str) -> Any:
        if name not in self._names():
            raise AttributeError(f"there is no picture {name!r}; there are {', '.join(self._names())}")
        return MethodType(function_of(self._word, name), self._lm)

    def __repr__(self) -> str:
        width = max(map(len, self._names()), default=0)
        return "\n".join(f"{name:<{width}}  {shows}" for name, shows in self._names().items())
