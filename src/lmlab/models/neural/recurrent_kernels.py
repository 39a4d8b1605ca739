"""LSTM and GRU through time and back, compiled, on rows of bfloat16 (`arithmetic.py`).

Both read one product a position, four parts wide, and remember something in float32: the LSTM its cells, its parts the
gates (input, forget, new, output); the GRU its hidden numbers, its parts what resets, what updates, and what the hidden
numbers and the input propose, apart since the reset comes between.

Shapes: T positions, S = T + 1, N rows (a multiple of arithmetic.ROWS), H hidden, K what is read (the H hidden numbers,
then the input), G = 4H; W and V the columns of packed panels, at least G and K. Threads share a call by rows.
"""

from __future__ import annotations

import numpy as np

from lmlab.jit import inline, jit, jit_sums
from lmlab.models.neural.arithmetic import halved, product, sigmoid, tanh, widened

_f4 = np.float32


@jit
def read(gru, weights, bias_G, read_SNK, parts_TNG, kept_SNH, sums_NW, first, last):
    """Read T positions.

    Args:
        gru: whether it is a GRU.
        weights: (K, G), packed.
        bias_G: float32.
        read_SNK: bfloat16; in: the inputs, and at [0] the hidden numbers before; out: those after t at [t + 1].
        parts_TNG: bfloat16, out: what the parts became.
        kept_SNH: float32; in: [0], what was remembered before; out: what was after t at [t + 1].
        sums_NW: float32, room to work in.
        first: row.
        last: row after the last.
    """
    for t in range(len(parts_TNG)):
        product(read_SNK[t, first:last], weights, sums_NW[first:last], False)
        for n in range(first, last):
            if gru:
                _read_gru(sums_NW[n], bias_G, parts_TNG[t, n], kept_SNH[t, n], kept_SNH[t + 1, n], read_SNK[t + 1, n])
            else:
                _read_lstm(sums_NW[n], bias_G, parts_TNG[t, n], kept_SNH[t, n], kept_SNH[t + 1, n], read_SNK[t + 1, n])


@jit
def read_back(
    gru, weights, parts_TNG, kept_SNH, grad_TNH, grad_read_SNV, grad_kept_NH, sums_NG, grad_bias_G, first, last
):
    """The gradients of what `read` did, last position first.

    Args:
        gru: whether it is a GRU.
        weights: (G, K), packed.
        parts_TNG: bfloat16; in: from `read`; out: the gradients by what entered the parts.
        kept_SNH: from `read`.
        grad_TNH: bfloat16, by the hidden numbers after each position.
        grad_read_SNV: float32; in: [T], by the last hidden numbers; out: by what was read.
        grad_kept_NH: float32; in: by what was remembered last; out: by what was remembered first.
        sums_NG: float32, room to work in.
        grad_bias_G: float32, the sum of the parts' gradients over rows and positions is added to it.
        first: row.
        last: row after the last.
    """
    for t in range(len(parts_TNG) - 1, -1, -1):
        for n in range(first, last):
            after, sums = grad_read_SNV[t + 1, n], sums_NG[n]
            if gru:
                _back_gru(parts_TNG[t, n], kept_SNH[t, n], grad_TNH[t, n], after, grad_kept_NH[n], sums)
            else:
                _back_lstm(
                    parts_TNG[t, n], kept_SNH[t, n], kept_SNH[t + 1, n], grad_TNH[t, n], after, grad_kept_NH[n], sums
                )
        for n in range(first, last):
            for j in range(len(grad_bias_G)):
                grad_bias_G[j] += sums_NG[n, j]
        product(parts_TNG[t, first:last], weights, grad_read_SNV[t, first:last], False)


@jit_sums
def _read_lstm(sums_W, bias_G, gates_G, before_H, cells_H, read_K):
    """The gates of one row open, and its cells and hidden numbers follow."""
    size = len(cells_H)
    enter_H, forget_H, new_H, out_H = _four(sums_W, size)
    for j in range(4 * size):
        sums_W[j] += bias_G[j]
    for j in range(size):
        enter_H[j] = sigmoid(enter_H[j])
    for j in range(size):
        forget_H[j] = sigmoid(forget_H[j])
    for j in range(size):
        new_H[j] = tanh(new_H[j])
    for j in range(size):
        out_H[j] = sigmoid(out_H[j])
    for j in range(len(gates_G)):
        gates_G[j] = halved(sums_W[j])
    for j in range(size):
        cells_H[j] = forget_H[j] * before_H[j] + enter_H[j] * new_H[j]
    for j in range(size):
        read_K[j] = halved(out_H[j] * tanh(cells_H[j]))


@jit_sums
def _back_lstm(gates_G, before_H, cells_H, grad_H, grad_after_V, grad_cells_H, sums_G):
    """The gradients of one row's gates."""
    size = len(cells_H)
    for j in range(len(gates_G)):
        sums_G[j] = widened(gates_G[j])
    enter_H, forget_H, new_H, out_H = _four(sums_G, size)
    for j in range(size):
        shown, grad = tanh(cells_H[j]), grad_after_V[j] + widened(grad_H[j])
        grad_cells_H[j] += grad * out_H[j] * (_f4(1) - shown * shown)
        out_H[j] = grad * shown * out_H[j] * (_f4(1) - out_H[j])
    for j in range(size):
        enter, forget, new, grad = enter_H[j], forget_H[j], new_H[j], grad_cells_H[j]
        grad_cells_H[j] = grad * forget
        enter_H[j] = grad * new * enter * (_f4(1) - enter)
        forget_H[j] = grad * before_H[j] * forget * (_f4(1) - forget)
        new_H[j] = grad * enter * (_f4(1) - new * new)
    for j in range(len(gates_G)):
        gates_G[j] = halved(sums_G[j])


@jit_sums
def _read_gru(sums_W, bias_G, parts_G, before_H, hidden_H, read_K):
    """The same for a GRU; kept are reset, update, what the hidden numbers propose, and the proposal."""
    size = len(hidden_H)
    reset_H, update_H, from_hidden_H, new_H = _four(sums_W, size)
    for j in range(4 * size):
        sums_W[j] += bias_G[j]
    for j in range(size):
        reset_H[j] = sigmoid(reset_H[j])
    for j in range(size):
        update_H[j] = sigmoid(update_H[j])
    for j in range(size):
        new_H[j] = tanh(new_H[j] + reset_H[j] * from_hidden_H[j])
    for j in range(len(parts_G)):
        parts_G[j] = halved(sums_W[j])
    for j in range(size):
        hidden_H[j] = new_H[j] + update_H[j] * (before_H[j] - new_H[j])
    for j in range(size):
        read_K[j] = halved(hidden_H[j])


@jit_sums
def _back_gru(parts_G, before_H, grad_H, grad_after_V, grad_kept_H, sums_G):
    """The gradients of one row's parts."""
    size = len(before_H)
    for j in range(len(parts_G)):
        sums_G[j] = widened(parts_G[j])
    reset_H, update_H, from_hidden_H, new_H = _four(sums_G, size)
    for j in range(size):
        reset, update, proposed, new = reset_H[j], update_H[j], from_hidden_H[j], new_H[j]
        grad = grad_kept_H[j] + grad_after_V[j] + widened(grad_H[j])
        grad_kept_H[j] = grad * update
        grad_new = grad * (_f4(1) - update) * (_f4(1) - new * new)
        update_H[j] = grad * (before_H[j] - new) * update * (_f4(1) - update)
        reset_H[j] = grad_new * proposed * reset * (_f4(1) - reset)
        from_hidden_H[j] = grad_new * reset
        new_H[j] = grad_new
    for j in range(len(parts_G)):
        parts_G[j] = halved(sums_G[j])


@inline
def _four(sums_W, size):
    return sums_W[:size], sums_W[size : 2 * size], sums_W[2 * size : 3 * size], sums_W[3 * size : 4 * size]
