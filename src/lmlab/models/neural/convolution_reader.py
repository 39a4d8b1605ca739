"""A stack of causal convolutions that steps in NumPy: one column a layer, where torch's step computes the whole window.

Shapes: B texts, T columns, C channels, O = C or 2C of gated layers, R the receptive field, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmlab.kernels.writing.layout import ConvolutionWeights
from lmlab.models.base import ArrayState
from lmlab.models.readers import log_softmax
from lmlab.vocabulary import BOS, PAD


class ConvolutionReader:
    """`start` and `step` of a network, given its weights.

    A state holds, of each layer, the columns that its filters still reach.
    """

    def __init__(self, weights: ConvolutionWeights) -> None:
        self._weights = weights

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after `<bos>` and each prompt, and the state there."""
        field = self._weights.field
        texts = [[BOS, *prompt][-field:] for prompt in prompts]
        return self._read([[PAD] * (field - len(text)) + text for text in texts], None)

    def step(self, state: ArrayState, token_B: Sequence[int]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after these, and the state there."""
        return self._read([[token] for token in token_B], state)

    def _read(self, ids_BT: Sequence[Sequence[int]], state: ArrayState | None) -> tuple[np.ndarray, ArrayState]:
        """The receptive field of each text, or one token more."""
        weights, kept = self._weights, []
        x_BTC = weights.table_VE[np.array(ids_BT, np.int64)]
        for layer, (filters_OI, bias_O, gap) in enumerate(weights.layers()):
            past = gap * (weights.taps - 1)
            x_BTC = x_BTC if state is None else np.concatenate([state.arrays[layer], x_BTC], 1)
            length = x_BTC.shape[1] - past
            kept.append(x_BTC[:, length:])
            taps = np.stack([x_BTC[:, at : at + length] for at in range(0, past + 1, gap)], -1)
            sums_BTO = taps.reshape(-1, filters_OI.shape[1]) @ filters_OI.T + bias_O
            new_BTC = _activated(sums_BTO, weights.out_VC.shape[1]).reshape(len(ids_BT), length, -1)
            residual = weights.residual and x_BTC.shape[2] == new_BTC.shape[2]
            x_BTC = new_BTC + x_BTC[:, past:] if residual else new_BTC
        return log_softmax(x_BTC[:, -1] @ weights.out_VC.T + weights.out_bias_V), ArrayState(tuple(kept))


def _activated(sums_NO: np.ndarray, channels: int) -> np.ndarray:
    """Rectified, or gated where there are twice as many as channels."""
    if sums_NO.shape[1] == channels:
        return np.asarray(np.maximum(sums_NO, 0, out=sums_NO))
    gate_NC = sums_NO[:, channels:]
    return np.asarray(sums_NO[:, :channels] * (0.5 + 0.5 * np.tanh(0.5 * gate_NC)))
