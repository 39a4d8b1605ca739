"""Attention within a sliding window and its gradients, compiled, on rows of bfloat16.

A block of queries meets only those panels of keys that some of them attend to. Its weights stay in cache and are
recomputed in the backward pass, so the matrix of all weights never exists (Dao et al. 2022). Queries and keys are
RMS-normalised and rotated as they are read. That bounds the logits by the root of F, so the softmax needs no maximum.

Shapes: N sequences and heads, T queries, S keys, the last T of which belong to the queries' positions, F features
(even), H = F/2, Q queries of a block, K the keys they attend to, in whole panels, P = Q/2 pairs of queries, W the
columns of packed panels, at least F.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.exponential import exp
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.neural.matmul import (
    COLUMNS,
    ROWS,
    multiply,
    narrow,
    pack,
    pack_transposed,
    paired,
    room_to_pack,
    widen,
)

_QUERIES = 64  # of a block
_f4 = np.float32
_EPSILON = _f4(np.finfo(np.float32).eps)  # added to a mean square, as torch does


@jit
def forward(q_NTF, k_NSF, v_NSF, rotations_2SH, missing_N, window, out_NTF, begin, end):
    """Each query's mean of the values, weighted by the softmax of its products with their keys.

    Args:
        q_NTF: queries, bfloat16.
        k_NSF: keys, bfloat16.
        v_NSF: values, bfloat16.
        rotations_2SH: float32, cosine and sine of the angles by which a key's pairs of features are rotated.
        missing_N: how many of the first keys are padding.
        window: how many positions a query attends to, its own included.
        out_NTF: bfloat16, out.
        begin: first of the N that this thread computes.
        end: one after its last.
    """
    count, features = k_NSF.shape[1:]
    length, panels = q_NTF.shape[1], -(-count // COLUMNS)
    past, size = count - length, _QUERIES * panels * COLUMNS
    keys, values = room_to_pack(features, count), room_to_pack(panels * COLUMNS, features)
    k_SF, q_QF = np.empty((count, features), np.uint16), np.zeros((_QUERIES, features), np.uint16)
    scores, weights = np.empty(size, np.float32), np.empty(size, np.uint16)
    sums_QW = np.empty((_QUERIES, len(values) * COLUMNS), np.float32)
    for n in range(begin, end):
        _rotated(k_NSF, n, 0, count, rotations_2SH, 0, k_SF)
        pack_transposed(k_SF, keys)
        pack(v_NSF[n], values)
        for start in range(0, length, _QUERIES):
            many = min(_QUERIES, length - start)
            low, high = _panels(past + start, many, window, missing_N[n])
            whole, wide, first = -(-many // ROWS) * ROWS, (high - low) * COLUMNS, low * COLUMNS
            scores_QK, weights_QK = _matrix(scores, whole, wide), _matrix(weights, whole, wide)
            _rotated(q_NTF, n, start, many, rotations_2SH, past, q_QF)
            multiply(q_QF, 0, features, 2, whole, keys[low:high], 0, features // 2, scores_QK, False)
            _softmax(scores_QK, many, features, past + start - first, window, missing_N[n] - first)
            _narrow(scores_QK, weights_QK)
            multiply(weights_QK, 0, wide, 2, whole, values, first // 2, wide // 2, sums_QW, False)
            for q in range(many):
                for f in range(features):
                    out_NTF[n, start + q, f] = narrow(sums_QW[q, f])


@jit
def backward(q_NTF, k_NSF, v_NSF, rotations_2SH, missing_N, window, dout_NTF, dq_NTF, dk_NSF, dv_NSF, begin, end):
    """Backward of `forward`: from the gradient `dout_NTF`, `dq_NTF`, `dk_NSF` and `dv_NSF`, all of them bfloat16."""
    count, features = k_NSF.shape[1:]
    length, panels = q_NTF.shape[1], -(-count // COLUMNS)
    past, size = count - length, _QUERIES * panels * COLUMNS
    keys, values = room_to_pack(features, count), room_to_pack(features, count)
    keys_along, queries = room_to_pack(panels * COLUMNS, features), room_to_pack(_QUERIES, features)
    douts, k_SF = room_to_pack(_QUERIES, features), np.empty((count, features), np.uint16)
    q_QF, dout_QF = np.zeros((_QUERIES, features), np.uint16), np.zeros((_QUERIES, features), np.uint16)
    sums_QW = np.empty((_QUERIES, len(douts) * COLUMNS), np.float32)
    scores, slopes = np.empty(size, np.float32), np.empty(size, np.float32)
    narrowed, pairs = np.empty(size, np.uint16), np.empty(size // 2, np.uint32)
    dk_SW = np.empty((panels * COLUMNS, len(douts) * COLUMNS), np.float32)
    dv_SW = np.empty_like(dk_SW)
    for n in range(begin, end):
        _rotated(k_NSF, n, 0, count, rotations_2SH, 0, k_SF)
        pack_transposed(k_SF, keys)
        pack(k_SF, keys_along)
        pack_transposed(v_NSF[n], values)
        dk_SW[:] = 0
        dv_SW[:] = 0
        for start in range(0, length, _QUERIES):
            many = min(_QUERIES, length - start)
            low, high = _panels(past + start, many, window, missing_N[n])
            whole, wide, first = -(-many // ROWS) * ROWS, (high - low) * COLUMNS, low * COLUMNS
            scores_QK, slopes_QK = _matrix(scores, whole, wide), _matrix(slopes, whole, wide)
            narrowed_QK, pairs_PK = _matrix(narrowed, whole, wide), _matrix(pairs, whole // 2, wide)
            _rotated(q_NTF, n, start, many, rotations_2SH, past, q_QF)
            for q in range(many):
                for f in range(features):
                    dout_QF[q, f] = dout_NTF[n, start + q, f]
            dout_QF[many:] = 0
            pack(q_QF, queries)
            pack(dout_QF, douts)
            multiply(q_QF, 0, features, 2, whole, keys[low:high], 0, features // 2, scores_QK, False)
            _softmax(scores_QK, many, features, past + start - first, window, missing_N[n] - first)
            multiply(dout_QF, 0, features, 2, whole, values[low:high], 0, features // 2, slopes_QK, False)
            _softmax_backward(scores_QK, slopes_QK, many, features)
            _pair_rows(scores_QK, pairs_PK)
            multiply(pairs_PK, 0, 1, wide, wide, douts, 0, whole // 2, dv_SW[first : first + wide], True)
            _pair_rows(slopes_QK, pairs_PK)
            multiply(pairs_PK, 0, 1, wide, wide, queries, 0, whole // 2, dk_SW[first : first + wide], True)
            _narrow(slopes_QK, narrowed_QK)
            multiply(narrowed_QK, 0, wide, 2, whole, keys_along, first // 2, wide // 2, sums_QW, False)
            _rotated_backward(sums_QW, q_NTF, n, start, many, rotations_2SH, past, dq_NTF)
        _rotated_backward(dk_SW, k_NSF, n, 0, count, rotations_2SH, 0, dk_NSF)
        for s in range(count):
            for f in range(features):
                dv_NSF[n, s, f] = narrow(dv_SW[s, f])


@inline
def _matrix(numbers, rows, columns):
    return numbers[: rows * columns].reshape((rows, columns))


@inline
def _panels(place, many, window, missing):
    """The panels of the keys that some of so many queries attend to, the first of which is at position `place`."""
    return max(missing, place - window + 1, 0) // COLUMNS, (place + many - 1) // COLUMNS + 1


# Each of these is a loop over single numbers: slicing a row out of an array takes longer than a pass over the row.


@jit_sums
def _rotated(rows_NSF, n, start, many, rotations_2SH, past, rotated_QF):
    """Rows RMS-normalised and rotated by their position, zeros behind."""
    half = rotations_2SH.shape[2]
    for q in range(many):
        s, total = start + q, _f4(0)
        for f in range(2 * half):
            total += widen(rows_NSF[n, s, f]) * widen(rows_NSF[n, s, f])
        scale = _f4(1) / np.sqrt(total / _f4(2 * half) + _EPSILON)
        for f in range(half):
            one, other = widen(rows_NSF[n, s, f]) * scale, widen(rows_NSF[n, s, half + f]) * scale
            cos, sin = rotations_2SH[0, past + s, f], rotations_2SH[1, past + s, f]
            rotated_QF[q, f] = narrow(one * cos - other * sin)
            rotated_QF[q, half + f] = narrow(one * sin + other * cos)
    rotated_QF[many:] = 0


@jit_sums
def _rotated_backward(drotated_QW, rows_NSF, n, start, many, rotations_2SH, past, drows_NSF):
    """The gradients of the rows, from those of what `_rotated` made of them."""
    half = rotations_2SH.shape[2]
    for q in range(many):
        s, total, dot = start + q, _f4(0), _f4(0)
        for f in range(half):
            one, other = drotated_QW[q, f], drotated_QW[q, half + f]
            cos, sin = rotations_2SH[0, past + s, f], rotations_2SH[1, past + s, f]
            drotated_QW[q, f], drotated_QW[q, half + f] = one * cos + other * sin, other * cos - one * sin
        for f in range(2 * half):
            number = widen(rows_NSF[n, s, f])
            total += number * number
            dot += number * drotated_QW[q, f]
        square = total / _f4(2 * half) + _EPSILON
        scale = _f4(1) / np.sqrt(square)
        share = dot / (_f4(2 * half) * square)
        for f in range(2 * half):
            drows_NSF[n, s, f] = narrow(scale * (drotated_QW[q, f] - widen(rows_NSF[n, s, f]) * share))


@jit_sums
def _softmax(scores_QK, many, features, place, window, missing):
    """Products become weights, 0 where a query does not attend to a key; places are counted in this block."""
    rows, wide = scores_QK.shape
    bound = _f4(features) ** _f4(0.5)
    scale = _f4(1) / bound
    for q in range(rows):
        least, most = max(missing, place + q - window + 1, 0), place + q + 1 if q < many else 0
        for k in range(min(least, wide)):
            scores_QK[q, k] = -np.inf
        for k in range(most, wide):
            scores_QK[q, k] = -np.inf
    for q in range(rows):
        for k in range(wide):
            scores_QK[q, k] = exp(scores_QK[q, k] * scale - bound)
    for q in range(many):
        total = _f4(0)
        for k in range(wide):
            total += scores_QK[q, k]
        share = _f4(1) / total
        for k in range(wide):
            scores_QK[q, k] *= share


@jit_sums
def _softmax_backward(weights_QK, slopes_QK, many, features):
    """The gradients of the weights become those of the products."""
    factor = _f4(1) / _f4(features) ** _f4(0.5)
    for q in range(many):
        mean = _f4(0)
        for k in range(weights_QK.shape[1]):
            mean += weights_QK[q, k] * slopes_QK[q, k]
        for k in range(weights_QK.shape[1]):
            slopes_QK[q, k] = weights_QK[q, k] * (slopes_QK[q, k] - mean) * factor
    slopes_QK[many:] = 0


@jit
def _narrow(numbers_QK, narrowed_QK):
    for q in range(len(numbers_QK)):
        for k in range(numbers_QK.shape[1]):
            narrowed_QK[q, k] = narrow(numbers_QK[q, k])


@jit
def _pair_rows(numbers_QK, pairs_PK):
    for p in range(len(pairs_PK)):
        for k in range(pairs_PK.shape[1]):
            pairs_PK[p, k] = paired(narrow(numbers_QK[2 * p, k]), narrow(numbers_QK[2 * p + 1, k]))
