"""Texts that convolutional networks and Transformers write in compiled loops."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from lmlab.kernels.writing.layout import BlockWeights, ConvolutionWeights, Rule, Written
from lmlab.vocabulary import PAD


class _NetworkWriter:
    """Writes a text after the tokens given."""

    def __init__(self, ids: Sequence[int], nbytes: int) -> None:
        self._unread, self._place_1, self.nbytes = np.array(ids, np.int64), np.zeros(1, np.int64), nbytes

    def write(self, rule: Rule, uniform_T: np.ndarray) -> Written:
        """Up to T tokens more, fewer where `<eos>` comes; the last is -1 where the model gives NaN."""
        written = Written.room(len(uniform_T))
        count = self._write(self._place_1, self._unread, tuple(rule), uniform_T, *written)
        self._unread = written.token_T[count - 1 : count]
        return Written(*(array_T[:count] for array_T in written))

    @abstractmethod
    def _write(self, *given: object) -> int:
        """Call the loops."""


class ConvolutionWriter(_NetworkWriter):
    """Writes by a stack of causal convolutions, one column a layer and token."""

    def __init__(self, weights: ConvolutionWeights, ids: Sequence[int]) -> None:
        matrices = weights.enter_OI, weights.deep_LOI, weights.out_VC
        super().__init__([PAD, *ids[-weights.field :]], sum(matrix.nbytes for matrix in matrices))
        self._weights, self._ring_N = weights, np.empty(weights.kept, np.float32)
        self._place_1[0] = -1

    def _write(self, *given: object) -> int:
        from lmlab.kernels.writing.convolution_loops import write

        return int(write(tuple(self._weights), self._ring_N, *given))


class TransformerWriter(_NetworkWriter):
    """Writes by a Transformer."""

    def __init__(self, weights: BlockWeights, ids: Sequence[int]) -> None:
        super().__init__(ids, 0)  # texts in a batch read the weights one after the other too
        layers, _, width = weights.norm_L2D.shape
        self._weights, self._kept_L2DW = weights, np.zeros((layers, 2, width, weights.window), np.float32)

    def _write(self, *given: object) -> int:
        from lmlab.kernels.writing.transformer_loops import write

        return int(write(tuple(self._weights), self._kept_L2DW, *given))
