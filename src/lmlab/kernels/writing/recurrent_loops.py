"""The step of a recurrent network, compiled, in float32: of one text, of many, of a beam.

The first layer's product with a token's embedding is kept: there are few tokens, and many come again.

Shapes: B texts, L layers, E embedding, H hidden, F gates (4H of an LSTM, 3H of a GRU, H of a plain RNN), V the
vocabulary, R tokens read, T written, W a beam's width, K its candidates.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.exponential import sigmoid, tanh
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.writing.beam_loops import consider, survivors
from lmlab.kernels.writing.choice_loops import choose_all, log_of_sum, room_to_choose
from lmlab.kernels.writing.layout import Rule, State, Weights
from lmlab.kernels.writing.panels import TOGETHER, add_product, width

RNN, GRU, LSTM = 1, 3, 4  # by their gates


# Named tuples come as plain ones: Numba takes a third of a millisecond to look at the others.


@jit
def read(weights, panels, state, ids_RB, length_B):
    """Read tokens.

    Args:
        weights: of the network, the parts of `Weights`.
        panels: its packed `matrices`.
        state: of the texts, the parts of `State`.
        ids_RB: what is read.
        length_B: how many tokens of each text, no more than of the one before it.
    """
    weights, state, back = Weights(*weights), State(*state), False
    room = _room(weights, ids_RB.shape[1])
    for place in range(len(ids_RB)):
        rows = np.sum(length_B > place)
        _step(weights, panels, state, ids_RB[place], 0, rows, room, back)
        back = not back


@jit
def write(weights, panels, state, token_B, rule, uniform_BT, token_BT, logp_BT, drawn_BT, count_B):
    """Choose up to T tokens of each text.

    Args:
        weights: as of `read`.
        panels: as of `read`.
        state: as of `read`.
        token_B: the last token of each text, which is not read yet; out: the one chosen last.
        rule: how tokens are chosen, the parts of a `Rule`.
        uniform_BT: a number of [0, 1) for each token.
        token_BT: out.
        logp_BT: out, the model's log-probabilities.
        drawn_BT: out, those after the processors.
        count_B: zeros; out: how many tokens were chosen; the last is -1 where the model gave NaN.
    """
    weights, state, rule = Weights(*weights), State(*state), Rule(*rule)
    texts, size = len(token_B), len(weights.out_bias_V)
    room, working, going = _room(weights, min(texts, TOGETHER)), room_to_choose(size), texts
    written = token_BT, logp_BT, drawn_BT
    for t in range(uniform_BT.shape[1]):
        for first in range(0, texts, TOGETHER):
            last = min(first + TOGETHER, texts)
            _step(weights, panels, state, token_B, first, last, room, t % 2 == 1)
            logits_BV = _logits(weights, panels, state, first, last, room)
            going -= choose_all(logits_BV, size, first, t, rule, uniform_BT, working, token_B, written, count_B)
        if not going:
            break
    np.abs(count_B, count_B)


@jit
def extend(weights, panels, state, texts, eos, forbidden_F, found):
    """Grow a beam by up to T tokens.

    Args:
        weights: as of `read`.
        panels: as of `read`.
        state: as of `read`.
        texts: the parts of `Texts`, in and out.
        eos: the token that ends a text.
        forbidden_F: ids that are never chosen, unless no other can be.
        found: the parts of `Candidates`, out.

    Returns:
        How many tokens; fewer than T where no text goes on or the model gave NaN.
    """
    weights, state, (score_W, token_W, live_1) = Weights(*weights), State(*state), texts
    score_TK, row_TK, token_TK, logp_TK, drawn_TK, found_T = found
    room, working = _room(weights, len(token_W)), room_to_choose(len(weights.out_bias_V))
    row_W, h_WLH, c_WLH = np.empty(len(token_W), np.int64), np.empty_like(state.h_BLH), np.empty_like(state.c_BLH)
    for t in range(len(found_T)):
        live, many = live_1[0], 0
        _step(weights, panels, state, token_W, 0, live, room, t % 2 == 1)
        logits_BV = _logits(weights, panels, state, 0, live, room)
        for b in range(live):
            logits_V = logits_BV[b, : len(weights.out_bias_V)]
            candidates = score_TK[t], row_TK[t], token_TK[t], logp_TK[t], drawn_TK[t]
            many = consider(logits_V, log_of_sum(logits_V), forbidden_F, score_W[b], b, working, candidates, many)
        found_T[t] = many
        live_1[0] = survivors(score_TK[t], row_TK[t], token_TK[t], many, eos, score_W, row_W, token_W)
        if not live_1[0]:
            return t + 1
        h_WLH[:live], c_WLH[:live] = state.h_BLH[:live], state.c_BLH[:live]
        for w in range(live_1[0]):
            state.h_BLH[w], state.c_BLH[w] = h_WLH[row_W[w]], c_WLH[row_W[w]]
    return len(found_T)


@inline
def _room(weights, rows):
    """What a step works in: sums of gates, what enters them, features, logits; rows as wide as panels are."""
    gates = width(weights.recur_LFH.shape[1])
    return (
        np.zeros((rows, gates), np.float32),
        np.zeros((rows, gates), np.float32),
        np.zeros((rows, width(len(weights.narrow_EH))), np.float32),
        np.zeros((rows, width(len(weights.out_bias_V))), np.float32),
    )


@inline
def _step(weights, panels, state, token_B, first, last, room, back):
    """Read the tokens of these texts."""
    rows, (gates, hidden) = last - first, weights.recur_LFH.shape[1:]
    entering_BF, recurrent_BF = room[0][:rows], room[1][:rows]
    for layer in range(state.h_BLH.shape[1]):
        recurrent_BF[:, :gates] = weights.bias_L2F[layer, 1]
        add_product(panels[0][layer], state.h_BLH[first:last, layer], recurrent_BF, back)
        if layer:
            entering_BF[:, :gates] = weights.bias_L2F[layer, 0]
            add_product(panels[1][layer - 1], state.h_BLH[first:last, layer - 1], entering_BF, back)
        for b in range(rows):
            entering_F = entering_BF[b, :gates] if layer else _entering(weights, panels, state, token_B[first + b])
            recurrent_F, h_H = recurrent_BF[b, :gates], state.h_BLH[first + b, layer]
            if gates == LSTM * hidden:
                _lstm(entering_F, recurrent_F, h_H, state.c_BLH[first + b, layer])
            elif gates == GRU * hidden:
                _gru(entering_F, recurrent_F, h_H)
            else:
                _rnn(entering_F, recurrent_F, h_H)


@inline
def _logits(weights, panels, state, first, last, room):
    """Rows of logits, as wide as panels are."""
    h_BH, shown_BE, logits_BV = state.h_BLH[first:last, -1], room[2][: last - first], room[3][: last - first]
    logits_BV[:, : len(weights.out_bias_V)] = weights.out_bias_V
    if len(weights.narrow_EH):
        shown_BE[:, : len(weights.narrow_EH)] = weights.narrow_bias_E
        add_product(panels[2][0], h_BH, shown_BE, False)
        add_product(panels[3][0], shown_BE, logits_BV, False)
    else:
        add_product(panels[3][0], h_BH, logits_BV, False)
    return logits_BV


@inline
def _entering(weights, panels, state, token):
    """What a token contributes to the gates of the first layer, computed when it comes for the first time."""
    entering_1W = state.entering_VW[token : token + 1]
    entering_F = entering_1W[0, : weights.recur_LFH.shape[1]]
    if not state.known_V[token]:
        entering_F[:] = weights.bias_L2F[0, 0]
        if len(weights.table_VE):
            add_product(panels[4][0], weights.table_VE[token : token + 1], entering_1W, False)
        else:
            entering_F += weights.enter_FE[:, token]
        state.known_V[token] = True
    return entering_F


# Gates are views, each counted from 0: only such loops become instructions for many numbers at once.


@jit_sums
def _lstm(entering_F, recurrent_F, h_H, c_H):
    size = len(h_H)
    for f in range(4 * size):
        recurrent_F[f] += entering_F[f]
    enter_H, forget_H = recurrent_F[:size], recurrent_F[size : 2 * size]
    new_H, output_H = recurrent_F[2 * size : 3 * size], recurrent_F[3 * size :]
    for f in range(2 * size):
        recurrent_F[f] = sigmoid(recurrent_F[f])
    for j in range(size):
        new_H[j] = tanh(new_H[j])
    for j in range(size):
        output_H[j] = sigmoid(output_H[j])
    for j in range(size):
        c_H[j] = forget_H[j] * c_H[j] + enter_H[j] * new_H[j]
    for j in range(size):
        new_H[j] = tanh(c_H[j])
    for j in range(size):
        h_H[j] = output_H[j] * new_H[j]


@jit_sums
def _gru(entering_F, recurrent_F, h_H):
    size = len(h_H)
    update_H, new_H, entering_H = recurrent_F[size : 2 * size], recurrent_F[2 * size :], entering_F[2 * size :]
    for f in range(2 * size):
        recurrent_F[f] = sigmoid(entering_F[f] + recurrent_F[f])
    for j in range(size):
        new_H[j] = entering_H[j] + recurrent_F[j] * new_H[j]
    for j in range(size):
        new_H[j] = tanh(new_H[j])
    for j in range(size):
        h_H[j] = new_H[j] + update_H[j] * (h_H[j] - new_H[j])


@jit_sums
def _rnn(entering_F, recurrent_F, h_H):
    for j in range(len(h_H)):
        h_H[j] = tanh(entering_F[j] + recurrent_F[j])
