"""Texts that an n-gram model writes in compiled loops: the row after a context, a word chosen, the next context.

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
    """Writes a text after each of the words given."""

    def __init__(self, tables: RowTables, texts: Sequence[Sequence[int]]) -> None:
        self._tables, self._context_B3 = tables, np.zeros((len(texts), 3), np.int64)
        self._token_B = np.array([ids[-1] for ids in texts], np.int64)
        for context_3, ids in zip(self._context_B3, texts, strict=True):
            _read(tables.addresses, context_3, np.array(ids[:-1], np.int64))

    def write(self, rule: Rule, uniform_BT: np.ndarray) -> list[Written]:
        """Of each text up to T words more, fewer where `<eos>` comes."""
        tables, written, found = self._tables, Written.room(*uniform_BT.shape), []
        row_V, parts = np.empty(tables.words, np.float32), tuple(rule)
        for b, (context_3, token) in enumerate(zip(self._context_B3, self._token_B, strict=True)):
            arrays = [array_BT[b] for array_BT in written]
            count = _write(tables.addresses, tables.absent, context_3, row_V, token, parts, uniform_BT[b], *arrays)
            self._token_B[b] = arrays[0][count - 1]
            found.append(Written(*(array_T[:count] for array_T in arrays)))
        return found

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these texts alone, in this order; one may come several times."""
        at_K = np.array(rows, np.int64)
        self._context_B3, self._token_B = self._context_B3[at_K], self._token_B[at_K]


class NgramBeam(NgramWriter):
    """A beam after the words given."""

    def __init__(self, tables: RowTables, ids: Sequence[int], width: int) -> None:
        super().__init__(tables, [ids])
        self.select([0] * width)
        self._texts = Texts.of(width, ids[-1])

    def extend(self, eos: int, forbidden: Sequence[int], tokens: int) -> Candidates:
        """So many words further, fewer where no text goes on."""
        tables, found = self._tables, Candidates.room(tokens, len(self._context_B3))
        given = tables.addresses, tables.absent, self._context_B3, np.empty(tables.words, np.float32)
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
def _write(table, absent, context_3, logp_V, word, rule, uniform_T, token_T, logp_T, drawn_T):
    """Choose up to T words.

    Args:
        table: the addresses of `RowTables`.
        absent: what a context never seen adds.
        context_3: how long the longest stored context is, its node, and how long the context really is.
        logp_V: room for a row.
        word: the last of the text, which is not read yet.
        rule: the parts of a `Rule`.
        uniform_T: a number of [0, 1) for each word.
        token_T: out.
        logp_T: out, the model's log-probabilities.
        drawn_T: out, those after the processors.

    Returns:
        How many words were chosen.
    """
    rule, room = Rule(*rule), room_to_choose(len(logp_V))
    for t in range(len(uniform_T)):
        _advance(table, context_3, token_T[t - 1] if t else word)
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
