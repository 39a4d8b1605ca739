"""Token stores to training batches, three ways, each an epoch at a time and the same for the same seed.

Shapes: B rows, T positions, N ids of the whole store.

A batch pairs `ids_BT` with `targets_BT`, the ids one further on; `<bos>` and padding are `IGNORE`, never predicted.
`epoch(number)` is a sequence: batch `i` of epoch `e` is the same whenever it is asked for, so that the position of a
run is two integers, and a resumed run reads exactly what an uninterrupted one would have.

    Columns   the store as one stream in B long columns; each batch goes on where the last one stopped, so a recurrent
              state is carried (truncated backpropagation through time, Williams and Peng 1990)
    Lines     one document a row, padded; bucketed by length within pools, B rows or a budget of tokens a batch
    Windows   every stretch of T tokens at a stride, shuffled, context reset

Several workers share a batch by blocks of its rows: `share` reads one block and nothing else, `Batch.rows` cuts what
was read.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lmlab.errors import EmptyDataError, SettingError
from lmlab.tokens import TokenStore
from lmlab.vocab import BOS, IGNORE, PAD

_POOL_BATCHES = (
    50  # documents are sorted by length within a pool of this many batches: hardly any padding, still random
)


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        ids_BT: int64, what is read.
        targets_BT: int64, what is predicted; `IGNORE` where nothing is.
        carry: whether the rows go on where those of the batch before stopped.
        fresh_B: of a batch that carries, the rows that begin anew all the same; their first input is `<bos>`.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    carry: bool
    fresh_B: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Predicted tokens."""
        return int((self.targets_BT != IGNORE).sum())

    def rows(self, part: int, parts: int) -> Batch:
        """One of `parts` blocks of rows; none where there are fewer rows than parts."""
        block = block_of(len(self.ids_BT), part, parts)
        fresh_B = None if self.fresh_B is None else self.fresh_B[block]
        return replace(self, ids_BT=self.ids_BT[block], targets_BT=self.targets_BT[block], fresh_B=fresh_B)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, copied while the processor goes on."""
        if device.type == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        fresh_B = None if self.fresh_B is None else moved(self.fresh_B)
        return Batch(moved(self.ids_BT), moved(self.targets_BT), self.carry, fresh_B)


def block_of(rows: int, part: int, parts: int) -> slice:
    """Which rows the `part`th of `parts` workers has: consecutive, as many as any other's or one more or less.

    >>> [block_of(5, part, 2) for part in (0, 1)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(part * rows // parts, (part + 1) * rows // parts)


class Epoch(Sequence[Batch]):
    """The batches of one epoch, each made when asked for."""

    def __init__(self, length: int, make: Callable[[int], Batch]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < self._length:
            raise IndexError(index)
        return self._make(index)


class Batches(abc.ABC):
    """A way to cut a store into batches; abstract."""

    carries: ClassVar[bool] = False
    """Whether a batch may go on where the one before stopped."""

    _share = 0, 1  # which block of each batch's rows, of how many, is read

    @abc.abstractmethod
    def epoch(self, number: int) -> Epoch:
        """The batches of epoch `number`, from 0."""

    def share(self, part: int, parts: int) -> Self:
        """The same batches, of which only one of `parts` blocks of rows is read."""
        other = copy.copy(self)
        other._share = part, parts
        return other


def _pair(rows_BT: np.ndarray, carry: bool) -> Batch:
    """Inputs and targets from rows of T+1 ids."""
    ids = torch.from_numpy(rows_BT.astype(np.int64))
    targets = ids[:, 1:]
    hidden = (targets == PAD) | (targets == BOS)
    return Batch(ids[:, :-1].contiguous(), targets.masked_fill(hidden, IGNORE), carry)


class Columns(Batches):
    """The store as one stream in B columns, read T tokens at a time, the state carried.

    Each epoch starts the columns elsewhere, so that their cuts do not always fall on the same tokens. A text is scored
    from `<bos>` and an empty state, which a stream hardly ever shows: so every column begins so, and some rows begin
    anew at some batches.

    Args:
        store: the tokens.
        rows: columns.
        length: tokens a batch of each column.
        seed: of the starts.
        restart: the chance that a row begins anew at a batch.
        roll: False starts every epoch at the first token and keeps the last, shorter batch.
    """

    carries = True

    def __init__(
        self, store: TokenStore, rows: int, length: int, seed: int = 0, *, restart: float = 0.0, roll: bool = True
    ) -> None:
        self._ids_N = store.ids
        self._rows = max(1, min(rows, (len(store.ids) - 1) // 2))
        self._length = min(length, (len(store.ids) - 1) // self._rows)
        if self._length < 1:
            raise EmptyDataError(f"the split holds {len(store.ids)} tokens, fewer than 2", "give it more text")
        self._seed, self._restart, self._roll = seed, restart, roll

    def epoch(self, number: int) -> Epoch:
        """See `Batches`."""
        total = len(self._ids_N)
        column = (total - 1) // self._rows
        start = int(np.random.default_rng([self._seed, number]).integers(total)) if self._roll else 0
        block = block_of(self._rows, *self._share)
        bases_B1 = start + column * np.arange(self._rows)[block, None]

        def make(index: int) -> Batch:
            at = index * self._length
            take = min(self._length, column - at)
            rows_BT = self._ids_N[(bases_B1 + at + np.arange(take + 1)) % total]
            if index == 0:
                rows_BT[:, 0] = BOS
                return _pair(rows_BT, carry=False)
            chances_B = np.random.default_rng([self._seed, number, index]).random(self._rows)[block]
            fresh_B = chances_B < self._restart
            rows_BT[fresh_B, 0] = BOS
            batch = _pair(rows_BT, carry=True)
            return replace(batch, fresh_B=torch.from_numpy(fresh_B)) if fresh_B.any() else batch

        return Epoch(column // self._length if self._roll else -(-column // self._length), make)


class Lines(Batches):
    """One document a row, padded at the right; bucketed by length within pools of 50 batches.

    Args:
        store: the documents.
        rows: documents a batch, unless `budget` is given.
        length: longer documents are cut into stretches of this many tokens, each with its context reset.
        seed: of the shuffling.
        budget: tokens a batch, padding included, instead of a number of rows.
        bucket: False takes the documents as they come (what a naive loop does).
    """

    def __init__(
        self,
        store: TokenStore,
        rows: int,
        length: int,
        seed: int = 0,
        *,
        budget: int | None = None,
        bucket: bool = True,
    ) -> None:
        if budget is not None and budget < length:
            raise SettingError("batch_tokens", budget, f"at least the length of the longest row, {length}")
        if not len(store):
            raise EmptyDataError("the split holds no documents", "give it more text")
        self._ids_N = store.ids
        self._starts, self._lengths = _stretches(store.offsets, length)
        self._rows, self._seed, self._budget, self._bucket = rows, seed, budget, bucket

    def epoch(self, number: int) -> Epoch:
        """See `Batches`. Every stretch comes once."""
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(len(self._starts))
        groups = self._pooled(order) if self._bucket else self._cut(order)
        if self._bucket:
            groups = [groups[i] for i in rng.permutation(len(groups))]

        def make(index: int) -> Batch:
            chosen = groups[index][block_of(len(groups[index]), *self._share)]
            rows_BT = np.full((len(chosen), int(self._lengths[chosen].max(initial=0)) + 1), PAD, dtype=np.int64)
            for row, stretch in zip(rows_BT, chosen, strict=True):
                start, size = self._starts[stretch], self._lengths[stretch] + 1
                row[:size] = self._ids_N[start : start + size]
            return _pair(rows_BT, carry=False)

        return Epoch(len(groups), make)

    def _pooled(self, order: np.ndarray) -> list[np.ndarray]:
        mean = float(self._lengths.mean())
        rows = self._rows if self._budget is None else max(1, int(self._budget / mean))
        pool = _POOL_BATCHES * rows
        groups: list[np.ndarray] = []
        for at in range(0, len(order), pool):
            part = order[at : at + pool]
            groups += self._cut(part[np.argsort(self._lengths[part], kind="stable")])
        return groups

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        """Consecutive stretches to groups of `rows`, or of as many as fit the token budget when padded."""
        if self._budget is None:
            return [order[at : at + self._rows] for at in range(0, len(order), self._rows)]
        groups, first, longest = [], 0, 0
        for at, size in enumerate(self._lengths[order]):
            longest = max(longest, int(size))
            if longest * (at + 1 - first) > self._budget:
                groups.append(order[first:at])
                first, longest = at, int(size)
        return [*groups, order[first:]]


def _stretches(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each stretch starts and how many tokens it predicts; a document of n ids predicts n-1."""
    predicted = np.diff(offsets) - 1
    pieces = -(-predicted // length)
    document = np.repeat(np.arange(len(predicted)), pieces)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = offsets[:-1][document] + nth * length
    return starts, np.minimum(length, predicted[document] - nth * length)


class Windows(Batches):
    """Stretches of T tokens at a stride, shuffled, the context reset; documents laid end to end."""

    def __init__(self, store: TokenStore, rows: int, length: int, seed: int = 0, *, stride: int | None = None) -> None:
        if len(store.ids) <= length:
            raise EmptyDataError(
                f"the split holds {len(store.ids)} tokens, fewer than a window of {length} and its target",
                "set a smaller train.length or give it more text",
            )
        self._ids_N, self._rows, self._length, self._seed = store.ids, rows, length, seed
        self._starts = np.arange(0, len(store.ids) - length, stride or length)

    def epoch(self, number: int) -> Epoch:
        """See `Batches`."""
        order = np.random.default_rng([self._seed, number]).permutation(self._starts)

        def make(index: int) -> Batch:
            starts = order[index * self._rows : (index + 1) * self._rows]
            starts = starts[block_of(len(starts), *self._share)]
            return _pair(self._ids_N[starts[:, None] + np.arange(self._length + 1)], carry=False)

        return Epoch(-(-len(order) // self._rows), make)
