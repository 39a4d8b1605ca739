"""Toy tasks in which the answer hangs on what was read long ago."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def adding(count: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The adding problem (Hochreiter and Schmidhuber 1997): the sum of the two numbers that are marked.

    Returns:
        x_NTE with a number in [0, 1) and a mark at each position, one mark in each half; and y_N.
    """
    rng = np.random.default_rng(seed)
    x_NTE, half = np.zeros((count, length, 2), np.float32), length // 2
    x_NTE[..., 0] = rng.random((count, length))
    for first, last in ((0, half), (half, length)):
        x_NTE[np.arange(count), rng.integers(first, last, size=count), 1] = 1
    return torch.from_numpy(x_NTE), torch.from_numpy(x_NTE.prod(2).sum(1))


def parity(count: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Whether the number of ones in a row of bits is odd: bits_NTE, and 0 or 1 for each, y_N."""
    bits_NT = np.random.default_rng(seed).integers(2, size=(count, length))
    return torch.from_numpy(bits_NT[..., None].astype(np.float32)), torch.from_numpy(bits_NT.sum(1) % 2)
