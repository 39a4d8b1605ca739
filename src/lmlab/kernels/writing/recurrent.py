"""A text that a recurrent network writes in compiled loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmlab.kernels.writing.layout import Rule, TextState, Weights, Written


class RecurrentWriter:
    """Writes a text after the tokens given."""

    def __init__(self, weights: Weights, ids: Sequence[int]) -> None:
        layers, gates, hidden = weights.recur_LFH.shape
        size = len(weights.out_bias_V)
        zeros_LH = np.zeros((layers, hidden), np.float32)
        entering_VF = np.empty((size, gates), np.float32)  # pages of tokens that never come take no memory
        self._weights, self._state = weights, TextState(zeros_LH, zeros_LH.copy(), np.zeros(size, bool), entering_VF)
        self.nbytes = sum(weight.nbytes for weight in weights) - weights.table_VE.nbytes - weights.enter_FE.nbytes
        self._unread = np.array(ids, np.int64)

    def write(self, rule: Rule, uniform_T: np.ndarray) -> Written:
        """Up to T tokens more, fewer where `<eos>` comes; the last is -1 where the model gives NaN."""
        from lmlab.kernels.writing.recurrent_loops import write

        written = Written.room(len(uniform_T))
        count = write(tuple(self._weights), tuple(self._state), self._unread, tuple(rule), uniform_T, *written)
        self._unread = written.token_T[count - 1 : count]
        return Written(*(array_T[:count] for array_T in written))
