"""The tree of binary decisions that leads to each token: Huffman's, so that common tokens take few.

Shapes: V tokens, N inner nodes, L longest path.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from lmlab.vocabulary import NEVER_PREDICTED

_LEVELS = 2  # of a group: more share cache lines, but crowd them


class Tree(NamedTuple):
    """The paths of all tokens; the fields are those of `kernels.cm.layout.Frame`. Node 0 is the root."""

    nodes_VL: np.ndarray
    bits_VL: np.ndarray
    length_V: np.ndarray
    group_N: np.ndarray
    place_N: np.ndarray
    order_N: np.ndarray


def huffman(count_V: np.ndarray) -> Tree:
    """The tree of tokens that came so often; those never predicted have no path."""
    V = len(count_V)
    heap = [(float(count) + 0.5, v) for v, count in enumerate(count_V.tolist()) if v not in NEVER_PREDICTED]
    heapq.heapify(heap)
    children: list[tuple[int, int]] = []
    while len(heap) > 1:
        (light, zero), (heavy, one) = heapq.heappop(heap), heapq.heappop(heap)
        children.append((zero, one))
        heapq.heappush(heap, (light + heavy, V + len(children) - 1))
    N = len(children)
    path: list[tuple[tuple[int, int], ...]] = [()] * (V + N)
    group_N, place_N = np.zeros((2, N), np.int64)
    for node, pair in enumerate(reversed(children)):
        own = path[V + N - 1 - node]
        if own and len(own) % _LEVELS:
            above, bit = own[-1]
            group_N[node], place_N[node] = group_N[above], 2 * place_N[above] + 1 + bit
        else:
            group_N[node] = node
        for bit, child in enumerate(pair):
            path[child] = (*own, (node, bit))
    length_V = np.array([len(one) for one in path[:V]], np.int64)
    nodes_VL, bits_VL = np.zeros((V, length_V.max()), np.int32), np.zeros((V, length_V.max()), np.int8)
    for v, steps in enumerate(path[:V]):
        for i, (node, bit) in enumerate(steps):
            nodes_VL[v, i], bits_VL[v, i] = node, bit
    return Tree(nodes_VL, bits_VL, length_V, group_N, place_N, np.argsort(group_N, kind="stable"))
