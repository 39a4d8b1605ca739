"""Context mixing in NumPy, a decision at a time: what `loops` compiles, for small work and to be read."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from lmlab.kernels.cm import layout
from lmlab.kernels.cm.layout import (
    BEGINS,
    BLANK,
    COLON,
    COLUMN,
    COUNT,
    FIRST,
    HEAD,
    INSIDE,
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
    WORD1,
    WORD3,
    Frame,
    Tables,
)  # fmt: skip
from lmlab.vocabulary import BOS

_WHOLE = (1 << 64) - 1


def _hash(h: int, *values: int) -> int:
    for value in values:
        h = ((h + value + 1) & _WHOLE) * MIX_1 & _WHOLE
        h ^= h >> 29
    return h


def advance(state_F: np.ndarray, token: int, frame: Frame, tables: Tables, learning: bool) -> None:
    """Take one token into the registers of a text, and into the history if the model learns."""
    if token == BOS:
        state_F[:RECENT], state_F[RECENT:] = 0, -1
    kind, like = int(frame.kind_V[token]), int(frame.like_V[token])
    if kind == INSIDE:
        state_F[WORD] = _hash(int(state_F[WORD]), like) >> 33
        state_F[LENGTH] += 1
    elif state_F[WORD] or kind == BEGINS:
        state_F[WORD1 : WORD3 + 1] = state_F[WORD:WORD3].copy()
        state_F[WORD], state_F[LENGTH] = (_hash(0, like) >> 33, 1) if kind == BEGINS else (0, 0)
    if kind == NEWLINE:
        state_F[BLANK] = state_F[COLUMN] != 0
        state_F[[LINE, COLUMN, FIRST]] = 0
    elif token != BOS:
        if kind == COLON and not state_F[BLANK]:
            state_F[HEAD] = state_F[LINE]
        if not state_F[COLUMN]:
            state_F[FIRST] = token
        state_F[LINE] = _hash(int(state_F[LINE]), token) >> 33
        state_F[COLUMN] += 1
    for begin, many, new in ((RECENT, REMEMBERED, token), (LIKE, LIKENED, like)):
        state_F[begin + 1 : begin + many] = state_F[begin : begin + many - 1].copy()
        state_F[begin] = new
    if learning:
        tables.history_H[tables.clock[0]] = token
        tables.clock[0] += 1
    else:
        ring_W, _ = _window(state_F, len(frame.least_M))
        ring_W[state_F[READ] % len(ring_W)] = token
        state_F[READ] += 1
    longest = 0
    for m in range(len(frame.least_M)):
        place, size, said = _match(m, token, state_F, frame, tables, learning)
        shown = size if size < 16 else 16 + (size - 16) // 4
        state_F[MATCH + 3 * m : MATCH + 3 * m + 3] = place, size, (said + 1) * 64 + shown if place >= 0 else 0
        longest = max(longest, min(size, 31))
    state_F[LONGEST] = longest * 8 + min(state_F[LENGTH], 7)
    state_F[SHAPE] = min(state_F[LENGTH], 7) * 16 + min(state_F[COLUMN] // 4, 15)


def _window(state_F: np.ndarray, M: int) -> tuple[np.ndarray, np.ndarray]:
    """The last tokens in a ring, and the tables of where each match's beginnings stood among them."""
    begin = MATCH + 3 * M
    W = (len(state_F) - begin) // (M + 1)
    return state_F[begin : begin + W], state_F[begin + W :]


def _match(
    m: int, token: int, state_F: np.ndarray, frame: Frame, tables: Tables, learning: bool
) -> tuple[int, int, int]:
    """Where what was read last stood before, -1 if nowhere, how many tokens of it, and what followed.

    Places up to the end of the history are there, later ones in the text itself.
    """
    at, end, read, least = MATCH + 3 * m, int(tables.clock[0]), int(state_F[READ]), int(frame.least_M[m])
    ring_W, tables_W = _window(state_F, len(frame.least_M))
    recent = state_F[RECENT : RECENT + REMEMBERED].tolist()

    def told(place: int) -> int:
        return int(tables.history_H[place] if place < end else ring_W[(place - end) % len(ring_W)])

    def alike(place: int, most: int) -> int:
        same = (told(place - 1 - i) == recent[i] for i in range(min(most, REMEMBERED)))
        return sum(1 for _ in itertools.takewhile(bool, same))

    place, size = state_F[at : at + 2].tolist()
    goes_on = place >= 0 and told(place) == token
    place, size = (place + 1, min(size + 1, REMEMBERED)) if goes_on else (-1, 0)
    if recent[least - 1] >= 0:
        h = _hash(0, *recent[:least]) >> 32
        own, row = m * len(ring_W) + (h * len(ring_W) >> 32), h * tables.recent_MR.shape[1] >> 32
        stood, learned = int(tables_W[own]), int(tables.recent_MR[m, row])
        if place < 0 and not learning and stood > read - 1 - len(ring_W) + REMEMBERED:
            place, size = end + stood, alike(end + stood, stood)
        if place < 0 or size < least:
            place, size = learned, alike(learned, learned)
        place = place if size >= least else -1
        if learning:
            tables.recent_MR[m, row] = end
        else:
            tables_W[own] = read
    found = place >= 0 and (place < end if learning else place != end)
    return (place, size, told(place)) if found else (-1, 0, -1)


class _Decision(NamedTuple):
    """What took part in one decision."""

    p: float
    at_K: np.ndarray
    tag_K: np.ndarray
    value_K: np.ndarray
    q_K: np.ndarray
    x_X: np.ndarray
    which_S: np.ndarray
    z_Z: np.ndarray
    order: int
    apm_A: tuple[int, int]
    part: float


def _squash(z: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(z, -14, 14)))


def _contexts(state_F: np.ndarray, frame: Frame) -> np.ndarray:
    state = state_F[: MATCH + 3 * len(frame.least_M)].tolist()
    lists = [[state[part] for part in parts if part >= 0] for parts in frame.parts_KP.tolist()]
    return np.array([_hash(0, k, *values) for k, values in enumerate(lists)], np.uint64)


def _decide(node: int, hash_K: np.ndarray, state_F: np.ndarray, frame: Frame, tables: Tables) -> _Decision:
    """The probability that a decision is 1, and what led to it."""
    K, state = len(hash_K), state_F[:MATCH].tolist()
    x_K = (hash_K + np.uint64(frame.group_N[node] + 1)) * np.uint64(MIX_2)
    x_K = (x_K ^ (x_K >> np.uint64(32))) * np.uint64(MIX_1)
    line_K = (x_K >> np.uint64(32)) * frame.lines_K.astype(np.uint64) >> np.uint64(32)
    base_K = (frame.first_K + line_K.astype(np.int64)) * LINE_SLOTS
    tag_K = ((x_K & np.uint64(0x1FFF)).astype(np.int64) << 3 | frame.place_N[node]) + 1
    held_K8 = tables.slots[base_K[:, None] + np.arange(LINE_SLOTS)]
    own_K8 = held_K8 & TAG == tag_K[:, None]
    turn_K, seen_K = own_K8.argmax(1), own_K8.any(1)
    value_K = np.where(seen_K, held_K8[np.arange(K), turn_K], 0)
    q_K = (LEVEL[value_K >> 16 & COUNT] * LEVELS + LEVEL[value_K >> 24 & COUNT]) * 2 + (value_K >> 32 & 1)
    p_K = tables.map_KQ[np.arange(K), q_K]
    inputs = STRETCH[(p_K * STRETCHES).astype(np.int64)], (p_K - 0.5) * 3, STRETCH[value_K >> 49 & (STRETCHES - 1)]
    x_X = np.append(np.where(seen_K, np.stack(inputs), 0).T.ravel(), 0.3).astype(np.float32)
    longest = int(np.where(seen_K, frame.rank_K, 0).max())
    chosen = [min(max(state[register], 0), SETS - 1) for register in frame.selector_S.tolist()]
    which_S = np.array([longest, min(node, SETS - 1), *chosen])
    z_S = np.clip((tables.mix_SCX[np.arange(len(which_S)), which_S] * x_X).sum(1), -12, 12)
    z_Z = np.append(z_S, 0.3)
    order = longest * 8 + min(state[LENGTH], 7)
    mean = (tables.node_NZ[node] @ z_Z + tables.order_CZ[order] @ z_Z) / 2
    u = float(np.clip(mean, -7.999, 7.999)) * 2 + 16
    rows = len(tables.apm) // (2 * layout.APM_STEPS)
    places = (_hash(n, *state[RECENT : RECENT + n], node) >> 32 for n in (1, 2))
    one, two = ((n * rows + (place * rows >> 32)) * layout.APM_STEPS + int(u) for n, place in enumerate(places))
    refined = sum(tables.apm[j] * (1 - u % 1) + tables.apm[j + 1] * (u % 1) for j in (one, two))
    p = (1 - 2 * layout.APM_WEIGHT) * _squash(mean) + layout.APM_WEIGHT * refined
    p = float(np.clip(p, layout.FLOOR, 1 - layout.FLOOR))
    return _Decision(p, base_K + turn_K, tag_K, value_K, q_K, x_X, which_S, z_Z, order, (one, two), u % 1)


def _learn(d: _Decision, node: int, bit: int, rate: float, rates: np.ndarray, tables: Tables) -> None:
    """Teach all that took part in a decision what it was."""
    S, K = np.arange(len(d.which_S)), np.arange(len(d.at_K))
    one, two = tables.node_NZ[node] @ d.z_Z, tables.order_CZ[d.order] @ d.z_Z
    tables.mix_SCX[S, d.which_S] += (rate * (bit - _squash(d.z_Z[:-1])))[:, None] * d.x_X
    tables.node_NZ[node] += rates[3] * (bit - _squash(one)) * d.z_Z
    tables.order_CZ[d.order] += rates[3] * (bit - _squash(two)) * d.z_Z
    for j in d.apm_A:
        for place, share in ((j, 1 - d.part), (j + 1, d.part)):
            tables.apm[place] += (bit - tables.apm[place]) * layout.APM_RATE * share
    seen_K = d.value_K != 0
    k, q = K[seen_K], d.q_K[seen_K]
    tables.seen_KQ[k, q] += 1
    mapped = tables.map_KQ[k, q]
    mapped += (bit - mapped) / np.minimum(tables.seen_KQ[k, q] + 1.5, layout.MOST_SEEN)
    tables.map_KQ[k, q] = np.clip(mapped, layout.LEAST, 1 - layout.LEAST)
    for k in K.tolist():
        v, at, tag = int(d.value_K[k]), int(d.at_K[k]), int(d.tag_K[k])
        n_0, n_1, p = v >> 16 & COUNT, v >> 24 & COUNT, (v >> 40) / PROBABILITY if v else 0.5
        if not v:  # takes the slot that came least; only now, since a path's decisions may share a line
            turns = [at + turn % LINE_SLOTS for turn in range(tag, tag + LINE_SLOTS)]
            at = min(turns, key=lambda j: (int(tables.slots[j]) >> 16 & COUNT) + (int(tables.slots[j]) >> 24 & COUNT))
        p += (bit - p) / min(n_0 + n_1 + 1.5, rates[4])
        p = min(max(p, layout.LEAST), 1 - layout.LEAST)
        n_0, n_1 = min(n_0 + 1 - bit, layout.MOST_COUNT), min(n_1 + bit, layout.MOST_COUNT)
        tables.slots[at] = tag | n_0 << 16 | n_1 << 24 | bit << 32 | int(p * PROBABILITY) << 40


def read(
    ids_N: np.ndarray, state_F: np.ndarray, frame: Any, tables: Any, rates: np.ndarray, learning: bool, logp_N: Any
) -> None:
    """Read a text on: ln p of each token (0 of `<bos>`), predicted before it is taken in and, perhaps, learned from."""
    frame, tables = Frame(*frame), Tables(*tables)
    for t, token in enumerate(ids_N.tolist()):
        logp_N[t] = 0
        if token != BOS:
            hash_K, size = _contexts(state_F, frame), frame.length_V[token]
            path = [*zip(frame.nodes_VL[token, :size].tolist(), frame.bits_VL[token, :size].tolist(), strict=True)]
            decisions = [_decide(node, hash_K, state_F, frame, tables) for node, _ in path]
            for d, (node, bit) in zip(decisions, path, strict=True):
                logp_N[t] += np.log(d.p if bit else 1 - d.p)
                if learning:
                    rate = max(rates[1], rates[0] / (1 + rates[2] * tables.clock[1]))
                    _learn(d, node, bit, rate, rates, tables)
            tables.clock[1] += learning
        advance(state_F, token, frame, tables, learning)


def rows(state_BF: np.ndarray, frame: Any, tables: Any, logp_BV: np.ndarray) -> None:
    """Ln p of every token that may follow each text, for `[PAD]` and `<bos>` -inf."""
    frame, tables = Frame(*frame), Tables(*tables)
    walked_VL = np.arange(frame.nodes_VL.shape[1]) < frame.length_V[:, None]
    for b, state_F in enumerate(state_BF):
        hash_K = _contexts(state_F, frame)
        p_N = np.array([_decide(node, hash_K, state_F, frame, tables).p for node in range(len(frame.group_N))])
        log_N2 = np.log(np.stack([1 - p_N, p_N], 1))
        logp_BV[b] = np.where(walked_VL, log_N2[frame.nodes_VL, frame.bits_VL], 0).sum(1)
    logp_BV[:, frame.length_V == 0] = -np.inf


def step(state_BF: np.ndarray, tokens_B: np.ndarray, frame: Any, tables: Any, logp_BV: np.ndarray) -> None:
    """Take one token into each text (their registers change), and give the row of what follows."""
    for state_F, token in zip(state_BF, tokens_B.tolist(), strict=True):
        advance(state_F, token, Frame(*frame), Tables(*tables), False)
    rows(state_BF, frame, tables, logp_BV)
