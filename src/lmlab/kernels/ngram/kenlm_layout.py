"""Where things lie in KenLM's binary files (format version 5): the header, and all that follows from its counts.

Facts from KenLM's `lm/binary_format.cc`, `search_hashed.hh`, `search_trie.hh`, `trie.cc`, `bhiksha.cc`, `quantize.hh`
and `vocab.cc`. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum, auto
from typing import NamedTuple

import numpy as np

from lmlab.errors import ArtifactError

MAGIC = b"mmap lm http://kheafield.com/code format version "
INCOMPLETE = b"mmap lm http://kheafield.com/code incomplete\n"
_SANITY = MAGIC + b"5\n" + bytes(5) + struct.pack("<3f3IQ", 0.0, 1.0, -0.5, 1, 2**32 - 1, 0, 1)
_FIXED = struct.Struct("<B3xfIB3xI")  # order, buckets an entry, kind, whether words follow, version of the kind
KINDS = (
    "probing", "probing with rest costs", "trie", "quantised trie", "trie with compressed pointers",
    "quantised trie with compressed pointers",
)  # fmt: skip
HASH, WORD = 8978948897894561157, 17894857484156487943
"""What the keys of n-grams are made with: (key of the words after * HASH) xor ((1 + word) * WORD)."""
MOST_ORDER = 64
_MOST_ENTRIES = 1 << 48
_FLOATS = 31, 32  # bits of log10 p, whose sign is known, and of a backoff


class Kind(IntEnum):
    """How a model is kept."""

    PROBING = 0
    REST_PROBING = 1
    TRIE = 2
    QUANT_TRIE = 3
    ARRAY_TRIE = 4
    QUANT_ARRAY_TRIE = 5

    @property
    def hashed(self) -> bool:
        """Whether n-grams lie in hash tables."""
        return self < Kind.TRIE

    @property
    def quantised(self) -> bool:
        """Whether numbers are places in tables of numbers."""
        return self in (Kind.QUANT_TRIE, Kind.QUANT_ARRAY_TRIE)

    @property
    def compressed(self) -> bool:
        """Whether the upper bits of pointers lie in an array (Bhiksha)."""
        return self in (Kind.ARRAY_TRIE, Kind.QUANT_ARRAY_TRIE)


class Head(IntEnum):
    """Numbers of a whole model; what is a place is in bytes from the beginning of the file."""

    KIND = 0
    ORDER = auto()
    VOCAB = auto()  # where the table of words begins
    BUCKETS = auto()  # of the hash table of words; of a trie: how many hashes, sorted
    BOUND = auto()  # words, <unk> included
    UNIGRAMS = auto()
    UNIGRAM_BYTES = auto()


class Column(IntEnum):
    """Numbers of one length."""

    AT = 0  # in bytes
    ENTRY = auto()  # bytes of a bucket, or bits of a node
    ENTRIES = auto()  # buckets, or nodes
    WORD_BITS = auto()
    VALUE_BITS = auto()
    NEXT_BITS = auto()
    OFFSETS = auto()  # where the array of pointers' upper bits begins, in bytes
    OFFSET_COUNT = auto()
    PROBS = auto()  # where the table of log10 p begins, in bytes
    PROB_BITS = auto()
    BACKOFFS = auto()
    BACKOFF_BITS = auto()


class Layout(NamedTuple):
    """What the loops need, and what else the header tells.

    Attributes:
        head: the numbers of `Head`, int64.
        levels_LF: of each length from 2 on the numbers of `Column`, int64.
        counts: n-grams of each length.
        words: where the spellings begin, each ended by NUL, `<unk>` first; None where the file has none.
    """

    head: np.ndarray
    levels_LF: np.ndarray
    counts: tuple[int, ...]
    words: int | None


def header(kind: Kind, counts: Sequence[int], multiplier: float, *, spelled: bool = True) -> bytes:
    """What stands before a model, which has its words or not."""
    said = _SANITY + _FIXED.pack(len(counts), multiplier, kind, spelled, kind >= Kind.TRIE)
    said += struct.pack(f"<{len(counts)}Q", *counts)
    return said.ljust(_aligned(len(said)), b"\0")


def is_kenlm(first: bytes) -> bool:
    """Whether a file begins as KenLM's binaries do, whole or not, of any version."""
    return first.startswith((MAGIC, INCOMPLETE))


def layout_of(bytes_C: np.ndarray, name: str) -> Layout:
    """The layout of a file.

    Raises:
        ArtifactError: no binary of KenLM's, of another version, or shorter than its header says.
    """
    start = bytes_C[: len(_SANITY) + _FIXED.size].tobytes()
    if start.startswith(INCOMPLETE):
        raise ArtifactError(f"{name} was not finished by build_binary", "build it again")
    if start.startswith(MAGIC) and len(start) < len(_SANITY) + _FIXED.size:
        raise ArtifactError(f"{name} is cut short: {len(start):,} bytes are no whole header", "copy or build it again")
    if start.startswith(MAGIC) and not start.startswith(_SANITY):
        version = start[len(MAGIC) :].split(b"\n")[0][:20].decode("ascii", "replace")
        raise ArtifactError(f"{name} has format version {version!r} or another byte order, not 5", "build it again")
    if not start.startswith(_SANITY):
        raise ArtifactError(f"{name} is no binary file of KenLM's", "give it one, or an ARPA file")
    order, multiplier, kind, has_words, version = _FIXED.unpack_from(start, len(_SANITY))
    at = len(_SANITY) + _FIXED.size
    counts = np.frombuffer(bytes_C[at : at + 8 * order].tobytes().ljust(8 * order, b"\0"), "<u8").tolist()
    if kind >= len(KINDS) or version != (kind >= Kind.TRIE):
        raise ArtifactError(f"{name} is of kind {kind}, version {version}, which is unknown", "build it again")
    if (
        not 2 <= order <= MOST_ORDER
        or not 1 <= multiplier < 1e6
        or not all(0 < count < _MOST_ENTRIES for count in counts)
    ):
        told = f"order {order}, {counts[:MOST_ORDER]} n-grams, {multiplier:g} buckets an entry"
        raise ArtifactError(f"{name} says of itself {told}, which cannot be", "build it again")
    build = _hashed if Kind(kind).hashed else _trie
    head, levels, end = build(bytes_C, name, Kind(kind), counts, np.float32(multiplier), _aligned(at + 8 * order))
    if end > len(bytes_C):
        raise ArtifactError(
            f"{name} is cut short: {len(bytes_C):,} bytes, not {end:,}", "copy it again, or build it again"
        )
    words = end if has_words else None
    if words is not None and bytes_C[words : words + 6].tobytes() != b"<unk>\0":
        raise ArtifactError(f"{name} has no words where they should begin", "build it again")
    return Layout(head, levels, tuple(counts), words)


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


def buckets_of(entries: int, multiplier: np.float32) -> int:
    """The buckets of a hash table."""
    return max(entries + 1, int(multiplier * np.float32(entries)))


def _hashed(
    bytes_C: np.ndarray, name: str, kind: Kind, counts: list[int], multiplier: np.float32, at: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Head, levels and end of a model in hash tables."""
    weights, buckets = 12 if kind == Kind.REST_PROBING else 8, buckets_of(counts[0], multiplier)
    said = np.frombuffer(bytes_C[at : at + 8].tobytes().ljust(8, b"\0"), "<u4")
    if said[0] or not 0 < said[1] <= counts[0] + 1:
        raise ArtifactError(
            f"{name} says of its words: version {said[0]}, {said[1]:,} of {counts[0]:,}", "build it again"
        )
    head = np.array([kind, len(counts), at + 8, buckets, said[1], at + 8 + 12 * buckets, weights], np.int64)
    at, levels = (
        int(head[Head.UNIGRAMS]) + weights * (counts[0] + 1),
        np.zeros((len(counts) - 1, len(Column)), np.int64),
    )
    for place, (level_F, count) in enumerate(zip(levels, counts[1:], strict=True), 2):
        entry = 8 + (4 if place == len(counts) else weights)
        level_F[[Column.AT, Column.ENTRY, Column.ENTRIES]] = at, entry, buckets_of(count, multiplier)
        at += entry * int(level_F[Column.ENTRIES])
    return head, levels, at


def _trie(
    bytes_C: np.ndarray, name: str, kind: Kind, counts: list[int], _multiplier: np.float32, at: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Head, levels and end of a trie."""
    quant = at + 8 + 8 * counts[0]
    hashes = int.from_bytes(bytes_C[at : at + 8].tobytes(), "little")
    if hashes > counts[0]:
        raise ArtifactError(f"{name} says of itself {hashes:,} words of {counts[0]:,}", "build it again")
    prob_bits, backoff_bits = _FLOATS
    if kind.quantised:
        version, prob_bits, backoff_bits = (int(each) for each in bytes_C[quant : quant + 3].tobytes().ljust(3, b"\0"))
        if version != 2 or not (0 < prob_bits <= 25 and 0 < backoff_bits <= 25):
            told = f"quantisation version {version}, {prob_bits} and {backoff_bits} bits"
            raise ArtifactError(f"{name} has {told}, not version 2 and 1 to 25 bits", "build it again")
    first = quant + _tables(kind, len(counts), prob_bits, backoff_bits) + 16 * (counts[0] + 2)
    said = bytes_C[first : first + 2].tobytes().ljust(2, b"\0")
    if kind.compressed and len(counts) > 2 and said[0]:
        raise ArtifactError(f"{name} has another version of compressed pointers", "build it again")
    return trie_layout(kind, counts, at, hashes, (prob_bits, backoff_bits, said[1]))


def _tables(kind: Kind, order: int, prob_bits: int, backoff_bits: int) -> int:
    """Bytes of the tables of numbers."""
    return 8 + 4 * ((order - 2) * (2**prob_bits + 2**backoff_bits) + 2**prob_bits) if kind.quantised else 0


def trie_layout(
    kind: Kind, counts: Sequence[int], at: int, hashes: int, bits: tuple[int, int, int] = (*_FLOATS, 0)
) -> tuple[np.ndarray, np.ndarray, int]:
    """Head, levels and end of a trie.

    Args:
        kind: a kind of trie.
        counts: n-grams of each length.
        at: where it begins.
        hashes: of words.
        bits: of log10 p, of a backoff, and how many of a pointer may lie in an array.
    """
    quant = at + 8 + 8 * counts[0]
    prob_bits, backoff_bits, allowed = bits
    first = quant + _tables(kind, len(counts), prob_bits, backoff_bits)
    head = np.array([kind, len(counts), at + 8, hashes, hashes + 1, first, 16], np.int64)
    at = first + 16 * (counts[0] + 2)
    levels, table = np.zeros((len(counts) - 1, len(Column)), np.int64), quant + 8
    for place, (level_F, count) in enumerate(zip(levels, counts[1:], strict=True)):
        last = place == len(counts) - 2
        if kind.quantised:
            level_F[[Column.PROBS, Column.BACKOFFS]] = table, 0 if last else table + 4 * 2**prob_bits
            table += 4 * (2**prob_bits + 2**backoff_bits)
        next_bits = 0
        if not last:
            next_bits = counts[place + 2].bit_length()
            if kind.compressed:
                chopped = _chopped(count + 1, counts[place + 2], allowed)
                offsets = (counts[place + 2] >> (next_bits - chopped)) + 1
                level_F[[Column.OFFSETS, Column.OFFSET_COUNT]] = _aligned(at) + 8, offsets
                at += 8 * (1 + offsets) + 7
                next_bits -= chopped
        value_bits = prob_bits + (0 if last else backoff_bits)
        word_bits = counts[0].bit_length()
        level_F[[Column.AT, Column.ENTRY, Column.ENTRIES]] = at, word_bits + value_bits + next_bits, count
        level_F[[Column.WORD_BITS, Column.VALUE_BITS, Column.NEXT_BITS]] = word_bits, value_bits, next_bits
        level_F[[Column.PROB_BITS, Column.BACKOFF_BITS]] = prob_bits, backoff_bits
        at += ((1 + count) * int(level_F[Column.ENTRY]) + 7) // 8 + 8
    return head, levels, at


def _chopped(most_places: int, most_next: int, allowed: int) -> int:
    """How many upper bits of pointers lie in an array: what makes array and pointers together smallest."""
    bits = most_next.bit_length()
    return min(range(min(bits, allowed) + 1), key=lambda chop: (most_next >> (bits - chop)) * 64 - most_places * chop)
