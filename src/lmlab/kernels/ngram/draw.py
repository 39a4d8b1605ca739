"""The loops of drawing.py for large models, compiled.

A model of any order comes in as one table of addresses, a line for each length of context, so that one compiled form
serves all orders, and a call costs no more than its work. Whoever makes the table keeps the arrays alive.

Shapes: B contexts, T tokens, V words.
"""

from __future__ import annotations

import numpy as np
from numba import carray, types, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from lmlab.kernels.jit import inline, jit, pick_16, prefetch
from lmlab.models.ngram.drawing import BACKOFF, CODES, COMMON, KEY, LOGP, START, SUFFIX

_LOW = 0xFFFFFFFF
_AHEAD = 512  # words


@intrinsic
def _pointer(_typing, address):
    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


@inline
def _array(table, length, column, dtype):
    return carray(_pointer(table[length, column]), 1, dtype)  # as long as it is; nothing here asks how long


@jit
def rows(table, level_B, node_B, length_B, absent, logp_BV):
    """Fill in the log-probability of every word after each context.

    Args:
        table: `Drawing._row_table`.
        level_B: how long the longest stored context is.
        node_B: its node.
        length_B: how long the context really is.
        absent: what a context never seen adds.
        logp_BV: float32, receives the rows.
    """
    starts, stops = np.empty(len(table), np.int64), np.empty(len(table), np.int64)
    weights = np.empty(len(table), np.float32)
    for b in range(len(level_B)):
        level, row = level_B[b], logp_BV[b]
        weight = np.float32(absent * (length_B[b] - level))
        _chain(table, level, node_B[b], starts)
        for length in range(level, 0, -1):
            node = starts[length]
            weights[length] = weight
            weight += _array(table, length, BACKOFF, np.float32)[node]
            starts[length], stops[length] = _children(table, length, node)
            prefetch(_array(table, length, KEY, np.uint64), starts[length])
            prefetch(_array(table, length, LOGP, np.float32), starts[length])
        _fill(table, weight, row)
        for length in range(1, level + 1):
            wide = uint64(2 if length == 1 else 1)
            _lay(table, length, starts[length], stops[length], wide, weights[length], row)


@inline
def _fill(table, weight, row):
    """All words, as if they followed nothing."""
    coded, logp = len(table) - 1, _array(table, 0, LOGP, np.float32)
    codes, common = _array(table, coded, CODES, np.uint8), _array(table, coded, COMMON, np.float32)
    others, plain = _children(table, coded, 0)
    for word in range(plain):
        row[word] = logp[word] + weight
    for word in range(plain, len(row), 16):
        prefetch(row, word + _AHEAD)
        pick_16(codes, word - plain, common, weight, row, word)
    _lay(table, coded, 0, others, uint64(1), weight, row)


@inline
def _lay(table, length, start, stop, wide, weight, row):
    """Lay children over the row; their logps are so many numbers apart."""
    key, logp = _array(table, length, KEY, np.uint64), _array(table, length, LOGP, np.float32)
    for place in range(uint64(start), uint64(stop)):
        row[np.int64(key[place] & uint64(_LOW))] = logp[wide * place] + weight


@jit
def sample(table, sums, most_redraws, eos, level_B, node_B, stream_B, words_BT, many_B):
    """Draw words after each context until `eos`, or the end of its line; Drawing.sample says how.

    Args:
        table: the addresses of `Drawing._lines`.
        sums: the addresses of `Drawing.sums`.
        most_redraws: after how many only stored children are drawn.
        eos: the word that ends a text.
        level_B: how long the longest stored context is.
        node_B: its node.
        stream_B: uint64, where the random numbers of each text begin.
        words_BT: uint32, receives the words.
        many_B: receives how many they are.
    """
    full = len(table) - 1
    nodes = np.empty(len(table), np.int64)
    for b in range(len(level_B)):
        level, node, stream = level_B[b], node_B[b], stream_B[b]
        for t in range(words_BT.shape[1]):
            _chain(table, level, node, nodes)
            length, redraws = level, 0
            while True:
                length, place, stream = _draw(table, sums, nodes, length, stream, redraws == most_redraws)
                word = _array(table, length, KEY, np.uint64)[place] & uint64(_LOW)
                known = length + 1
                while known <= level and _find(table, known, nodes[known], word) < 0:
                    known += 1
                if known > level:
                    break
                redraws = min(redraws + 1, most_redraws)
                length = known - 1 if redraws < most_redraws else level
            words_BT[b, t] = word
            many_B[b] = t + 1
            if word == eos:
                break
            level, node = length + 1, place
            if length == full:
                level, node = full, 0
                if full:
                    node = _find(table, full - 1, nodes[full - 1], word)


@inline
def _draw(table, sums, nodes, length, stream, children_only):
    while True:
        start, stop = _children(table, length, nodes[length])
        total = _array(sums, length, 0, np.float64)
        base, reach = total[start], total[stop] - total[start]
        stream += uint64(0x9E3779B97F4A7C15)
        uniform = np.float64(_mix(stream) >> uint64(11)) * 2.0**-53
        only = length == 0 or children_only
        if not only:
            only = _array(table, length, BACKOFF, np.float32)[nodes[length]] == -np.inf
        if start < stop and (only or uniform < reach):
            if only:
                uniform *= reach
            target = min(base + uniform, np.nextafter(total[stop], 0.0))
            low, high = start, stop - 1  # the first whose sum, itself included, is beyond the target
            while low < high:
                middle = (low + high) >> 1
                if total[middle + 1] > target:
                    high = middle
                else:
                    low = middle + 1
            return length, low, stream
        length -= 1


@inline
def _mix(x):
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


@inline
def _chain(table, level, node, nodes):
    nodes[0] = 0
    nodes[level] = node
    for length in range(level, 1, -1):
        nodes[length - 1] = _array(table, length, SUFFIX, np.uint32)[nodes[length]]


@inline
def _children(table, length, node):
    start = _array(table, length, START, np.uint32)
    return np.int64(start[node]), np.int64(start[node + 1])


@inline
def _find(table, length, node, word):
    key = _array(table, length, KEY, np.uint64)
    low, stop = _children(table, length, node)
    high, wanted = stop, (uint64(node) << uint64(32)) | word
    while low < high:
        middle = (low + high) >> 1
        if key[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    if low < stop and key[low] == wanted:
        return low
    return -1
