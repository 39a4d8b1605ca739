"""LSTM and GRU through time and back, compiled, on rows of bfloat16 (`arithmetic.py`).

Both read a product of the hidden numbers and what the input adds, and remember something in float32: the LSTM its
cells, its parts the gates (input, forget, new, output); the GRU its hidden numbers, its parts what resets, what
updates, and what the hidden numbers and the input propose, apart since the reset comes between.

Shapes: T positions, S = T + 1, N rows (a multiple of arithmetic.ROWS), H hidden, F parts of H each that the hidden
numbers add to, and as many that the input adds to: 4H, of a GRU 3H; G = 4H; M different inputs; V the columns of packed
panels, at least H. Threads share a call by rows.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.neural.matmul import COLUMNS, halved, product, sigmoid, tanh, widened, widened_if

_f4 = np.float32


@jit
def read(gru, weights, bias_F, inputs_MF, half, index_TN, h_SNH, parts_TNG, kept_SNH, first, last):
    """Read T positions.

    Args:
        gru: whether it is a GRU.
        weights: (H, F), packed.
        bias_F: float32, of the hidden numbers.
        inputs_MF: float32, or bfloat16: what inputs add.
        half: whether that is bfloat16.
        index_TN: which of them.
        h_SNH: bfloat16; in: [0], the hidden numbers before; out: those after t at [t + 1].
        parts_TNG: bfloat16, out: what the parts became.
        kept_SNH: float32; in: [0], what was remembered before; out: what was after t at [t + 1].
        first: row.
        last: row after the last.
    """
    sums_NW = np.empty((last - first, len(weights) * COLUMNS), np.float32)
    for t in range(len(parts_TNG)):
        product(h_SNH[t, first:last], weights, sums_NW, False)
        for n in range(first, last):
            sums, inputs = sums_NW[n - first], inputs_MF[index_TN[t, n]]
            before, after, parts, h = kept_SNH[t, n], kept_SNH[t + 1, n], parts_TNG[t, n], h_SNH[t + 1, n]
            if gru:
                _read_gru(sums, bias_F, inputs, half, parts, before, after, h)
            else:
                _read_lstm(sums, bias_F, inputs, half, parts, before, after, h)


@jit
def read_back(
    gru,
    weights,
    index_TN,
    parts_TNG,
    kept_SNH,
    grad_TNH,
    grad_h_NV,
    grad_kept_NH,
    grad_inputs_MF,
    grad_bias_F,
    first,
    last,
):
    """The gradients of what `read` did, last position first.

    Args:
        gru: whether it is a GRU.
        weights: (F, H), packed.
        index_TN: as in `read`.
        parts_TNG: bfloat16; in: from `read`; out: the gradients by what was added to the parts.
        kept_SNH: from `read`.
        grad_TNH: bfloat16, by the hidden numbers after each position.
        grad_h_NV: float32; in: by the last hidden numbers; out: by the first.
        grad_kept_NH: float32; in: by what was remembered last; out: by what was remembered first.
        grad_inputs_MF: float32, the gradients by what inputs add are added to it; of no rows, they are not.
        grad_bias_F: float32, the sum of the gradients by what the hidden numbers add is added to it.
        first: row.
        last: row after the last.
    """
    sums_G, many = np.empty(parts_TNG.shape[2], np.float32), len(grad_bias_F)
    for t in range(len(parts_TNG) - 1, -1, -1):
        for n in range(first, last):
            parts, before, after = parts_TNG[t, n], kept_SNH[t, n], kept_SNH[t + 1, n]
            if gru:
                _back_gru(parts, before, grad_TNH[t, n], grad_h_NV[n], grad_kept_NH[n], sums_G)
            else:
                _back_lstm(parts, before, after, grad_TNH[t, n], grad_h_NV[n], grad_kept_NH[n], sums_G)
            _add(sums_G[:many], grad_bias_F)
            if len(grad_inputs_MF):
                grad_F, size = grad_inputs_MF[index_TN[t, n]], len(before)
                _add(sums_G[: many - size], grad_F[: many - size])
                _add(sums_G[-size:], grad_F[many - size :])
        product(parts_TNG[t, first:last], weights, grad_h_NV[first:last], False)


@jit
def _add(numbers, sums):
    for j in range(len(sums)):
        sums[j] += numbers[j]


@jit_sums
def _read_lstm(sums_G, bias_G, inputs_G, half, gates_G, before_H, cells_H, h_H):
    """The gates of one row open, and its cells and hidden numbers follow."""
    size = len(cells_H)
    for j in range(len(gates_G)):
        sums_G[j] += bias_G[j] + widened_if(half, inputs_G[j])
    enter_H, forget_H, new_H, out_H = _four(sums_G, size)
    for j in range(size):
        enter_H[j] = sigmoid(enter_H[j])
    for j in range(size):
        forget_H[j] = sigmoid(forget_H[j])
    for j in range(size):
        new_H[j] = tanh(new_H[j])
    for j in range(size):
        out_H[j] = sigmoid(out_H[j])
    for j in range(len(gates_G)):
        gates_G[j] = halved(sums_G[j])
    for j in range(size):
        cells_H[j] = forget_H[j] * before_H[j] + enter_H[j] * new_H[j]
    for j in range(size):
        h_H[j] = halved(out_H[j] * tanh(cells_H[j]))


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
def _read_gru(sums_F, bias_F, inputs_F, half, parts_G, before_H, hidden_H, h_H):
    """The same for a GRU; kept are reset, update, what the hidden numbers propose, and the proposal."""
    size = len(hidden_H)
    reset_H, update_H, from_hidden_H = sums_F[:size], sums_F[size : 2 * size], sums_F[2 * size : 3 * size]
    new_H, from_input_H = np.empty(size, np.float32), inputs_F[2 * size :]
    for j in range(3 * size):
        sums_F[j] += bias_F[j]
    for j in range(size):
        reset_H[j] = sigmoid(reset_H[j] + widened_if(half, inputs_F[j]))
    for j in range(size):
        update_H[j] = sigmoid(update_H[j] + widened_if(half, inputs_F[size + j]))
    for j in range(size):
        new_H[j] = tanh(widened_if(half, from_input_H[j]) + reset_H[j] * from_hidden_H[j])
    for j in range(3 * size):
        parts_G[j] = halved(sums_F[j])
    for j in range(size):
        parts_G[3 * size + j] = halved(new_H[j])
    for j in range(size):
        hidden_H[j] = new_H[j] + update_H[j] * (before_H[j] - new_H[j])
    for j in range(size):
        h_H[j] = halved(hidden_H[j])


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
