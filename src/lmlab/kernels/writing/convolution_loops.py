"""The step of a stack of causal convolutions on one text, compiled, in float32.

Each layer keeps the columns that its filters still reach in a ring; a step computes one column a layer.

Shapes: L layers, E embedding, C channels, O = C or 2C of gated layers, I = a column's features times taps, V the
vocabulary, R tokens read, T written, N floats of all rings, one after the other.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.exponential import sigmoid
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.writing.choice_loops import choose, log_of_sum, room_to_choose
from lmlab.kernels.writing.layout import ConvolutionWeights, Rule
from lmlab.kernels.writing.products import multiply

_f4 = np.float32
_PADDING = -1


@jit
def write(weights, ring_N, place_1, read_R, rule, uniform_T, token_T, logp_T, drawn_T):
    """Read tokens, then choose up to T.

    Args:
        weights: of the network, the parts of `ConvolutionWeights`.
        ring_N: of each layer as many columns as its filters reach.
        place_1: of the next token; the first is at -1 and stands for all that comes before a text.
        read_R: what comes before the first choice, at least one token.
        rule: how tokens are chosen, the parts of a `Rule`.
        uniform_T: a number of [0, 1) for each token.
        token_T: out.
        logp_T: out, the model's log-probabilities.
        drawn_T: out, those after the processors.

    Returns:
        How many tokens were chosen; the last is -1 where the model gave NaN.
    """
    weights, rule = ConvolutionWeights(*weights), Rule(*rule)
    sums_O, column_C = np.empty(weights.bias_LO.shape[1], np.float32), np.empty(weights.out_VC.shape[1], np.float32)
    taps_I = np.empty(max(weights.enter_OI.shape[1], weights.deep_LOI.shape[2]), np.float32)
    logits_V = np.empty(len(weights.out_bias_V), np.float32)
    room = room_to_choose(len(logits_V))
    for token in read_R:
        _step(weights, ring_N, place_1, token, taps_I, sums_O, column_C)
    for t in range(len(uniform_T)):
        if t:
            _step(weights, ring_N, place_1, token_T[t - 1], taps_I, sums_O, column_C)
        multiply(weights.out_VC, column_C, weights.out_bias_V, logits_V)
        token_T[t], logp_T[t], drawn_T[t] = choose(logits_V, log_of_sum(logits_V), rule, uniform_T[t], room)
        if token_T[t] == rule.eos or token_T[t] < 0:
            return t + 1
    return len(uniform_T)


@inline
def _step(weights, ring_N, place_1, token, taps_I, sums_O, column_C):
    """Fill in the last layer's column."""
    place, start = place_1[0], 0
    column_H = weights.table_VE[token]
    taps = weights.enter_OI.shape[1] // len(column_H)
    for layer in range(len(weights.gap_L)):
        gap, width = weights.gap_L[layer], len(column_H)
        length = gap * (taps - 1) + 1
        newest = start + place % length * width
        ring_N[newest : newest + width] = column_H
        if place == _PADDING:
            for column in range(length - 1):
                ring_N[start + column * width : start + (column + 1) * width] = column_H
        for tap in range(taps):
            at = start + (place + 1 + tap * gap) % length * width
            for h in range(width):
                taps_I[h * taps + tap] = ring_N[at + h]
        filters_OI = weights.deep_LOI[layer - 1] if layer else weights.enter_OI
        multiply(filters_OI, taps_I[: taps * width], weights.bias_LO[layer], sums_O)
        _activate(sums_O, ring_N[newest : newest + width], weights.residual, column_C)
        column_H = column_C
        start += length * width
    place_1[0] = place + 1


@jit_sums
def _activate(sums_O, before_H, residual, column_C):
    """Rectify or gate, and add what came in."""
    size = len(column_C)
    if len(sums_O) > size:
        for c in range(size):
            column_C[c] = sums_O[c] * sigmoid(sums_O[size + c])
    else:
        for c in range(size):
            column_C[c] = max(sums_O[c], _f4(0))
    if residual and len(before_H) == size:
        for c in range(size):
            column_C[c] += before_H[c]
