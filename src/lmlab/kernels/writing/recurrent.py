"""Texts that a recurrent network writes in compiled loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.kernels.writing.layout import Candidates, State, Texts
from lmlab.kernels.writing.network import Network, NetworkWriter


class RecurrentWriter(NetworkWriter):
    """Writes a text after each of the ids given."""

    def __init__(self, network: Network, texts: Sequence[Sequence[int]]) -> None:
        layers, _, hidden = network.weights.recur_LFH.shape
        self._h_BLH, self._c_BLH = np.zeros((2, len(texts), layers, hidden), np.float32)
        self._known: list[tuple[np.ndarray, np.ndarray]] = []
        super().__init__(network, texts)

    def _loops(self) -> Any:
        from lmlab.kernels.writing import recurrent_loops

        return recurrent_loops

    def _prepare(self, tokens: int, parts: int = 1) -> None:
        from lmlab.kernels.writing.panels import width

        weights = self._network.weights
        size, gates = len(weights.out_bias_V), width(weights.recur_LFH.shape[1])
        for _ in range(len(self._known), parts):  # threads share no table: one would read what another fills in
            entering_VW = np.zeros((size, gates), np.float32)  # pages of tokens that never come take no memory
            self._known.append((np.zeros(size, bool), entering_VW))

    def _state(self, rows: slice, part: int) -> tuple[np.ndarray, ...]:
        return tuple(State(self._h_BLH[rows], self._c_BLH[rows], *self._known[part]))

    def _select(self, at_K: np.ndarray) -> None:
        self._h_BLH, self._c_BLH = self._h_BLH[at_K], self._c_BLH[at_K]


class RecurrentBeam(RecurrentWriter):
    """A beam after the ids given."""

    def __init__(self, network: Network, ids: Sequence[int], width: int) -> None:
        super().__init__(network, [ids])
        self.select([0] * width)
        self._texts = Texts.of(width, ids[-1])

    def extend(self, eos: int, forbidden: Sequence[int], tokens: int) -> Candidates:
        """So many tokens further, fewer where no text goes on."""
        found, forbidden_F = Candidates.room(tokens, len(self._texts.token_W)), np.array(forbidden, np.int64)
        given = self._state(slice(None), 0), tuple(self._texts), eos, forbidden_F, tuple(found)
        count = self._loops().extend(*self._network.parts, *given)
        return Candidates(*(array[:count] for array in found))
