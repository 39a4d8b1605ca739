"""What the compiled and the plain code of context mixing share: where things lie in arrays, and how numbers are packed.

A text's state is one row of int32 registers. The tree's inner nodes are the binary decisions; up to two levels of it
make a group, whose slots of one context lie in one line of eight, 64 bytes.

A slot, int64: 16 bits of tag, 8 each of how often 0 and 1 came, 1 of what came last, 23 of the adaptive probability.

Shapes: V tokens, N inner nodes, L longest path, K contexts, P parts of a context, S weight sets a decision chooses,
M match lengths, F registers, X = 3 K + 1 inputs of a mixer, H tokens learned from, W of the window.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WORD, WORD1, WORD2, WORD3, HEAD, LINE, COLUMN, FIRST, BLANK, LENGTH, SHAPE, LONGEST, READ = range(13)
REMEMBERED, LIKENED = 32, 6
"""How many of the last tokens are kept latest first, and of how many their classes."""
RECENT = READ + 1
LIKE = RECENT + REMEMBERED
MATCH = LIKE + LIKENED
"""Each match has a place, a size, and what it says as a part of a context. Behind them lie the last W tokens in a ring,
and for each match a table of W, where its beginnings stood among them."""
OTHER, INSIDE, BEGINS, NEWLINE, COLON = range(5)
"""Kinds of tokens: inside a word, the beginning of one, the end of a line, a colon, and all others."""
MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
SETS = 256  # weight sets of a selector
LINE_SLOTS = 8
TAG, COUNT, PROBABILITY = 0xFFFF, 0xFF, 1 << 23
STRETCHES = 1 << 14  # steps of the table of ln(p / (1 - p))
LEVELS = 11
APM_STEPS, APM_ROWS = 33, 1 << 16  # of each of the two maps, at most
LEAST, MOST_COUNT, MOST_SEEN = 1e-4, 250, 1023.0
FLOOR = 1e-5  # of a decision's probability
APM_RATE, APM_WEIGHT = 0.02, 0.25
STRETCH = np.log((np.arange(STRETCHES) + 0.5) / (STRETCHES - np.arange(STRETCHES) - 0.5)).astype(np.float32)
LEVEL = np.searchsorted([1, 2, 3, 4, 5, 7, 10, 15, 23, 36], np.arange(256), side="right")
"""Of each count, its level of 11."""


class Frame(NamedTuple):
    """What stays as it is while a model learns.

    `group_N` is the first node of each node's group and `place_N` its place there; `order_N` lists the nodes group by
    group. A child of a node is a node, or a token v as ~v. `parts_KP` are the registers of each context, ended by -1;
    `rank_K` numbers the plain orders from 1, 0 for other contexts; `fresh_K` marks contexts of the text at hand alone.
    """

    nodes_VL: np.ndarray
    bits_VL: np.ndarray
    length_V: np.ndarray
    group_N: np.ndarray
    place_N: np.ndarray
    order_N: np.ndarray
    kind_V: np.ndarray
    like_V: np.ndarray
    parts_KP: np.ndarray
    rank_K: np.ndarray
    first_K: np.ndarray  # line of a context's region, and how many it has
    lines_K: np.ndarray
    selector_S: np.ndarray  # a register each, after the two of the order and of the node
    least_M: np.ndarray  # tokens of the shortest match


class Tables(NamedTuple):
    """What a model learns. `clock` counts the tokens of the history, and those learned from."""

    slots: np.ndarray
    map_KQ: np.ndarray
    seen_KQ: np.ndarray
    mix_SCX: np.ndarray
    node_NZ: np.ndarray
    order_CZ: np.ndarray
    apm: np.ndarray
    history_H: np.ndarray
    recent_MR: np.ndarray
    clock: np.ndarray
