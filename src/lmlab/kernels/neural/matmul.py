"""Arithmetic of the compiled neural loops: bfloat16, and a matrix product for few rows.

A bfloat16 is the upper half of a float32's bits; NumPy has no such type, so arrays of it are uint16 here.

`product` is the heart of training a recurrent network: at each position a few rows meet a large matrix, which has to
come from the second or third cache every time. The microkernel keeps eight rows by 32 columns in registers while the
matrix streams by once, packed in the order in which it is read; that runs at the processor's peak (lab log). It needs
the instruction that multiplies pairs of bfloat16 and adds to float32 (AVX512-BF16): `has_bfloat16` says if it is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from lmlab.kernels.intrinsics import processor_has
from lmlab.kernels.jit import inline, jit

ROWS, COLUMNS, _LANES = 4, 32, 16  # rows of half a tile, columns of a panel; numbers in a vector
_f4, _u2, _u4 = np.float32, np.uint16, np.uint32


class _BFloat(ir.types.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def has_bfloat16() -> bool:
    """Whether this processor multiplies pairs of bfloat16, 16 at a time."""
    return processor_has("avx512bf16")


@inline
def widen(half):
    """The float32 of a bfloat16's bits."""
    return _u4(_u4(half) << _u4(16)).view(np.float32)


@inline
def widen_if(half, number):
    """A number given as float32, or as the bits of a bfloat16."""
    return widen(number) if half else _f4(number)


@inline
def narrow(number):
    """The bits of the bfloat16 nearest to a float32, ties to even."""
    bits = _f4(number).view(np.uint32)
    return _u2((bits + _u4(0x7FFF) + ((bits >> _u4(16)) & _u4(1))) >> _u4(16))


@register_jitable
def packed_columns(columns: int) -> int:
    """How many columns the panels of a packed matrix have together."""
    return -(-columns // COLUMNS) * COLUMNS


@register_jitable
def room_to_pack(length: int, columns: int) -> np.ndarray:
    """Zeros for a packed matrix of bfloat16: panels of columns, in each pairs of rows (`length` is even).

    Returns:
        Pairs, (panels, length / 2, COLUMNS), the first of a pair in the lower half.
    """
    return np.zeros((packed_columns(columns) // COLUMNS, length // 2, COLUMNS), np.uint32)


@jit
def pack(rows_SF, packed):
    """Pack a matrix of bfloat16 as it is; an odd last row is paired with zeros."""
    count, features = rows_SF.shape
    for panel in range(len(packed)):
        column = panel * COLUMNS
        many = min(COLUMNS, features - column)
        for p in range(count // 2):
            for f in range(many):
                packed[panel, p, f] = paired(rows_SF[2 * p, column + f], rows_SF[2 * p + 1, column + f])
        if count % 2:
            for f in range(many):
                packed[panel, count // 2, f] = rows_SF[count - 1, column + f]


@jit
def pack_transposed(rows_SF, packed):
    """Pack the transpose of a matrix of bfloat16, F even: rows become columns."""
    for s in range(len(rows_SF)):
        for p in range(packed.shape[1]):
            packed[s // COLUMNS, p, s % COLUMNS] = paired(rows_SF[s, 2 * p], rows_SF[s, 2 * p + 1])


@jit
def transpose_in_pairs(matrix_KM, pairs_MP):
    """Transpose the first columns of a matrix of bfloat16 into pairs (K even, columns a multiple of 16)."""
    for start in range(0, len(pairs_MP), _LANES):
        for pair in range(len(matrix_KM) // 2):
            for j in range(_LANES):
                pairs_MP[start + j, pair] = paired(matrix_KM[2 * pair, start + j], matrix_KM[2 * pair + 1, start + j])


@inline
def paired(first, second):
    """Two bfloat16, the first in the lower half."""
    return _u4(first) | (_u4(second) << _u4(16))


@jit
def product(rows_NK, packed, results_NM, add):
    """Multiply rows by a packed matrix.

    Args:
        rows_NK: bfloat16, N a multiple of `ROWS`; what a row has beyond the rows of the matrix is not read.
        packed: the matrix, as `room_to_pack` describes.
        results_NM: float32, out; M the columns of all panels.
        add: whether to add to the results instead of replacing them.
    """
    multiply(rows_NK, 0, rows_NK.shape[1], 2, len(rows_NK), packed, 0, packed.shape[1], results_NM, add)


@jit
def multiply(numbers, at, apart, step, count, packed, first, pairs, results_NM, add):
    """Multiply strided rows by a packed matrix: pair p of row n lies at `at + n * apart + p * step`.

    Args:
        numbers: contiguous, bfloat16 or pairs of it; places are counted in its elements, its axes laid end to end.
        at: place of the first row.
        apart: distance of the rows.
        step: distance of a row's pairs.
        count: rows, a multiple of `ROWS`.
        packed: the matrix, as `room_to_pack` describes.
        first: the pair of the matrix's rows that a row's first pair is multiplied by.
        pairs: how many of them.
        results_NM: float32, out; at least `count` rows.
        add: whether to add to the results instead of replacing them.
    """
    wide = results_NM.shape[1]
    for panel in range(len(packed)):
        column, panel_at = panel * COLUMNS, (panel * packed.shape[1] + first) * COLUMNS
        for row in range(0, count - ROWS, 2 * ROWS):
            to = row * wide + column
            _tile(numbers, at + row * apart, apart, step, packed, panel_at, pairs, results_NM, to, wide, add)
        if count % (2 * ROWS):
            row = count - ROWS
            to = row * wide + column
            _half(numbers, at + row * apart, apart, step, packed, panel_at, pairs, results_NM, to, wide, add)


def _tile_of(rows: int) -> Any:
    """The microkernel of `multiply`, for a tile of so many rows; places are those of arrays laid end to end."""

    @intrinsic
    def tile(_typing, numbers, at, apart, step, packed, packed_at, pairs, results, results_at, wide, add):
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            def pointer(place: int) -> Any:
                data = context.make_array(signature.args[place])(context, builder, arguments[place]).data
                return builder.gep(data, [arguments[place + 1]])

            pointers, sizes = [pointer(place) for place in (0, 4, 7)], [arguments[place] for place in _SIZES]
            _write_tile(builder, rows, pointers, sizes)
            return context.get_dummy_value()

        place = types.int64
        kinds = (numbers, place, place, place, packed, place, place, results, place, place, types.boolean)
        return types.void(*kinds), generate

    return tile


_SIZES = (2, 3, 6, 9, 10)  # of `tile`'s arguments: apart, step, pairs, wide, add
_tile, _half = _tile_of(2 * ROWS), _tile_of(ROWS)
_INDEX, _INT = ir.IntType(64), ir.IntType(32)
_SUMS, _PAIRS = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(_INT, _LANES)
_BFLOATS = ir.VectorType(_BFloat(), 2 * _LANES)


def _write_tile(builder: Any, rows: int, pointers: list[Any], sizes: list[Any]) -> None:
    """Write the loop: sums stay in registers; each turn multiplies a pair of each row by a pair of the panel's rows."""
    (numbers, panel, results), (apart, step, pairs, wide, add) = pointers, sizes

    def at(pointer: Any, index: Any, kind: ir.Type) -> Any:
        return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())

    vectors, zeros = range(0, COLUMNS, _LANES), ir.Constant(_SUMS, None)
    places = [
        at(results, builder.add(builder.mul(wide, _INDEX(row)), _INDEX(vector)), _SUMS)
        for row in range(rows)
        for vector in vectors
    ]
    begun = [builder.select(add, builder.load(place, align=4), zeros) for place in places]
    before, loop, end = builder.block, builder.append_basic_block("pairs"), builder.append_basic_block("tile")
    builder.branch(loop)
    builder.position_at_end(loop)
    number, sums = builder.phi(_INDEX), [builder.phi(_SUMS) for _ in places]
    turn, along, added = builder.mul(number, _INDEX(COLUMNS)), builder.mul(number, step), list[Any]()
    columns = [builder.load(at(panel, builder.add(turn, _INDEX(vector)), _PAIRS), align=4) for vector in vectors]
    columns = [builder.bitcast(column, _BFLOATS) for column in columns]
    kind = ir.FunctionType(_SUMS, [_SUMS, _BFLOATS, _BFLOATS])
    multiply_add = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    for row in range(rows):
        pair = builder.load(at(numbers, builder.add(builder.mul(apart, _INDEX(row)), along), _INT), align=2)
        one = builder.insert_element(ir.Constant(_PAIRS, ir.Undefined), pair, _INT(0))
        everywhere = builder.bitcast(builder.shuffle_vector(one, one, ir.Constant(_PAIRS, [0] * _LANES)), _BFLOATS)
        for column in columns:
            added.append(builder.call(multiply_add, [sums[len(added)], everywhere, column]))
    following = builder.add(number, _INDEX(1))
    for value, first, then in zip((number, *sums), (_INDEX(0), *begun), (following, *added), strict=True):
        value.add_incoming(first, before)
        value.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, pairs), loop, end)
    builder.position_at_end(end)
    for place, total in zip(places, added, strict=True):
        builder.store(total, place, align=4)
