"""What to train in a given time: width, dropout and learning rate, from the corpus and the speed of this machine.

The rules are what trials of 10 seconds to 10 minutes showed (lab log), not laws:

    width     the largest that still sees `_TOKENS_A_PARAMETER` tokens for each of its parameters in the time, and has
              no more than `_PARAMETERS_A_TOKEN` parameters for each token of the corpus
    dropout   none where the corpus is read once; the more passes the more, falling in a line to none at the end
    rate      the model's own for `_STEPS` steps, divided by the root of how many times as many there are

Settings that the user names stand. What is chosen is written into the run's configuration, so that it repeats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_TOKENS_A_PARAMETER = 3.5
_PARAMETERS_A_TOKEN = 2.0
_DROPOUT = ((1.5, 0.0, 0.0), (4.0, 0.1, 0.0), (7.0, 0.15, 0.1), (20.0, 0.25, 0.2), (float("inf"), 0.3, 0.3))
"""Up to so many passes over the corpus: dropout of the features, and of the recurrent weights."""
DROPPED = {"dropout", "recurrent_dropout"}  # settings of a model, which may lack either
_STEPS, _LEAST_RATE, _MOST_RATE = 3000, 0.5, 2.0  # the rates as multiples of the model's own

_LOSS = ((4e5, 1.46), (7e5, 1.32), (1.9e6, 1.18), (3.4e6, 1.09), (4.5e6, 1.04), (8e6, 0.96))
"""Tokens learned from, and the validation loss as a multiple of the n-gram baseline's: the mean of plays and news by
characters, which lie up to a tenth above and below (lab log)."""


@dataclass(frozen=True)
class Size:
    """A model that could be trained: its settings, parameters without embedding and output, and measured tokens/s."""

    settings: Mapping[str, Any]
    parameters: int
    speed: float


@dataclass(frozen=True)
class Choice:
    """What was chosen: settings of the model and of training, and what they rest on."""

    size: Size
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    tokens: float
    passes: float

    def sentence(self, chosen: Mapping[str, Any]) -> str:
        """What was chosen and what it rests on."""
        values = ", ".join(f"{name} {value}" for name, value in chosen.items()) or "nothing to choose"
        return (
            f"{values}; {self.size.speed / 1e3:.3g} k tokens/s give {self.tokens / 1e6:.3g} M tokens, "
            f"{self.passes:.2g} passes over the text"
        )


def choose(
    ladder: Sequence[Mapping[str, Any]],
    measure: Callable[[Mapping[str, Any]], Size],
    corpus_tokens: int,
    seconds: float,
    batch_tokens: int,
    rate: float,
) -> Choice:
    """The size for a budget of time, and how to train it.

    Args:
        ladder: settings of models to choose from, small to large.
        measure: makes a model of such settings and trains it for a moment.
        corpus_tokens: of the training split.
        seconds: for training.
        batch_tokens: tokens that a step reads, about.
        rate: the model's own.
    """
    size = _largest(ladder, measure, corpus_tokens, seconds)
    tokens = size.speed * seconds
    passes = tokens / corpus_tokens
    dropout, recurrent = next(shares for most, *shares in _DROPOUT if passes <= most)
    rate *= min(_MOST_RATE, max(_LEAST_RATE, (_STEPS * batch_tokens / tokens) ** 0.5))
    model = {**size.settings, "dropout": dropout, "recurrent_dropout": recurrent}
    train = {"lr": float(f"{rate:.1e}"), "dropout_schedule": "falling" if dropout else "constant"}
    return Choice(size, model, train, tokens, passes)


def _largest(
    ladder: Sequence[Mapping[str, Any]],
    measure: Callable[[Mapping[str, Any]], Size],
    corpus_tokens: int,
    seconds: float,
) -> Size:
    """The largest size that the budget allows, found by halving: few are measured."""
    low, high, best = 0, len(ladder), None
    while low < high:
        middle = (low + high) // 2
        size = measure(ladder[middle])
        learned = size.speed * seconds >= _TOKENS_A_PARAMETER * size.parameters
        if learned and size.parameters <= _PARAMETERS_A_TOKEN * corpus_tokens:
            best, low = size, middle + 1
        else:
            high = middle
    return best or size  # if none is small enough, the smallest was measured last


def expected(ngram_nats: float, tokens: float) -> float:
    """What validation loss a planned model may end at: the n-gram's, times what trials showed after so many tokens.

    >>> expected(1.5, 7e5) > 1.5 > expected(1.5, 8e6)
    True
    """
    known, ratios = zip(*_LOSS, strict=True)
    return ngram_nats * float(np.interp(math.log(tokens), [math.log(count) for count in known], ratios))
