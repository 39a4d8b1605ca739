"""The step of a Transformer on one text, compiled, in float32.

Keys and values lie feature by feature, so that the loops over the places of the window read on.

Shapes: L layers, D features, U = 4D, W the window, A heads, F = D/A, G = F/2, V the vocabulary, R tokens read, T
written, S places seen.
"""

from __future__ import annotations

import math

import numpy as np

from lmlab.kernels.exponential import exp
from lmlab.kernels.jit import jit, jit_sums
from lmlab.kernels.writing.choice_loops import choose, log_of_sum, room_to_choose
from lmlab.kernels.writing.layout import BlockWeights, Rule
from lmlab.kernels.writing.products import multiply

_f4 = np.float32
_BASE = 10_000.0


@jit
def write(weights, kept_L2DW, place_1, read_R, rule, uniform_T, token_T, logp_T, drawn_T):
    """Read tokens, then choose up to T.

    Args:
        weights: of the network, the parts of `BlockWeights`.
        kept_L2DW: keys, normalised and rotated by their places, and values, at their places modulo the window.
        place_1: how many tokens are read.
        read_R: what comes before the first choice, at least one token.
        rule: how tokens are chosen, the parts of a `Rule`.
        uniform_T: a number of [0, 1) for each token.
        token_T: out.
        logp_T: out, the model's log-probabilities.
        drawn_T: out, those after the processors.

    Returns:
        How many tokens were chosen; the last is -1 where the model gave NaN.
    """
    rule, table_VD, out_VD, out_bias_V = Rule(*rule), weights[2], weights[9], weights[10]
    shown_D, logits_V = np.empty(table_VD.shape[1], np.float32), np.empty(len(out_bias_V), np.float32)
    room = room_to_choose(len(logits_V))
    for token in read_R:
        _step(weights, kept_L2DW, place_1, token, shown_D)
    for t in range(len(uniform_T)):
        if t:
            _step(weights, kept_L2DW, place_1, token_T[t - 1], shown_D)
        multiply(out_VD, shown_D, out_bias_V, logits_V)
        token_T[t], logp_T[t], drawn_T[t] = choose(logits_V, log_of_sum(logits_V), rule, uniform_T[t], room)
        if token_T[t] == rule.eos or token_T[t] < 0:
            return t + 1
    return len(uniform_T)


@jit
def step(weights, kept_BL2DW, place_B, token_B, logits_BV):
    """Read one token of each text; keys and values are filled in, and places move on.

    Args:
        weights: of the network, the parts of `BlockWeights`.
        kept_BL2DW: keys and values of each text, as `write` has them, or of no more places than there are.
        place_B: how many tokens of each are read.
        token_B: the next.
        logits_BV: out, what follows it.
    """
    table_VD, out_VD, out_bias_V = weights[2], weights[9], weights[10]
    shown_D = np.empty(table_VD.shape[1], np.float32)
    for row in range(len(token_B)):
        _step(weights, kept_BL2DW[row], place_B[row : row + 1], token_B[row], shown_D)
        multiply(out_VD, shown_D, out_bias_V, logits_BV[row])


@jit
def _step(weights, kept_L2DW, place_1, token, shown_D):
    """Fill in what the output layer reads."""
    weights = BlockWeights(*weights)
    size, features = len(shown_D), len(shown_D) // weights.heads
    place, seen = place_1[0], min(place_1[0] + 1, weights.window)
    turns_2G = _rotation(place, features // 2)
    projected_P, seen_D = np.empty(3 * size, np.float32), np.empty(size, np.float32)
    wide_U, zeros_U = np.empty(4 * size, np.float32), np.zeros(4 * size, np.float32)
    score_S, x_D = np.empty(seen, np.float32), weights.table_VD[token].copy()
    for layer in range(len(weights.norm_L2D)):
        _normal(x_D, weights.norm_L2D[layer, 0], shown_D)
        multiply(weights.project_LPD[layer], shown_D, zeros_U, projected_P)
        key_DW, value_DW = kept_L2DW[layer, 0], kept_L2DW[layer, 1]
        slot = place % weights.window
        for at in range(0, size, features):
            to = at + features
            query_F, key_F = projected_P[at:to], projected_P[size + at : size + to]
            _turn(query_F, turns_2G, features**-0.5)
            _turn(key_F, turns_2G, 1.0)
            key_DW[at:to, slot], value_DW[at:to, slot] = key_F, projected_P[2 * size + at : 2 * size + to]
            _attend(query_F, key_DW[at:to], value_DW[at:to], score_S, seen_D[at:to])
        multiply(weights.attended_LDD[layer], seen_D, x_D, x_D)
        _normal(x_D, weights.norm_L2D[layer, 1], shown_D)
        multiply(weights.widen_LUD[layer], shown_D, zeros_U, wide_U)
        for u in range(4 * size):
            wide_U[u] = max(wide_U[u], _f4(0)) ** 2
        multiply(weights.narrow_LDU[layer], wide_U, x_D, x_D)
    _normal(x_D, weights.last_norm_D, shown_D)
    place_1[0] = place + 1


@jit
def _rotation(place, half):
    """Cosine and sine of the rotary angles of a place."""
    turns_2G = np.empty((2, half), np.float32)
    for g in range(half):
        angle = place * _BASE ** (-g / half)
        turns_2G[0, g], turns_2G[1, g] = math.cos(angle), math.sin(angle)
    return turns_2G


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
def _attend(query_F, key_FW, value_FW, score_S, seen_F):
    """Fill in the mean of the values of a head, weighed by how their keys fit the query."""
    half = len(query_F) // 2
    score_S[:] = 0
    for g in range(half):
        one, other, one_W, other_W = query_F[g], query_F[half + g], key_FW[g], key_FW[half + g]
        for s in range(len(score_S)):
            score_S[s] += one * one_W[s] + other * other_W[s]
    top, total = score_S[0], _f4(0)
    for s in range(len(score_S)):
        top = max(top, score_S[s])
    for s in range(len(score_S)):
        score_S[s] = exp(score_S[s] - top)
        total += score_S[s]
    for f in range(len(seen_F)):
        row_W, mean = value_FW[f], _f4(0)
        for s in range(len(score_S)):
            mean += row_W[s] * score_S[s]
        seen_F[f] = mean / total
