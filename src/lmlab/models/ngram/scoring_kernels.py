"""The inner loops of batch scoring (scoring.py), compiled. Questions wait for memory as those of kernels.py do.

Shapes: M places of a piece; H places of interest; V words; S entries of a table.
"""

from __future__ import annotations

import numpy as np
from numba import uint32, uint64

from lmlab.jit import jit, prefetch
from lmlab.models.ngram.kernels import _RING, AHEAD, _hash
from lmlab.vocab import BOS


@jit
def look_up_words(ids_M, words_V2, known_H, reached_M, entry_M, weight_M, logp_M):
    """Begin a piece: the scores of its words without a context; see `look_up` for what the others receive."""
    for place in range(len(ids_M)):
        word = ids_M[place]
        known_H[place], reached_M[place], entry_M[place] = place, 1, word
        logp_M[place], weight_M[place] = words_V2[word, 0], words_V2[word, 1]


@jit
def look_up(ids_M, k, known_H, many, reached_M, entry_M, weight_M, table_S2, halves, logp_M):
    """Take the scores of a piece up to level k: a stored k-gram has its own, any other adds its context's weight.

    Args:
        ids_M: uint32, the words.
        k: the level.
        known_H: uint32, the places where a stored (k-1)-gram ends, in order; receives those of level k.
        many: how many they are.
        reached_M: uint8, the length of the longest n-gram found so far that ends at each place; changed in place, as
            are the next two and the scores.
        entry_M: uint32, where its entry lies.
        weight_M: float32, its weight as a context.
        table_S2: uint64, the entries of the level.
        halves: float32, the same, laid end to end.
        logp_M: float32, the scores as the shorter levels left them.

    Returns:
        At how many places a stored k-gram ends.
    """
    mask, found = uint64(len(table_S2) - 1), 0
    keys, hashes = np.empty(_RING, np.uint64), np.empty(_RING, np.uint64)
    places, weights = np.empty(_RING, np.uint32), np.empty(_RING, np.float32)
    for j in range(many + AHEAD):
        if j < many:
            keys[j % _RING] = uint64(0)
            place = known_H[j] + 1
            if place < len(ids_M) and ids_M[place] != BOS:
                if reached_M[place] == k - 1:
                    key = (uint64(entry_M[place - 1]) << uint64(32)) | uint64(ids_M[place])
                    keys[j % _RING], hashes[j % _RING] = key, _hash(key) & mask
                    prefetch(table_S2, np.int64(hashes[j % _RING]) * 2)
                    places[j % _RING], weights[j % _RING] = place, weight_M[place - 1]
                else:  # without its suffix, no k-gram can be stored
                    logp_M[place] += weight_M[place - 1]
        i = j - AHEAD
        if i < 0 or keys[i % _RING] == 0:
            continue
        key, at, place = keys[i % _RING], hashes[i % _RING], places[i % _RING]
        while table_S2[at, 0] != key and table_S2[at, 0] != 0:
            at = (at + uint64(1)) & mask
        if table_S2[at, 0] == key:
            reached_M[place], entry_M[place] = k, uint32(at)
            weight_M[place] = halves[at * uint64(4) + uint64(3)]
            logp_M[place] = halves[at * uint64(4) + uint64(2)]
            known_H[found] = place
            found += 1
        else:
            logp_M[place] += weights[i % _RING]
    return found
