"""The compiled loops of the compact layout: numbers in as few bits as they need, read at any place.

A level is one array of 64-bit words, so that it is one file, and one argument:

    head        what HEAD counts: sizes, where the parts begin, the widths of ladders, the rule of smoothing
    starts      the first level alone: the first child of each node, and the end, two to a word
    wide        of each context with many children: its node, total and mass
    directory   two words for each block of 64 nodes, and for the end: where its run begins, in bytes, and its first
                child; how long its middle two ladders are, in bits, and its first code
    runs

    run         degrees   for each node as many 0s as it has children, and a 1    (not on the first and last levels)
                dropped   ladder: what pruning took from each node as a context
                counts    ladder: each node's count, less the level's least
                codes     ladder: each node's word, as compact_trie.py says

A ladder is 64 numbers in steps. Step s has a plane, a bit for each number that came so far, 1 where it goes on to the
next step; the others stay, and follow in w_s bits each. So small numbers take a bit or two, the place of any one is
found by counting ones in words of 64 bits, and the last step, which all that came so far must stay on, has no plane.

    numbers 0 5 0 1, widths 0 1 3     plane 0101 | plane 10 | 1 bit: 0 | 3 bits: 2      0 | 1 2 | 3 .. 10

Nothing here reads outside the array, whatever the runs say, if head, starts and directory are sound.

Shapes: M questions, G nodes of a level, L words of 64 bits, W contexts with many children, Q nodes side by side.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types, uint64
from numba.extending import intrinsic

from lmlab.kernels.intrinsics import prefetch
from lmlab.kernels.jit import jit
from lmlab.kernels.ngram.layout import UNSEEN

BLOCK = 64
WIDE = 16  # contexts with more children have their sums stored
SIZE, CHILDREN, STARTS, WIDES, MANY_WIDE, DIRECTORY, RUNS = range(7)  # the places in a level's head
DROPPED, COUNTS, CODES, RULE, HEAD = 8, 16, 24, 32, 40  # of ladders, the number of steps and their widths
PER_TYPE, PER_CONTEXT, LEAST = RULE + 4, RULE + 5, RULE + 6  # RULE itself: the discounts of counts of 0, 1, 2, 3..
_AHEAD = 4
_RING = 32  # questions under way: more than 4 _AHEAD, a power of two


# ---- bits


@intrinsic
def _count_ones(_typing, word):
    def generate(context, builder, signature, arguments):
        ask = builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)])
        return builder.call(ask, [arguments[0]])

    return types.int64(types.uint64), generate


@intrinsic
def _float(_typing, word):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), generate


@jit
def _ones(word):
    return _count_ones(uint64(word))


@jit
def _half(level, base, i):
    """Number i of 32 bits, from a word on."""
    return np.int64((level[base + (i >> 1)] >> uint64(32 * (i & 1))) & uint64(0xFFFFFFFF))


@jit
def _word(level, at):
    """64 bits from place `at` on."""
    place, shift = uint64(at) >> uint64(6), uint64(at) & uint64(63)
    return (level[place] >> shift) | ((level[place + uint64(1)] << uint64(1)) << (uint64(63) - shift))


@jit
def _low(many):
    """The low bits of a word, 0 to 64 of them."""
    return ~uint64(0) >> uint64(64 - many) if many else uint64(0)


@jit
def _place_of(word, many):
    """Where in a word its one number `many` is, from 0 on."""
    place, half = 0, 32
    while half:
        below = _ones(word & _low(half))
        if many >= below:
            many -= below
            word >>= uint64(half)
            place += half
        half >>= 1
    return place


@jit
def _put(level, at, value, width):
    shift = uint64(at & 63)
    level[at >> 6] |= uint64(value) << shift
    if (at & 63) + width > 64:
        level[(at >> 6) + 1] |= uint64(value) >> (uint64(64) - shift)


# ---- ladders


@jit
def _write(level, at, number_B, ladder):
    """Write a block's numbers, which it uses up, and return where they end."""
    many, last = BLOCK, np.int64(level[ladder])
    for s in range(1, last):
        width, plane, on = np.int64(level[ladder + s]), uint64(0), 0
        stay_at = at + many
        for i in range(many):
            if number_B[i] >> width:
                plane |= uint64(1) << uint64(i)
                number_B[on] = number_B[i] - (1 << width)
                on += 1
            else:
                _put(level, stay_at, number_B[i], width)
                stay_at += width
        _put(level, at, plane, many)
        at, many = stay_at, on
    width = np.int64(level[ladder + last])
    for i in range(many):
        _put(level, at, number_B[i], width)
        at += width
    return at


@jit
def _read(level, at, i, ladder):
    """Number i of a ladder."""
    many, base, last = BLOCK, 0, np.int64(level[ladder])
    for s in range(1, last):
        width = np.int64(level[ladder + s])
        plane = _word(level, at) & _low(many)
        before = _ones(plane & _low(i))
        at += many
        if (plane >> uint64(i)) & uint64(1) == uint64(0):
            return base + np.int64(_word(level, at + (i - before) * width) & _low(width))
        on = _ones(plane)
        at += (many - on) * width
        base += 1 << width
        many, i = on, before
    width = np.int64(level[ladder + last])
    return base + np.int64(_word(level, at + i * width) & _low(width))


@jit
def _end(level, at, ladder):
    """Where a ladder ends."""
    many, last = BLOCK, np.int64(level[ladder])
    for s in range(1, last):
        on = _ones(_word(level, at) & _low(many))
        at += many + (many - on) * np.int64(level[ladder + s])
        many = on
    return at + many * np.int64(level[ladder + last])


# ---- blocks


@jit
def _run(level, entry):
    """Where the run begins of a block with this entry in the directory."""
    return (np.int64(level[RUNS]) << 6) + (np.int64(entry >> uint64(32)) << 3)


@jit
def _first(entry):
    return np.int64(entry & uint64(0xFFFFFFFF))


@jit
def _ladders(level, block):
    """Where a block's ladders begin, behind the degrees and their own length."""
    place = np.int64(level[DIRECTORY]) + 2 * block
    at = _run(level, level[place])
    if level[CHILDREN] and not level[STARTS]:
        at += BLOCK + _first(level[place + 2]) - _first(level[place])
    return at


@jit
def _counts(level, block):
    at = _ladders(level, block)
    return _end(level, at, DROPPED) if level[DROPPED + 1] or level[DROPPED] > 1 else at


@jit
def _codes(level, block):
    return _ladders(level, block) + np.int64(level[np.int64(level[DIRECTORY]) + 2 * block + 1] >> uint64(32))


@jit
def children(level, node):
    """The first child of a node, one level up, and the end."""
    if level[STARTS]:
        starts = np.int64(level[STARTS])
        return _half(level, starts, node), _half(level, starts, node + 1)
    place, passed = np.int64(level[DIRECTORY]) + 2 * (node >> 6), node & 63
    first, stop = _first(level[place]), _first(level[place + 2])
    begin = _run(level, level[place])
    at, end, left = begin, begin + BLOCK + stop - first, passed
    while left > 0 and at < end:
        word = _word(level, at)
        ones = _ones(word)
        if ones < left:
            left -= ones
            at += 64
        else:
            at += _place_of(word, left - 1) + 1
            left = 0
    start = min(first + at - begin - passed, stop)
    many = 0
    while at < end:
        word = _word(level, at)
        if word:
            many += _ones((word & (~word + uint64(1))) - uint64(1))
            break
        many += 64
        at += 64
    return start, min(start + many, stop)


@jit
def _discount(level, count):
    return _float(level[RULE + min(count, 3)])


@jit
def sums(below, level, context, start, stop):
    """The total and the mass of a context whose children these are; smoothing.py says what they are."""
    if stop - start > WIDE:
        wides, low, high = np.int64(level[WIDES]), 0, np.int64(level[MANY_WIDE])
        while low < high:
            middle = (low + high) >> 1
            if np.int64(level[wides + 3 * middle]) < context:
                low = middle + 1
            else:
                high = middle
        return _float(level[wides + 3 * low + 1]), _float(level[wides + 3 * low + 2])
    total = mass = types = 0.0
    at, least = 0, np.int64(level[LEAST])
    for node in range(start, stop):
        if node == start or node & 63 == 0:
            at = _counts(level, node >> 6)
        count = least + _read(level, at, node & 63, COUNTS)
        total += count
        mass += _discount(level, count)
        types += count > 0
    besides = _float(level[PER_CONTEXT]) + _float(level[PER_TYPE]) * types
    if below[DROPPED + 1] or below[DROPPED] > 1:
        dropped = _read(below, _ladders(below, context >> 6), context & 63, DROPPED)
        total += dropped
        mass += dropped
    return total + besides, mass + besides


@jit
def _block(level, start, stop, code):
    """The block that may hold the child of this code among some, whose codes ascend."""
    low, high, codes = start >> 6, (stop - 1) >> 6, np.int64(level[DIRECTORY]) + 1
    while low < high:
        middle = (low + high + 1) >> 1
        if _first(level[codes + 2 * middle]) <= code:
            low = middle
        else:
            high = middle - 1
    return low


@jit
def _find(level, start, stop, block, code):
    """The child of this code among some, which this block alone may hold, or -1."""
    if start >= stop:
        return -1
    start, stop = max(start, block << 6), min(stop, (block + 1) << 6)
    place = _place_in(level, _codes(level, block), start & 63, ((stop - 1) & 63) + 1, code)
    return -1 if place < 0 else start + place


@jit
def _place_in(level, at, start, stop, number):
    """Which of some ascending numbers of a ladder of codes this is, or -1: all that stay on earlier steps are less."""
    many, base, less, last = BLOCK, 0, 0, np.int64(level[CODES])
    for s in range(1, last + 1):
        width, on, on_start, on_stop = np.int64(level[CODES + s]), 0, 0, 0
        if s < last:
            plane = _word(level, at) & _low(many)
            on, on_start, on_stop = _ones(plane), _ones(plane & _low(start)), _ones(plane & _low(stop))
            at += many
        low, high = start - on_start, stop - on_stop
        if s == last or number < base + (1 << width):
            first = low
            while low < high:
                middle = (low + high) >> 1
                found = base + np.int64(_word(level, at + middle * width) & _low(width))
                if found == number:
                    return less + middle - first
                if found < number:
                    low = middle + 1
                else:
                    high = middle
            return -1
        less += high - low
        at += (many - on) * width
        base += 1 << width
        many, start, stop = on, on_start, on_stop
    return -1


# ---- queries


@jit
def lookup(below, level, context_M, node_M, rank_M, p_M, chosen_M):
    """Take questions one level up.

    Args:
        below: the level of the contexts.
        level: the one that is asked.
        context_M: uint32, the node of each context; UNSEEN where it is not stored, NONE where there is none.
        node_M: uint32, the node of the k-gram without its first word, UNSEEN or NONE as above; changed to its own.
        rank_M: uint32, which of its context's children that is; changed to that of the node found.
        p_M: float64, its probability; changed to that of the node found.
        chosen_M: float64, receives the probability of what is found, the weight of the context of what is not.
    """
    many, words = len(context_M), below[STARTS] != 0
    starts, stops, blocks = np.empty(_RING, np.int64), np.empty(_RING, np.int64), np.empty(_RING, np.int64)
    from_below, from_level = np.int64(below[DIRECTORY]), np.int64(level[DIRECTORY])
    for j in range(many + 4 * _AHEAD):
        if j < many and context_M[j] < UNSEEN:
            if words:
                prefetch(below, np.int64(below[STARTS]) + np.int64(context_M[j] >> 1))
            else:
                prefetch(below, from_below + 2 * np.int64(context_M[j] >> 6))
        i = j - _AHEAD
        if 0 <= i < many and context_M[i] < UNSEEN and not words:
            prefetch(below, _run(below, below[from_below + 2 * np.int64(context_M[i] >> 6)]) >> 6)
        i = j - 2 * _AHEAD
        if 0 <= i < many and context_M[i] < UNSEEN:
            start, stop = children(below, np.int64(context_M[i]))
            starts[i % _RING], stops[i % _RING] = start, stop
            prefetch(level, from_level + 2 * (start >> 6))
            prefetch(level, from_level + 2 * ((start + stop) >> 7))
        i = j - 3 * _AHEAD
        if 0 <= i < many and context_M[i] < UNSEEN:
            start, stop = starts[i % _RING], stops[i % _RING]
            block = start >> 6
            if node_M[i] < UNSEEN and stop > start:
                block = _block(level, start, stop, np.int64(rank_M[i]))
            blocks[i % _RING] = block
            at = _run(level, level[from_level + 2 * block]) >> 6
            prefetch(level, at)
            prefetch(level, at + 8)
        i = j - 4 * _AHEAD
        if i < 0:
            continue
        if context_M[i] >= UNSEEN:
            node_M[i], chosen_M[i] = context_M[i], 1.0
            continue
        start, stop = starts[i % _RING], stops[i % _RING]
        total, mass = sums(below, level, np.int64(context_M[i]), start, stop)
        weight = 1.0
        if total > 0:
            weight = mass / total
        else:
            total = 1.0
        node = -1
        if node_M[i] < UNSEEN:
            node = _find(level, start, stop, blocks[i % _RING], np.int64(rank_M[i]))
        if node < 0:
            node_M[i], chosen_M[i] = UNSEEN, weight
            continue
        count = np.int64(level[LEAST]) + _read(level, _counts(level, node >> 6), node & 63, COUNTS)
        p_M[i] = (count - _discount(level, count)) / total + weight * p_M[i]
        node_M[i], rank_M[i], chosen_M[i] = node, node - start, p_M[i]


@jit
def unpack(level, start, code_Q, count_Q):
    """Read the codes and counts of some nodes that lie side by side."""
    counts, codes, least = 0, 0, np.int64(level[LEAST])
    for j in range(len(code_Q)):
        block, i = (start + j) >> 6, (start + j) & 63
        if j == 0 or i == 0:
            counts, codes = _counts(level, block), _codes(level, block)
        count_Q[j] = least + _read(level, counts, i, COUNTS)
        code_Q[j] = _read(level, codes, i, CODES)


# ---- making


@jit
def pack(level, degree_G, dropped_G, count_G, code_G):
    """Write a level's directory and runs behind the rest, and return how many words all take.

    Degrees, dropped and codes are empty where the level has none. Counts come less the least.
    """
    number_B = np.empty(BLOCK, np.int64)
    size = len(count_G)
    directory, begin = np.int64(level[DIRECTORY]), np.int64(level[RUNS]) << 6
    at, child, blocks = begin, 0, (size + BLOCK - 1) // BLOCK
    for block in range(blocks):
        level[directory + 2 * block] = (uint64(at - begin) << uint64(29)) | uint64(child)
        base = block * BLOCK
        if len(degree_G):
            for node in range(base, base + BLOCK):
                degree = np.int64(degree_G[node]) if node < size else 0
                child += degree
                at += degree
                _put(level, at, 1, 1)
                at += 1
        ladders_at = at
        for numbers_G, ladder in ((dropped_G, DROPPED), (count_G, COUNTS), (code_G, CODES)):
            if ladder == CODES:
                code = uint64(code_G[base]) if len(code_G) else uint64(0)
                level[directory + 2 * block + 1] = (uint64(at - ladders_at) << uint64(32)) | code
            for i in range(BLOCK):
                number_B[i] = numbers_G[base + i] if base + i < len(numbers_G) else 0
            at = _write(level, at, number_B, ladder)
        at = (at + 7) & ~7
    level[directory + 2 * blocks] = (uint64(at - begin) << uint64(29)) | uint64(child)
    return at >> 6


@jit
def add_up(count_G, dropped_G, start_W, stop_W, rule, sums_W2):
    """The total and the mass of contexts whose children, the dropped ones too, are nodes `start_W` to `stop_W`."""
    for wide in range(len(start_W)):
        total = mass = types = 0.0
        for node in range(start_W[wide], stop_W[wide]):
            count = np.int64(count_G[node])
            total += count
            mass += count if dropped_G[node] else rule[min(count, 3)]
            types += count > 0
        besides = rule[5] + rule[4] * types
        sums_W2[wide, 0], sums_W2[wide, 1] = total + besides, mass + besides
