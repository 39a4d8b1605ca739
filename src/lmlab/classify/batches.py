"""Padded batches of sequences with one target each, as training reads them: encoded texts, or rows of numbers.

Shapes: N sequences, B of a batch, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lmlab.tokens.batches import Batch, Batches, Epoch
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import PAD

_POOL_BATCHES = 50  # sequences are sorted by length within a pool of so many batches
_SIDE_BY_SIDE = 64  # sequences of a batch that is only scored


class Sequences(Batches):
    """Sequences, one for each target; an epoch is random batches of `rows` of like length, `[PAD]` after the short."""

    def __init__(self, sequences_N: Sequence[Tensor], targets_N: Tensor, rows: int = 1, seed: int = 0) -> None:
        self._sequences_N, self._targets_N, self._rows, self._seed = sequences_N, targets_N, rows, seed
        self._lengths_N = np.array([len(each) for each in sequences_N], np.int64)

    @classmethod
    def of(
        cls, tokens: TokenStore, longest: int, classes_N: np.ndarray | None = None, rows: int = 1, seed: int = 0
    ) -> Sequences:
        """The first `longest` ids of each text, and its class where it is known."""
        documents = (tokens.document(nth)[:longest] for nth in range(len(tokens)))
        known_N = np.zeros(len(tokens), np.int64) if classes_N is None else classes_N
        return cls([torch.from_numpy(ids.astype(np.int64)) for ids in documents], torch.from_numpy(known_N), rows, seed)

    def epoch(self, number: int) -> Epoch:
        """The batches of epoch `number`, from 0."""
        return self._batches(by_length(self._lengths_N, self._rows, np.random.default_rng([self._seed, number])))

    def in_order(self) -> tuple[list[np.ndarray], Epoch]:
        """All sequences, the shortest first: which ones each batch has, and the batches."""
        order_N = np.argsort(self._lengths_N, kind="stable")
        groups = [order_N[at : at + _SIDE_BY_SIDE] for at in range(0, len(order_N), _SIDE_BY_SIDE)]
        return groups, self._batches(groups)

    def _batches(self, groups: Sequence[np.ndarray]) -> Epoch:
        def make(nth: int) -> Batch:
            padded = pad_sequence([self._sequences_N[at] for at in groups[nth].tolist()], True, PAD)
            return Batch(padded, self._targets_N[groups[nth], None], carry=False).rows(*self._share)

        return Epoch(len(groups), make)


def by_length(lengths_N: np.ndarray, rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """An epoch in random batches of sequences of like length.

    >>> [batch.tolist() for batch in by_length(np.array([5, 1, 5, 1]), 2, np.random.default_rng(0))]
    [[2, 0], [1, 3]]
    """
    order_N, batches = rng.permutation(len(lengths_N)), []
    for at in range(0, len(order_N), rows * _POOL_BATCHES):
        pool = order_N[at : at + rows * _POOL_BATCHES]
        pool = pool[np.argsort(lengths_N[pool], kind="stable")]
        batches += [pool[start : start + rows] for start in range(0, len(pool), rows)]
    return [batches[nth] for nth in rng.permutation(len(batches))]
