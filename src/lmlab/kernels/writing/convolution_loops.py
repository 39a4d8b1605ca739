"""The step of a stack of causal convolutions, compiled, in float32: of one text, or of many.

Each layer keeps the columns that its filters still reach in a ring; a step computes one column a layer.

Shapes: B texts, L layers, E embedding, C channels, O = C or 2C of gated layers, I = a column's features times taps, V
the vocabulary, R tokens read, T written, N floats of all rings of a text, one after the other.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.exponential import sigmoid
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.writing.choice_loops import choose_all, room_to_choose
from lmlab.kernels.writing.layout import ConvolutionWeights, Rule
from lmlab.kernels.writing.panels import TOGETHER, add_product, width

_f4 = np.float32
_PADDING = -1


@jit
def read(weights, panels, state, ids_RB, length_B):
    """Read tokens.

    Args:
        weights: of the network, the parts of `ConvolutionWeights`.
        panels: its packed `matrices`.
        state: ring_BN, of each layer as many columns as its filters reach; and place_B, of the next token: the first is
            at -1 and stands for all that comes before a text.
        ids_RB: what is read.
        length_B: how many tokens of each text, no more than of the one before it.
    """
    weights = ConvolutionWeights(*weights)
    room = _room(weights, ids_RB.shape[1])
    for place in range(len(ids_RB)):
        _step(weights, panels, state, ids_RB[place], 0, np.sum(length_B > place), room)


@jit
def write(weights, panels, state, token_B, rule, uniform_BT, token_BT, logp_BT, drawn_BT, count_B):
    """Choose up to T tokens of each text; what is given is as of the recurrent networks' `write`."""
    weights, rule, texts = ConvolutionWeights(*weights), Rule(*rule), len(token_B)
    size, written, going = len(weights.out_bias_V), (token_BT, logp_BT, drawn_BT), texts
    room, working = _room(weights, min(texts, TOGETHER)), room_to_choose(size)
    for t in range(uniform_BT.shape[1]):
        for first in range(0, texts, TOGETHER):
            last = min(first + TOGETHER, texts)
            _step(weights, panels, state, token_B, first, last, room)
            logits_BV = room[3][: last - first]
            logits_BV[:, :size] = weights.out_bias_V
            add_product(panels[2][0], room[2][: last - first], logits_BV, False)
            going -= choose_all(logits_BV, size, first, t, rule, uniform_BT, working, token_B, written, count_B)
        if not going:
            break
    np.abs(count_B, count_B)


@inline
def _room(weights, rows):
    """What a step works in: what filters read, their sums, columns, logits; rows as wide as panels are."""
    reach, channels = max(weights.enter_OI.shape[1], weights.deep_LOI.shape[2]), weights.out_VC.shape[1]
    return (
        np.zeros((rows, reach), np.float32),
        np.zeros((rows, width(weights.bias_LO.shape[1])), np.float32),
        np.zeros((rows, channels), np.float32),
        np.zeros((rows, width(len(weights.out_bias_V))), np.float32),
    )


@inline
def _step(weights, panels, state, token_B, first, last, room):
    """Fill in the last layer's columns of these texts."""
    (ring_BN, place_B), rows, start = state, last - first, 0
    taps_BI, sums_BO, column_BC = room[0][:rows], room[1][:rows], room[2][:rows]
    outputs = weights.bias_LO.shape[1]
    taps = weights.enter_OI.shape[1] // weights.table_VE.shape[1]
    for layer in range(len(weights.gap_L)):
        features = column_BC.shape[1] if layer else weights.table_VE.shape[1]
        gap, length = weights.gap_L[layer], weights.gap_L[layer] * (taps - 1) + 1
        sums_BO[:, :outputs] = weights.bias_LO[layer]
        for b in range(rows):
            ring_NH = ring_BN[first + b, start : start + length * features].reshape(length, features)
            column_H = column_BC[b] if layer else weights.table_VE[token_B[first + b]]
            _reach(ring_NH, column_H, place_B[first + b], gap, taps_BI[b])
        add_product(panels[1][layer - 1] if layer else panels[0][0], taps_BI, sums_BO, False)
        for b in range(rows):
            at = start + place_B[first + b] % length * features
            before_H = ring_BN[first + b, at : at + features]
            _activate(sums_BO[b, :outputs], before_H, weights.residual, column_BC[b])
        start += length * features
    place_B[first:last] += 1


@jit
def _reach(ring_NH, column_H, place, gap, taps_I):
    """Enter a column, and fill in those that a filter reads: the taps of a feature lie together."""
    length, features = ring_NH.shape
    taps = (length - 1) // gap + 1
    ring_NH[place % length] = column_H
    if place == _PADDING:
        ring_NH[:] = column_H
    for tap in range(taps):
        tapped_H = ring_NH[(place + 1 + tap * gap) % length]
        for h in range(features):
            taps_I[h * taps + tap] = tapped_H[h]


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
