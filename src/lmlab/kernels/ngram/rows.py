"""Whole rows, the log-probability of every word after a context, compiled.

The children of a context lie side by side, so the row after a context is the unigrams with a few children laid over:

    empty context     the  a  of  to  in  ..   all words, times the backoff weights of the contexts above
    ..    "of"        the  a      ..           its children, times the weights above it
    ..    "one of"    the         ..           its children

The loops get one table of addresses, a line for each length of context, so that one compiled form serves all orders and
a call costs no more than its work. `RowTables` keeps the arrays alive.

Shapes: B contexts, V words, G k-grams of a level, C contexts of one length (C1: and an end).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numba import carray, types, uint64  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic

from lmlab.kernels import intrinsics
from lmlab.kernels.intrinsics import pick_16, prefetch
from lmlab.kernels.jit import inline, jit
from lmlab.kernels.ngram.layout import Contexts, Level, high, low
from lmlab.memory import room

KEY, LOGP, SUFFIX, BACKOFF, START = range(5)  # the columns of the table
CODES, COMMON = SUFFIX, BACKOFF  # in its last line
_CODES = 32
_PLAIN = 16  # words are read as they are in the time that one takes to be laid over
_LOW = 0xFFFFFFFF
_AHEAD = 512  # words


class RowTables:
    """What whole rows are made from, beyond the levels of a model.

    Attributes:
        absent: ln of the backoff weight of a context that was never seen.
        words: V.
        addresses: of all arrays.
    """

    def __init__(self, levels: Sequence[Level], absent: float) -> None:
        self._levels, self.absent, self.words = levels, absent, len(levels[0].key_G)
        nothing = np.empty(0, dtype=np.float32)
        below = [(nothing, nothing), *((level.suffix_G, level.backoff_G) for level in levels)]
        starts = [np.array([0, len(levels[0].key_G)], dtype=np.uint32), *(_starts(*pair) for pair in pairwise(levels))]
        keys = [(level.key_G, level.logp_G) for level in levels]
        if len(levels) > 1:  # contexts of one word have so many children that reading them side by side pays
            pairs_G2 = room((len(levels[1].key_G), 2), np.uint32)
            pairs_G2[:, 0], pairs_G2[:, 1] = low(levels[1].key_G), levels[1].logp_G.view(np.uint32)
            keys[1] = pairs_G2, pairs_G2[:, 1:]
        self.coded = _coded(levels[0])
        lines = [(*key, *own, start_C1) for key, own, start_C1 in zip(keys, below, starts, strict=False)]
        self._lines: list[tuple[np.ndarray, ...]] = [*lines, self.coded]
        addresses = [[array.ctypes.data for array in line] for line in self._lines]
        self.addresses = np.array(addresses, dtype=np.uint64)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy elsewhere makes its own table, with addresses that hold there."""
        return RowTables, (self._levels, self.absent)

    def rows(self, contexts: Contexts) -> np.ndarray:
        """The log-probability of every word after each context, (B, V) float32."""
        logp_BV = np.empty((len(contexts.level_B), self.words), dtype=np.float32)
        _rows(self.addresses, contexts.level_B, contexts.node_B, contexts.length_B, self.absent, logp_BV)
        return logp_BV


def _starts(level: Level, longer: Level) -> np.ndarray:
    """Where the children of each k-gram begin in the level above, and the end; uint32."""
    start_C1 = np.zeros(len(level.key_G) + 1, dtype=np.uint32)
    np.cumsum(np.bincount(high(longer.key_G), minlength=len(level.key_G)), out=start_C1[1:])
    return start_C1


def _coded(words: Level) -> tuple[np.ndarray, ...]:
    """The unigrams for rows, as a line: a quarter of what would be read otherwise.

    Most words are so rare that they share a few values. Their codes of 8 bits say which of the 32 commonest values
    they have; words with others are laid over, like children. The first words, which are seldom rare, stay as they
    are, and so do all where the processor does not pick.

    Returns:
        Keys and logps of the words with other values; codes; values; how many others, and how many stay as is.
    """
    key_V, logp_V = words.key_G, words.logp_G
    value_U, value_V, many_U = np.unique(logp_V, return_inverse=True, return_counts=True)
    common = np.argsort(-many_U, kind="stable")[:_CODES]
    code_U = np.full(len(value_U), _CODES, dtype=np.uint8)
    code_U[common] = np.arange(len(common))
    code_V = code_U[value_V]
    other_V = code_V == _CODES
    later_V1 = other_V.sum() - np.append(0, other_V.cumsum())  # others from each word on
    plain = int((later_V1 + np.arange(len(key_V) + 1) / _PLAIN).argmin()) if intrinsics.picks() else len(key_V)
    plain += (len(key_V) - plain) % 16
    others = plain + np.flatnonzero(other_V[plain:])
    values = np.zeros(_CODES, dtype=np.float32)
    values[: len(common)] = value_U[common]
    bounds = np.array([len(others), plain], dtype=np.uint32)
    return key_V[others], logp_V[others], code_V[plain:] % _CODES, values, bounds


@intrinsic
def _pointer(_typing, address):
    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


@inline
def address_array(table, length, column, dtype):
    """An array of the table, as long as it is; nothing here asks how long."""
    return carray(_pointer(table[length, column]), 1, dtype)


@jit
def _rows(table, level_B, node_B, length_B, absent, logp_BV):
    """Fill in the log-probability of every word after each context.

    Args:
        table: the addresses.
        level_B: how long the longest stored context is.
        node_B: its node.
        length_B: how long the context really is.
        absent: what a context never seen adds.
        logp_BV: float32, receives the rows.
    """
    for b in range(len(level_B)):
        row_after(table, level_B[b], node_B[b], length_B[b], absent, logp_BV[b])


@jit
def row_after(table, level, node, length, absent, row):
    """Fill in the row after one context; arguments as of `_rows`."""
    starts, stops = np.empty(len(table), np.int64), np.empty(len(table), np.int64)
    weights, weight = np.empty(len(table), np.float32), np.float32(absent * (length - level))
    _chain(table, level, node, starts)
    for k in range(level, 0, -1):
        at = starts[k]
        weights[k] = weight
        weight += address_array(table, k, BACKOFF, np.float32)[at]
        starts[k], stops[k] = children(table, k, at)
        prefetch(address_array(table, k, KEY, np.uint64), starts[k])
        prefetch(address_array(table, k, LOGP, np.float32), starts[k])
    _fill(table, weight, row)
    for k in range(1, level + 1):
        _lay(table, k, starts[k], stops[k], uint64(2 if k == 1 else 1), weights[k], row)


@inline
def _fill(table, weight, row):
    """All words, as if they followed nothing."""
    coded, logp = len(table) - 1, address_array(table, 0, LOGP, np.float32)
    codes, common = address_array(table, coded, CODES, np.uint8), address_array(table, coded, COMMON, np.float32)
    others, plain = children(table, coded, 0)
    for word in range(plain):
        row[word] = logp[word] + weight
    for word in range(plain, len(row), 16):
        prefetch(row, word + _AHEAD)
        pick_16(codes, word - plain, common, weight, row, word)
    _lay(table, coded, 0, others, uint64(1), weight, row)


@inline
def _lay(table, length, start, stop, wide, weight, row):
    """Lay children over the row; their logps are so many numbers apart."""
    key, logp = address_array(table, length, KEY, np.uint64), address_array(table, length, LOGP, np.float32)
    for place in range(uint64(start), uint64(stop)):
        row[np.int64(key[place] & uint64(_LOW))] = logp[wide * place] + weight


@inline
def _chain(table, level, node, nodes):
    nodes[0] = 0
    nodes[level] = node
    for length in range(level, 1, -1):
        nodes[length - 1] = address_array(table, length, SUFFIX, np.uint32)[nodes[length]]


@inline
def children(table, length, node):
    """Where a context's children begin and end in the level above."""
    start = address_array(table, length, START, np.uint32)
    return np.int64(start[node]), np.int64(start[node + 1])
