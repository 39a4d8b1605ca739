"""Attention within a window and its gradients, compiled, on rows of bfloat16 (`arithmetic.py`).

A block of queries meets the keys that some of them see, and no others; its weights stay in cache and are reckoned anew
on the way back, so that no matrix of all of them is ever held (Dao et al. 2022). Queries and keys are brought to a mean
square of one and turned by their position as they are read: logits lie within the root of F, and nobody looks for the
highest.

Shapes: N sequences and heads, T queries, S keys, the last T of which stand where the queries do, F features (even), H
half of them, Q queries at a time, K the keys that they see, in whole panels, W the columns of packed panels, at least
F.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.neural.matmul import COLUMNS, ROWS, exp, halved, multiply, pack_along, paired, widened

_AT_A_TIME = 64
_f4 = np.float32
_LEAST = _f4(np.finfo(np.float32).eps)  # added to a mean square, as torch does


@jit
def attend(queries_NTF, keys_NSF, values_NSF, turns_2SH, missing_N, window, out_NTF, scale_NT, begin, end):
    """Each query's mean of the values that it sees, weighted by the softmax of its products with their keys.

    Args:
        queries_NTF: bfloat16.
        keys_NSF: bfloat16.
        values_NSF: bfloat16.
        turns_2SH: float32, cosine and sine of what each key's pairs of features are turned by.
        missing_N: how many of the first keys are none.
        window: how many keys a query sees, its own included.
        out_NTF: bfloat16, out.
        scale_NT: float32, out: one over the sum of the exponentials.
        begin: sequence.
        end: sequence after the last.
    """
    count, features = keys_NSF.shape[1:]
    length, panels = queries_NTF.shape[1], -(-count // COLUMNS)
    past, size = count - length, _AT_A_TIME * panels * COLUMNS
    keys, values = _room_across(panels, features), _room_along(panels * COLUMNS, features)
    keys_SF, rows_QF = np.empty((count, features), np.uint16), np.zeros((_AT_A_TIME, features), np.uint16)
    scores, weights = np.empty(size, np.float32), np.empty(size, np.uint16)
    sums_QW = np.empty((_AT_A_TIME, len(values) * COLUMNS), np.float32)
    for n in range(begin, end):
        _turn(keys_NSF, n, 0, count, turns_2SH, 0, keys_SF)
        _pack_across(keys_SF, keys)
        pack_along(values_NSF[n], values)
        for start in range(0, length, _AT_A_TIME):
            many = min(_AT_A_TIME, length - start)
            low, high = _panels(past + start, many, window, missing_N[n])
            whole, wide, first = _whole(many), (high - low) * COLUMNS, low * COLUMNS
            scores_QK, weights_QK = _matrix(scores, whole, wide), _matrix(weights, whole, wide)
            _turn(queries_NTF, n, start, many, turns_2SH, past, rows_QF)
            multiply(rows_QF, 0, features, 2, whole, keys[low:high], 0, features // 2, scores_QK, False)
            _weigh(scores_QK, many, features, past + start - first, window, missing_N[n] - first)
            _sum(scores_QK, many, scale_NT, n, start)
            _halve(scores_QK, weights_QK)
            multiply(weights_QK, 0, wide, 2, whole, values, first // 2, wide // 2, sums_QW, False)
            _scaled(sums_QW, scale_NT, n, start, many, out_NTF)


@jit
def attend_back(
    queries_NTF,
    keys_NSF,
    values_NSF,
    turns_2SH,
    missing_N,
    window,
    scale_NT,
    grad_NTF,
    grad_queries_NTF,
    grad_keys_NSF,
    grad_values_NSF,
    begin,
    end,
):
    """The gradients of what `attend` did.

    Args:
        queries_NTF: as they were.
        keys_NSF: as they were.
        values_NSF: as they were.
        turns_2SH: as they were.
        missing_N: as they were.
        window: as it was.
        scale_NT: as it became.
        grad_NTF: bfloat16, by the output.
        grad_queries_NTF: bfloat16, out: by the queries.
        grad_keys_NSF: bfloat16, out: by the keys.
        grad_values_NSF: bfloat16, out: by the values.
        begin: sequence.
        end: sequence after the last.
    """
    count, features = keys_NSF.shape[1:]
    length, panels = queries_NTF.shape[1], -(-count // COLUMNS)
    past, size = count - length, _AT_A_TIME * panels * COLUMNS
    keys, values = _room_across(panels, features), _room_across(panels, features)
    keys_along, queries = _room_along(panels * COLUMNS, features), _room_along(_AT_A_TIME, features)
    grad, keys_SF = _room_along(_AT_A_TIME, features), np.empty((count, features), np.uint16)
    rows_QF, grad_QF = np.zeros((_AT_A_TIME, features), np.uint16), np.zeros((_AT_A_TIME, features), np.uint16)
    sums_QW = np.empty((_AT_A_TIME, len(grad) * COLUMNS), np.float32)
    scores, slopes = np.empty(size, np.float32), np.empty(size, np.float32)
    halves, pairs = np.empty(size, np.uint16), np.empty(size // 2, np.uint32)
    grad_keys_SW = np.empty((panels * COLUMNS, len(grad) * COLUMNS), np.float32)
    grad_values_SW = np.empty_like(grad_keys_SW)
    for n in range(begin, end):
        _turn(keys_NSF, n, 0, count, turns_2SH, 0, keys_SF)
        _pack_across(keys_SF, keys)
        pack_along(keys_SF, keys_along)
        _pack_across(values_NSF[n], values)
        grad_keys_SW[:] = 0
        grad_values_SW[:] = 0
        for start in range(0, length, _AT_A_TIME):
            many = min(_AT_A_TIME, length - start)
            low, high = _panels(past + start, many, window, missing_N[n])
            whole, wide, first = _whole(many), (high - low) * COLUMNS, low * COLUMNS
            scores_QK, slopes_QK = _matrix(scores, whole, wide), _matrix(slopes, whole, wide)
            halves_QK, pairs_PK = _matrix(halves, whole, wide), _matrix(pairs, whole // 2, wide)
            _turn(queries_NTF, n, start, many, turns_2SH, past, rows_QF)
            _copy(grad_NTF, n, start, many, grad_QF)
            pack_along(rows_QF, queries)
            pack_along(grad_QF, grad)
            multiply(rows_QF, 0, features, 2, whole, keys[low:high], 0, features // 2, scores_QK, False)
            _weigh(scores_QK, many, features, past + start - first, window, missing_N[n] - first)
            multiply(grad_QF, 0, features, 2, whole, values[low:high], 0, features // 2, slopes_QK, False)
            _to_slopes(scores_QK, slopes_QK, scale_NT, n, start, many, features)
            _pair_up(scores_QK, pairs_PK)
            multiply(pairs_PK, 0, 1, wide, wide, grad, 0, whole // 2, grad_values_SW[first : first + wide], True)
            _pair_up(slopes_QK, pairs_PK)
            multiply(pairs_PK, 0, 1, wide, wide, queries, 0, whole // 2, grad_keys_SW[first : first + wide], True)
            _halve(slopes_QK, halves_QK)
            multiply(halves_QK, 0, wide, 2, whole, keys_along, first // 2, wide // 2, sums_QW, False)
            _turn_back(sums_QW, queries_NTF, n, start, many, turns_2SH, past, grad_queries_NTF)
        _turn_back(grad_keys_SW, keys_NSF, n, 0, count, turns_2SH, 0, grad_keys_NSF)
        _keep(grad_values_SW, n, grad_values_NSF)


@inline
def _whole(many):
    return -(-many // ROWS) * ROWS


@inline
def _matrix(numbers, rows, columns):
    return numbers[: rows * columns].reshape((rows, columns))


@inline
def _room_across(panels, features):
    return np.zeros((panels, features // 2, COLUMNS), np.uint32)


@inline
def _room_along(rows, features):
    return np.zeros((-(-features // COLUMNS), rows // 2, COLUMNS), np.uint32)


@inline
def _panels(place, many, window, missing):
    """The panels of the keys that some of so many queries, the first of which stands at `place`, see."""
    return max(missing, place - window + 1, 0) // COLUMNS, (place + many - 1) // COLUMNS + 1


# Each of these is a loop over all of its numbers: to cut a row out of an array takes longer than to pass over it.


@jit_sums
def _turn(rows_NSF, n, start, many, turns_2SH, past, turned_QF):
    """Rows brought to a mean square of one and turned by their position, zeros behind."""
    half = turns_2SH.shape[2]
    for q in range(many):
        s, total = start + q, _f4(0)
        for f in range(2 * half):
            total += widened(rows_NSF[n, s, f]) * widened(rows_NSF[n, s, f])
        scale = _f4(1) / np.sqrt(total / _f4(2 * half) + _LEAST)
        for f in range(half):
            one, other = widened(rows_NSF[n, s, f]) * scale, widened(rows_NSF[n, s, half + f]) * scale
            cos, sin = turns_2SH[0, past + s, f], turns_2SH[1, past + s, f]
            turned_QF[q, f] = halved(one * cos - other * sin)
            turned_QF[q, half + f] = halved(one * sin + other * cos)
    turned_QF[many:] = 0


@jit_sums
def _turn_back(sums_QW, rows_NSF, n, start, many, turns_2SH, past, grad_NSF):
    """The gradients by rows, from those by what `_turn` made of them."""
    half = turns_2SH.shape[2]
    for q in range(many):
        s, total, dot = start + q, _f4(0), _f4(0)
        for f in range(half):
            one, other = sums_QW[q, f], sums_QW[q, half + f]
            cos, sin = turns_2SH[0, past + s, f], turns_2SH[1, past + s, f]
            sums_QW[q, f], sums_QW[q, half + f] = one * cos + other * sin, other * cos - one * sin
        for f in range(2 * half):
            number = widened(rows_NSF[n, s, f])
            total += number * number
            dot += number * sums_QW[q, f]
        square = total / _f4(2 * half) + _LEAST
        scale = _f4(1) / np.sqrt(square)
        share = dot / (_f4(2 * half) * square)
        for f in range(2 * half):
            grad_NSF[n, s, f] = halved(scale * (sums_QW[q, f] - widened(rows_NSF[n, s, f]) * share))


@jit
def _pack_across(rows_SF, packed):
    """Rows become columns."""
    for s in range(len(rows_SF)):
        for p in range(packed.shape[1]):
            packed[s // COLUMNS, p, s % COLUMNS] = paired(rows_SF[s, 2 * p], rows_SF[s, 2 * p + 1])


@jit
def _copy(rows_NTF, n, start, many, rows_QF):
    """Some rows, zeros behind."""
    for q in range(many):
        for f in range(rows_QF.shape[1]):
            rows_QF[q, f] = rows_NTF[n, start + q, f]
    rows_QF[many:] = 0


@jit_sums
def _weigh(scores_QK, many, features, place, window, missing):
    """Products become exponentials, 0 where a query does not see a key; places are counted in this block."""
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


@jit_sums
def _sum(weights_QK, many, scale_NT, n, start):
    for q in range(many):
        total = _f4(0)
        for k in range(weights_QK.shape[1]):
            total += weights_QK[q, k]
        scale_NT[n, start + q] = _f4(1) / total


@jit
def _halve(numbers_QK, halves_QK):
    for q in range(len(numbers_QK)):
        for k in range(numbers_QK.shape[1]):
            halves_QK[q, k] = halved(numbers_QK[q, k])


@jit
def _scaled(sums_QW, scale_NT, n, start, many, out_NTF):
    for q in range(many):
        for f in range(out_NTF.shape[2]):
            out_NTF[n, start + q, f] = halved(sums_QW[q, f] * scale_NT[n, start + q])


@jit_sums
def _to_slopes(weights_QK, slopes_QK, scale_NT, n, start, many, features):
    """Exponentials become weights, and the gradients by the weights those by the products."""
    factor = _f4(1) / _f4(features) ** _f4(0.5)
    for q in range(many):
        mean = _f4(0)
        for k in range(weights_QK.shape[1]):
            weights_QK[q, k] *= scale_NT[n, start + q]
            mean += weights_QK[q, k] * slopes_QK[q, k]
        for k in range(weights_QK.shape[1]):
            slopes_QK[q, k] = weights_QK[q, k] * (slopes_QK[q, k] - mean) * factor
    slopes_QK[many:] = 0


@jit
def _pair_up(numbers_QK, pairs_PK):
    for p in range(len(pairs_PK)):
        for k in range(pairs_PK.shape[1]):
            pairs_PK[p, k] = paired(halved(numbers_QK[2 * p, k]), halved(numbers_QK[2 * p + 1, k]))


@jit
def _keep(sums_SW, n, halves_NSF):
    for s in range(halves_NSF.shape[1]):
        for f in range(halves_NSF.shape[2]):
            halves_NSF[n, s, f] = halved(sums_SW[s, f])
