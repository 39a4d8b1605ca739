"""Context mixing over bytes with an arithmetic coder in its loop: what `lmlab compress` does where no model is named.

All numbers that decide are integers, so that sums are the same in any order and every processor writes the same file.
The functions are plain Python, for small work and to be read; `coder` hands out the same source through Numba.

A byte is a path in a Huffman tree. Three levels of the tree make a group, whose slots of one context lie in one line:
a tag, then seven slots. A slot has 18 bits of probability, 6 each of how often 1 and 0 came, 2 of what came last.
Probabilities have 16 bits, logits 8 behind the point, mixers' weights 16.

Shapes: B bytes of a tree, P its paths, K contexts, Q histories of a slot, X inputs of a mixer (3 K + 1, padded), S
weight sets that a decision chooses, C sets to choose from, Z = S + 1, N nodes, M matches, R places of a match.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmlab.kernels import engine
from lmlab.memory import room

DEEPEST = 12  # levels of a tree
_LOADED = 1  # bytes from which loading compiled loops pays
_LEVELS, _LINE = 3, 8
_CONTEXTS, _SETS, _LEAST = 26, 8, (6, 12)
_INPUTS, _ROWS, _STEPS, _BIAS = (3 * _CONTEXTS + 8) // 8 * 8, 14, 33, 77
_RING, _PLACES = 1 << 24, 1 << 20
_READ, _BITS, _WORD, _WORD1, _WORD2, _LINE_HASH, _HEAD, _COLUMN, _FIRST, _BLANK, _LENGTH, _PLACE = range(12)
_SIZE = _PLACE + len(_LEAST)
_M, _PRIME, _PRIME_2, _PRIME_3 = (1 << 32) - 1, 0x2C9277B5, 0x5F356495, 0x3D4D51CB
_RATE, _RATE_END = 20971, 2097  # of the mixers: 0.02 and 0.002
_ONE = 1 << 16
SQUASH = np.round(_ONE / (1 + np.exp(-np.arange(-2047, 2048) / 256))).astype(np.int64)
STRETCH = (
    np.round(256 * np.log((np.arange(4096) + 0.5) / (4095.5 - np.arange(4096)))).clip(-2047, 2047).astype(np.int32)
)
_LEVEL = np.searchsorted([1, 2, 3, 4, 5, 7, 10, 15, 23, 36], np.arange(64), side="right")
_TYPICAL = np.array([0, 1, 2, 3, 4, 5.5, 8, 12, 18.5, 29, 60])  # a count of each level
_SHARE = (_ONE / (np.arange(1024) + 1.5)).astype(np.int64)  # that the next observation has after so many
_COST = np.round(-np.log2((np.arange(4096) + 0.5) / 4096) * _ONE).astype(np.int64)


class Model(NamedTuple):
    """All that the coder learns, and its work space."""

    registers: np.ndarray
    code_B: np.ndarray
    length_B: np.ndarray
    leaf_P: np.ndarray
    slots: np.ndarray
    map_KQ: np.ndarray
    mix_SCX: np.ndarray
    node_NZ: np.ndarray
    order_CZ: np.ndarray
    apm: np.ndarray
    ring: np.ndarray
    place_MR: np.ndarray
    context_K: np.ndarray
    line_K: np.ndarray
    index_K: np.ndarray
    x_X: np.ndarray
    which_S: np.ndarray
    z_Z: np.ndarray
    last: np.ndarray

    @property
    def bits(self) -> float:
        """What the model's probabilities say that all bytes so far cost."""
        return int(self.registers[_BITS]) / _ONE


def fresh(length_B: Sequence[int], lines: int) -> Model:
    """A model that has learned nothing.

    Args:
        length_B: of each byte's path, at most `DEEPEST`, those of a complete tree.
        lines: of all slots together, a power of two.
    """
    code_B, leaf_P, at = np.zeros(256, np.int64), np.full(2 << DEEPEST, -1), 0
    for byte in range(256):
        left = DEEPEST - length_B[byte]
        code_B[byte], leaf_P[(1 << length_B[byte]) + (at >> left)] = at >> left, byte
        at += 1 << left
    p_Q = np.repeat((_TYPICAL + 0.4) / (_TYPICAL[:, None] + _TYPICAL + 0.8), 4)
    map_KQ = np.tile((p_Q * (1 << 22)).astype(np.uint32) << 10, (_CONTEXTS, 1))
    mix_SCX = np.zeros((_SETS, 256, _INPUTS), np.int32)
    mix_SCX[:, :, 0 : 3 * _CONTEXTS : 3] = _ONE // 5
    node_NZ, order_CZ = (np.full((rows, _SETS + 1), _ONE // _SETS, np.int64) for rows in (2 << DEEPEST, 128))
    node_NZ[:, -1] = order_CZ[:, -1] = 0
    steps = (np.arange(_STEPS) * 128 - 2048).clip(-2047, 2047)
    apm = np.tile(SQUASH[steps + 2047].astype(np.int32), 2 << _ROWS)
    context_K, line_K, index_K = np.zeros((3, _CONTEXTS), np.int64)
    x_X, z_Z = np.zeros(_INPUTS, np.int32), np.zeros(_SETS + 1, np.int64)
    x_X[3 * _CONTEXTS] = z_Z[-1] = _BIAS
    return Model(
        np.zeros(_SIZE + len(_LEAST), np.int64), code_B, np.array(length_B, np.int64), leaf_P,
        room((lines * _LINE,), np.uint32), map_KQ, mix_SCX, node_NZ, order_CZ, apm,
        np.zeros(_RING, np.uint8), np.zeros((len(_LEAST), _PLACES), np.int64), context_K, line_K, index_K,
        x_X, np.zeros(_SETS, np.int64), z_Z, np.zeros(6, np.int64),
    )  # fmt: skip


def prefetch(_array, _index):
    """Ask for what will be needed; only compiled loops can."""


def _hash(h, value):
    h = ((h + value + 1) & _M) * _PRIME & _M
    return h ^ (h >> 15)


def _lower(byte):
    return byte + 32 if 65 <= byte <= 90 else byte


def _byte(m, back):
    """The byte so far back, 1 the last."""
    return np.int64(m.ring[(m.registers[_READ] - back) & (_RING - 1)])


def _advance(byte, m):
    """Take a byte into the registers: words, lines."""
    r, like = m.registers, _lower(byte)
    m.ring[r[_READ] & (_RING - 1)] = byte
    r[_READ] += 1
    if 97 <= like <= 122 or like >= 128 or like == 95 or like == 39:
        r[_WORD] = _hash(r[_WORD], like)
        r[_LENGTH] += 1
    elif r[_WORD] != 0:
        r[_WORD2], r[_WORD1], r[_WORD], r[_LENGTH] = r[_WORD1], r[_WORD], 0, 0
    if byte == 10:
        r[_BLANK] = r[_COLUMN] != 0
        r[_LINE_HASH] = r[_COLUMN] = r[_FIRST] = 0
        return
    if byte == 58 and r[_BLANK] == 0:  # a colon in a paragraph's first line
        r[_HEAD] = r[_LINE_HASH]
    if r[_COLUMN] == 0:
        r[_FIRST] = byte
    r[_LINE_HASH] = _hash(r[_LINE_HASH], byte)
    r[_COLUMN] += 1


def _match(m):
    """Find where the last bytes stood before, one place for each least length."""
    r, ring, read = m.registers, m.ring, m.registers[_READ]
    for i in range(len(_LEAST)):
        place, size, h = r[_PLACE + i], r[_SIZE + i], 0
        goes_on = place > 0 and ring[place & (_RING - 1)] == ring[(read - 1) & (_RING - 1)]
        place, size = (place + 1, min(size + 1, 32)) if goes_on else (0, 0)
        for back in range(1, _LEAST[i] + 1):
            h = _hash(h, _byte(m, back))
        h >>= 12
        if place == 0 and read >= _LEAST[i]:
            place = m.place_MR[i, h]
            while (
                size < min(32, place)
                and read - place < _RING - 64
                and (ring[(place - 1 - size) & (_RING - 1)] == ring[(read - 1 - size) & (_RING - 1)])
            ):
                size += 1
            if size < _LEAST[i]:
                place, size = 0, 0
        m.place_MR[i, h] = read
        r[_PLACE + i], r[_SIZE + i] = place, size


def _contexts(m):
    """The hash of each context, and the weight sets that do not hang on the decision."""
    r, c, w = m.registers, m.context_K, m.which_S
    b1, b2, b3, b4 = _byte(m, 1), _byte(m, 2), _byte(m, 3), _byte(m, 4)
    word, word1, word2, head = r[_WORD], r[_WORD1], r[_WORD2], r[_HEAD]
    h, like, longest = 0, 0, 0
    for n in range(1, 10):
        h = _hash(h, _byte(m, n))
        c[min(n, 8)] = h  # orders 1 to 7, and 9
        if n <= 5:
            like = _hash(like, _lower(_byte(m, n)))
    c[0] = 0
    c[9] = _hash(word, b1)
    c[10] = _hash(_hash(word, word1), b1)
    c[11] = _hash(_hash(word, word1), word2)
    c[12] = _hash(word, word2)
    c[13] = _hash(_hash(word1, b1), b2)
    c[14] = _hash(b2, b3)
    c[15] = _hash(_hash(b2, b3), b4)
    c[16] = _hash(b1, b3)
    c[17] = like
    c[18] = _hash(min(r[_COLUMN], 255), b1)
    c[19] = _hash(r[_FIRST], word)
    c[20] = _hash(_hash(head, word), b1)
    c[21] = _hash(_hash(head, b1), b2)
    c[22] = _hash(_hash(b1, b2), r[_READ] & 3)  # for binaries, as the next
    c[23] = _hash(b1 & 0xF0, _hash(b2 & 0xF0, _hash(b3 & 0xF0, b4 & 0xF0)))
    for i in range(len(_LEAST)):
        size = r[_SIZE + i]
        shown = size if size < 16 else 16 + (size - 16) // 4
        c[24 + i] = _hash(np.int64(m.ring[r[_PLACE + i] & (_RING - 1)]) + 1, shown) if size else 0
        longest = max(longest, min(size, 31))
    for k in range(_CONTEXTS):
        c[k] = _hash(c[k], k)
    length = min(r[_LENGTH], 7)
    w[2], w[3], w[4], w[5] = b1, b2, (b1 * 5 + b2 * 3 + b3) & 255, r[_FIRST]
    w[6], w[7] = length * 16 + min(r[_COLUMN] // 4, 15), longest * 8 + length


def _seen(slot):
    return ((slot >> 2) & 63) + ((slot >> 8) & 63)


def _group(prefix, m):
    """Find each context's line for the nodes that begin at a path: one of two, or in place of what came least."""
    slots, mask = m.slots, len(m.slots) // (2 * _LINE) - 1
    for k in range(_CONTEXTS):
        h = ((m.context_K[k] + prefix * _PRIME_3) & _M) * _PRIME_2 & _M
        h ^= h >> 14
        m.line_K[k] = (((h * _PRIME & _M) >> 7) & mask) * 2 * _LINE
        m.index_K[k] = (h & 0xFFFFFF) + 1  # the tag, until the line is found
        prefetch(slots, m.line_K[k])
    for k in range(_CONTEXTS):
        at, tag = m.line_K[k], m.index_K[k]
        if slots[at] != tag:
            other = at + _LINE
            if slots[other] == tag:
                at = other
            else:
                if _seen(np.int64(slots[other + 1])) < _seen(np.int64(slots[at + 1])):
                    at = other
                for j in range(_LINE):
                    slots[at + j] = 0
                slots[at] = tag
        m.line_K[k] = at


def _dot(w_X, x_X):
    total = np.int32(0)  # of integers, so that it may be summed in any order
    for j in range(_INPUTS):
        total = np.int32(total + np.int32(np.int32(w_X[j] * x_X[j]) >> 8))
    return np.int64(total) >> 8


def _decide(node, place, m):
    """The probability that a decision is 1, of 2^16; what `_learn` needs of it stays in the work space."""
    x_X, z_Z, w, last, r = m.x_X, m.z_Z, m.which_S, m.last, m.registers
    longest, one, two, refined = 0, 0, 0, 0
    for k in range(_CONTEXTS):
        v = np.int64(m.slots[m.line_K[k] + place])
        if v & 0x3FFC:
            q = (_LEVEL[(v >> 2) & 63] * 11 + _LEVEL[(v >> 8) & 63]) * 4 + (v & 3)
            p = np.int64(m.map_KQ[k, q]) >> 16
            m.index_K[k] = q
            x_X[3 * k], x_X[3 * k + 1], x_X[3 * k + 2] = STRETCH[p >> 4], ((p - _ONE // 2) * 3) >> 8, STRETCH[v >> 20]
            if k < 9:
                longest = k
        else:
            m.index_K[k] = -1
            x_X[3 * k] = x_X[3 * k + 1] = x_X[3 * k + 2] = 0
    w[0], w[1] = longest, node & 255
    for s in range(_SETS):
        z_Z[s] = min(max(_dot(m.mix_SCX[s, w[s]], x_X), -2047), 2047)
    c = longest * 8 + min(r[_LENGTH], 7)
    for s in range(_SETS + 1):
        one += m.node_NZ[node, s] * z_Z[s]
        two += m.order_CZ[c, s] * z_Z[s]
    last[0], last[1], last[2] = min(max(one >> 16, -2047), 2047), min(max(two >> 16, -2047), 2047), c
    mean = (last[0] + last[1]) >> 1
    step, share, b1 = (mean + 2048) >> 7, (mean + 2048) & 127, _byte(m, 1)
    last[3] = (_hash(b1, node) >> 32 - _ROWS) * _STEPS + step
    last[4] = ((_hash(_hash(b1, _byte(m, 2)), node) >> 32 - _ROWS) + (1 << _ROWS)) * _STEPS + step
    last[5] = share
    for i in range(3, 5):
        refined += m.apm[last[i]] * (128 - share) + m.apm[last[i] + 1] * share
    return min(max((2 * SQUASH[mean + 2047] + 3 * (refined >> 7)) >> 3, 8), _ONE - 8)


def _learn(node, place, bit, rate, m):
    """Teach all that took part in a decision what it was."""
    x_X, z_Z, last, goal = m.x_X, m.z_Z, m.last, bit * _ONE
    for s in range(_SETS):
        e, w_X = np.int32(((goal - SQUASH[z_Z[s] + 2047]) * rate) >> 16), m.mix_SCX[s, m.which_S[s]]
        for j in range(_INPUTS):
            w = np.int32(w_X[j] + np.int32(np.int32(np.int32(x_X[j] * e) + np.int32(2048)) >> 12))
            w_X[j] = min(max(w, np.int32(-400_000)), np.int32(400_000))
    one, two = goal - SQUASH[last[0] + 2047], goal - SQUASH[last[1] + 2047]
    for s in range(_SETS + 1):
        m.node_NZ[node, s] += (z_Z[s] * one + (1 << 16)) >> 17
        m.order_CZ[last[2], s] += (z_Z[s] * two + (1 << 16)) >> 17
    for i in range(3, 5):
        j, share = last[i], last[5]
        m.apm[j] += ((goal - bit - m.apm[j]) * (128 - share)) >> 13
        m.apm[j + 1] += ((goal - bit - m.apm[j + 1]) * share) >> 13
    for k in range(_CONTEXTS):
        at, q = m.line_K[k] + place, m.index_K[k]
        v = np.int64(m.slots[at])
        n_1, n_0, p = (v >> 8) & 63, (v >> 2) & 63, v >> 14
        if q >= 0:
            mapped = np.int64(m.map_KQ[k, q])
            mean, seen = mapped >> 10, mapped & 1023
            mean += (((bit << 22) - bit - mean) * _SHARE[seen]) >> 16
            m.map_KQ[k, q] = mean << 10 | min(seen + 1, 1022)
        else:
            p = 1 << 17
        p += (((bit << 18) - bit - p) * _SHARE[n_0 + n_1]) >> 16
        if bit:  # what came often before, and now does not, is half forgotten
            n_1, n_0 = min(n_1 + 1, 63), (n_0 + 5) >> 1 if n_0 > 5 else n_0
        else:
            n_0, n_1 = min(n_0 + 1, 63), (n_1 + 5) >> 1 if n_1 > 5 else n_1
        m.slots[at] = p << 14 | n_1 << 8 | n_0 << 2 | (v & 1) << 1 | bit


def code(data_N, packed_C, decoding, m):
    """Write bytes as packed ones, or read them back, learning from each.

    The coder keeps an interval of 32 bits, writes the leading byte once both ends agree on it, and has no carry.

    Args:
        data_N: bytes; all are overwritten where `decoding`.
        packed_C: receives as many bytes as it has room for, or has those of one call; 0 follows its end.
        decoding: whether `packed_C` is read.
        m: the model.

    Returns:
        How many bytes were packed, those without room included.
    """
    low, high, at, value, place, byte = 0, _M, 0, 0, 1, 0
    if decoding:
        for at in range(4):
            value = value << 8 | (np.int64(packed_C[at]) if at < len(packed_C) else 0)
        at = 4
    for t in range(len(data_N)):
        _match(m)
        _contexts(m)
        rate = max(_RATE_END, _RATE * _ONE // (_ONE + 4 * m.registers[_READ]))
        prefix, depth, leaf, byte = 1, 0, -1, np.int64(data_N[t])
        while leaf < 0:
            if depth % _LEVELS == 0:
                _group(prefix, m)
                place = 1
            p = _decide(prefix, place, m)
            middle = low + ((high - low) >> 16) * p + (((high - low) & 0xFFFF) * p >> 16)
            bit = (value <= middle) * 1 if decoding else (m.code_B[byte] >> (m.length_B[byte] - 1 - depth)) & 1
            m.registers[_BITS] += _COST[(p if bit else _ONE - p) >> 4]
            _learn(prefix, place, bit, rate, m)
            if bit:
                high = middle
            else:
                low = middle + 1
            while (low ^ high) >> 24 == 0:
                if decoding:
                    value = (value << 8 & _M) | (np.int64(packed_C[at]) if at < len(packed_C) else 0)
                elif at < len(packed_C):
                    packed_C[at] = high >> 24
                at, low, high = at + 1, low << 8 & _M, (high << 8 & _M) | 255
            prefix, place, depth = prefix * 2 + bit, place * 2 + bit, depth + 1
            leaf = m.leaf_P[prefix]
        data_N[t] = leaf
        _advance(leaf, m)
    if not decoding and at < len(packed_C):
        packed_C[at] = high >> 24  # with zeros behind it above `low`, whose leading byte is another
    return at if decoding else at + 1


_INSIDE = (_hash, _lower, _byte, _advance, _match, _contexts, _seen, _group, _dot, _decide, _learn)


def coder(work: int) -> Callable[..., int]:
    """`code` for so many bytes: as it stands here, or compiled."""
    return _compiled() if engine.worthwhile(work, _LOADED) else code


@functools.cache
def _compiled() -> Any:
    from lmlab.kernels import intrinsics
    from lmlab.kernels.jit import jit

    names = {**globals(), "prefetch": intrinsics.prefetch}
    for function in (*_INSIDE, code):
        names[function.__name__] = jit(types.FunctionType(function.__code__, names, function.__name__))
    return names["code"]
