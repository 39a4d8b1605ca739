"""The inner loops of large n-gram models, compiled by Numba the first time they run and kept on disk from then on.

Every one has a NumPy twin elsewhere in this package, which small texts use (importing Numba takes longer than counting
a megabyte) and tests compare with. They share one idea: the questions of a piece of text to one level do not depend on
each other, so several are under way at once, some places apart, and each step asks memory ahead for what the next
needs. A question alone would wait for memory three times; so it hardly waits at all. When counting:

    place j            hash the key,              ask for its slot
    place j - AHEAD    read the slot,             ask for the node it names
    place j - 2 AHEAD  compare, find or insert

An index is an open-addressing table of 32-bit slots, a power of two of them: 2^bits. A slot holds a node's number plus
one in its low `bits` bits, a piece of the key's hash above, and 0 where it is empty.

Shapes: M places of a piece, M + 1 where the place before it is included; G nodes of a level, F of the level below; C
contexts; g nodes and c contexts of a piece; V words; S slots or entries of a table.
"""

from __future__ import annotations

import numpy as np
from numba import uint32, uint64

from lmlab.jit import inline, jit, prefetch
from lmlab.models.ngram.counts import NONE
from lmlab.vocab import BOS

AHEAD = 16
_RING = 64  # questions under way; at least 2 AHEAD + 1, a power of two
_NOTHING = 0xFFFFFFFFFFFFFFFF
_FEW = 32  # children sorted by insertion


@inline
def _hash(key):
    mixed = (key ^ (key >> uint64(32))) * uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> uint64(29))


# ---- counting


@jit
def number(ids_M, shorter_M1, nodes_G2, size, slots, bits, weight, longer_M1):
    """Number the k-grams that end at each place of a piece, new ones in order of appearance, and count them.

    Args:
        ids_M: uint32, the words.
        shorter_M1: uint32, the node of the (k-1)-gram that ends at each place, the place before the piece first; NONE
            where the document does not reach so far back.
        nodes_G2: uint64, of each node its key, and its suffix and count packed; room for M more.
        size: how many nodes there are.
        slots: the index, with room for M more.
        bits: log2 of its length.
        weight: what an occurrence counts: 1, or 0 for places counted before.
        longer_M1: receives the node of the k-gram that ends at each place, from its second element on.

    Returns:
        How many nodes there are now.
    """
    many = len(ids_M)
    mask, names = uint64(len(slots) - 1), (uint64(1) << uint64(bits)) - uint64(1)
    keys, hashes = np.empty(_RING, np.uint64), np.empty(_RING, np.uint64)
    for j in range(many + 2 * AHEAD):
        if j < many:
            if shorter_M1[j] == NONE or ids_M[j] == BOS:
                keys[j % _RING] = uint64(_NOTHING)
            else:
                key = (uint64(shorter_M1[j]) << uint64(32)) | uint64(ids_M[j])
                keys[j % _RING] = key
                hashes[j % _RING] = _hash(key)
                prefetch(slots, np.int64(hashes[j % _RING] & mask))
        i = j - AHEAD
        if 0 <= i < many and keys[i % _RING] != uint64(_NOTHING):
            slot = uint64(slots[hashes[i % _RING] & mask])
            prefetch(nodes_G2, np.int64(slot & names) * 2 - 2)
        i = j - 2 * AHEAD
        if i < 0:
            continue
        key, hashed = keys[i % _RING], hashes[i % _RING]
        if key == uint64(_NOTHING):
            longer_M1[i + 1] = NONE
            continue
        at, mark = hashed & mask, hashed >> uint64(32 + bits)
        while True:
            slot = uint64(slots[at])
            if slot == 0:
                nodes_G2[size, 0] = key
                nodes_G2[size, 1] = (uint64(shorter_M1[i + 1]) << uint64(32)) | uint64(weight)
                longer_M1[i + 1] = size
                size += 1
                slots[at] = uint32((mark << uint64(bits)) | uint64(size))
                break
            if slot >> uint64(bits) == mark:
                node = (slot & names) - uint64(1)
                if nodes_G2[node, 0] == key:
                    nodes_G2[node, 1] += uint64(weight)
                    longer_M1[i + 1] = node
                    break
            at = (at + uint64(1)) & mask
    return size


@jit
def count_words(ids_M, count_V):
    """Add the words of a piece to their counts."""
    for i in range(len(ids_M)):
        count_V[ids_M[i]] += 1


@jit
def index_nodes(nodes_G2, size, slots, bits):
    """Fill an empty index with nodes that are being counted."""
    mask = uint64(len(slots) - 1)
    for node in range(size):
        if node + AHEAD < size:
            prefetch(slots, np.int64(_hash(nodes_G2[node + AHEAD, 0]) & mask))
        _claim(slots, mask, bits, _hash(nodes_G2[node, 0]), node)


@jit
def index_keys(key_G, slots, bits):
    """Fill an empty index with the nodes of a level."""
    mask = uint64(len(slots) - 1)
    for node in range(len(key_G)):
        if node + AHEAD < len(key_G):
            prefetch(slots, np.int64(_hash(key_G[node + AHEAD]) & mask))
        _claim(slots, mask, bits, _hash(key_G[node]), node)


@inline
def _claim(slots, mask, bits, hashed, node):
    at = hashed & mask
    while slots[at] != 0:
        at = (at + uint64(1)) & mask
    slots[at] = uint32(((hashed >> uint64(32 + bits)) << uint64(bits)) | uint64(node + 1))


@jit
def group(nodes_G2, size, places_F, contexts, ordered_G):
    """Order counted nodes by the final place of their context, then by word, and put those places in their keys.

    Args:
        nodes_G2: as `number` left them.
        size: how many they are, G.
        places_F: uint32, the final place of each node one level down.
        contexts: how many those are.
        ordered_G: uint64, receives in the final order the word and the old number of each node, packed.
    """
    far = 2 * AHEAD
    low = uint64(0xFFFFFFFF)
    end_C = np.zeros(contexts + 1, np.uint32)
    for node in range(size):
        if node + far < size:
            prefetch(places_F, np.int64(nodes_G2[node + far, 0] >> uint64(32)))
        context = places_F[np.int64(nodes_G2[node, 0] >> uint64(32))]
        nodes_G2[node, 0] = (uint64(context) << uint64(32)) | (nodes_G2[node, 0] & low)
        end_C[np.int64(context) + 1] += uint32(1)
    for context in range(contexts):
        end_C[context + 1] += end_C[context]
    for node in range(size):
        if node + 2 * far < size:
            prefetch(end_C, np.int64(nodes_G2[node + 2 * far, 0] >> uint64(32)))
        if node + far < size:
            prefetch(ordered_G, np.int64(end_C[np.int64(nodes_G2[node + far, 0] >> uint64(32))]))
        context = np.int64(nodes_G2[node, 0] >> uint64(32))
        ordered_G[end_C[context]] = (nodes_G2[node, 0] << uint64(32)) | uint64(node)
        end_C[context] += uint32(1)
    start = 0
    for context in range(contexts):
        _sort(ordered_G, start, np.int64(end_C[context]))
        start = np.int64(end_C[context])


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
    far, many, asked = 2 * AHEAD, len(key_G), len(place_G) > 0
    low = uint64(0xFFFFFFFF)
    for place in range(many):
        if place + 2 * far < many:
            node = np.int64(key_G[place + 2 * far] & low)
            prefetch(nodes_G2, node * 2)
            if asked:
                prefetch(place_G, node)
        if place + far < many:
            node = np.int64(key_G[place + far] & low)
            prefetch(shorter_F, np.int64(nodes_G2[node, 1] >> uint64(32)))
        node = np.int64(key_G[place] & low)
        if asked:
            place_G[node] = place
        key_G[place] = nodes_G2[node, 0]
        suffix_G[place] = shorter_F[np.int64(nodes_G2[node, 1] >> uint64(32))]
        count_G[place] = uint32(nodes_G2[node, 1] & low)


@jit
def tally(suffix_G, count_F):
    """Count how many nodes have each suffix."""
    many = len(suffix_G)
    for node in range(many):
        if node + AHEAD < many:
            prefetch(count_F, np.int64(suffix_G[node + AHEAD]))
        count_F[suffix_G[node]] += uint32(1)


# ---- smoothing


@jit
def share(key_g, suffix_g, count_g, dropped_g, taken, per_type, per_context, shorter_F, first, p_g, weight_c):
    """Share out the probability of some whole contexts; see smoothing.py, whose sums these are in the same order."""
    many, stop = len(key_g), 0
    while stop < many:
        start, context = stop, key_g[stop] >> uint64(32)
        total = mass = types = 0.0
        while stop < many and key_g[stop] >> uint64(32) == context:
            if stop + AHEAD < many:
                prefetch(shorter_F, np.int64(suffix_g[stop + AHEAD]))
            count = count_g[stop]
            total += count
            mass += count if dropped_g[stop] else taken[min(count, 3)]
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
            p_g[node] = (count - taken[min(count, 3)]) / total + weight * shorter_F[suffix_g[node]]


# ---- scoring


@jit
def enter(key_G, logp_G, backoff_G, place_F, table_S2, place_G):
    """Fill the empty table of a level with its entries.

    Args:
        key_G: of the level.
        logp_G: of the level.
        backoff_G: of the level.
        place_F: uint32, where the entry of each node one level down lies; of a word, its id.
        table_S2: uint64, zeros, a power of two of entries, more than there are nodes. No n-gram ends in `[PAD]`, so
            none has the key 0.
        place_G: uint32, receives where the entry of each node lies; empty where nobody asks.
    """
    mask, low, asked = uint64(len(table_S2) - 1), uint64(0xFFFFFFFF), len(place_G) > 0
    halves = table_S2.view(np.float32)
    for node in range(len(key_G)):
        if node + AHEAD < len(key_G):
            ahead = key_G[node + AHEAD]
            key = (uint64(place_F[np.int64(ahead >> uint64(32))]) << uint64(32)) | (ahead & low)
            prefetch(table_S2, np.int64(_hash(key) & mask) * 2)
        key = (uint64(place_F[np.int64(key_G[node] >> uint64(32))]) << uint64(32)) | (key_G[node] & low)
        at = _hash(key) & mask
        while table_S2[at, 0] != 0:
            at = (at + uint64(1)) & mask
        table_S2[at, 0] = key
        halves[at, 2] = logp_G[node]
        halves[at, 3] = backoff_G[node]
        if asked:
            place_G[node] = uint32(at)
