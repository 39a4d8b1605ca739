"""Training batches from token stores, three ways, an epoch at a time; the same seed gives the same batches.

    Columns   the store as one stream in B long columns; each batch goes on where the last one stopped, so a recurrent
              state is carried (truncated backpropagation through time, Williams and Peng 1990)
    Lines     one document a row, padded; bucketed by length within pools, B rows or a budget of tokens a batch
    Windows   T tokens at every multiple of a stride, shuffled, the context reset

A batch pairs `ids_BT` with `targets_BT`, the ids one further on; `<bos>` and padding are `IGNORE`, never predicted.
Batch `i` of epoch `e` is the same whenever it is asked for, so the position of a run is two integers, and a resumed run
reads exactly what an uninterrupted one would have. Several workers share a batch by blocks of its rows: `share` reads
one block alone, `Batch.rows` cuts what was read. An order is computed where it is read, not kept in memory.

Shapes: B rows, T positions, N ids of the whole store, S stretches (rows of an epoch, in any order), P pools.
"""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lmlab.errors import EmptyDataError, SettingError
from lmlab.kernels.engine import block_of
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, IGNORE, PAD

_POOL_BATCHES = 50  # rows are sorted by length within a pool of so many batches: little padding, still random
_OFFSETS_READ = 1 << 16  # at once

_Pool = tuple[np.ndarray, np.ndarray, list[slice]]  # starts and sizes of stretches, and which of them each batch has


@dataclass(frozen=True)
class Batch:
    """One step's data."""

    ids_BT: Tensor  # int64, the inputs
    targets_BT: Tensor  # int64, the ids to predict; IGNORE where there is none
    carry: bool  # whether the rows continue those of the batch before
    fresh_B: Tensor | None = None  # of a batch that carries: the rows that begin anew; their first input is <bos>

    @property
    def tokens(self) -> int:
        """The number of predicted tokens."""
        return int((self.targets_BT != IGNORE).sum())

    def rows(self, block: int, blocks: int) -> Batch:
        """One of `blocks` blocks of rows; empty where there are fewer rows than blocks."""
        kept = block_of(len(self.ids_BT), block, blocks)
        fresh_B = None if self.fresh_B is None else self.fresh_B[kept]
        return replace(self, ids_BT=self.ids_BT[kept], targets_BT=self.targets_BT[kept], fresh_B=fresh_B)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, copied while the processor goes on."""
        if device.type == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        fresh_B = None if self.fresh_B is None else moved(self.fresh_B)
        return Batch(moved(self.ids_BT), moved(self.targets_BT), self.carry, fresh_B)


@dataclass(frozen=True)
class Epoch(Sequence[Batch]):
    """The batches of one epoch, each made when asked for."""

    length: int
    make: Callable[[int], Batch]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.make(index)


class Batches(abc.ABC):
    """A way to cut a store into batches; abstract."""

    carries: ClassVar[bool] = False
    """Whether a batch may continue the one before."""

    _share = 0, 1  # which block of each batch's rows, of how many, is read

    @abc.abstractmethod
    def epoch(self, number: int) -> Epoch:
        """The batches of epoch `number`, from 0."""

    def share(self, block: int, blocks: int) -> Self:
        """Batches of which only one of `blocks` blocks of rows is read."""
        other = copy.copy(self)
        other._share = block, blocks
        return other


class _Shuffle:
    """A random order of range(total) of which nothing is kept but tables as long as its square root.

    A Feistel network of random round functions (Luby and Rackoff 1988) on a rectangle of hardly more than `total`
    cells; what lands in a cell too many goes through once more (Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains"). Twelve rounds make the orders of few things as likely as each other, too.
    """

    def __init__(self, total: int, rng: np.random.Generator) -> None:
        high = math.isqrt(total - 1) + 1
        wide = -(-total // high)
        self._total, self._high, self._wide = total, high, wide
        self._tables = [(rng.integers(high, size=wide), rng.integers(wide, size=high)) for _ in range(6)]

    def __call__(self, places_S: np.ndarray) -> np.ndarray:
        found_S = self._once(places_S)
        while (past_S := found_S >= self._total).any():
            found_S[past_S] = self._once(found_S[past_S])
        return found_S

    def _once(self, cells_S: np.ndarray) -> np.ndarray:
        row_S, column_S = np.divmod(cells_S, self._wide)
        for down, right in self._tables:
            row_S = (row_S + down[column_S]) % self._high
            column_S = (column_S + right[row_S]) % self._wide
        return row_S * self._wide + column_S


def _pair(rows_BT: np.ndarray, carry: bool) -> Batch:
    """Inputs and targets from rows of T+1 ids."""
    ids = torch.from_numpy(rows_BT.astype(np.int64))
    targets = ids[:, 1:]
    hidden = (targets == PAD) | (targets == BOS)
    return Batch(ids[:, :-1].contiguous(), targets.masked_fill(hidden, IGNORE), carry)


class Columns(Batches):
    """The store as one stream in B columns, read T tokens at a time, the state carried.

    Each epoch starts the columns elsewhere, so that their cuts do not always fall on the same tokens. A text is scored
    from `<bos>` and an empty state, which a stream hardly ever shows: so every column begins so, and a row begins anew
    at a batch with the probability `restart`. Without `roll`, every epoch starts at the first token and keeps the last,
    shorter batch.
    """

    carries = True

    def __init__(
        self, store: TokenStore, rows: int, length: int, seed: int = 0, *, restart: float = 0.0, roll: bool = True
    ) -> None:
        self._ids_N, self._seed, self._restart, self._roll = store.ids, seed, restart, roll
        self._rows = max(1, min(rows, (len(store.ids) - 1) // 2))
        self._length = min(length, (len(store.ids) - 1) // self._rows)
        if self._length < 1:
            raise EmptyDataError(f"the split holds {len(store.ids)} tokens, fewer than 2", "give it more text")

    def epoch(self, number: int) -> Epoch:
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

    A longer document is cut into stretches of `length` tokens, each with its context reset. The pools are random draws,
    one after the other; within one the batches are shuffled. A `budget` of tokens a batch, padding included, replaces
    the number of rows. Without `bucket`, documents are not sorted by length (what a naive loop does).
    """

    def __init__(
        self, store: TokenStore, rows: int, length: int, seed: int = 0, budget: int | None = None, bucket: bool = True
    ) -> None:
        if budget is not None and budget < length:
            raise SettingError("batch_tokens", budget, f"at least the length of the longest row, {length}")
        if not len(store):
            raise EmptyDataError("the split holds no documents", "give it more text")
        self._ids_N, self._stretches = np.asarray(store.ids), _Stretches(store.offsets, length)
        self._rows, self._seed, self._budget, self._bucket = rows, seed, budget, bucket
        mean = store.tokens / len(self._stretches)
        self._pool = _POOL_BATCHES * (rows if budget is None else max(1, int(budget / mean)))

    def epoch(self, number: int) -> Epoch:
        order = _Shuffle(len(self._stretches), np.random.default_rng([self._seed, number]))
        pool = lru_cache(1)(partial(self._pooled, number, order))
        total = len(self._stretches)
        pools = np.arange(-(-total // self._pool))
        if self._budget is None:
            ends_P = np.minimum(_POOL_BATCHES * (pools + 1), -(-total // self._rows))
        else:  # all lengths are read, to count the batches
            ends_P = np.cumsum([len(pool(nth)[2]) for nth in pools.tolist()])

        def make(index: int) -> Batch:
            nth = int(np.searchsorted(ends_P, index, side="right"))
            starts_S, sizes_S, groups = pool(nth)
            group = groups[index - int(ends_P[nth])]
            block = block_of(group.stop - group.start, *self._share)
            starts_B, sizes_B = starts_S[group][block], sizes_S[group][block]
            rows_BT = np.full((len(sizes_B), int(sizes_B.max(initial=0)) + 1), PAD, dtype=np.int64)
            for row, start, size in zip(rows_BT, starts_B.tolist(), sizes_B.tolist(), strict=True):
                row[: size + 1] = self._ids_N[start : start + size + 1]
            return _pair(rows_BT, carry=False)

        return Epoch(int(ends_P[-1]), make)

    def _pooled(self, number: int, order: _Shuffle, nth: int) -> _Pool:
        places_S = np.arange(nth * self._pool, min((nth + 1) * self._pool, len(self._stretches)))
        starts_S, sizes_S = self._stretches(order(places_S))
        if not self._bucket:
            return starts_S, sizes_S, self._cut(sizes_S)
        by_size_S = np.argsort(sizes_S, kind="stable")
        groups = self._cut(sizes_S[by_size_S])
        shuffled = np.random.default_rng([self._seed, number, 1 + nth]).permutation(len(groups))
        return starts_S[by_size_S], sizes_S[by_size_S], [groups[i] for i in shuffled]

    def _cut(self, sizes_S: np.ndarray) -> list[slice]:
        """Consecutive stretches to groups of `rows`, or of as many as fit the token budget when padded."""
        if self._budget is None:
            return [slice(at, min(at + self._rows, len(sizes_S))) for at in range(0, len(sizes_S), self._rows)]
        groups, first, longest = [], 0, 0
        for at, size in enumerate(sizes_S.tolist()):
            longest = max(longest, size)
            if longest * (at + 1 - first) > self._budget:
                groups.append(slice(first, at))
                first, longest = at, size
        return [*groups, slice(first, len(sizes_S))]


class _Stretches:
    """Documents cut into stretches of at most `length` predicted tokens; a document of n ids predicts n-1.

    The first stretch of each document has the document's number; the further ones of long documents come after, and
    these documents are all that is kept.
    """

    def __init__(self, offsets: np.ndarray, length: int) -> None:
        self._offsets, self._length, self._documents = np.asarray(offsets), length, len(offsets) - 1
        long, further = [], []
        for at in range(0, self._documents, _OFFSETS_READ):
            more = (np.diff(self._offsets[at : at + _OFFSETS_READ + 1]) - 2) // length
            found = np.flatnonzero(more)
            long.append((at + found).astype(np.min_scalar_type(self._documents)))
            further.append(more[found])
        self._long, ends = np.concatenate(long), np.cumsum(np.concatenate(further))
        self._total = self._documents + int(ends[-1] if len(ends) else 0)
        self._ends = ends.astype(np.min_scalar_type(self._total))

    def __len__(self) -> int:
        return self._total

    def __call__(self, numbers_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each stretch starts and how many tokens it predicts."""
        document_S, nth_S = numbers_S.copy(), np.zeros_like(numbers_S)
        past_S = numbers_S >= self._documents
        further = numbers_S[past_S] - self._documents
        at = np.searchsorted(self._ends, further.astype(self._ends.dtype), side="right")
        document_S[past_S] = self._long[at]
        nth_S[past_S] = self._ends[at].astype(np.int64) - further
        starts_S = self._offsets[document_S] + nth_S * self._length
        return starts_S, np.minimum(self._length, self._offsets[document_S + 1] - 1 - starts_S)


class Windows(Batches):
    """T tokens at every multiple of a stride, shuffled, the context reset; documents laid end to end."""

    def __init__(self, store: TokenStore, rows: int, length: int, seed: int = 0, *, stride: int | None = None) -> None:
        if len(store.ids) <= length:
            problem = f"the split holds {len(store.ids)} tokens, fewer than a window of {length} and its target"
            raise EmptyDataError(problem, "set a smaller train.length or give it more text")
        self._ids_N, self._rows, self._length, self._seed = np.asarray(store.ids), rows, length, seed
        self._starts = range(0, len(store.ids) - length, stride or length)

    def epoch(self, number: int) -> Epoch:
        total = len(self._starts)
        order = _Shuffle(total, np.random.default_rng([self._seed, number]))

        def make(index: int) -> Batch:
            places_B = np.arange(index * self._rows, min((index + 1) * self._rows, total))
            starts_B = order(places_B[block_of(len(places_B), *self._share)]) * self._starts.step
            return _pair(self._ids_N[starts_B[:, None] + np.arange(self._length + 1)], carry=False)

        return Epoch(-(-total // self._rows), make)
