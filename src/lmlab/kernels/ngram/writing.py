"""A text that an n-gram model writes in compiled loops: the row after a context, a word chosen, the next context.

Shapes: V words, R words read, T written, W a beam's width, K its candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmlab.kernels.jit import inline, jit
from lmlab.kernels.ngram.rows import KEY, SUFFIX, RowTables, address_array, children, row_after
from lmlab.kernels.writing.beam_loops import consider, survivors
from lmlab.kernels.writing.choice_loops import choose, room_to_choose
from lmlab.kernels.writing.layout import Candidates, Rule, Texts, Written
from lmlab.vocabulary import BOS


class NgramWriter:
    """Writes a text after the words given."""

    def __init__(self, tables: RowTables, ids: Sequence[int]) -> None:
        self._tables, self._context_3 = tables, np.zeros(3, np.int64)
        self.nbytes = tables.words * 4
        self._unread = np.array(ids, np.int64)

    def write(self, rule: Rule, uniform_T: np.ndarray) -> Written:
        """Up to T words more, fewer where `<eos>` comes."""
        written, tables = Written.room(len(uniform_T)), self._tables
        given = tables.addresses, tables.absent, self._context_3, np.empty(tables.words, np.float32), self._unread
        count = _write(*given, tuple(rule), uniform_T, *written)
        self._unread = written.token_T[count - 1 : count]
        return Written(*(array_T[:count] for array_T in written))


class NgramBeam:
    """A beam after the words given."""

    def __init__(self, tables: RowTables, ids: Sequence[int], width: int) -> None:
        self._tables, self._texts = tables, Texts.of(width, ids[-1])
        self._context_W3 = np.zeros((width, 3), np.int64)
        _read(tables.addresses, self._context_W3[0], np.array(ids[:-1], np.int64))

    def extend(self, eos: int, forbidden: Sequence[int], tokens: int) -> Candidates:
        """So many words further, fewer where no text goes on."""
        tables, found = self._tables, Candidates.room(tokens, len(self._context_W3))
        given = tables.addresses, tables.absent, self._context_W3, np.empty(tables.words, np.float32)
        count = _extend(*given, tuple(self._texts), eos, np.array(forbidden, np.int64), tuple(found))
        return Candidates(*(array[:count] for array in found))


@jit
def _read(table, context_3, read_R):
    for word in read_R:
        _advance(table, context_3, word)


@jit
def _extend(table, absent, context_W3, logp_V, texts, eos, forbidden_F, found):
    """Grow a beam by up to T words.

    Args:
        table: the addresses of `RowTables`.
        absent: what a context never seen adds.
        context_W3: as of `_write`, of each text; in and out.
        logp_V: room for a row.
        texts: the parts of `Texts`, in and out.
        eos: the word that ends a text.
        forbidden_F: ids that are never chosen, unless no other can be.
        found: the parts of `Candidates`, out.

    Returns:
        How many words; fewer than T where no text goes on.
    """
    (score_W, token_W, live_1), (score_TK, row_TK, token_TK, logp_TK, drawn_TK, found_T) = texts, found
    room, row_W = room_to_choose(len(logp_V)), np.empty(len(token_W), np.int64)
    for t in range(len(found_T)):
        many, candidates = 0, (score_TK[t], row_TK[t], token_TK[t], logp_TK[t], drawn_TK[t])
        for b in range(live_1[0]):
            context_3 = context_W3[b]
            _advance(table, context_3, token_W[b])
            row_after(table, context_3[0], context_3[1], context_3[2], absent, logp_V)
            many = consider(logp_V, 0.0, forbidden_F, score_W[b], b, room, candidates, many)
        found_T[t] = many
        live_1[0] = survivors(score_TK[t], row_TK[t], token_TK[t], many, eos, score_W, row_W, token_W)
        if not live_1[0]:
            return t + 1
        context_W3[: live_1[0]] = context_W3[row_W[: live_1[0]]]
    return len(found_T)


@jit
def _write(table, absent, context_3, logp_V, read_R, rule, uniform_T, token_T, logp_T, drawn_T):
    """Read words, then choose up to T.

    Args:
        table: the addresses of `RowTables`.
        absent: what a context never seen adds.
        context_3: how long the longest stored context is, its node, and how long the context really is.
        logp_V: room for a row.
        read_R: what comes before the first choice, at least one word.
        rule: the parts of a `Rule`.
        uniform_T: a number of [0, 1) for each word.
        token_T: out.
        logp_T: out, the model's log-probabilities.
        drawn_T: out, those after the processors.

    Returns:
        How many words were chosen.
    """
    rule, room = Rule(*rule), room_to_choose(len(logp_V))
    for word in read_R:
        _advance(table, context_3, word)
    for t in range(len(uniform_T)):
        if t:
            _advance(table, context_3, token_T[t - 1])
        row_after(table, context_3[0], context_3[1], context_3[2], absent, logp_V)
        token_T[t], logp_T[t], drawn_T[t] = choose(logp_V, 0.0, rule, uniform_T[t], room)
        if token_T[t] == rule.eos or token_T[t] < 0:
            return t + 1
    return len(uniform_T)


@inline
def _advance(table, context_3, word):
    """One word further: the longest stored context, found by dropping first words along suffix links."""
    full = len(table) - 2  # the longest contexts
    level, node = context_3[0], context_3[1]
    context_3[2] = min(np.int64(1) if word == BOS else context_3[2] + 1, full)
    if level == full and level:
        node = np.int64(address_array(table, level, SUFFIX, np.uint32)[node])
        level -= 1
    found = _find(table, level, node, word) if full else -1
    while found < 0 and level:
        node = np.int64(address_array(table, level, SUFFIX, np.uint32)[node])
        level -= 1
        found = _find(table, level, node, word)
    context_3[0], context_3[1] = (level + 1, found) if found >= 0 else (0, 0)


@jit
def _find(table, level, node, word):
    """The node of a context's child, or -1."""
    if not level:
        return np.int64(word)
    low, end = children(table, level, node)
    high, halves = end, address_array(table, level, KEY, np.uint32)  # the words are every second one
    while low < high:
        middle = (low + high) // 2
        if halves[2 * middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < end and halves[2 * low] == word else np.int64(-1)
