"""Random numbers as a function of (seed, lane, position, draw): nothing is carried from token to token.

A text so gets the same numbers alone or in a batch, whatever ends beside it, and any back end can make them again.

Shapes: B texts, V the vocabulary; arguments broadcast.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_WEYL = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7)  # odd and irregular: steps of the counter
_SHIFTS = tuple(np.uint64(n) for n in (30, 27, 31, 11))
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniforms(seed: int, lane: ArrayLike, position: ArrayLike, draw: ArrayLike = 0) -> Floats:
    """Numbers of [0, 1), at least one axis, by SplitMix64 (Steele et al. 2014) at a counter that these four set.

    >>> (uniforms(1, [0, 1], 5)[1:] == uniforms(1, 1, 5)).tolist()
    [True]
    """
    counter = np.atleast_1d(_start(seed))
    for part, step in zip((lane, position, draw), _WEYL, strict=True):
        counter = counter + np.asarray(part, dtype=np.uint64) * np.atleast_1d(np.uint64(step))
    return np.asarray((_mixed(counter) >> _SHIFTS[3]) * 2.0**-53)


def gumbels(seed: int, lane: ArrayLike, position: ArrayLike, draw: ArrayLike = 0) -> Floats:
    """Standard Gumbel noise; the largest of logp + noise is a draw from p."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(-np.log(uniforms(seed, lane, position, draw))))


@lru_cache
def _start(seed: int) -> np.uint64:
    return np.uint64(_mixed(_mixed(np.array([seed], dtype=np.uint64)))[0])


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> _SHIFTS[0])) * _FIRST
    state = (state ^ (state >> _SHIFTS[1])) * _SECOND
    return np.asarray(state ^ (state >> _SHIFTS[2]))
