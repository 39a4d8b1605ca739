"""Random numbers as a function of (seed, lane, position, draw): nothing is carried from token to token.

A text so gets the same numbers alone or in a batch, whatever ends beside it, and any back end can make them again.

Shapes: B texts, V the vocabulary; arguments broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_STEP, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def uniforms(seed: int, lane: ArrayLike, position: ArrayLike, draw: ArrayLike = 0) -> Floats:
    """Numbers of [0, 1) by repeated SplitMix64 (Steele et al. 2014), at least one axis.

    >>> (uniforms(1, [0, 1], 5)[1:] == uniforms(1, 1, 5)).tolist()
    [True]
    """
    mixed = np.atleast_1d(np.uint64(seed))
    for part in (lane, position, draw):
        mixed = _mixed(mixed) ^ np.asarray(part, dtype=np.int64).astype(np.uint64)
    return np.asarray((_mixed(mixed) >> np.uint64(11)) * 2.0**-53)


def gumbels(seed: int, lane: ArrayLike, position: ArrayLike, draw: ArrayLike = 0) -> Floats:
    """Standard Gumbel noise; the largest of logp + noise is a draw from p."""
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(-np.log(uniforms(seed, lane, position, draw))))


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + _STEP
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return np.asarray(state ^ (state >> np.uint64(31)))
