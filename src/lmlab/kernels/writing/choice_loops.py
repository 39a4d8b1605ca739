"""The choice of a token, compiled: the processors of a `Rule`, then the draw, as `decoding` makes them in NumPy.

Shapes: V the vocabulary.
"""

from __future__ import annotations

import math

import numpy as np

from lmlab.kernels.exponential import exp
from lmlab.kernels.jit import inline, jit, jit_sums
from lmlab.kernels.writing.layout import MIN_P, TEMPERATURE, TOP_K, TOP_P

_f4 = np.float32
_TOLERANCE = 1e-6  # that of the plain processors


@jit
def room_to_choose(size):
    """What `choose` works in: chain_V and weight_V."""
    return np.empty(size), np.empty(size)


@jit_sums
def log_of_sum(logits_V):
    """The logarithm of the sum of exponentials."""
    top, total = logits_V[0], _f4(0)
    for v in range(len(logits_V)):
        top = max(top, logits_V[v])
    for v in range(len(logits_V)):
        total += exp(logits_V[v] - top)
    return np.float64(top) + math.log(total)


@inline
def allowed(logits_V, norm, forbidden_F, room):
    """Fill in the log-probabilities of what is not forbidden, and their weights, the largest of which is 1.

    Args:
        logits_V: float32.
        norm: what they are too large by for log-probabilities.
        forbidden_F: ids that are never chosen, unless no other can be.
        room: of `room_to_choose`.

    Returns:
        The largest log-probability, NaN where any is, and the sum of weights.
    """
    chain_V, weight_V = room
    broken = 0
    for v in range(len(chain_V)):
        chain_V[v] = logits_V[v] - norm
        broken += chain_V[v] != chain_V[v]
    if len(forbidden_F):
        _forbid(chain_V, forbidden_F)
    top, total = _weigh(chain_V, weight_V)
    return np.nan if broken else top, total


@inline  # machine code kept on disk must not name the class of a rule
def choose(logits_V, norm, rule, uniform, room):
    """Choose a token.

    Args:
        logits_V: float32.
        norm: what they are too large by for log-probabilities.
        rule: how.
        uniform: of [0, 1), which decides where one is drawn.
        room: of `room_to_choose`.

    Returns:
        The token, its log-probability, and that after the processors; a token of -1 where the row has NaN or nothing.
    """
    chain_V, weight_V = room
    top, total = allowed(logits_V, norm, rule.forbidden_F, room)
    if not abs(top) < np.inf:
        return -1, np.nan, np.nan
    for p in range(len(rule.code_P)):
        code, value = rule.code_P[p], rule.value_P[p]
        if code == TEMPERATURE and value > 0:
            for v in range(len(chain_V)):
                chain_V[v] = (chain_V[v] - top) / value
            top, total = _weigh(chain_V, weight_V)
        elif code == TEMPERATURE:
            total = _cut(chain_V, weight_V, top, 1, np.inf)
        elif code == TOP_K and value < len(chain_V):
            total = _cut(chain_V, weight_V, top, value, np.inf)
        elif code == TOP_P and value < 1:
            total = _cut(chain_V, weight_V, top, np.inf, (value - _TOLERANCE) * total)
        elif code == MIN_P:
            total = _keep(chain_V, weight_V, top + math.log(value * (1 - _TOLERANCE)) if value else -np.inf)
    token = np.argmax(chain_V) if rule.greedy else _drawn(weight_V, uniform)
    return token, logits_V[token] - norm, chain_V[token] - top - math.log(total)


@inline
def choose_all(logits_BV, size, first, t, rule, uniform_BT, room, token_B, written, count_B):
    """Choose the t-th token of each text that goes on, of those from `first` on.

    Args:
        logits_BV: of these texts, V numbers or more a row.
        size: V.
        first: the first of these texts among all.
        t: how many tokens are chosen of those that go on.
        rule: how.
        uniform_BT: of all texts.
        room: of `room_to_choose`.
        token_B: of all texts, the last token; in and out.
        written: the parts of `Written` of all texts, in and out.
        count_B: of all texts, how many tokens were chosen; negative once a text has ended. In and out.

    Returns:
        How many texts ended.
    """
    token_BT, logp_BT, drawn_BT = written
    ended = 0
    for b in range(first, first + len(logits_BV)):
        if count_B[b] == t:
            logits_V = logits_BV[b - first, :size]
            token, logp, drawn = choose(logits_V, log_of_sum(logits_V), rule, uniform_BT[b, t], room)
            token_BT[b, t], logp_BT[b, t], drawn_BT[b, t] = token, logp, drawn
            token_B[b] = max(token, 0)
            count_B[b] += 1
            if token == rule.eos or token < 0:
                ended += 1
                count_B[b] = -count_B[b]
    return ended


@jit_sums
def _weigh(chain_V, weight_V):
    """Fill in the weights, the largest of which is 1; the largest log-probability, and the sum of weights."""
    top, total = -np.inf, 0.0
    for v in range(len(chain_V)):
        top = max(top, chain_V[v])
    for v in range(len(chain_V)):
        weight_V[v] = exp(_f4(chain_V[v] - top))
        total += weight_V[v]
    return top, total


@jit
def _forbid(chain_V, forbidden_F):
    """Send these ids to -inf, unless nothing else is left."""
    best = -np.inf
    for v in range(len(chain_V)):
        if chain_V[v] > best and v not in forbidden_F:
            best = chain_V[v]
    if best > -np.inf:
        chain_V[forbidden_F] = -np.inf


@jit
def _drawn(weight_V, uniform):
    """The first place where the cumulated weight exceeds a share of the whole."""
    whole = 0.0
    for v in range(len(weight_V)):
        whole += weight_V[v]
    target, reached, token = uniform * whole, 0.0, 0
    for v in range(len(weight_V)):
        if weight_V[v] > 0:
            token = v
            reached += weight_V[v]
            if reached > target:
                break
    return token


@jit
def _cut(chain_V, weight_V, top, most, mass):
    """Keep the likeliest, the lowest id first among equals, until they are so many or their weights reach the mass.

    Returns:
        The weight of what is kept; all else goes to -inf.
    """
    low, high = top, np.inf  # from `high` on there is too little, from `low` on enough
    above = 0.0, 0.0
    found = _from(chain_V, weight_V, low)
    width = 1.0
    while found[0] < most and found[1] < mass:
        low, high, above = top - width, low, found
        found = _from(chain_V, weight_V, low)
        width *= 2
        if width == np.inf:
            return found[1]
    while found[0] - above[0] > 1:
        middle = low + (high - low) / 2 if high < np.inf else np.inf
        if not low < middle < high:
            break
        here = _from(chain_V, weight_V, middle)
        if here[0] < most and here[1] < mass:
            high, above = middle, here
        else:
            low, found = middle, here
    count, reached = above
    for v in range(len(chain_V)):
        if chain_V[v] < high:
            if chain_V[v] >= low and count < most and reached < mass:
                count += 1
                reached += weight_V[v]
            else:
                chain_V[v], weight_V[v] = -np.inf, 0
    return reached


@jit_sums
def _from(chain_V, weight_V, low):
    """How many are at least as likely as that, and their weight together."""
    count, total = 0.0, 0.0
    for v in range(len(chain_V)):
        enough = chain_V[v] >= low
        count += 1.0 if enough else 0.0
        total += weight_V[v] if enough else 0.0
    return count, total


@jit_sums
def _keep(chain_V, weight_V, low):
    """Keep what is at least as likely as that; its weight."""
    total = 0.0
    for v in range(len(chain_V)):
        enough = chain_V[v] >= low
        chain_V[v] = chain_V[v] if enough else -np.inf
        weight_V[v] = weight_V[v] if enough else 0.0
        total += weight_V[v]
    return total
