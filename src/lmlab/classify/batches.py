"""Batches of sequences with one target each, as training reads them: encoded texts, or rows of numbers.

Shapes: N sequences, B of a batch, T positions, E numbers at each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lmlab.kernels.engine import block_of
from lmlab.tokens.batches import Batch, Batches, Epoch
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import PAD

_POOL_BATCHES = 50  # rows are sorted by length within a pool of so many batches
_SIDE_BY_SIDE = 64  # rows of a batch that is only scored


class Texts(Batches):
    """Encoded texts, of each its first `longest` ids with `[PAD]` after them, and their classes where they are known.

    An epoch is random batches of texts of like length.
    """

    def __init__(
        self, tokens: TokenStore, longest: int, classes_N: np.ndarray | None = None, rows: int = 1, seed: int = 0
    ) -> None:
        self._tokens, self._classes_N, self._rows, self._seed = tokens, classes_N, rows, seed
        self._lengths_N = np.minimum(tokens.lengths, longest)

    def epoch(self, number: int) -> Epoch:
        """The batches of epoch `number`, from 0."""
        groups = by_length(self._lengths_N, self._rows, np.random.default_rng([self._seed, number]))
        return Epoch(len(groups), lambda nth: self._batch(groups[nth][block_of(len(groups[nth]), *self._share)]))

    def in_order(self) -> tuple[list[np.ndarray], Epoch]:
        """All texts, the shortest first: which ones each batch has, and the batches."""
        order_N = np.argsort(self._lengths_N, kind="stable")
        groups = [order_N[at : at + _SIDE_BY_SIDE] for at in range(0, len(order_N), _SIDE_BY_SIDE)]
        return groups, Epoch(len(groups), lambda nth: self._batch(groups[nth]))

    def _batch(self, which_B: np.ndarray) -> Batch:
        lengths_B = self._lengths_N[which_B]
        ids_BT = np.full((len(which_B), int(lengths_B.max(initial=1))), PAD, np.int64)
        for row, (text, length) in enumerate(zip(which_B.tolist(), lengths_B.tolist(), strict=True)):
            ids_BT[row, :length] = self._tokens.document(text)[:length]
        classes_B = np.zeros(len(which_B), np.int64) if self._classes_N is None else self._classes_N[which_B]
        return Batch(torch.from_numpy(ids_BT), torch.from_numpy(classes_B)[:, None], carry=False)


def by_length(lengths_N: np.ndarray, rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """An epoch in random batches of texts of like length.

    >>> [batch.tolist() for batch in by_length(np.array([5, 1, 5, 1]), 2, np.random.default_rng(0))]
    [[2, 0], [1, 3]]
    """
    order_N, batches = rng.permutation(len(lengths_N)), []
    for at in range(0, len(order_N), rows * _POOL_BATCHES):
        pool = order_N[at : at + rows * _POOL_BATCHES]
        pool = pool[np.argsort(lengths_N[pool], kind="stable")]
        batches += [pool[start : start + rows] for start in range(0, len(pool), rows)]
    return [batches[nth] for nth in rng.permutation(len(batches))]


class Numbers(Batches):
    """Sequences of numbers, x_NTE, and the class or the real number that each stands for, y_N, in random batches."""

    def __init__(self, x_NTE: Tensor, y_N: Tensor, rows: int, seed: int) -> None:
        self._x_NTE, self._y_N, self._rows, self._seed = x_NTE, y_N, rows, seed

    def epoch(self, number: int) -> Epoch:
        """The batches of epoch `number`, from 0."""
        order_N = torch.from_numpy(np.random.default_rng([self._seed, number]).permutation(len(self._x_NTE)))

        def make(nth: int) -> Batch:
            which_B = order_N[nth * self._rows : (nth + 1) * self._rows][block_of(self._rows, *self._share)]
            return Batch(self._x_NTE[which_B], self._y_N[which_B, None], carry=False)

        return Epoch(-(-len(order_N) // self._rows), make)
