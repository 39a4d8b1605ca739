"""Merging: the counts of parts of a corpus, of one vocabulary, into the counts of all together.

Nodes are places in sorted levels, so each part numbers the same k-gram differently; but it numbers its k-grams in the
same order. A level's map from a part's nodes to the merged nodes therefore only rises, and a part's keys, once the map
of the level below has renamed their contexts, are sorted still:

    part 1   the·cat  the·dog  you·are      nodes 0 1 2  ->  0 1 3
    part 2   the·cat  the·end  you·are      nodes 0 1 2  ->  0 2 3
    merged   the·cat  the·dog  the·end  you·are

Level by level, sorted runs are merged, some whole contexts at a time: what is merged at once stays in the cache, and of
memory-mapped parts only that is read. A level can be cut between contexts and its ranges merged apart (`cut_level`).

A part with other word ids is brought into the order of the common ones first (`renamed`). Words may fall together
there: then a k-gram lies in the part more than once, its places side by side, and merging makes one of them.

Shapes: P parts, G k-grams of one level, F nodes one level down, M k-grams of all parts merged at once; V words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lmlab.kernels.ngram.layout import Counts, high, low, pack
from lmlab.memory import forget, room

_PIECE = 1 << 15  # of each part, about so many k-grams are merged at once
_FORGET_AFTER = 4  # pieces


def merge_level(
    parts: Sequence[Counts], maps: Sequence[np.ndarray], *, on_disk: bool = False
) -> tuple[Counts, list[np.ndarray]]:
    """Merge one level k > 1.

    Args:
        parts: this level of each part, memory-mapped or not.
        maps: of each part the merged node of each of its nodes one level down, uint32.
        on_disk: keep the result in files, and no more than a few pieces of anything in memory.

    Returns:
        The merged level, and of each part the merged node of each of its nodes in it.
    """
    most, size, pieces_done = sum(map(len, parts)), 0, 0
    level = Counts(*(room((most,), dtype, on_disk=on_disk) for dtype in (np.uint64, np.uint32, np.uint32)))
    nodes = [room((len(part),), np.uint32, on_disk=on_disk) for part in parts]
    start_P = [0] * len(parts)
    while any(start < len(part) for start, part in zip(start_P, parts, strict=True)):
        stop_P = _whole_contexts(parts, maps, start_P)
        pieces = [_piece(*ends) for ends in zip(parts, maps, start_P, stop_P, strict=True)]
        merged, node_M = _merge(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))
        for whole, array in zip(vars(level).values(), merged, strict=True):
            whole[size : size + len(array)] = array
        node_M += np.uint32(size)
        for node_G, start, stop in zip(nodes, start_P, stop_P, strict=True):
            node_G[start:stop], node_M = np.split(node_M, [stop - start])
        size += len(merged[0])
        start_P = stop_P
        pieces_done += 1
        if on_disk and pieces_done % _FORGET_AFTER == 0:
            forget(*vars(level).values(), *nodes, *maps, *(array for part in parts for array in vars(part).values()))
    return Counts(*(array[:size] for array in vars(level).values())), nodes


def cut_level(parts: Sequence[Counts], maps: Sequence[np.ndarray], ranges: int) -> list[list[int]]:
    """Cut a level into ranges of whole merged contexts, of about as many k-grams each: where each ends in each part."""
    most = max(range(len(parts)), key=lambda i: len(parts[i]))
    ends, size = [], len(parts[most])
    for i in range(1, ranges if size else 1):
        context = maps[most][int(parts[most].key_G[i * size // ranges] >> np.uint64(32))]
        ends.append(_before(parts, maps, int(context)))
    return [*ends, [len(part) for part in parts]]


def renamed(levels: Sequence[Counts], word_V: np.ndarray) -> Iterator[Counts]:
    """The levels of a part from 2 on in the order of other word ids, from the ids that its words have there, uint32."""
    place_F = word_V
    for level in levels:
        key_G = pack(place_F[high(level.key_G)], word_V[low(level.key_G)])
        order_G = np.argsort(key_G, kind="stable")
        suffix_G = place_F[level.suffix_G]
        place_F = np.empty(len(level), dtype=np.uint32)
        place_F[order_G] = np.arange(len(level), dtype=np.uint32)
        yield Counts(key_G[order_G], suffix_G[order_G], level.count_G[order_G])


def _whole_contexts(parts: Sequence[Counts], maps: Sequence[np.ndarray], start_P: list[int]) -> list[int]:
    """Where each part's next piece ends, such that all end with the same merged context."""
    ahead = [
        known[int(part.key_G[start + _PIECE] >> np.uint64(32))]
        for part, known, start in zip(parts, maps, start_P, strict=True)
        if start + _PIECE < len(part)
    ]
    if not ahead:
        return [len(part) for part in parts]
    return _before(parts, maps, int(min(ahead)) + 1)


def _before(parts: Sequence[Counts], maps: Sequence[np.ndarray], context: int) -> list[int]:
    """How many k-grams of each part belong to merged contexts before this one."""
    contexts = [int(np.searchsorted(known, context)) for known in maps]
    return [int(np.searchsorted(p.key_G, np.uint64(c << 32))) for p, c in zip(parts, contexts, strict=True)]


def _piece(part: Counts, map_F: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A part's keys, suffixes and counts from here to there, in merged nodes."""
    key_g = part.key_G[start:stop]
    return pack(map_F[high(key_g)], low(key_g)), map_F[part.suffix_G[start:stop]], part.count_G[start:stop]


def _merge(
    key_M: np.ndarray, suffix_M: np.ndarray, count_M: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The distinct keys in order, with their suffixes and summed counts, and where each key went, uint32."""
    order_M = np.argsort(key_M, kind="stable")  # finds the sorted runs, and merges them
    sorted_M = key_M[order_M]
    new_M = np.ones(len(sorted_M), dtype=bool)
    np.not_equal(sorted_M[1:], sorted_M[:-1], out=new_M[1:])
    start_g = np.flatnonzero(new_M)
    node_M = np.empty(len(key_M), dtype=np.uint32)
    node_M[order_M] = np.cumsum(new_M) - 1
    return (sorted_M[start_g], suffix_M[order_M[start_g]], np.add.reduceat(count_M[order_M], start_g)), node_M
