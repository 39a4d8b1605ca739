"""The plain twin of `kenlm_files`: all n-grams of a file in dictionaries, and backoff as it is written in books.

An n-gram is known by its words from the last to the first; in hash tables, where words are not kept, by its key.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from lmlab.kernels.ngram.kenlm_layout import HASH, WORD, Column, Head, Kind

_MIX, _LOW = 0xC6A4A7935BD1E995, 2**64 - 1


def hash_of(text: bytes) -> int:
    """MurmurHash64A of bytes."""
    hash = len(text) * _MIX & _LOW
    whole = len(text) // 8 * 8
    for (part,) in struct.iter_unpack("<Q", text[:whole]):
        part = part * _MIX & _LOW
        hash = (hash ^ ((part ^ part >> 47) * _MIX & _LOW)) * _MIX & _LOW
    if text[whole:]:
        hash = (hash ^ int.from_bytes(text[whole:], "little")) * _MIX & _LOW
    hash = (hash ^ hash >> 47) * _MIX & _LOW
    return hash ^ hash >> 47


class Tables:
    """A whole file, read.

    Attributes:
        ids: of the words, by their hashes.
        levels: for each length, from n-grams to their log10 p and backoff.
    """

    def __init__(self, bytes_C: np.ndarray, head: np.ndarray, levels_LF: np.ndarray) -> None:
        self._bytes, self._head, self._number = bytes_C.tobytes(), head, int.from_bytes(bytes_C.tobytes(), "little")
        self._hashed = Kind(head[Head.KIND]).hashed
        vocab, many = int(head[Head.VOCAB]), int(head[Head.BUCKETS])
        if self._hashed:
            entries = struct.iter_unpack("<QI", self._bytes[vocab : vocab + 12 * many])
            self.ids = {key: word for key, word in entries if key}
        else:
            hashes = struct.unpack_from(f"<{many}Q", self._bytes, vocab)
            self.ids = {key: word for word, key in enumerate(hashes, 1)}
        self.levels: list[dict[Any, tuple[float, float]]] = [{}]
        start, size = int(head[Head.UNIGRAMS]), int(head[Head.UNIGRAM_BYTES])
        for word in range(int(head[Head.BOUND])):
            prob, backoff = struct.unpack_from("<ff", self._bytes, start + word * size)
            self.levels[0][word if self._hashed else (word,)] = -abs(prob) if self._hashed else prob, backoff
        self._levels_LF = levels_LF
        if self._hashed:
            self.levels += [self._table(level_F, place == len(levels_LF)) for place, level_F in enumerate(levels_LF, 1)]
        else:
            self.levels += [{} for _ in levels_LF]
            for word in range(int(head[Head.BOUND])):
                (begin,), (end,) = (
                    struct.unpack_from("<Q", self._bytes, start + size * w + 8) for w in (word, word + 1)
                )
                self._grow((word,), begin, end)

    def _table(self, level_F: np.ndarray, last: bool) -> dict[Any, tuple[float, float]]:
        at, size, many = (int(level_F[column]) for column in (Column.AT, Column.ENTRY, Column.ENTRIES))
        form = "<Qf" if last else f"<Qff{size - 16}x"
        entries = struct.iter_unpack(form, self._bytes[at : at + size * many])
        return {key: (-abs(values[0]), 0.0 if last else values[1]) for key, *values in entries if key}

    def _bits(self, bit: int, width: int) -> int:
        return self._number >> bit & (1 << width) - 1 if width else 0

    def _grow(self, ngram: tuple[int, ...], begin: int, end: int) -> None:
        """Enter the n-grams that are longer by one word than this one, and so on."""
        column = {name: int(value) for name, value in zip(Column, self._levels_LF[len(ngram) - 1], strict=True)}
        last = len(ngram) == len(self._levels_LF)
        for node in range(begin, end):
            bit = 8 * column[Column.AT] + node * column[Column.ENTRY]
            word, at = self._bits(bit, column[Column.WORD_BITS]), bit + column[Column.WORD_BITS]
            if not column[Column.PROBS]:
                prob = struct.unpack("<f", (self._bits(at, 31) | 1 << 31).to_bytes(4, "little"))[0]
                backoff = 0.0 if last else struct.unpack("<f", self._bits(at + 31, 32).to_bytes(4, "little"))[0]
            else:
                width = 0 if last else column[Column.BACKOFF_BITS]
                place, of_backoff = self._bits(at + width, column[Column.PROB_BITS]), self._bits(at, width)
                (prob,) = struct.unpack_from("<f", self._bytes, column[Column.PROBS] + 4 * place)
                tables = column[Column.BACKOFFS]
                backoff = 0.0 if last else struct.unpack_from("<f", self._bytes, tables + 4 * of_backoff)[0]
            longer = (*ngram, word)
            self.levels[len(ngram)][longer] = prob, backoff
            if not last:
                self._grow(longer, *(self._next(column, bit, n) for n in (node, node + 1)))

    def _next(self, column: dict[Any, int], bit: int, node: int) -> int:
        at = 8 * column[Column.AT] + node * column[Column.ENTRY] + column[Column.WORD_BITS] + column[Column.VALUE_BITS]
        low, upper = self._bits(at, column[Column.NEXT_BITS]), 0
        if column[Column.OFFSETS]:
            offsets = struct.unpack_from(f"<{column[Column.OFFSET_COUNT]}Q", self._bytes, column[Column.OFFSETS])
            upper = sum(offset <= node for offset in offsets) - 1
        return upper << column[Column.NEXT_BITS] | low

    def key(self, words: list[int]) -> Any:
        """How an n-gram is known, of its words from the last to the first."""
        if not self._hashed:
            return tuple(words)
        key = words[0]
        for word in words[1:]:
            key = (key * HASH & _LOW) ^ ((1 + word) * WORD & _LOW)
        return key


def score_sentence(
    tables: Tables, text: bytes, begin: int, end_word: int
) -> tuple[list[tuple[float, int, bool]], float]:
    """Of each word its log10 p, the length of its n-gram, whether it is unknown; and the sum, all added in float32.

    Args:
        tables: of the model.
        text: the sentence.
        begin: the id of `<s>`, which the context begins with; -1 for none.
        end_word: the id of `</s>`, which is scored at the end; -1 for none.
    """
    order, told, total = len(tables.levels), [], np.float32(0)
    history = [begin] if begin >= 0 else []
    for word in [tables.ids.get(hash_of(spelling), 0) for spelling in text.split()] + [end_word] * (end_word >= 0):
        context = history[::-1][: order - 1]
        keys = [tables.key([word, *context[:k]]) for k in range(len(context) + 1)]
        found = max(k for k, key in enumerate(keys, 1) if key in tables.levels[k - 1])
        prob = np.float32(tables.levels[found - 1][keys[found - 1]][0])
        for k in range(found, len(context) + 1):
            prob += np.float32(tables.levels[k - 1].get(tables.key(context[:k]), (0.0, 0.0))[1])
        told.append((float(prob), found, word == 0))
        total += prob
        history.append(word)
    return told, float(total)


def place_keys(key_G: np.ndarray, buckets: int, slot_G: np.ndarray) -> None:
    """The bucket of each of some keys, entered one after the other: the first empty one from its own place on."""
    taken: set[int] = set()
    for node, key in enumerate(key_G.tolist()):
        place = next(place for place in ((key + step) % buckets for step in range(buckets)) if place not in taken)
        taken.add(place)
        slot_G[node] = place
