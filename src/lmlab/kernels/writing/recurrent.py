"""Texts that a recurrent network writes in compiled loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmlab.kernels.writing.layout import Candidates, Rule, State, Texts, Weights, Written


class Network:
    """A network as the loops read it: its weights, and their panels.

    Attributes:
        weights: as given.
        parts: what the loops are given.
    """

    def __init__(self, weights: Weights) -> None:
        from lmlab.kernels.writing.panels import mark_of, packed

        enter_FE = weights.enter_FE if len(weights.table_VE) else weights.narrow_EH[:0]  # one-hot: its columns are read
        panels = packed(weights.recur_LFH), packed(weights.deep_LFH), packed(weights.narrow_EH[None])
        self.weights, self._mark = weights, mark_of(weights)
        self.parts = tuple(weights), (*panels, packed(weights.out_VE[None]), packed(enter_FE[None]))

    def same(self, weights: Weights) -> bool:
        """Whether these are the weights: they are compared, for whoever trains alters them in place."""
        from lmlab.kernels.writing.panels import mark_of

        return self._mark == mark_of(weights)


class RecurrentWriter:
    """Writes a text after each of the ids given."""

    def __init__(self, network: Network, texts: Sequence[Sequence[int]]) -> None:
        from lmlab.kernels.writing.panels import width
        from lmlab.kernels.writing.recurrent_loops import read

        weights = network.weights
        layers, gates, hidden = weights.recur_LFH.shape
        size, shape = len(weights.out_bias_V), (layers, len(texts), hidden)
        known_V = np.zeros(size, bool)
        entering_VW = np.zeros((size, width(gates)), np.float32)  # pages of tokens that never come take no memory
        state = State(np.zeros(shape, np.float32), np.zeros(shape, np.float32), known_V, entering_VW)
        self._network = network.parts
        self._state, self._token_B = state, np.array([ids[-1] for ids in texts], np.int64)
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        length_B = np.array([len(texts[row]) - 1 for row in order])
        ids_BR = np.zeros((len(texts), length_B[0]), np.int64)
        for place, row in enumerate(order):
            ids_BR[place, : length_B[place]] = texts[row][:-1]
        read(*self._network, tuple(state), ids_BR, length_B)
        if len(texts) > 1:
            self._select(np.argsort(order))

    def write(self, rule: Rule, uniform_BT: np.ndarray) -> list[Written]:
        """Of each text up to T tokens more, fewer where `<eos>` comes; the last is -1 where the model gives NaN."""
        from lmlab.kernels.writing.recurrent_loops import write

        written, count_B = Written.room(*uniform_BT.shape), np.zeros(len(uniform_BT), np.int64)
        write(*self._network, tuple(self._state), self._token_B, tuple(rule), uniform_BT, *written, count_B)
        return [Written(*(array_BT[row, :count] for array_BT in written)) for row, count in enumerate(count_B)]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these texts alone, in this order; one may come several times."""
        at_K = np.array(rows, np.int64)
        self._token_B = self._token_B[at_K]
        self._select(at_K)

    def _select(self, at_K: np.ndarray) -> None:
        state = self._state
        self._state = state._replace(h_LBH=state.h_LBH[:, at_K].copy(), c_LBH=state.c_LBH[:, at_K].copy())


class RecurrentBeam(RecurrentWriter):
    """A beam after the ids given."""

    def __init__(self, network: Network, ids: Sequence[int], width: int) -> None:
        super().__init__(network, [ids])
        self.select([0] * width)
        self._texts = Texts.of(width, ids[-1])

    def extend(self, eos: int, forbidden: Sequence[int], tokens: int) -> Candidates:
        """So many tokens further, fewer where no text goes on."""
        from lmlab.kernels.writing.recurrent_loops import extend

        found, forbidden_F = Candidates.room(tokens, len(self._texts.token_W)), np.array(forbidden, np.int64)
        count = extend(*self._network, tuple(self._state), tuple(self._texts), eos, forbidden_F, tuple(found))
        return Candidates(*(array[:count] for array in found))
