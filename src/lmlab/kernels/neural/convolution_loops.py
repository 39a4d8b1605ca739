"""Causal convolutions and their gradients, compiled, on rows of bfloat16 (`arithmetic.py`).

The rows that a filter sees lie behind one another: without dilation they are one long row, which the next position's
overlaps, so that a convolution is one product without a copy. So is the gradient by the input, of the outputs'
gradients among zeros. The gradient of the weights sums over positions, and pairs of them are what the processor
multiplies: both sides are paired, the input also from the second position on, for taps an odd distance apart.

Shapes: B sequences, S positions before and T after, C channels before and M after, W columns of packed panels, at
least M or C. Threads share a call by sequences.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.jit import add_16, inline, jit, jit_sums
from lmlab.kernels.neural.matmul import COLUMNS, ROWS, halved, multiply, pack_along, paired, widened

_AT_A_TIME = 128  # positions whose sums stay in the second cache
_PAIRS_AT_A_TIME = 128  # of positions, likewise
_f4, _u2 = np.float32, np.uint16


@jit
def pack(weight_MCK, weights, weights_back):
    """Pack filters, M and C even.

    Args:
        weight_MCK: float32.
        weights: out: (K * C, M), as pairs (`arithmetic.room_to_pack`).
        weights_back: out: (K * M, C), the last tap first.
    """
    filters, channels, taps = weight_MCK.shape
    halves_KC = np.empty((2, taps, channels), np.uint16)
    for m in range(0, filters, 2):
        for c in range(channels):
            for tap in range(taps):
                one, other = halved(weight_MCK[m, c, tap]), halved(weight_MCK[m + 1, c, tap])
                halves_KC[0, tap, c], halves_KC[1, tap, c] = one, other
                place = ((taps - 1 - tap) * filters + m) // 2
                weights_back[c // COLUMNS, place, c % COLUMNS] = paired(one, other)
        for half in range(2):
            pairs_K = halves_KC[half].reshape(-1).view(np.uint32)
            for place in range(len(pairs_K)):
                weights[m // COLUMNS, place, m % COLUMNS + half] = pairs_K[place]


@jit
def convolve(hidden_BSC, weights, taps, dilation, bias_M, rectify, out_BTM, first, last):
    """Convolve some sequences.

    Args:
        hidden_BSC: bfloat16.
        weights: (K * C, M), packed.
        taps: K, positions that a filter sees.
        dilation: how far these lie apart.
        bias_M: float32.
        rectify: whether what is below 0 becomes 0.
        out_BTM: bfloat16, out.
        first: sequence.
        last: sequence after the last.
    """
    length = out_BTM.shape[1]
    whole = length // ROWS * ROWS
    rest_SC = np.zeros((hidden_BSC.shape[1] - length + ROWS, hidden_BSC.shape[2]), np.uint16)
    sums_NW = np.empty((_AT_A_TIME, len(weights) * COLUMNS), np.float32)
    for b in range(first, last):
        for start in range(0, whole, _AT_A_TIME):
            count = min(_AT_A_TIME, whole - start)
            _sum_taps(hidden_BSC[b], start, count, weights, taps, dilation, sums_NW)
            _finish(sums_NW, bias_M, rectify, out_BTM, b, start, count)
        if whole < length:
            _copy(hidden_BSC, b, whole, rest_SC)
            _sum_taps(rest_SC, 0, ROWS, weights, taps, dilation, sums_NW)
            _finish(sums_NW, bias_M, rectify, out_BTM, b, whole, length - whole)


@jit
def convolve_back(
    hidden_BSC,
    out_BTM,
    weights,
    dilation,
    rectify,
    grad_BTM,
    grad_hidden_BSC,
    grad_weights_KCW,
    grad_bias_M,
    first,
    last,
):
    """The gradients of what `convolve` did.

    Args:
        hidden_BSC: as it was.
        out_BTM: as it became.
        weights: (K * M, C), packed, the last tap first.
        dilation: see `convolve`.
        rectify: see `convolve`.
        grad_BTM: bfloat16, by the output.
        grad_hidden_BSC: bfloat16, out: by the input.
        grad_weights_KCW: float32, out: by the weights; C rounded up to whole tiles.
        grad_bias_M: float32, those of the bias are added to it.
        first: sequence.
        last: sequence after the last.
    """
    taps, channels, wide = grad_weights_KCW.shape
    before, length = hidden_BSC.shape[1], out_BTM.shape[1]
    past, whole, pairs = before - length, _whole(before), (length + 1) // 2
    rows_SM = np.zeros((past + whole, out_BTM.shape[2]), np.uint16)
    grad = np.zeros((wide // COLUMNS, pairs, COLUMNS), np.uint32)
    hidden_2PC = np.zeros((2, pairs + (past + 1) // 2, channels), np.uint32)
    sums_NW = np.empty((_AT_A_TIME, len(weights) * COLUMNS), np.float32)
    for b in range(first, last):
        _begin(grad_BTM, out_BTM, rectify, b, past, rows_SM)
        _add(rows_SM, grad_bias_M)
        for start in range(0, before, _AT_A_TIME):
            _sum_taps(rows_SM, start, min(_AT_A_TIME, whole - start), weights, taps, dilation, sums_NW)
            _halve(sums_NW, grad_hidden_BSC, b, start)
        pack_along(rows_SM[past : past + 2 * pairs], grad)
        for odd in range(2):
            _pair_up(hidden_BSC, b, odd, hidden_2PC)
        _sum_positions(hidden_2PC, grad, dilation, grad_weights_KCW, b > first)


@jit
def look_up(tables_KVM, ids_BS, dilation, bias_M, rectify, out_BTM, first, last):
    """`convolve` where what each token adds by each tap stands in tables.

    Args:
        tables_KVM: float32.
        ids_BS: the tokens.
        dilation: see `convolve`.
        bias_M: see `convolve`.
        rectify: see `convolve`.
        out_BTM: see `convolve`.
        first: sequence.
        last: sequence after the last.
    """
    taps, tokens, wide = tables_KVM.shape
    length = out_BTM.shape[1]
    sums_NW = np.empty((_AT_A_TIME, wide), np.float32)
    for b in range(first, last):
        for start in range(0, length, _AT_A_TIME):
            count = min(_AT_A_TIME, length - start)
            sums_NW[:] = 0
            for n in range(count):
                for tap in range(taps):
                    row = (tap * tokens + ids_BS[b, start + n + tap * dilation]) * wide
                    for m in range(0, wide, 16):
                        add_16(tables_KVM, row + m, sums_NW, n * wide + m)
            _finish(sums_NW, bias_M, rectify, out_BTM, b, start, count)


@jit
def look_up_back(ids_BS, dilation, rectify, out_BTM, grad_BTM, grad_tables_KVM, grad_bias_M, first, last):
    """The gradients of what `look_up` did.

    Args:
        ids_BS: as they were.
        dilation: see `convolve`.
        rectify: see `convolve`.
        out_BTM: as it became.
        grad_BTM: bfloat16, by the output.
        grad_tables_KVM: float32, those of the tables are added to it.
        grad_bias_M: float32, those of the bias are added to it.
        first: sequence.
        last: sequence after the last.
    """
    taps, tokens, wide = grad_tables_KVM.shape
    rows_TM, rows_TW = np.empty(grad_BTM.shape[1:], np.uint16), np.zeros((grad_BTM.shape[1], wide), np.float32)
    for b in range(first, last):
        _begin(grad_BTM, out_BTM, rectify, b, 0, rows_TM)
        _add(rows_TM, grad_bias_M)
        for t in range(len(rows_TM)):
            for m in range(len(grad_bias_M)):
                rows_TW[t, m] = widened(rows_TM[t, m])
        for t in range(len(rows_TM)):
            for tap in range(taps):
                row = (tap * tokens + ids_BS[b, t + tap * dilation]) * wide
                for m in range(0, wide, 16):
                    add_16(rows_TW, t * wide + m, grad_tables_KVM, row + m)


@jit
def _sum_taps(rows_SC, start, count, weights, taps, dilation, sums_NW):
    """What filters make of so many positions from `start` on; undilated taps are one run of numbers."""
    channels = rows_SC.shape[1]
    runs = 1 if dilation == 1 else taps
    pairs = weights.shape[1] // runs
    for run in range(runs):
        at = (start + run * dilation) * channels
        multiply(rows_SC, at, channels, 2, count, weights, run * pairs, pairs, sums_NW, run > 0)


@jit
def _sum_positions(hidden_2PC, grad, dilation, grad_weights_KCW, add):
    """What each tap saw times the gradient of what it was seen from."""
    taps, channels, _ = grad_weights_KCW.shape
    for first in range(0, grad.shape[1], _PAIRS_AT_A_TIME):
        pairs = min(_PAIRS_AT_A_TIME, grad.shape[1] - first)
        for tap in range(taps):
            odd, seen = (tap * dilation) % 2, tap * dilation // 2
            at = (odd * hidden_2PC.shape[1] + first + seen) * channels
            multiply(hidden_2PC, at, 1, channels, channels, grad, first, pairs, grad_weights_KCW[tap], add or first > 0)


@inline
def _whole(count):
    return -(-count // ROWS) * ROWS


# Each of these is a loop over all of its numbers: to cut a row out of an array takes longer than to pass over it.


@jit
def _copy(hidden_BSC, b, start, rows_SC):
    for s in range(start, hidden_BSC.shape[1]):
        for c in range(hidden_BSC.shape[2]):
            rows_SC[s - start, c] = hidden_BSC[b, s, c]


@jit_sums
def _finish(sums_NW, bias_M, rectify, out_BTM, b, start, count):
    for n in range(count):
        for m in range(len(bias_M)):
            number = sums_NW[n, m] + bias_M[m]
            out_BTM[b, start + n, m] = halved(_f4(0) if rectify and number < _f4(0) else number)


@jit
def _begin(grad_BTM, out_BTM, rectify, b, past, rows_SM):
    for t in range(grad_BTM.shape[1]):
        for m in range(grad_BTM.shape[2]):
            passed = not rectify or out_BTM[b, t, m] & 0x7FFF != 0
            rows_SM[past + t, m] = grad_BTM[b, t, m] if passed else _u2(0)


@jit
def _add(rows_SM, sums_M):
    for s in range(len(rows_SM)):
        for m in range(len(sums_M)):
            sums_M[m] += widened(rows_SM[s, m])


@jit
def _halve(sums_NW, halves_BSC, b, start):
    for s in range(start, min(start + len(sums_NW), halves_BSC.shape[1])):
        for c in range(halves_BSC.shape[2]):
            halves_BSC[b, s, c] = halved(sums_NW[s - start, c])


@jit
def _pair_up(hidden_BSC, b, odd, hidden_2PC):
    count = hidden_BSC.shape[1] - odd
    for p in range(count // 2):
        for c in range(hidden_BSC.shape[2]):
            hidden_2PC[odd, p, c] = paired(hidden_BSC[b, 2 * p + odd, c], hidden_BSC[b, 2 * p + odd + 1, c])
    if count % 2:
        for c in range(hidden_BSC.shape[2]):
            hidden_2PC[odd, count // 2, c] = hidden_BSC[b, count + odd - 1, c]
