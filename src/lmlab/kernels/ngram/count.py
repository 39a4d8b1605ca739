"""The inner loops of counting and smoothing, compiled by Numba the first time they run and kept on disk from then on.

`counts.py` and `smoothing.py` say in NumPy what these do; small texts use that, as importing Numba takes longer than
counting a megabyte, and tests compare both. All loops share one idea: the questions of a piece of text to one level do
not depend on each other, so several are under way at once, some places apart, and each step asks memory ahead for what
the next needs. A question alone would wait for memory three times; so it hardly waits at all. When counting:

    question j            hash the key,              ask for its slot
    question j - AHEAD    read the slot,             ask for the node it names
    question j - 2 AHEAD  compare, find or insert

An index is an open-addressing table of 32-bit slots. A slot holds a node's number plus one in its low bits, a piece of
the key's hash above, and 0 where it is empty.

Shapes: M places of a piece, M + 1 where the place before it is included; G nodes of a level, F of the level below; C
contexts; g nodes and c contexts of a piece; V words; S slots of an index.
"""

from __future__ import annotations

import numpy as np
from numba import uint32, uint64

from lmlab.kernels.intrinsics import prefetch
from lmlab.kernels.jit import inline, jit
from lmlab.kernels.ngram.layout import NONE, Rule, high
from lmlab.memory import fixed, forget, room
from lmlab.vocabulary import BOS

AHEAD = 32  # questions, between the steps
_BLOCK = 2048  # places whose questions are put together: they stay in the first-level cache
_LOW = uint64(0xFFFFFFFF)
_FEW = 32  # children sorted by insertion
_PIECE = 1 << 22  # suffixes of a file that are in memory at once


@inline
def _hash(key):
    mixed = (key ^ (key >> uint64(32))) * uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> uint64(29))


# ---- counting


@jit
def number(ids_M, shorter_M1, nodes_G2, size, slots, weight, longer_M1):
    """Number the k-grams that end at each place of a piece, new ones in order of appearance, and count them.

    Args:
        ids_M: uint32, the words.
        shorter_M1: uint32, the node of the (k-1)-gram that ends at each place, the place before the piece first; NONE
            where the document does not reach so far back.
        nodes_G2: uint64, of each node its key, and its suffix and count packed; room for M more.
        size: how many nodes there are.
        slots: the index, with room for M more.
        weight: what an occurrence counts: 1, or 0 for places counted before.
        longer_M1: receives the node of the k-gram that ends at each place, from its second element on.

    Returns:
        How many nodes there are now.
    """
    names = _names(slots)
    keys, hashes, places = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.int64)
    for start in range(0, len(ids_M), _BLOCK):
        many = 0
        for place in range(start, min(start + _BLOCK, len(ids_M))):
            key = (uint64(shorter_M1[place]) << uint64(32)) | uint64(ids_M[place])
            keys[many], hashes[many], places[many] = key, _hash(key), place + 1
            longer_M1[place + 1] = NONE
            many += (shorter_M1[place] != NONE) & (ids_M[place] != BOS)
        for j in range(many + 2 * AHEAD):
            if j < many:
                prefetch(slots, _home(hashes[j], slots))
            i = j - AHEAD
            if 0 <= i < many:
                prefetch(nodes_G2, np.int64(uint64(slots[_home(hashes[i], slots)]) & names) * 2 - 2)
            i = j - 2 * AHEAD
            if i < 0:
                continue
            key, place, at = keys[i], places[i], _home(hashes[i], slots)
            mark = hashes[i] & _LOW & ~names
            while True:
                slot = uint64(slots[at])
                if slot == 0:
                    nodes_G2[size, 0] = key
                    nodes_G2[size, 1] = (uint64(shorter_M1[place]) << uint64(32)) | uint64(weight)
                    longer_M1[place] = size
                    size += 1
                    slots[at] = uint32(mark | uint64(size))
                    break
                if slot & ~names == mark:
                    node = np.int64(slot & names) - 1
                    if nodes_G2[node, 0] == key:
                        nodes_G2[node, 1] += uint64(weight)
                        longer_M1[place] = node
                        break
                at = at + 1 if at + 1 < len(slots) else 0
    return size


@inline
def _home(hashed, slots):
    """Where to look first in an index of any length."""
    return np.int64(((hashed >> uint64(32)) * uint64(len(slots))) >> uint64(32))


@inline
def _names(slots):
    """The bits of a slot that hold a number, in an index of any length."""
    names = uint64(1)
    while names < uint64(len(slots)):
        names = (names << uint64(1)) | uint64(1)
    return names


@jit
def count_words(ids_M, count_V):
    """Add the words of a piece to their counts."""
    for i in range(len(ids_M)):
        count_V[ids_M[i]] += 1


@jit
def index_nodes(nodes_G2, size, slots):
    """Fill an empty index with nodes that are being counted."""
    names = _names(slots)
    for node in range(size):
        if node + AHEAD < size:
            prefetch(slots, _home(_hash(nodes_G2[node + AHEAD, 0]), slots))
        hashed = _hash(nodes_G2[node, 0])
        at = _home(hashed, slots)
        while slots[at] != 0:
            at = at + 1 if at + 1 < len(slots) else 0
        slots[at] = uint32((hashed & _LOW & ~names) | uint64(node + 1))


@jit
def group(nodes_G2, places_F, end_F1, ordered_G):
    """Order counted nodes by the final place of their context, then by word, and put those places in their keys.

    Args:
        nodes_G2: as `number` left them.
        places_F: uint32, the final place of each node one level down.
        end_F1: uint32, zeros; receives where the children of each place one level down end.
        ordered_G: uint64, receives in the final order the word and the old number of each node, packed.
    """
    size, contexts = len(nodes_G2), len(places_F)
    for node in range(size):
        if node + AHEAD < size:
            prefetch(places_F, np.int64(nodes_G2[node + AHEAD, 0] >> uint64(32)))
        context = places_F[np.int64(nodes_G2[node, 0] >> uint64(32))]
        nodes_G2[node, 0] = (uint64(context) << uint64(32)) | (nodes_G2[node, 0] & _LOW)
        end_F1[np.int64(context) + 1] += uint32(1)
    for context in range(contexts):
        end_F1[context + 1] += end_F1[context]
    for node in range(size):
        if node + 2 * AHEAD < size:
            prefetch(end_F1, np.int64(nodes_G2[node + 2 * AHEAD, 0] >> uint64(32)))
        if node + AHEAD < size:
            prefetch(ordered_G, np.int64(end_F1[np.int64(nodes_G2[node + AHEAD, 0] >> uint64(32))]))
        context = np.int64(nodes_G2[node, 0] >> uint64(32))
        ordered_G[end_F1[context]] = (nodes_G2[node, 0] << uint64(32)) | uint64(node)
        end_F1[context] += uint32(1)
    starts, stops, start = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64), np.int64(0)
    for first in range(0, contexts, _BLOCK):
        many = 0  # most contexts have one child, and no branch shall have to guess which
        for context in range(first, min(first + _BLOCK, contexts)):
            starts[many], stops[many] = start, end_F1[context]
            start = stops[many]
            many += stops[many] - starts[many] > 1
        for i in range(many):
            _sort(ordered_G, starts[i], stops[i])


@inline
def _sort(values, start, stop):
    if stop - start > _FEW:
        values[start:stop].sort()
        return
    for i in range(start + 1, stop):
        value, j = values[i], i - 1
        while j >= start and values[j] > value:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = value


@jit
def settle(nodes_G2, key_G, shorter_F, place_G, suffix_G, count_G):
    """Lay counted nodes out in their final order.

    Args:
        nodes_G2: the nodes, their contexts final.
        key_G: what `group` found; turned into the keys, in place.
        shorter_F: uint32, the final place of each node one level down.
        place_G: receives the final place of each node; empty where nobody asks.
        suffix_G: receives the suffixes, in final order.
        count_G: receives the counts.
    """
    many, asked = len(key_G), len(place_G) > 0
    for place in range(many):
        if place + 2 * AHEAD < many:
            node = np.int64(key_G[place + 2 * AHEAD] & _LOW)
            prefetch(nodes_G2, node * 2)
            if asked:
                prefetch(place_G, node)
        if place + AHEAD < many:
            node = np.int64(key_G[place + AHEAD] & _LOW)
            prefetch(shorter_F, np.int64(nodes_G2[node, 1] >> uint64(32)))
        node = np.int64(key_G[place] & _LOW)
        if asked:
            place_G[node] = place
        key_G[place] = nodes_G2[node, 0]
        suffix_G[place] = shorter_F[np.int64(nodes_G2[node, 1] >> uint64(32))]
        count_G[place] = uint32(nodes_G2[node, 1] & _LOW)


def tally(suffix_G: np.ndarray, nodes: int) -> np.ndarray:
    """How many k-grams of a level have each suffix: uint32, one for each node one level down."""
    count_F = room((nodes,), np.uint32)
    for start in range(0, len(suffix_G), _PIECE):
        _tally(fixed(suffix_G[start : start + _PIECE]), count_F)
        forget(suffix_G)
    return count_F


@jit
def _tally(suffix_G, count_F):
    many = len(suffix_G)
    for node in range(many):
        if node + AHEAD < many:
            prefetch(count_F, np.int64(suffix_G[node + AHEAD]))
        count_F[suffix_G[node]] += uint32(1)


# ---- smoothing


def share(
    key_g: np.ndarray,
    suffix_g: np.ndarray,
    count_g: np.ndarray,
    dropped_g: np.ndarray,
    rule: Rule,
    shorter_F: np.ndarray,
) -> tuple[np.ndarray, int, np.ndarray]:
    """Of some whole contexts the p of each child, the first context, and the b of each from there on; float64."""
    first, last = (int(context) for context in high(key_g)[[0, -1]])
    p_g, weight_c = np.empty(len(key_g)), np.ones(last - first + 1)
    discounts = np.asarray(rule.discounts, dtype=np.float64)
    besides = rule.per_type, rule.per_context
    _share(key_g, suffix_g, count_g, dropped_g, discounts, *besides, shorter_F, first, p_g, weight_c)
    return p_g, first, weight_c


@jit
def _share(key_g, suffix_g, count_g, dropped_g, discounts, per_type, per_context, shorter_F, first, p_g, weight_c):
    """The sums of smoothing.py, in the same order."""
    many, stop = len(key_g), 0
    while stop < many:
        start, context = stop, key_g[stop] >> uint64(32)
        total = mass = types = 0.0
        while stop < many and key_g[stop] >> uint64(32) == context:
            if stop + AHEAD < many:
                prefetch(shorter_F, np.int64(suffix_g[stop + AHEAD]))
            count = count_g[stop]
            total += count
            mass += count if dropped_g[stop] else discounts[min(count, 3)]
            types += count > 0
            stop += 1
        besides = per_context + per_type * types
        total, mass = total + besides, mass + besides
        weight = 1.0
        if total > 0:
            weight = mass / total
        else:
            total = 1.0
        weight_c[np.int64(context) - first] = weight
        for node in range(start, stop):
            count = count_g[node]
            p_g[node] = (count - discounts[min(count, 3)]) / total + weight * shorter_F[suffix_g[node]]
