"""A recurrent network that steps in NumPy: a call costs a tenth of torch's, and a process need not load torch.

Shapes: B texts, L layers, E embedding, H hidden, F gates, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmlab.kernels.writing.layout import Weights
from lmlab.models.base import ArrayState
from lmlab.models.readers import log_softmax
from lmlab.vocabulary import BOS

_FEW = 64  # rows from which the quicker product is the one whose rows lie as the state's do
_FOLDED = 1 << 26  # multiplications, milliseconds, by which tokens' contributions are found once
Hidden = tuple[np.ndarray, np.ndarray]  # and the cell state, which only an LSTM has


class RecurrentReader:
    """`start` and `step` of a network, given its weights; the cell is told by how many gates it has."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._entering_VF = None
        if len(weights.out_bias_V) * weights.enter_FE.size <= _FOLDED:
            self._entering_VF = self._entering(np.arange(len(weights.out_bias_V)))
        self._cell = {1: _rnn, 3: _gru, 4: _lstm}[weights.recur_LFH.shape[1] // weights.recur_LFH.shape[2]]

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after `<bos>` and each prompt, and the state there."""
        layers, _, hidden = self._weights.recur_LFH.shape
        h_BLH, c_BLH = np.zeros((2, len(prompts), layers, hidden), np.float32)
        texts = [[BOS, *prompt] for prompt in prompts]
        for place in range(max(map(len, texts))):
            rows = np.array([row for row, text in enumerate(texts) if len(text) > place])
            tokens = np.array([texts[row][place] for row in rows])
            h_BLH[rows], c_BLH[rows] = self._read(h_BLH[rows], c_BLH[rows], tokens)
        return self._logp(h_BLH), ArrayState((h_BLH, c_BLH))

    def step(self, state: ArrayState, token_B: Sequence[int]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after these, and the state there."""
        h_BLH, c_BLH = state.arrays
        after = self._read(h_BLH, c_BLH, np.array(token_B, np.int64))
        return self._logp(after[0]), ArrayState(after)

    def _read(self, h_BLH: np.ndarray, c_BLH: np.ndarray, token_B: np.ndarray) -> tuple[np.ndarray, ...]:
        weights, after_BLH, cell_BLH = self._weights, np.empty_like(h_BLH), np.empty_like(c_BLH)
        for layer, recur_FH in enumerate(weights.recur_LFH):
            if layer:
                entering_BF = _product(after_BLH[:, layer - 1], weights.deep_LFH[layer - 1])
                entering_BF += weights.bias_L2F[layer, 0]
            else:
                entering_BF = self._entering(token_B) if self._entering_VF is None else self._entering_VF[token_B]
            recurrent_BF = _product(h_BLH[:, layer], recur_FH)
            recurrent_BF += weights.bias_L2F[layer, 1]
            cell = self._cell(entering_BF, recurrent_BF, h_BLH[:, layer], c_BLH[:, layer])
            after_BLH[:, layer], cell_BLH[:, layer] = cell
        return after_BLH, cell_BLH

    def _entering(self, token_B: np.ndarray) -> np.ndarray:
        """What tokens contribute to the first layer's gates, its bias included."""
        weights = self._weights
        if len(weights.table_VE):
            entering_BF = _product(weights.table_VE[token_B], weights.enter_FE)
        else:
            entering_BF = weights.enter_FE.T[token_B]
        return np.asarray(entering_BF + weights.bias_L2F[0, 0])

    def _logp(self, h_BLH: np.ndarray) -> np.ndarray:
        weights, shown = self._weights, h_BLH[:, -1]
        if len(weights.narrow_EH):
            shown = _product(shown, weights.narrow_EH) + weights.narrow_bias_E
        logits_BV = _product(shown, weights.out_VE)
        logits_BV += weights.out_bias_V
        return log_softmax(logits_BV)


def _product(x_BH: np.ndarray, matrix_FH: np.ndarray) -> np.ndarray:
    if len(x_BH) < _FEW:
        return np.asarray((matrix_FH @ x_BH.T).T)  # half the time of x @ matrix.T
    return np.asarray(x_BH @ matrix_FH.T)  # rows that lie one after the other, as the state's do


# What follows works in place: the system takes longer to give new memory for many rows than these sums take.


def _sigmoid(x: np.ndarray) -> np.ndarray:
    x *= np.float32(0.5)
    np.tanh(x, out=x)
    x *= np.float32(0.5)
    x += np.float32(0.5)
    return x


def _rnn(entering_BF: np.ndarray, recurrent_BF: np.ndarray, h_BH: np.ndarray, c_BH: np.ndarray) -> Hidden:
    recurrent_BF += entering_BF
    return np.tanh(recurrent_BF, out=recurrent_BF), c_BH


def _gru(entering_BF: np.ndarray, recurrent_BF: np.ndarray, h_BH: np.ndarray, c_BH: np.ndarray) -> Hidden:
    size = h_BH.shape[1]
    gates_BF, new_BH = recurrent_BF[:, : 2 * size], recurrent_BF[:, 2 * size :]
    gates_BF += entering_BF[:, : 2 * size]
    _sigmoid(gates_BF)
    new_BH *= gates_BF[:, :size]
    new_BH += entering_BF[:, 2 * size :]
    np.tanh(new_BH, out=new_BH)
    return new_BH + gates_BF[:, size:] * (h_BH - new_BH), c_BH


def _lstm(entering_BF: np.ndarray, recurrent_BF: np.ndarray, h_BH: np.ndarray, c_BH: np.ndarray) -> Hidden:
    size = c_BH.shape[1]
    recurrent_BF += entering_BF
    input_BH, forget_BH, new_BH, output_BH = (recurrent_BF[:, at * size : (at + 1) * size] for at in range(4))
    _sigmoid(recurrent_BF[:, : 2 * size])
    _sigmoid(output_BH)
    input_BH *= np.tanh(new_BH, out=new_BH)
    forget_BH *= c_BH
    forget_BH += input_BH
    output_BH *= np.tanh(forget_BH, out=new_BH)
    return output_BH, forget_BH
