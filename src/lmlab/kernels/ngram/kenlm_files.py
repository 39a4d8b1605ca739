"""Lookups and scores in KenLM's binary files, as they lie on disk: hash tables, and bit-packed reversed tries.

A model is three arrays: the bytes of the file, the numbers of `Head`, and for each length from 2 on the numbers of
`Column`. Words have KenLM's ids, 0 is `<unk>`. All logs are to base 10, in float32, and added in KenLM's order, so that
scores are its own to the last bit. No read leaves the file, whatever it holds: places come from `layout_of`, which
knows its size, and what the file itself says of a place is held to its bounds.

Shapes: C bytes, T bytes of a sentence, N words of it, S words of a context, the nearest first.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int64, uint32, uint64

from lmlab.kernels.intrinsics import as_float, eight_bytes
from lmlab.kernels.jit import inline, jit
from lmlab.kernels.ngram.kenlm_layout import HASH, WORD, Column, Head, Kind

_KIND, _ORDER, _VOCAB, _BUCKETS, _BOUND, _UNIGRAMS, _UNIGRAM_BYTES = map(int, Head)
_AT, _ENTRY, _ENTRIES, _WORD_BITS, _VALUE_BITS, _NEXT_BITS = map(int, list(Column)[:6])
_OFFSETS, _OFFSET_COUNT, _PROBS, _PROB_BITS, _BACKOFFS, _BACKOFF_BITS = map(int, list(Column)[6:])
_TRIE = int(Kind.TRIE)
_MIX, _HASH, _WORD = uint64(0xC6A4A7935BD1E995), uint64(HASH), uint64(WORD)
_ONE, _SIGN = uint64(1), uint32(0x80000000)


@inline
def _float_at(bytes_C, at):
    """The float32 whose first byte is the fifth from `at - 4`: what precedes it is always there to be read."""
    return as_float(uint32(eight_bytes(bytes_C, at - 4) >> uint64(32)))


@inline
def _bits(bytes_C, bit, width):
    """A number of at most 57 bits."""
    return (eight_bytes(bytes_C, int64(bit >> 3)) >> uint64(bit & 7)) & ((_ONE << uint64(width)) - _ONE)


@inline
def _goes_on(backoff):
    """Whether a context with this backoff matters: -0.0 says that no n-gram goes on from it."""
    return backoff != 0 or not np.signbit(backoff)


@jit
def hash_of(text_T, begin, end):
    """MurmurHash64A of bytes, as the table of words has it."""
    size = end - begin
    hash = uint64(size) * _MIX
    while end - begin >= 8:
        part = uint64(0)
        for place in range(8):
            part |= uint64(text_T[begin + place]) << uint64(8 * place)
        part *= _MIX
        part ^= part >> uint64(47)
        hash = (hash ^ part * _MIX) * _MIX
        begin += 8
    if end > begin:
        for place in range(end - begin):
            hash ^= uint64(text_T[begin + place]) << uint64(8 * place)
        hash *= _MIX
    hash ^= hash >> uint64(47)
    hash *= _MIX
    return hash ^ (hash >> uint64(47))


@inline
def _entry_of(bytes_C, at, buckets, size, key):
    """Where the bucket of a key begins, or -1; key 0 is an empty bucket."""
    place = int64(key % uint64(buckets))
    for _ in range(buckets):
        found = eight_bytes(bytes_C, at + place * size)
        if found == key:
            return at + place * size
        if found == 0:
            return -1
        place = place + 1 if place + 1 < buckets else 0
    return -1


@jit
def word_of(bytes_C, head, text_T, begin, end):
    """The id of a word, 0 where it is unknown."""
    key = hash_of(text_T, begin, end)
    if head[_KIND] < _TRIE:
        at = _entry_of(bytes_C, head[_VOCAB], head[_BUCKETS], 12, key)
        word = int64(eight_bytes(bytes_C, at + 4) >> uint64(32)) if at >= 0 and key != 0 else 0
        return word if word < head[_BOUND] else 0
    low, high = 0, head[_BUCKETS]
    while low < high:
        middle = (low + high) // 2
        found = eight_bytes(bytes_C, head[_VOCAB] + 8 * middle)
        if found == key:
            return middle + 1
        if found < key:
            low = middle + 1
        else:
            high = middle
    return 0


@inline
def _next_at(bytes_C, level_F, node):
    """The pointer of a node of a trie: where its children begin, and those of the node before it end."""
    bit = level_F[_AT] * 8 + node * level_F[_ENTRY] + level_F[_WORD_BITS] + level_F[_VALUE_BITS]
    low = int64(_bits(bytes_C, bit, level_F[_NEXT_BITS]))
    if level_F[_OFFSETS] == 0:
        return low
    first, after = 0, level_F[_OFFSET_COUNT]
    while after - first > 1:  # the last offset that is not beyond the node
        middle = (first + after) // 2
        if int64(eight_bytes(bytes_C, level_F[_OFFSETS] + 8 * middle)) <= node:
            first = middle
        else:
            after = middle
    return (first << level_F[_NEXT_BITS]) | low


@inline
def _child_of(bytes_C, level_F, begin, end, word):
    """The node of a word among its siblings, or -1."""
    at, size, width = level_F[_AT] * 8, level_F[_ENTRY], level_F[_WORD_BITS]
    low, high = max(begin, 0), min(end, level_F[_ENTRIES])
    while low < high:
        middle = (low + high) // 2
        found = int64(_bits(bytes_C, at + middle * size, width))
        if found == word:
            return middle
        if found < word:
            low = middle + 1
        else:
            high = middle
    return -1


@inline
def _prob_of_node(bytes_C, level_F, node):
    bit = level_F[_AT] * 8 + node * level_F[_ENTRY] + level_F[_WORD_BITS]
    if level_F[_PROBS] == 0:
        return as_float(uint32(_bits(bytes_C, bit, 31)) | _SIGN)
    if level_F[_BACKOFFS] != 0:  # which lie before it
        bit += level_F[_BACKOFF_BITS]
    return _float_at(bytes_C, level_F[_PROBS] + 4 * int64(_bits(bytes_C, bit, level_F[_PROB_BITS])))


@inline
def _backoff_of_node(bytes_C, level_F, node):
    bit = level_F[_AT] * 8 + node * level_F[_ENTRY] + level_F[_WORD_BITS]
    if level_F[_PROBS] == 0:
        return as_float(uint32(_bits(bytes_C, bit + 31, 32)))
    return _float_at(bytes_C, level_F[_BACKOFFS] + 4 * int64(_bits(bytes_C, bit, level_F[_BACKOFF_BITS])))


@jit
def score_word(bytes_C, head, levels_LF, word, words_S, backoffs_S, length, new_words_S, new_backoffs_S):
    """Score a word after a context.

    The context is the first `length` of `words_S`; `backoffs_S` is what each of its lengths costs where the next word
    is not found there. `new_words_S` and `new_backoffs_S` receive the context one word further.

    Returns:
        Log10 p, the length of the n-gram found, the length of the new context.
    """
    hashed, order = head[_KIND] < _TRIE, head[_ORDER]
    at = head[_UNIGRAMS] + word * head[_UNIGRAM_BYTES]
    prob, backoff = _float_at(bytes_C, at), _float_at(bytes_C, at + 4)
    key, begin, end = uint64(word), int64(0), int64(0)
    alone = np.signbit(prob)  # no longer n-gram ends like this one
    if hashed:
        prob = -abs(prob)
    else:
        begin, end = int64(eight_bytes(bytes_C, at + 8)), int64(eight_bytes(bytes_C, at + 24))
        alone = begin == end
    new_words_S[0], new_backoffs_S[0] = word, backoff
    found_length, new_length = 1, 1 if _goes_on(backoff) else 0
    for k in range(2, min(length + 1, order) + 1):
        if alone:
            break
        level_F, before = levels_LF[k - 2], words_S[k - 2]
        if hashed:
            key = (key * _HASH) ^ ((_ONE + uint64(before)) * _WORD)
            entry = _entry_of(bytes_C, level_F[_AT], level_F[_ENTRIES], level_F[_ENTRY], key)
            if entry < 0:
                break
            prob = _float_at(bytes_C, entry + 8)
            alone = np.signbit(prob)
            prob = -abs(prob)
            if k < order:
                backoff = _float_at(bytes_C, entry + 12)
        else:
            node = _child_of(bytes_C, level_F, begin, end, before)
            if node < 0:
                break
            prob = _prob_of_node(bytes_C, level_F, node)
            if k < order:
                backoff = _backoff_of_node(bytes_C, level_F, node)
                begin, end = _next_at(bytes_C, level_F, node), _next_at(bytes_C, level_F, node + 1)
                alone = begin == end
        found_length = k
        if k < order:
            new_backoffs_S[k - 1] = backoff
            if _goes_on(backoff):
                new_length = k
    for place in range(new_length - 1):
        new_words_S[place + 1] = words_S[place]
    for place in range(found_length - 1, length):
        prob += backoffs_S[place]
    return prob, found_length, new_length


@jit
def score_sentence(bytes_C, head, levels_LF, text_T, begin, end_word, records_N3):
    """Score the words of a sentence.

    `begin` is the id of `<s>`, which the context begins with, and `end_word` that of `</s>`, which is scored at the
    end; -1 for none. `records_N3`, unless it is empty, receives of each word log10 p, the length of its n-gram, and
    whether it is unknown, the latter two as int32.

    Returns:
        How many words there are, and the sum.
    """
    order = head[_ORDER]
    words_S, new_words_S = np.zeros(order, np.int64), np.zeros(order, np.int64)
    backoffs_S, new_backoffs_S = np.zeros(order, np.float32), np.zeros(order, np.float32)
    length, count, total, at = 0, 0, float32(0), 0
    whole_N3 = records_N3.view(np.int32)
    if begin >= 0:
        words_S[0], length = begin, 1
        backoffs_S[0] = _float_at(bytes_C, head[_UNIGRAMS] + begin * head[_UNIGRAM_BYTES] + 4)
    while True:
        while at < len(text_T) and (text_T[at] == 32 or 9 <= text_T[at] <= 13):
            at += 1
        start = at
        while at < len(text_T) and not (text_T[at] == 32 or 9 <= text_T[at] <= 13):
            at += 1
        if start == at and end_word < 0:
            break
        word = int64(word_of(bytes_C, head, text_T, start, at)) if at > start else end_word
        prob, found, length = score_word(
            bytes_C, head, levels_LF, word, words_S, backoffs_S, length, new_words_S, new_backoffs_S
        )
        words_S, new_words_S, backoffs_S, new_backoffs_S = new_words_S, words_S, new_backoffs_S, backoffs_S
        if len(records_N3):
            records_N3[count, 0] = prob
            whole_N3[count, 1], whole_N3[count, 2] = found, word == 0
        count += 1
        total += prob
        if at == start:
            break
    return count, total


@jit
def place_keys(key_G, buckets, slot_G):
    """The bucket of each of some keys, entered one after the other: the first empty one from its own place on."""
    taken = np.zeros(buckets, np.bool_)
    for node in range(len(key_G)):
        place = int64(key_G[node] % uint64(buckets))
        while taken[place]:
            place = place + 1 if place + 1 < buckets else 0
        taken[place] = True
        slot_G[node] = place
