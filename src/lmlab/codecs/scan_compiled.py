"""The scanner of scan.py in compiled form: words are known by a 64-bit hash of their bytes, as KenLM knows them.

Among a million words, two share a hash with a chance of one in 37 million.

Shapes: B bytes of text, N ids, W words, S slots of the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import uint64

from lmlab.jit import inline, jit, prefetch
from lmlab.memory import room
from lmlab.vocab import BOS, EOS, SPECIALS, UNK

_ROOM = 1 << 12
_AHEAD = 12  # words hashed before they are looked up
_RING = 16


class CompiledScanner:
    """Turns whitespace words into ids: the same as `Scanner`.

    Attributes:
        table_S2: uint64, open addressing: a word's hash, 0 where the slot is empty, and its id.
    """

    def __init__(self, words: Sequence[str] = (), *, learn: bool = True) -> None:
        self.table_S2 = np.zeros((_ROOM, 2), dtype=np.uint64)
        self._spelled_B = np.empty(_ROOM, dtype=np.uint8)
        self._end_W = np.zeros(_ROOM, dtype=np.int64)
        self._words, self._open, self._learn = 0, False, True
        self.feed(" ".join(words).encode())
        self._open, self._learn = False, learn
        for name in SPECIALS:  # unknown, unless they are among the words
            _enter(self.table_S2, np.frombuffer(name.encode(), dtype=np.uint8), UNK)

    def feed(self, text: bytes) -> np.ndarray:
        """See `WordScanner`."""
        text_B = np.frombuffer(text, dtype=np.uint8)
        if self._learn:
            self._make_room(len(text_B))
        ids_N = np.empty(2 * len(text_B) + 1, dtype=np.uint32)  # if all are newlines
        many, self._words, self._open = _scan(
            text_B, self._open, self.table_S2, self._spelled_B, self._end_W, self._words, self._learn, ids_N
        )
        return ids_N[:many].copy()

    def _make_room(self, text_bytes: int) -> None:
        words = self._words + text_bytes // 2 + 1 + len(SPECIALS)
        if words > len(self._end_W):
            self._end_W.resize(max(words, 2 * len(self._end_W)), refcheck=False)
        spelled = int(self._end_W[self._words - 1]) + text_bytes if self._words else text_bytes
        if spelled > len(self._spelled_B):
            self._spelled_B.resize(max(spelled, 2 * len(self._spelled_B)), refcheck=False)
        if 2 * words > len(self.table_S2):
            larger_S2 = room((1 << (2 * words).bit_length(), 2), np.uint64)
            _move(self.table_S2, larger_S2)
            self.table_S2 = larger_S2

    def close(self) -> np.ndarray:
        """See `WordScanner`."""
        ended, self._open = self._open, False
        return np.array([EOS] if ended else [], dtype=np.uint32)

    def seal(self) -> None:
        """See `WordScanner`."""
        self.table_S2 = np.empty((0, 2), dtype=np.uint64)

    def __len__(self) -> int:
        return len(SPECIALS) + self._words

    def words(self) -> list[str]:
        """See `WordScanner`."""
        if not self._words:
            return []
        ends = self._end_W[: self._words]
        lines_B = np.insert(self._spelled_B[: ends[-1]], ends[:-1], ord("\n"))
        return lines_B.tobytes().decode("utf-8").split("\n")


@inline
def _finish(hashed):
    """The last mixing of a word's hash; never 0."""
    hashed = (hashed ^ (hashed >> uint64(32))) * uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> uint64(29)
    return hashed if hashed != 0 else uint64(1)


@inline
def _is_space(byte):
    return byte <= 32 and (byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 0)


@jit
def hash_word(word_B):
    """The hash of a word: 64-bit FNV-1a, mixed once more."""
    hashed = uint64(0xCBF29CE484222325)
    for byte in word_B:
        hashed = (hashed ^ uint64(byte)) * uint64(0x100000001B3)
    return _finish(hashed)


@jit
def _enter(table_S2, word_B, id):
    hashed, mask = hash_word(word_B), uint64(len(table_S2) - 1)
    at = hashed & mask
    while table_S2[np.int64(at), 0] != 0:
        if table_S2[np.int64(at), 0] == hashed:
            return
        at = (at + uint64(1)) & mask
    table_S2[np.int64(at), 0] = hashed
    table_S2[np.int64(at), 1] = id


@jit
def _move(table_S2, larger_S2):
    mask = uint64(len(larger_S2) - 1)
    for slot in range(len(table_S2)):
        if table_S2[slot, 0] != 0:
            at = table_S2[slot, 0] & mask
            while larger_S2[np.int64(at), 0] != 0:
                at = (at + uint64(1)) & mask
            larger_S2[np.int64(at), 0] = table_S2[slot, 0]
            larger_S2[np.int64(at), 1] = table_S2[slot, 1]


@jit
def _scan(text_B, opened, table_S2, spelled_B, end_W, words, learn, ids_N):
    """Write the ids of a text; returns how many, how many words are known now, and whether a line is open.

    Words are hashed some places before they are looked up, so that memory is asked ahead. A newline has the hash 0.
    """
    mask, many, at, size = uint64(len(table_S2) - 1), 0, 0, len(text_B)
    hashes = np.empty(_RING, np.uint64)
    starts, stops = np.empty(_RING, np.int64), np.empty(_RING, np.int64)
    read = done = 0
    while True:
        while at < size and text_B[at] != 10 and _is_space(text_B[at]):
            at += 1
        if at < size:
            hashed = uint64(0)
            starts[read % _RING] = at
            if text_B[at] == 10:
                at += 1
            else:
                hashed = uint64(0xCBF29CE484222325)
                while at < size and not _is_space(text_B[at]):
                    hashed = (hashed ^ uint64(text_B[at])) * uint64(0x100000001B3)
                    at += 1
                hashed = _finish(hashed)
                prefetch(table_S2, np.int64(hashed & mask) * 2)
            hashes[read % _RING], stops[read % _RING] = hashed, at
            read += 1
        if done == read:
            return many, words, opened
        if at < size and read - done < _AHEAD:
            continue
        hashed = hashes[done % _RING]
        if not opened:
            ids_N[many] = BOS
            many += 1
        opened = hashed != 0
        id = uint64(EOS)
        if opened:
            slot = hashed & mask
            while table_S2[np.int64(slot), 0] != hashed and table_S2[np.int64(slot), 0] != 0:
                slot = (slot + uint64(1)) & mask
            id = uint64(UNK)
            if table_S2[np.int64(slot), 0] != 0:
                id = table_S2[np.int64(slot), 1]
            elif learn:
                id = uint64(words + len(SPECIALS))
                table_S2[np.int64(slot), 0] = hashed
                table_S2[np.int64(slot), 1] = id
                start, end = starts[done % _RING], end_W[words - 1] if words else 0
                end_W[words] = end + stops[done % _RING] - start
                spelled_B[end : end_W[words]] = text_B[start : stops[done % _RING]]
                words += 1
        ids_N[many] = id
        many += 1
        done += 1
