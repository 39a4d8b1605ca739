"""The step of a Transformer, compiled, in float32: of one text, or of many.

Keys and values lie feature by feature, so that the loops over the places of the window read on.

Shapes: B texts, L layers, D features, P = 3D, U = 4D, S slots of texts, W places that are kept, A heads, F = D/A,
G = F/2, V the vocabulary, R tokens read, T written, N places seen.
"""

from __future__ import annotations

import math

import numpy as np

from lmlab.kernels.exponential import exp
from lmlab.kernels.jit import jit, jit_sums
from lmlab.kernels.writing.choice_loops import choose_all, room_to_choose
from lmlab.kernels.writing.layout import BlockWeights, Rule
from lmlab.kernels.writing.panels import TOGETHER, add_product, width

_f4 = np.float32
_BASE = 10_000.0


@jit
def read(weights, panels, state, ids_RB, length_B):
    """Read tokens.

    Args:
        weights: of the network, the parts of `BlockWeights`.
        panels: its packed `matrices`.
        state: kept_SL2DW, keys, normalised and rotated by their places, and values, at their places modulo the window,
            which is no wider than W where all of it has been read; slot_B, where the text's are; place_B, how many
            tokens are read.
        ids_RB: what is read.
        length_B: how many tokens of each text, no more than of the one before it.
    """
    room = _room(weights, ids_RB.shape[1])
    for place in range(len(ids_RB)):
        _step(weights, panels, state, ids_RB[place], 0, np.sum(length_B > place), room)


@jit
def write(weights, panels, state, token_B, rule, uniform_BT, token_BT, logp_BT, drawn_BT, count_B):
    """Choose up to T tokens of each text; what is given is as of the recurrent networks' `write`."""
    rule, texts, size, written = Rule(*rule), len(token_B), len(weights[10]), (token_BT, logp_BT, drawn_BT)
    room, working, going = _room(weights, min(texts, TOGETHER)), room_to_choose(size), texts
    logits_BW = np.zeros((min(texts, TOGETHER), width(size)), np.float32)
    for t in range(uniform_BT.shape[1]):
        for first in range(0, texts, TOGETHER):
            last = min(first + TOGETHER, texts)
            _step(weights, panels, state, token_B, first, last, room)
            logits_BV = logits_BW[: last - first]
            _fill_in(weights, panels, room, logits_BV)
            going -= choose_all(logits_BV, size, first, t, rule, uniform_BT, working, token_B, written, count_B)
        if not going:
            break
    np.abs(count_B, count_B)


@jit
def step(weights, panels, state, token_B, logits_BW):
    """Read one token of each text; keys and values are filled in, and places move on.

    Args:
        weights: as of `read`.
        panels: as of `read`.
        state: as of `read`.
        token_B: the next.
        logits_BW: out, what follows it; rows as wide as panels are.
    """
    room = _room(weights, min(len(token_B), TOGETHER))
    for first in range(0, len(token_B), TOGETHER):
        last = min(first + TOGETHER, len(token_B))
        _step(weights, panels, state, token_B, first, last, room)
        _fill_in(weights, panels, room, logits_BW[first:last])


@jit
def _room(weights, rows):
    """What a step works in, as wide as panels: inputs of blocks, norms, projections, what was seen, the wide layer."""
    size = width(weights[2].shape[1])
    return (
        np.zeros((rows, size), np.float32),
        np.zeros((rows, size), np.float32),
        np.zeros((rows, width(3 * weights[2].shape[1])), np.float32),
        np.zeros((rows, size), np.float32),
        np.zeros((rows, width(4 * weights[2].shape[1])), np.float32),
    )


@jit
def _fill_in(weights, panels, room, logits_BW):
    """The logits after a step."""
    logits_BW[:, : len(weights[10])] = weights[10]
    add_product(panels[4][0], room[1][: len(logits_BW)], logits_BW, False)


@jit
def _step(weights, panels, state, token_B, first, last, room):
    """Read the tokens of these texts: the room's norms become what the output layer reads."""
    weights, (kept_SL2DW, slot_B, place_B), rows = BlockWeights(*weights), state, last - first
    size, features = weights.table_VD.shape[1], weights.table_VD.shape[1] // weights.heads
    x_BD, shown_BD, projected_BP = room[0][:rows], room[1][:rows], room[2][:rows]
    seen_BD, wide_BU = room[3][:rows], room[4][:rows]
    turns_B2G = np.empty((rows, 2, features // 2), np.float32)
    score_W = np.empty(kept_SL2DW.shape[4], np.float32)
    for b in range(rows):
        x_BD[b, :size] = weights.table_VD[token_B[first + b]]
        _rotate(place_B[first + b], turns_B2G[b])
    for layer in range(len(weights.norm_L2D)):
        for b in range(rows):
            _normal(x_BD[b, :size], weights.norm_L2D[layer, 0], shown_BD[b, :size])
        projected_BP[:] = 0
        add_product(panels[0][layer], shown_BD, projected_BP, False)
        for b in range(rows):
            text, place = slot_B[first + b], place_B[first + b]
            key_DW, value_DW = kept_SL2DW[text, layer, 0], kept_SL2DW[text, layer, 1]
            slot, score_N = place % weights.window, score_W[: min(place + 1, weights.window)]
            for at in range(0, size, features):
                to = at + features
                query_F, key_F = projected_BP[b, at:to], projected_BP[b, size + at : size + to]
                _turn(query_F, turns_B2G[b], features**-0.5)
                _turn(key_F, turns_B2G[b], 1.0)
                key_DW[at:to, slot], value_DW[at:to, slot] = key_F, projected_BP[b, 2 * size + at : 2 * size + to]
                _attend(query_F, key_DW[at:to], value_DW[at:to], score_N, seen_BD[b, at:to])
        add_product(panels[1][layer], seen_BD, x_BD, False)
        for b in range(rows):
            _normal(x_BD[b, :size], weights.norm_L2D[layer, 1], shown_BD[b, :size])
        wide_BU[:] = 0
        add_product(panels[2][layer], shown_BD, wide_BU, False)
        for b in range(rows):
            for u in range(wide_BU.shape[1]):
                wide_BU[b, u] = max(wide_BU[b, u], _f4(0)) ** 2
        add_product(panels[3][layer], wide_BU, x_BD, False)
    for b in range(rows):
        _normal(x_BD[b, :size], weights.last_norm_D, shown_BD[b, :size])
    place_B[first:last] += 1


@jit
def _rotate(place, turns_2G):
    """Fill in cosine and sine of the rotary angles of a place."""
    half = turns_2G.shape[1]
    for g in range(half):
        angle = place * _BASE ** (-g / half)
        turns_2G[0, g], turns_2G[1, g] = math.cos(angle), math.sin(angle)


@jit_sums
def _normal(x_D, gain_D, y_D):
    """RMSNorm, as torch has it."""
    total = _f4(0)
    for d in range(len(x_D)):
        total += x_D[d] * x_D[d]
    scale = _f4(1 / math.sqrt(total / len(x_D) + np.finfo(np.float32).eps))
    for d in range(len(x_D)):
        y_D[d] = x_D[d] * scale * gain_D[d]


@jit_sums
def _turn(x_F, turns_2G, factor):
    """Normalise and rotate in place, times a factor."""
    half, total = len(x_F) // 2, _f4(0)
    for f in range(len(x_F)):
        total += x_F[f] * x_F[f]
    scale = _f4(factor / math.sqrt(total / len(x_F) + np.finfo(np.float32).eps))
    for g in range(half):
        a, b, cos, sin = x_F[g] * scale, x_F[half + g] * scale, turns_2G[0, g], turns_2G[1, g]
        x_F[g], x_F[half + g] = a * cos - b * sin, a * sin + b * cos


@jit_sums
def _attend(query_F, key_FW, value_FW, score_N, seen_F):
    """Fill in the mean of the values of a head, weighed by how their keys fit the query."""
    half = len(query_F) // 2
    score_N[:] = 0
    for g in range(half):
        one, other, one_W, other_W = query_F[g], query_F[half + g], key_FW[g], key_FW[half + g]
        for s in range(len(score_N)):
            score_N[s] += one * one_W[s] + other * other_W[s]
    top, total = score_N[0], _f4(0)
    for s in range(len(score_N)):
        top = max(top, score_N[s])
    for s in range(len(score_N)):
        score_N[s] = exp(score_N[s] - top)
        total += score_N[s]
    for f in range(len(seen_F)):
        row_W, mean = value_FW[f], _f4(0)
        for s in range(len(score_N)):
            mean += row_W[s] * score_N[s]
        seen_F[f] = mean / total
