"""Compiled loops of context mixing: reading text, learning or not, and whole rows. `plain` says the same in NumPy."""

from __future__ import annotations

import numpy as np

from lmlab.kernels.cm.layout import (
    APM_RATE,
    APM_STEPS,
    APM_WEIGHT,
    BEGINS,
    BLANK,
    COLON,
    COLUMN,
    COUNT,
    FIRST,
    FLOOR,
    HEAD,
    INSIDE,
    LEAST,
    LENGTH,
    LEVEL,
    LEVELS,
    LIKE,
    LIKENED,
    LINE,
    LINE_SLOTS,
    LONGEST,
    MATCH,
    MIX_1,
    MIX_2,
    MOST_COUNT,
    MOST_SEEN,
    NEWLINE,
    PROBABILITY,
    READ,
    RECENT,
    REMEMBERED,
    SETS,
    SHAPE,
    STRETCH,
    STRETCHES,
    TAG,
    WORD,
    WORD3,
    Frame,
    Tables,
)  # fmt: skip
from lmlab.kernels.intrinsics import prefetch
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.vocabulary import BOS

_M1, _M2 = np.uint64(MIX_1), np.uint64(MIX_2)


@inline
def _hash(h, value):
    h = (h + np.uint64(value) + np.uint64(1)) * _M1
    return h ^ (h >> np.uint64(29))


@inline
def _short(h):
    return np.int64(h >> np.uint64(33))


@inline
def _squash(z):
    return np.float32(1) / (np.float32(1) + np.exp(-min(max(z, np.float32(-14)), np.float32(14))))


@inline
def _window(state_F, M):
    """The last tokens in a ring, and the tables of where each match's beginnings stood among them."""
    begin = MATCH + 3 * M
    W = (len(state_F) - begin) // (M + 1)
    return state_F[begin : begin + W], state_F[begin + W :]


@inline
def _told(place, end, history_H, ring_W):
    """The token at a place of the history, which the text itself goes on."""
    return np.int64(history_H[place]) if place < end else np.int64(ring_W[(place - end) % len(ring_W)])


@jit
def _alike(place, end, state_F, history_H, most, ring_W):
    """How many of the last tokens, at most so many, stood before a place too."""
    size = 0
    while size < min(most, REMEMBERED) and _told(place - 1 - size, end, history_H, ring_W) == np.int64(
        state_F[RECENT + size]
    ):
        size += 1
    return size


@jit
def _advance(state_F, token, frame, tables, learning):
    """Take one token into the registers of a text, and into the history if the model learns."""
    clock, history_H = tables.clock, tables.history_H
    if token == BOS:
        state_F[:] = 0
        state_F[RECENT:] = -1
    kind, like = frame.kind_V[token], frame.like_V[token]
    if kind == INSIDE:
        state_F[WORD] = _short(_hash(np.uint64(state_F[WORD]), like))
        state_F[LENGTH] += 1
    elif state_F[WORD] != 0 or kind == BEGINS:
        for i in range(WORD3, WORD, -1):
            state_F[i] = state_F[i - 1]
        state_F[WORD] = _short(_hash(np.uint64(0), like)) if kind == BEGINS else 0
        state_F[LENGTH] = kind == BEGINS
    if kind == NEWLINE:
        state_F[BLANK] = state_F[COLUMN] != 0
        state_F[LINE] = state_F[COLUMN] = state_F[FIRST] = 0
    elif token != BOS:
        if kind == COLON and state_F[BLANK] == 0:
            state_F[HEAD] = state_F[LINE]
        if state_F[COLUMN] == 0:
            state_F[FIRST] = token
        state_F[LINE] = _short(_hash(np.uint64(state_F[LINE]), token))
        state_F[COLUMN] += 1
    for i in range(RECENT + REMEMBERED - 1, RECENT, -1):
        state_F[i] = state_F[i - 1]
    for i in range(LIKE + LIKENED - 1, LIKE, -1):
        state_F[i] = state_F[i - 1]
    state_F[RECENT], state_F[LIKE] = token, like
    end, read, M = clock[0], np.int64(state_F[READ]), len(frame.least_M)
    ring_W, tables_W = _window(state_F, M)
    if learning:
        history_H[end] = token
        end += 1
        clock[0] = end
    else:
        ring_W[read % len(ring_W)] = token
        state_F[READ] = read + 1
    state_F[LONGEST] = 0
    for m in range(M):
        least, at = frame.least_M[m], MATCH + 3 * m
        place, size = np.int64(state_F[at]), np.int64(state_F[at + 1])
        if place >= 0 and _told(place, end, history_H, ring_W) == token:
            place, size = place + 1, min(size + 1, REMEMBERED)
        else:
            place = -1
        if state_F[RECENT + least - 1] >= 0:
            h = np.uint64(0)
            for i in range(least):
                h = _hash(h, state_F[RECENT + i])
            h >>= np.uint64(32)
            own = np.int64(h * np.uint64(len(ring_W)) >> np.uint64(32)) + m * len(ring_W)
            row = np.int64(h * np.uint64(tables.recent_MR.shape[1]) >> np.uint64(32))
            if place < 0 and not learning and tables_W[own] > read - len(ring_W) + REMEMBERED:
                place = end + np.int64(tables_W[own])
                size = _alike(place, end, state_F, history_H, tables_W[own], ring_W)
                if size < least:
                    place = -1
            if place < 0:
                place = np.int64(tables.recent_MR[m, row])
                size = _alike(place, end, state_F, history_H, place, ring_W)
                if size < least:
                    place = -1
            if learning:
                tables.recent_MR[m, row] = end
            else:
                tables_W[own] = read + 1
        if (learning and place >= end) or place == end:
            place = -1
        state_F[at], state_F[at + 1], state_F[at + 2] = place, 0, 0
        if place >= 0:
            shown = size if size < 16 else 16 + (size - 16) // 4
            state_F[at + 1], state_F[at + 2] = size, (_told(place, end, history_H, ring_W) + 1) * 64 + shown
            state_F[LONGEST] = max(state_F[LONGEST], min(size, 31))
    state_F[LONGEST] = state_F[LONGEST] * 8 + min(state_F[LENGTH], 7)
    state_F[SHAPE] = min(state_F[LENGTH], 7) * 16 + min(state_F[COLUMN] // 4, 15)


@jit
def _contexts(state_F, frame, hash_K):
    for k in range(len(hash_K)):
        h = _hash(np.uint64(0), k)
        for part in frame.parts_KP[k]:
            if part < 0:
                break
            h = _hash(h, state_F[part])
        hash_K[k] = h


@jit
def _group(group, frame, slots, hash_K, line_K, tag_K):
    """Where the lines of a group lie, one for each context, and the tags in them; asks for them all at once."""
    for k in range(len(hash_K)):
        x = (hash_K[k] + np.uint64(group + 1)) * _M2
        x ^= x >> np.uint64(32)
        x *= _M1
        line = np.int64((x >> np.uint64(32)) * np.uint64(frame.lines_K[k]) >> np.uint64(32))
        line_K[k] = (frame.first_K[k] + line) * LINE_SLOTS
        tag_K[k] = np.int64(x & np.uint64(0x1FFF)) << 3
        prefetch(slots, line_K[k])


@jit_sums
def _decide(i, node, state_F, frame, tables, line_K, tag_K, work):
    """The probability that a decision is 1; what `_learn` needs of it is kept in row i of the work space."""
    at_DK, own_DK, value_DK, index_DK, x_DX, which_DS, z_DZ, last_D2, apm_D3, f_D = work
    slots, map_KQ = tables.slots, tables.map_KQ
    x_X, K, S = x_DX[i], len(line_K), which_DS.shape[1]
    longest = 0
    for k in range(K):
        base, tag = line_K[k], (tag_K[k] | frame.place_N[node]) + 1
        at, value = base, np.int64(0)
        for j in range(base, base + LINE_SLOTS):
            if slots[j] & TAG == tag:
                at, value = j, slots[j]
                break
        at_DK[i, k], own_DK[i, k], value_DK[i, k] = at, tag, value
        if value:
            q = (LEVEL[(value >> 16) & COUNT] * LEVELS + LEVEL[(value >> 24) & COUNT]) * 2 + ((value >> 32) & 1)
            p = map_KQ[k, q]
            index_DK[i, k] = q
            x_X[3 * k] = STRETCH[int(p * STRETCHES)]
            x_X[3 * k + 1] = (p - np.float32(0.5)) * np.float32(3)
            x_X[3 * k + 2] = STRETCH[(value >> 49) & (STRETCHES - 1)]
            longest = max(longest, frame.rank_K[k])
        else:
            x_X[3 * k] = x_X[3 * k + 1] = x_X[3 * k + 2] = 0
    x_X[3 * K] = 0.3
    for s in range(S):
        if s == 0:
            c = longest
        elif s == 1:
            c = min(node, SETS - 1)
        else:
            c = min(max(np.int64(state_F[frame.selector_S[s - 2]]), 0), SETS - 1)
        which_DS[i, s] = c
        w_X, total = tables.mix_SCX[s, c], np.float32(0)
        for k in range(len(x_X)):
            total += w_X[k] * x_X[k]
        z_DZ[i, s] = min(max(total, np.float32(-12)), np.float32(12))
    z_DZ[i, S] = 0.3
    c = longest * 8 + min(state_F[LENGTH], 7)
    one, two = np.float32(0), np.float32(0)
    for s in range(S + 1):
        one += tables.node_NZ[node, s] * z_DZ[i, s]
        two += tables.order_CZ[c, s] * z_DZ[i, s]
    last_D2[i, 0], last_D2[i, 1] = one, two
    mean = (one + two) / np.float32(2)
    u = min(max(mean, np.float32(-7.999)), np.float32(7.999)) * np.float32(2) + np.float32(16)
    step = int(u)
    f_D[i] = u - step
    first = _hash(_hash(np.uint64(1), state_F[RECENT]), node)
    second = _hash(_hash(_hash(np.uint64(2), state_F[RECENT]), state_F[RECENT + 1]), node)
    apm_D3[i, 0] = c
    rows = np.uint64(len(tables.apm) // (2 * APM_STEPS))
    apm_D3[i, 1] = np.int64((first >> np.uint64(32)) * rows >> np.uint64(32)) * APM_STEPS + step
    apm_D3[i, 2] = np.int64(((second >> np.uint64(32)) * rows >> np.uint64(32)) + rows) * APM_STEPS + step
    p = (1 - 2 * APM_WEIGHT) * _squash(mean)
    for a in range(1, 3):
        j = apm_D3[i, a]
        p += APM_WEIGHT * (tables.apm[j] * (1 - f_D[i]) + tables.apm[j + 1] * f_D[i])
    return min(max(p, FLOOR), 1 - FLOOR)


@jit_sums
def _learn(i, node, bit, rates, tables, work):
    """Teach all that took part in a decision what it was."""
    at_DK, own_DK, value_DK, index_DK, x_DX, which_DS, z_DZ, last_D2, apm_D3, f_D = work
    slots, x_X, S, rate, rate_2, limit = tables.slots, x_DX[i], which_DS.shape[1], rates[0], rates[1], rates[2]
    for s in range(S):
        g, w_X = np.float32(rate * (bit - _squash(z_DZ[i, s]))), tables.mix_SCX[s, which_DS[i, s]]
        for k in range(len(x_X)):
            w_X[k] += g * x_X[k]
    g, g_2 = np.float32(rate_2 * (bit - _squash(last_D2[i, 0]))), np.float32(rate_2 * (bit - _squash(last_D2[i, 1])))
    c = apm_D3[i, 0]
    for s in range(S + 1):
        tables.node_NZ[node, s] += g * z_DZ[i, s]
        tables.order_CZ[c, s] += g_2 * z_DZ[i, s]
    for a in range(1, 3):
        j, f = apm_D3[i, a], f_D[i]
        tables.apm[j] += (bit - tables.apm[j]) * APM_RATE * (1 - f)
        tables.apm[j + 1] += (bit - tables.apm[j + 1]) * APM_RATE * f
    for k in range(at_DK.shape[1]):
        v, at = value_DK[i, k], at_DK[i, k]
        n_0, n_1, p = 0, 0, 0.5
        if not v:  # takes the slot that came least; only now, since a path's decisions may share a line
            fewest = 1000
            for turn in range(own_DK[i, k], own_DK[i, k] + LINE_SLOTS):
                u = slots[at_DK[i, k] + turn % LINE_SLOTS]
                n = ((u >> 16) & COUNT) + ((u >> 24) & COUNT)
                if n < fewest:
                    at, fewest = at_DK[i, k] + turn % LINE_SLOTS, n
        else:
            q = index_DK[i, k]
            tables.seen_KQ[k, q] += 1
            mapped = tables.map_KQ[k, q]
            mapped += (bit - mapped) / min(tables.seen_KQ[k, q] + 1.5, MOST_SEEN)
            tables.map_KQ[k, q] = min(max(mapped, LEAST), 1 - LEAST)
            n_0, n_1, p = (v >> 16) & COUNT, (v >> 24) & COUNT, (v >> 40) / PROBABILITY
        p += (bit - p) / min(n_0 + n_1 + 1.5, limit)
        p = min(max(p, LEAST), 1 - LEAST)
        n_0, n_1 = min(n_0 + 1 - bit, MOST_COUNT), min(n_1 + bit, MOST_COUNT)
        slots[at] = own_DK[i, k] | n_0 << 16 | n_1 << 24 | bit << 32 | np.int64(p * PROBABILITY) << 40


@jit
def _room(many, K, S):
    """Work space for so many decisions."""
    return (
        np.zeros((many, K), np.int64), np.zeros((many, K), np.int64), np.zeros((many, K), np.int64),
        np.zeros((many, K), np.int64), np.zeros((many, 3 * K + 1), np.float32), np.zeros((many, S), np.int64),
        np.zeros((many, S + 1), np.float32), np.zeros((many, 2), np.float32), np.zeros((many, 3), np.int64),
        np.zeros(many, np.float32),
    )  # fmt: skip


@jit
def read(ids_N, state_F, frame, tables, rates, learning, logp_N):
    """Read a text on: ln p of each token (0 of `<bos>`), predicted before it is taken in and, perhaps, learned from."""
    frame, tables = Frame(*frame), Tables(*tables)
    K, S = len(frame.parts_KP), len(frame.selector_S) + 2
    work = _room(frame.nodes_VL.shape[1], K, S)
    hash_K, line_K, tag_K = np.zeros(K, np.uint64), np.zeros(K, np.int64), np.zeros(K, np.int64)
    now = np.zeros(3)
    for t in range(len(ids_N)):
        token = np.int64(ids_N[t])
        logp_N[t] = 0
        if token != BOS:
            _contexts(state_F, frame, hash_K)
            group, logp = -1, 0.0
            for i in range(frame.length_V[token]):
                node, bit = frame.nodes_VL[token, i], frame.bits_VL[token, i]
                if frame.group_N[node] != group:
                    group = frame.group_N[node]
                    _group(group, frame, tables.slots, hash_K, line_K, tag_K)
                p = _decide(i, node, state_F, frame, tables, line_K, tag_K, work)
                logp += np.log(p if bit else 1 - p)
            logp_N[t] = logp
            if learning:
                now[0] = max(rates[1], rates[0] / (1 + rates[2] * tables.clock[1]))
                now[1], now[2] = rates[3], rates[4]
                for i in range(frame.length_V[token]):
                    _learn(i, frame.nodes_VL[token, i], np.int64(frame.bits_VL[token, i]), now, tables, work)
                tables.clock[1] += 1
        _advance(state_F, token, frame, tables, learning)


@jit
def rows(state_BF, frame, tables, logp_BV):
    """Ln p of every token that may follow each text, for `[PAD]` and `<bos>` -inf."""
    frame, tables = Frame(*frame), Tables(*tables)
    K, S, V = len(frame.parts_KP), len(frame.selector_S) + 2, len(frame.length_V)
    work = _room(1, K, S)
    hash_K, line_K, tag_K = np.zeros(K, np.uint64), np.zeros(K, np.int64), np.zeros(K, np.int64)
    log_N2 = np.zeros((len(frame.group_N), 2))
    for b in range(len(state_BF)):
        state_F, group = state_BF[b], -1
        _contexts(state_F, frame, hash_K)
        for node in frame.order_N:
            if frame.group_N[node] != group:
                group = frame.group_N[node]
                _group(group, frame, tables.slots, hash_K, line_K, tag_K)
            p = _decide(0, node, state_F, frame, tables, line_K, tag_K, work)
            log_N2[node, 0], log_N2[node, 1] = np.log(1 - p), np.log(p)
        for v in range(V):
            total = 0.0 if frame.length_V[v] else -np.inf
            for i in range(frame.length_V[v]):
                total += log_N2[frame.nodes_VL[v, i], frame.bits_VL[v, i]]
            logp_BV[b, v] = total


@jit
def step(state_BF, tokens_B, frame, tables, logp_BV):
    """Take one token into each text (their registers change), and give the row of what follows."""
    known, learned = Frame(*frame), Tables(*tables)
    for b in range(len(state_BF)):
        _advance(state_BF[b], tokens_B[b], known, learned, False)
    rows(state_BF, frame, tables, logp_BV)
