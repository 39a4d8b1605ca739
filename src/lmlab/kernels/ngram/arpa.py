"""The inner loops of large ARPA files, compiled; `models/ngram/arpa.py` has their plain twin, and tests compare both.

Words and k-grams are known by 64-bit hashes. Loops over them go twice over a few: they hash and ask memory for the
slots, then they read them.

Shapes: B bytes, M lines, K words in each, N = M K; S slots of a table; G k-grams of a section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numba import uint32, uint64

from lmlab.kernels.intrinsics import prefetch
from lmlab.kernels.jit import inline, jit
from lmlab.kernels.ngram.counter import arrange
from lmlab.kernels.ngram.layout import NONE, Counts
from lmlab.memory import room

_BATCH = 64
_LOG10_E, _LN_10 = 0.4342944819032518, 2.302585092994046
_TEN = np.array([float(f"1e{power}") for power in range(41)])
_NUMBER = 64  # bytes of one and the tab, at most
_FULL = 10**17  # more digits than a number needs


@inline
def _parts(byte):
    """Whether a byte parts the columns of a line."""
    return byte <= 32 and (byte == 32 or byte == 9 or byte == 13 or byte == 0)


@inline
def _mix(hashed):
    hashed = (hashed ^ (hashed >> uint64(32))) * uint64(0x9E3779B97F4A7C15)
    return hashed ^ (hashed >> uint64(29))


class Loops:
    """What works on many n-grams at once.

    Args:
        ids: of all words.
        most: the greatest log10 p allowed; what lies above 0 is taken for 0.
        unit: what log10s are multiplied by: natural logs come out, or 1 for what stands there.

    Attributes:
        words_S2: uint64, open addressing: a word's hash, and its id plus one, 0 where the slot is empty.
    """

    def __init__(self, ids: Mapping[bytes, int], most: float, unit: float = _LN_10) -> None:
        self.ids, self.most, self.unit = ids, float(most), unit
        self.words_S2 = np.zeros((1 << (2 * len(ids)).bit_length(), 2), dtype=np.uint64)
        text_B = np.frombuffer(b"\n".join(ids) + b"\n", dtype=np.uint8)
        enter_words(text_B, np.fromiter(ids.values(), np.uint32), self.words_S2)

    def table(self, most: int) -> np.ndarray:
        """An empty table of k-grams; 0 is for those that nobody will look for."""
        return room((1 << (4 * most // 3).bit_length() if most else 1,), np.uint64)

    def parse(self, text: bytes, at: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Read lines as far as they are k-grams: ids, logs of p and b, and where in the text the next line begins."""
        most = (len(text) - at) // (2 * k + 2) + 1
        hash_MK, ids_MK = np.empty((most, k), dtype=np.uint64), np.empty((most, k), dtype=np.uint32)
        logp_M, backoff_M = np.empty(most, dtype=np.float32), np.empty(most, dtype=np.float32)
        start_M = np.empty(most, dtype=np.int64)
        text_B = np.frombuffer(text, dtype=np.uint8)
        many, end = parse(text_B, at, self.most, self.unit, self.words_S2, hash_MK, ids_MK, logp_M, backoff_M, start_M)
        return ids_MK[:many], logp_M[:many], backoff_M[:many], end

    def enter(self, ids_MK, logp_M, below, own, nodes_M2, size) -> bool:
        """Number k-grams from `size` on, and find the numbers of their contexts and suffixes; whether any lacks one."""
        return enter(np.ascontiguousarray(ids_MK), logp_M, below, own, nodes_M2, size)

    def unknown(self, ids_MK: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Which k-grams are not in a table."""
        unknown_M = np.empty(len(ids_MK), dtype=bool)
        unknown(np.ascontiguousarray(ids_MK), own, unknown_M)
        return unknown_M

    def arrange(self, nodes_G2: np.ndarray, place_F: np.ndarray) -> tuple[Counts, np.ndarray]:
        """Order by context and word, with ln p in the place of counts; returns also the place of each."""
        return arrange(nodes_G2, place_F, longest=False)

    @classmethod
    def speller(cls, spelled: Sequence[bytes]) -> Callable[[np.ndarray, np.ndarray, np.ndarray], memoryview]:
        """What turns k-grams into lines."""
        spelled_B = np.frombuffer(b"".join(spelled), dtype=np.uint8)
        end_V = np.cumsum([len(word) for word in spelled])
        return lambda ids_MK, logp_M, backoff_M: spell(ids_MK, logp_M, backoff_M, spelled_B, end_V).data


# ---- words


@jit
def enter_words(text_B, ids_W, words_S2):
    """Fill an empty table with words, a line each: their hash, and their id plus one."""
    mask, at = uint64(len(words_S2) - 1), 0
    for word in range(len(ids_W)):
        hashed, at = _word(text_B, at)
        at += 1
        slot = hashed & mask
        while words_S2[np.int64(slot), 1] != 0:
            slot = (slot + uint64(1)) & mask
        words_S2[np.int64(slot), 0] = hashed
        words_S2[np.int64(slot), 1] = uint64(ids_W[word]) + uint64(1)


@inline
def _word(text_B, at):
    """The hash of the word that begins at a place, and where it ends; words of up to 8 bytes never share one."""
    hashed, eight, many = uint64(0xCBF29CE484222325), uint64(0), 0
    byte = text_B[at]
    while byte > 32 or not (_parts(byte) or byte == 10):
        eight = (eight << uint64(8)) | uint64(byte)
        many += 1
        if many == 8:
            hashed, eight, many = _mix(hashed ^ eight), uint64(0), 0
        at += 1
        byte = text_B[at]
    return _mix(hashed ^ eight), at


@jit
def parse(text_B, at, most, unit, words_S2, hash_MK, ids_MK, logp_M, backoff_M, start_M):
    """Read lines from `at` on, as far as they are n-grams; the arrays have room for as many lines as there can be.

    Lines that are blank are passed over.

    Returns:
        How many n-grams were read, and where the next line begins: the text's end, or what is a marker or wrong.
    """
    rows, size, width = 0, len(text_B), ids_MK.shape[1]
    while at < size:
        start_M[rows] = at
        end = at
        while _parts(text_B[end]):
            end += 1
        begin = end
        logp, end = _number(text_B, begin)
        if not logp <= most or not _parts(text_B[end]):
            if text_B[begin] != 10:
                break
            at = begin + 1
            continue
        words = 0
        while words < width:
            while _parts(text_B[end]):
                end += 1
            if text_B[end] == 10:
                break
            hash_MK[rows, words], end = _word(text_B, end)
            words += 1
        while _parts(text_B[end]):
            end += 1
        backoff = 0.0
        if text_B[end] != 10:
            backoff, end = _number(text_B, end)
            while _parts(text_B[end]):
                end += 1
        if words < width or text_B[end] != 10 or not abs(backoff) < 1e9:
            break
        logp_M[rows] = np.float32(logp * unit) if logp < 0 else 0
        backoff_M[rows] = np.float32(backoff * unit)
        rows += 1
        at = end + 1
    known = _look_up(rows, words_S2, hash_MK, ids_MK)
    return known, (at if known == rows else start_M[known])


@jit
def _look_up(rows, words_S2, hash_MK, ids_MK):
    mask, width = uint64(len(words_S2) - 1), ids_MK.shape[1]
    for first in range(0, rows, _BATCH):
        last = min(first + _BATCH, rows)
        for row in range(first, last):
            for k in range(width):
                prefetch(words_S2, np.int64(hash_MK[row, k] & mask) * 2)
        for row in range(first, last):
            for k in range(width):
                slot = hash_MK[row, k] & mask
                while words_S2[np.int64(slot), 0] != hash_MK[row, k]:
                    if words_S2[np.int64(slot), 1] == 0:
                        return row
                    slot = (slot + uint64(1)) & mask
                ids_MK[row, k] = uint32(words_S2[np.int64(slot), 1] - uint64(1))
    return rows


@jit
def _number(text_B, at):
    """The number that begins at a place, and where it ends; NaN where there is none."""
    negative = text_B[at] == 45
    if negative or text_B[at] == 43:
        at += 1
    mantissa, digits, scale = np.int64(0), 0, 0
    while 48 <= text_B[at] <= 57:
        if mantissa < _FULL:
            mantissa = mantissa * 10 + np.int64(text_B[at] - 48)
        else:
            scale += 1
        digits += 1
        at += 1
    if text_B[at] == 46:
        at += 1
        while 48 <= text_B[at] <= 57:
            if mantissa < _FULL:
                mantissa = mantissa * 10 + np.int64(text_B[at] - 48)
                scale -= 1
            digits += 1
            at += 1
    if digits == 0:
        if negative and text_B[at] | 32 == 105 and text_B[at + 1] | 32 == 110 and text_B[at + 2] | 32 == 102:
            return -np.inf, at + 3
        return np.nan, at
    if text_B[at] | 32 == 101:
        at += 1
        down = text_B[at] == 45
        if down or text_B[at] == 43:
            at += 1
        if not 48 <= text_B[at] <= 57:
            return np.nan, at
        power = 0
        while 48 <= text_B[at] <= 57:
            power = min(power * 10 + np.int64(text_B[at] - 48), 9999)
            at += 1
        scale += -power if down else power
    value = np.float64(mantissa)
    if -40 <= scale <= 40:
        value = value / _TEN[-scale] if scale < 0 else value * _TEN[scale]
    elif mantissa:
        value *= 10.0**scale
    return (-value if negative else value), at


# ---- k-grams


@jit
def enter(ids_MK, logp_M, below_S, own_S, nodes_M2, size):
    """Number k-grams, and find the numbers of their contexts and suffixes; whether any lacks one.

    A slot of a table holds a piece of a k-gram's hash, and in its low bits the k-gram's number plus one.

    Args:
        ids_MK: the k-grams.
        logp_M: their ln p.
        below_S: the table of the (k-1)-grams.
        own_S: the table to enter them into; one slot where nobody will look for them.
        nodes_M2: uint64; receives of each the number of its context and its word, and its suffix's number and ln p.
        size: the first number.
    """
    lacking = False
    rows, width = ids_MK.shape
    bits_M = logp_M.view(np.uint32)
    hash_3 = np.empty((_BATCH, 3), np.uint64)
    for first in range(0, rows, _BATCH):
        last = min(first + _BATCH, rows)
        for row in range(first, last):
            context = _hash(ids_MK, row, 0, width - 1)
            suffix = _hash(ids_MK, row, 1, width)
            whole = _mix(context ^ uint64(ids_MK[row, width - 1]))
            hash_3[row - first, 0], hash_3[row - first, 1], hash_3[row - first, 2] = context, suffix, whole
            prefetch(below_S, np.int64(context & uint64(len(below_S) - 1)))
            prefetch(below_S, np.int64(suffix & uint64(len(below_S) - 1)))
            prefetch(own_S, np.int64(whole & uint64(len(own_S) - 1)))
        for row in range(first, last):
            _, context = _seek(below_S, hash_3[row - first, 0])
            _, suffix = _seek(below_S, hash_3[row - first, 1])
            if context < 0 or suffix < 0:
                lacking = True
            context, suffix = (context if context >= 0 else NONE), (suffix if suffix >= 0 else NONE)
            nodes_M2[row, 0] = (uint64(context) << uint64(32)) | uint64(ids_MK[row, width - 1])
            nodes_M2[row, 1] = (uint64(suffix) << uint64(32)) | uint64(bits_M[row])
            if len(own_S) > 1:
                at, found = _seek(own_S, hash_3[row - first, 2])
                if found < 0:
                    own_S[at] = (hash_3[row - first, 2] & ~uint64(len(own_S) - 1)) | uint64(size + row + 1)
    return lacking


@jit
def unknown(ids_MK, own_S, unknown_M):
    """Mark the k-grams that are not in a table."""
    for row in range(len(ids_MK)):
        unknown_M[row] = _seek(own_S, _hash(ids_MK, row, 0, ids_MK.shape[1]))[1] < 0


@inline
def _hash(ids_MK, row, start, stop):
    """The hash of a part of a k-gram; one word more is mixed in at its end."""
    hashed = uint64(0xCBF29CE484222325)
    for k in range(start, stop):
        hashed = _mix(hashed ^ uint64(ids_MK[row, k]))
    return hashed


@inline
def _seek(slots, hashed):
    """Where a hash is or belongs, and its number or -1."""
    names = uint64(len(slots) - 1)
    at = hashed & names
    while slots[np.int64(at)] != 0 and (slots[np.int64(at)] ^ hashed) & ~names != 0:
        at = (at + uint64(1)) & names
    return np.int64(at), np.int64(slots[np.int64(at)] & names) - 1


# ---- text


@jit
def spell(ids_MK, logp_M, backoff_M, spelled_B, end_V):
    """K-grams as lines; `backoff_M` is empty where none are written."""
    rows, width = ids_MK.shape
    size = rows * (width + 2 * _NUMBER)
    for row in range(rows):
        for k in range(width):
            size += end_V[ids_MK[row, k]] - end_V[ids_MK[row, k] - 1]
    out_B, at = np.empty(size, np.uint8), 0
    for row in range(rows):
        at = _print(logp_M[row], out_B, at)
        for k in range(width):
            out_B[at] = 32 if k else 9
            at += 1
            for place in range(end_V[ids_MK[row, k] - 1], end_V[ids_MK[row, k]]):
                out_B[at] = spelled_B[place]
                at += 1
        if len(backoff_M):
            out_B[at] = 9
            at = _print(backoff_M[row], out_B, at + 1)
        out_B[at] = 10
        at += 1
    return out_B[:at]


@inline
def _print(log, out_B, at):
    """Write a natural log as log10, with the fewest decimals that always bring its float32 back; returns the end."""
    value = min(abs(np.float64(log)), 1e9)
    decimals, least = 7, 2.0
    while 0 < value < least and decimals < 40:
        least /= 8
        decimals += 1
    digits = uint64(value * _LOG10_E * _TEN[decimals] + 0.5)
    if log == -np.inf:
        digits, decimals = uint64(99), 0
    if log < 0 and digits != 0:
        out_B[at] = 45
        at += 1
    while decimals > 0 and digits % uint64(10) == 0:
        digits //= uint64(10)
        decimals -= 1
    length = decimals + 1 + (decimals > 0)
    rest = digits
    for _ in range(decimals + 1):
        rest //= uint64(10)
    while rest != 0:
        rest //= uint64(10)
        length += 1
    for place in range(length - 1, -1, -1):
        if decimals > 0 and place == length - 1 - decimals:
            out_B[at + place] = 46
        else:
            out_B[at + place] = 48 + digits % uint64(10)
            digits //= uint64(10)
    return at + length
