"""One token further of a beam, compiled: the best continuations of all its texts, and those that go on.

Shapes: V the vocabulary, W the beam's width, K = 2W candidates.
"""

from __future__ import annotations

import math

import numpy as np

from lmlab.kernels.jit import jit
from lmlab.kernels.writing.choice_loops import allowed


@jit
def consider(logits_V, norm, forbidden_F, base, row, room, candidates, found):
    """Enter the continuations of a text among the candidates: the best first, of equals the earlier row, the lower id.

    Args:
        logits_V: float32.
        norm: what they are too large by for log-probabilities.
        forbidden_F: ids that are never chosen, unless no other can be.
        base: the text's score, which the log-probabilities are added to.
        row: the text's.
        room: of `room_to_choose`.
        candidates: the parts of `Candidates` at this token, but for how many were found.
        found: how many candidates there are; -1 once a row was NaN or had nothing.

    Returns:
        How many there are now.
    """
    chain_V, _ = room
    score_K, row_K, token_K, logp_K, drawn_K = candidates
    top, total = allowed(logits_V, norm, forbidden_F, room)
    if found < 0 or not abs(top) < np.inf:
        return -1
    mass = top + math.log(total)
    for v in range(len(chain_V)):
        score = base + chain_V[v]
        if (found == len(score_K) and not score > score_K[found - 1]) or chain_V[v] == -np.inf:
            continue
        found = min(found + 1, len(score_K))
        place = found - 1
        while place and score_K[place - 1] < score:
            for array_K in (score_K, logp_K, drawn_K):
                array_K[place] = array_K[place - 1]
            row_K[place], token_K[place] = row_K[place - 1], token_K[place - 1]
            place -= 1
        score_K[place], row_K[place], token_K[place] = score, row, v
        logp_K[place], drawn_K[place] = logits_V[v] - norm, chain_V[v] - mass
    return found


@jit
def survivors(score_K, row_K, token_K, found, eos, score_W, row_W, token_W):
    """Fill in the candidates that go on; how many they are."""
    live = 0
    for place in range(found):
        if token_K[place] != eos and live < len(score_W):
            score_W[live], row_W[live], token_W[live] = score_K[place], row_K[place], token_K[place]
            live += 1
    return live
