"""A matrix product for few rows, in float32: each weight is read once for all of them.

A matrix is packed into panels of 32 rows, in the order in which they are read, so that one row of numbers runs at what
memory gives and many at what the processor multiplies. Each sum is added up in the same order however many rows there
are: a text alone has the numbers, bit for bit, that it has among others.

Shapes: F rows of the matrix, H columns, P panels of C rows, L layers, B rows multiplied, W = P * C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from lmlab.kernels.jit import jit

COLUMNS, _LANES = 32, 16  # of a panel; numbers in a vector
_ROWS = 6  # multiplied at once: their sums fill the registers
TOGETHER = 48  # texts a step, whose sums stay in the second cache
_DEPTH, _LINE = 128, 64  # numbers of a column that stay in the first cache for all rows; bytes of its lines
_EVEN = np.uint64(0x9E3779B97F4A7C16)
_TURNED = 64  # numbers of a row that are laid down before those of the next, whose lines are the same
_INDEX, _SUMS = ir.IntType(64), ir.VectorType(ir.FloatType(), _LANES)
_VECTORS = range(0, COLUMNS, _LANES)


@register_jitable
def width(features: int) -> int:
    """W, how many numbers a row of a product has."""
    return -(-features // COLUMNS) * COLUMNS


def packed(matrix_LFH: np.ndarray) -> np.ndarray:
    """The panels of each of L matrices, LPHC."""
    layers, features, length = matrix_LFH.shape
    shape = layers, width(features) // COLUMNS, length, COLUMNS
    room = np.zeros(math.prod(shape) + _LANES, np.float32)
    start = -room.ctypes.data % _LINE // room.itemsize  # no vector shall lie in two lines of the cache
    panel_LPHC: np.ndarray = room[start:][: math.prod(shape)].reshape(shape)
    for layer in range(layers):
        _pack(matrix_LFH[layer], panel_LPHC[layer])
    return panel_LPHC


@jit
def _pack(matrix_FH, panel_PHC):
    length = matrix_FH.shape[1]
    for p in range(len(panel_PHC)):
        many = min(COLUMNS, len(matrix_FH) - p * COLUMNS)
        for start in range(0, length, _TURNED):
            for c in range(many):
                for j in range(start, min(start + _TURNED, length)):
                    panel_PHC[p, j, c] = matrix_FH[p * COLUMNS + c, j]


def mark_of(arrays: Sequence[np.ndarray]) -> int:
    """A number that other arrays of float32 have but by chance: a sum of their bits, each times an odd number."""
    mark = 0
    for array in arrays:
        mark = int(_mark(np.ascontiguousarray(array).reshape(-1).view(np.uint32), np.uint64(mark)))
    return mark


@jit
def _mark(bits_N, mark):
    for at in range(len(bits_N)):
        mark += np.uint64(bits_N[at]) * (np.uint64(at) * _EVEN + np.uint64(1))
    return mark * (_EVEN + np.uint64(1)) + np.uint64(len(bits_N))


@jit
def add_product(panel_PHC, x_BH, y_BW, back):
    """Add rows times the transpose of a matrix.

    Args:
        panel_PHC: the matrix.
        x_BH: at least H numbers a row, which lie together.
        y_BW: contiguous, in and out.
        back: whether to begin with the last panel: what was read last is still in the nearest cache.
    """
    panels, length = len(panel_PHC), panel_PHC.shape[1]
    for place in range(panels):
        p = panels - 1 - place if back else place
        for j in range(0, length, _DEPTH):
            depth = min(_DEPTH, length - j)
            for b in range(0, len(x_BH), _ROWS):
                rows, apart, wide = min(_ROWS, len(x_BH) - b), x_BH.strides[0] // x_BH.itemsize, y_BW.shape[1]
                x_at, y_at = b * apart + j, b * wide + p * COLUMNS
                _tile(panel_PHC, (p * length + j) * COLUMNS, depth, x_BH, x_at, y_BW, y_at, apart, wide, rows)


@intrinsic
def _tile(_typing, panels, panel_at, length, x, x_at, y, y_at, apart, wide, rows):
    """Up to `_ROWS` rows by one panel; places are those of arrays laid end to end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(array: int, place: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            return builder.gep(data, [arguments[place]])

        pointers, sizes = [pointer(0, 1), pointer(3, 4), pointer(5, 6)], [arguments[at] for at in (2, 7, 8)]
        end = builder.append_basic_block("end")
        switch = builder.switch(arguments[9], end)
        for count in range(1, _ROWS + 1):
            block = builder.append_basic_block(f"rows{count}")
            switch.add_case(_INDEX(count), block)
            builder.position_at_end(block)
            _write_tile(builder, count, pointers, sizes)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    place = types.int64
    return types.void(panels, place, place, x, place, y, place, place, place, place), generate


def _write_tile(builder: Any, rows: int, pointers: list[Any], sizes: list[Any]) -> None:
    """Write the loop: sums stay in registers; each turn multiplies a number of each row by a line of the panel."""
    (panel, x, y), (length, apart, wide) = pointers, sizes

    def at(pointer: Any, row: Any, index: Any, size: Any) -> Any:
        return builder.gep(pointer, [builder.add(builder.mul(size, _INDEX(row)), index)])

    def vector(pointer: Any) -> Any:
        return builder.bitcast(pointer, _SUMS.as_pointer())

    places = [vector(at(y, row, _INDEX(column), wide)) for row in range(rows) for column in _VECTORS]
    begun = [builder.load(place, align=4) for place in places]
    before, loop, end = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("tile")
    builder.branch(loop)
    builder.position_at_end(loop)
    j, sums, added = builder.phi(_INDEX), [builder.phi(_SUMS) for _ in places], list[Any]()
    turn = builder.mul(j, _INDEX(COLUMNS))
    line = [builder.load(vector(builder.gep(panel, [builder.add(turn, _INDEX(c))])), align=4) for c in _VECTORS]
    for row in range(rows):
        number = builder.load(at(x, row, j, apart), align=4)
        one = builder.insert_element(ir.Constant(_SUMS, ir.Undefined), number, ir.IntType(32)(0))
        everywhere = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES))
        for weights in line:
            product = builder.fmul(everywhere, weights, flags=["contract"])
            added.append(builder.fadd(sums[len(added)], product, flags=["contract"]))
    following = builder.add(j, _INDEX(1))
    for value, first, then in zip((j, *sums), (_INDEX(0), *begun), (following, *added), strict=True):
        value.add_incoming(first, before)
        value.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, length), loop, end)
    builder.position_at_end(end)
    for place, total in zip(places, added, strict=True):
        builder.store(total, place, align=4)
