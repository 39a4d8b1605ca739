"""The step of a recurrent network on one text, compiled, in float32.

The first layer's product with a token's embedding is kept: there are few tokens, and many come again.

Shapes: L layers, E embedding, H hidden, F gates (4H of an LSTM, 3H of a GRU, H of a plain RNN), V the vocabulary, R
tokens read, T written.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.exponential import sigmoid, tanh
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.writing.choice_loops import choose, log_of_sum, room_to_choose
from lmlab.kernels.writing.layout import Rule, TextState, Weights
from lmlab.kernels.writing.products import multiply

RNN, GRU, LSTM = 1, 3, 4  # by their gates


@jit
def write(weights, state, read_R, rule, uniform_T, token_T, logp_T, drawn_T):
    """Read tokens, then choose up to T.

    Named tuples come as plain ones: Numba takes a third of a millisecond to look at the others.

    Args:
        weights: of the network, the parts of `Weights`.
        state: of the text, the parts of `TextState`; the last token chosen is not read yet.
        read_R: what comes before the first choice, at least one token.
        rule: how tokens are chosen, the parts of a `Rule`.
        uniform_T: a number of [0, 1) for each token.
        token_T: out.
        logp_T: out, the model's log-probabilities.
        drawn_T: out, those after the processors.

    Returns:
        How many tokens were chosen; the last is -1 where the model gave NaN.
    """
    weights, state, rule = Weights(*weights), TextState(*state), Rule(*rule)
    gates = weights.recur_LFH.shape[1]
    sums = np.empty(gates, np.float32), np.empty(gates, np.float32)
    shown_E, logits_V = np.empty(len(weights.narrow_EH), np.float32), np.empty(len(weights.out_bias_V), np.float32)
    room = room_to_choose(len(logits_V))
    for token in read_R:
        _step(weights, state, token, sums)
    for t in range(len(uniform_T)):
        if t:
            _step(weights, state, token_T[t - 1], sums)
        shown = state.h_LH[-1]
        if len(shown_E):
            multiply(weights.narrow_EH, shown, weights.narrow_bias_E, shown_E)
            shown = shown_E
        multiply(weights.out_VE, shown, weights.out_bias_V, logits_V)
        token_T[t], logp_T[t], drawn_T[t] = choose(logits_V, log_of_sum(logits_V), rule, uniform_T[t], room)
        if token_T[t] == rule.eos or token_T[t] < 0:
            return t + 1
    return len(uniform_T)


@inline
def _step(weights, state, token, sums):
    entering_F, recurrent_F = sums
    for layer in range(len(state.h_LH)):
        h_H, c_H = state.h_LH[layer], state.c_LH[layer]
        if layer:
            multiply(weights.deep_LFH[layer - 1], state.h_LH[layer - 1], weights.bias_L2F[layer, 0], entering_F)
        else:
            entering_F[:] = _entering(weights, state, token)
        multiply(weights.recur_LFH[layer], h_H, weights.bias_L2F[layer, 1], recurrent_F)
        if len(entering_F) == LSTM * len(h_H):
            _lstm(entering_F, recurrent_F, h_H, c_H)
        elif len(entering_F) == GRU * len(h_H):
            _gru(entering_F, recurrent_F, h_H)
        else:
            _rnn(entering_F, recurrent_F, h_H)


@inline
def _entering(weights, state, token):
    """What a token contributes to the gates of the first layer, computed when it comes for the first time."""
    entering_F = state.entering_VF[token]
    if not state.known_V[token]:
        if len(weights.table_VE):
            multiply(weights.enter_FE, weights.table_VE[token], weights.bias_L2F[0, 0], entering_F)
        else:
            entering_F[:] = weights.enter_FE[:, token] + weights.bias_L2F[0, 0]
        state.known_V[token] = True
    return entering_F


@jit_sums
def _lstm(entering_F, recurrent_F, h_H, c_H):
    size = len(h_H)
    for f in range(4 * size):
        recurrent_F[f] += entering_F[f]
    for f in range(2 * size):
        recurrent_F[f] = sigmoid(recurrent_F[f])
    for f in range(2 * size, 3 * size):
        recurrent_F[f] = tanh(recurrent_F[f])
    for f in range(3 * size, 4 * size):
        recurrent_F[f] = sigmoid(recurrent_F[f])
    for j in range(size):
        c_H[j] = recurrent_F[size + j] * c_H[j] + recurrent_F[j] * recurrent_F[2 * size + j]
    for j in range(size):
        h_H[j] = recurrent_F[3 * size + j] * tanh(c_H[j])


@jit_sums
def _gru(entering_F, recurrent_F, h_H):
    size = len(h_H)
    for f in range(2 * size):
        recurrent_F[f] = sigmoid(entering_F[f] + recurrent_F[f])
    for j in range(size):
        new = tanh(entering_F[2 * size + j] + recurrent_F[j] * recurrent_F[2 * size + j])
        h_H[j] = new + recurrent_F[size + j] * (h_H[j] - new)


@jit_sums
def _rnn(entering_F, recurrent_F, h_H):
    for j in range(len(h_H)):
        h_H[j] = tanh(entering_F[j] + recurrent_F[j])
