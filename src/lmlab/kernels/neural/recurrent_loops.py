"""LSTM and GRU through time and their gradients, compiled, on rows of bfloat16.

At each position both multiply the hidden state by the recurrent weights, add what the input contributes and keep a
state in float32: the LSTM its cell state, with gates input, forget, new and output; the GRU its hidden state, with
reset and update gates and two terms of its candidate, that of the hidden state and the candidate itself.

Shapes: T positions, S = T + 1, N rows (a multiple of matmul.ROWS), H hidden, F = 4H gates of an LSTM or 3H of a GRU,
G = 4H what is saved of them for backward, M different inputs, V the columns of packed panels, at least H. Threads share
a call by rows.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.exponential import sigmoid, tanh
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.neural.matmul import COLUMNS, narrow, product, widen, widen_if

_f4 = np.float32


@jit
def forward(gru, weights, bias_F, inputs_MF, half, index_TN, h_SNH, gates_TNG, c_SNH, first, last):
    """Read T positions.

    Args:
        gru: whether it is a GRU.
        weights: (H, F), packed.
        bias_F: float32, of the recurrent product.
        inputs_MF: float32 or bfloat16: what inputs contribute to the gates.
        half: whether that is bfloat16.
        index_TN: which of the M inputs stands where.
        h_SNH: bfloat16, the hidden state; in: [0], before the first position; out: after position t at [t + 1].
        gates_TNG: bfloat16, out: saved for backward.
        c_SNH: float32, the state; in: [0]; out: after position t at [t + 1].
        first: first row that this thread computes.
        last: one after its last.
    """
    sums_NW = np.empty((last - first, len(weights) * COLUMNS), np.float32)
    for t in range(len(gates_TNG)):
        product(h_SNH[t, first:last], weights, sums_NW, False)
        for n in range(first, last):
            sums, inputs = sums_NW[n - first], inputs_MF[index_TN[t, n]]
            before, after, gates, h = c_SNH[t, n], c_SNH[t + 1, n], gates_TNG[t, n], h_SNH[t + 1, n]
            if gru:
                _gru(sums, bias_F, inputs, half, gates, before, after, h)
            else:
                _lstm(sums, bias_F, inputs, half, gates, before, after, h)


@jit
def backward(gru, weights, index_TN, gates_TNG, c_SNH, dout_TNH, dh_NV, dc_NH, dinputs_MF, dbias_F, first, last):
    """Backward of `forward`, for the same rows, last position first.

    Given `dout_TNH` (bfloat16), the gradient of the hidden state after each position, and that of the last hidden state
    and state in `dh_NV` and `dc_NH` (float32), which become those of the first. `gates_TNG` becomes the gradient of the
    sums that entered the gates. Those of the bias and, unless it has no rows, of the inputs are added to `dbias_F` and
    `dinputs_MF` (float32).
    """
    sums_G, many = np.empty(gates_TNG.shape[2], np.float32), len(dbias_F)
    for t in range(len(gates_TNG) - 1, -1, -1):
        for n in range(first, last):
            gates, before, after = gates_TNG[t, n], c_SNH[t, n], c_SNH[t + 1, n]
            if gru:
                _gru_backward(gates, before, dout_TNH[t, n], dh_NV[n], dc_NH[n], sums_G)
            else:
                _lstm_backward(gates, before, after, dout_TNH[t, n], dh_NV[n], dc_NH[n], sums_G)
            _add(sums_G[:many], dbias_F)
            if len(dinputs_MF):
                dinputs_F, size = dinputs_MF[index_TN[t, n]], len(before)
                _add(sums_G[: many - size], dinputs_F[: many - size])
                _add(sums_G[-size:], dinputs_F[many - size :])
        product(gates_TNG[t, first:last], weights, dh_NV[first:last], False)


@jit_sums
def _add(numbers, sums):
    for j in range(len(sums)):
        sums[j] += numbers[j]


@jit_sums
def _lstm(sums_G, bias_G, inputs_G, half, gates_G, before_H, c_H, h_H):
    size = len(c_H)
    for j in range(len(gates_G)):
        sums_G[j] += bias_G[j] + widen_if(half, inputs_G[j])
    input_H, forget_H, new_H, output_H = _four(sums_G, size)
    for j in range(2 * size):
        sums_G[j] = sigmoid(sums_G[j])
    for j in range(size):
        new_H[j] = tanh(new_H[j])
    for j in range(size):
        output_H[j] = sigmoid(output_H[j])
    for j in range(len(gates_G)):
        gates_G[j] = narrow(sums_G[j])
    for j in range(size):
        c_H[j] = forget_H[j] * before_H[j] + input_H[j] * new_H[j]
    for j in range(size):
        h_H[j] = narrow(output_H[j] * tanh(c_H[j]))


@jit_sums
def _lstm_backward(gates_G, before_H, c_H, dout_H, dh_V, dc_H, sums_G):
    size = len(c_H)
    for j in range(len(gates_G)):
        sums_G[j] = widen(gates_G[j])
    input_H, forget_H, new_H, output_H = _four(sums_G, size)
    for j in range(size):
        shown, grad = tanh(c_H[j]), dh_V[j] + widen(dout_H[j])
        dc_H[j] += grad * output_H[j] * (_f4(1) - shown * shown)
        output_H[j] = grad * shown * output_H[j] * (_f4(1) - output_H[j])
    for j in range(size):
        enter, forget, new, grad = input_H[j], forget_H[j], new_H[j], dc_H[j]
        dc_H[j] = grad * forget
        input_H[j] = grad * new * enter * (_f4(1) - enter)
        forget_H[j] = grad * before_H[j] * forget * (_f4(1) - forget)
        new_H[j] = grad * enter * (_f4(1) - new * new)
    for j in range(len(gates_G)):
        gates_G[j] = narrow(sums_G[j])


@jit_sums
def _gru(sums_F, bias_F, inputs_F, half, gates_G, before_H, after_H, h_H):
    size = len(after_H)
    reset_H, update_H, recurrent_H = sums_F[:size], sums_F[size : 2 * size], sums_F[2 * size : 3 * size]
    new_H, entering_H = np.empty(size, np.float32), inputs_F[2 * size :]
    for j in range(3 * size):
        sums_F[j] += bias_F[j]
    for j in range(2 * size):
        sums_F[j] = sigmoid(sums_F[j] + widen_if(half, inputs_F[j]))
    for j in range(size):
        new_H[j] = tanh(widen_if(half, entering_H[j]) + reset_H[j] * recurrent_H[j])
    for j in range(3 * size):
        gates_G[j] = narrow(sums_F[j])
    for j in range(size):
        gates_G[3 * size + j] = narrow(new_H[j])
    for j in range(size):
        after_H[j] = new_H[j] + update_H[j] * (before_H[j] - new_H[j])
    for j in range(size):
        h_H[j] = narrow(after_H[j])


@jit_sums
def _gru_backward(gates_G, before_H, dout_H, dh_V, dc_H, sums_G):
    size = len(before_H)
    for j in range(len(gates_G)):
        sums_G[j] = widen(gates_G[j])
    reset_H, update_H, recurrent_H, new_H = _four(sums_G, size)
    for j in range(size):
        reset, update, recurrent, new = reset_H[j], update_H[j], recurrent_H[j], new_H[j]
        grad = dc_H[j] + dh_V[j] + widen(dout_H[j])
        dc_H[j] = grad * update
        dnew = grad * (_f4(1) - update) * (_f4(1) - new * new)
        update_H[j] = grad * (before_H[j] - new) * update * (_f4(1) - update)
        reset_H[j] = dnew * recurrent * reset * (_f4(1) - reset)
        recurrent_H[j] = dnew * reset
        new_H[j] = dnew
    for j in range(len(gates_G)):
        gates_G[j] = narrow(sums_G[j])


@inline
def _four(sums_W, size):
    return sums_W[:size], sums_W[size : 2 * size], sums_W[2 * size : 3 * size], sums_W[3 * size : 4 * size]
