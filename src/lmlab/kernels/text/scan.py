"""Whitespace words straight from bytes, compiled: words are known by a 64-bit hash of their bytes, as KenLM knows them.

Words of up to eight bytes have hashes of their own; among a million longer ones, two share one with a chance of one in
37 million. White space is found 64 bytes at a time, and bytes are hashed by eight, so text lies in a buffer that is
longer than it.

Shapes: B bytes of text, N ids, W words, S slots of the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import uint64

from lmlab.kernels.intrinsics import choose, eight_bytes, lowest, prefetch, spaces_of_64
from lmlab.kernels.jit import inline, jit
from lmlab.memory import room
from lmlab.vocabulary import BOS, EOS, SPECIALS, UNK

_ROOM = 1 << 12
_BLOCK = 1024  # bytes whose words are hashed before they are looked up
_MOST = _BLOCK + 1  # words and newlines of a block: none is without a byte, but one word may have begun before
_BEYOND = 128  # bytes of white space behind a text
_ONE = uint64(1)


class CompiledScanner:
    """Turns whitespace words into ids, known from the start or learnt.

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
            _enter(self.table_S2, np.frombuffer(name.encode().ljust(_BEYOND), dtype=np.uint8), len(name), UNK)

    def feed(self, text: bytes) -> np.ndarray:
        """The ids (uint32) of the next piece of text, sound UTF-8 that begins and ends between words."""
        size = len(text)
        if self._learn:
            self._make_room(size)
        text_B = np.empty(size + _BEYOND, dtype=np.uint8)
        text_B[:size], text_B[size:] = np.frombuffer(text, dtype=np.uint8), ord(" ")
        ids_N = np.empty(2 * size + 1, dtype=np.uint32)  # if all are newlines
        many, self._words, self._open = _scan(
            text_B, size, self._open, self.table_S2, self._spelled_B, self._end_W, self._words, self._learn, ids_N
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
        """The ids that end the text: `<eos>` where its last line has no newline."""
        ended, self._open = self._open, False
        return np.array([EOS] if ended else [], dtype=np.uint32)

    def seal(self) -> None:
        """Give up what only feeding needs."""
        self.table_S2 = np.empty((0, 2), dtype=np.uint64)

    def __len__(self) -> int:
        return len(SPECIALS) + self._words

    def words(self) -> list[str]:
        """The words in order of their ids, the specials left out."""
        if not self._words:
            return []
        ends = self._end_W[: self._words]
        lines_B = np.insert(self._spelled_B[: ends[-1]], ends[:-1], ord("\n"))
        return lines_B.tobytes().decode("utf-8").split("\n")


@inline
def _hash(text_B, start, size):
    """The hash of a word; never 0."""
    hashed = _stir(uint64(0), text_B, start, size)
    while size > uint64(8):
        start, size = start + uint64(8), size - uint64(8)
        hashed = _stir(hashed, text_B, start, size)
    hashed *= uint64(0xD6E8FEB86659FD93)
    hashed ^= hashed >> uint64(29)
    return choose(hashed, hashed, _ONE)


@inline
def _stir(hashed, text_B, start, size):
    """Mix the next eight bytes in, or what is left of the word."""
    besides = uint64(64) - (min(size, uint64(8)) << uint64(3))
    word = eight_bytes(text_B, np.int64(start)) & (uint64(0xFFFFFFFFFFFFFFFF) >> besides)
    hashed = (hashed ^ word) * uint64(0x9E3779B97F4A7C15)
    return hashed ^ (hashed >> uint64(32))


@jit
def _enter(table_S2, text_B, size, id):
    hashed, mask = _hash(text_B, uint64(0), uint64(size)), uint64(len(table_S2) - 1)
    at = hashed & mask
    while table_S2[at, 0] != 0:
        if table_S2[at, 0] == hashed:
            return
        at = (at + _ONE) & mask
    table_S2[at, 0] = hashed
    table_S2[at, 1] = id


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
def _scan(text_B, size, opened, table_S2, spelled_B, end_W, words, learn, ids_N):
    """Write the ids of a text; returns how many, how many words are known now, and whether a line is open.

    The words of a block are hashed before they are looked up, so that memory is asked ahead. A newline has the hash 0.
    """
    mask, many, start, opened = uint64(len(table_S2) - 1), uint64(0), uint64(0), uint64(opened)
    hashes, starts, stops = np.empty(_MOST, np.uint64), np.empty(_MOST, np.int64), np.empty(_MOST, np.int64)
    for block in range(0, size + 1, _BLOCK):
        read = uint64(0)
        for at in range(block, min(block + _BLOCK, size + 1), 64):
            found = spaces_of_64(text_B, at)
            while found != uint64(0):
                stop = uint64(at) + lowest(found)
                found &= found - _ONE
                if stop != start:
                    hashed = _hash(text_B, start, stop - start)
                    prefetch(table_S2, np.int64(hashed & mask) * 2)
                    hashes[read], starts[read], stops[read] = hashed, start, stop
                    read += _ONE
                if text_B[stop] == 10:
                    hashes[read] = uint64(0)
                    read += _ONE
                start = stop + _ONE
        for done in range(read):
            hashed = hashes[done]
            ids_N[many] = BOS
            many += _ONE - opened
            opened = uint64(hashed != uint64(0))
            slot = hashed & mask
            while table_S2[slot, 0] != hashed and table_S2[slot, 0] != uint64(0):
                slot = (slot + _ONE) & mask
            known = table_S2[slot, 0]
            id = choose(opened, choose(known, table_S2[slot, 1], uint64(UNK)), uint64(EOS))
            if learn and opened != uint64(0) and known == uint64(0):
                id = uint64(words + len(SPECIALS))
                table_S2[slot, 0], table_S2[slot, 1] = hashed, id
                end = end_W[words - 1] if words else 0
                for byte in range(starts[done], stops[done]):
                    spelled_B[end] = text_B[byte]
                    end += 1
                end_W[words] = end
                words += 1
            ids_N[many] = id
            many += _ONE
    return many, words, opened != uint64(0)
