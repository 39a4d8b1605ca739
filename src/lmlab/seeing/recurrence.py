"""A recurrent network read one token after the other, by the equations of the textbook: all that it computes.

    RNN    h' = tanh(W x + U h + b)
    LSTM   c' = forget * c + input * candidate,   h' = output * tanh(c')
    GRU    h' = update * h + (1 - update) * candidate

Gates are sigmoids and candidates hyperbolic tangents of W x + U h + b, each with its own matrices; the candidate of a
GRU reads U h + b' through its reset gate. Tests hold that torch's cells and our models compute the same.

Shapes: B texts, T positions, L layers, E inputs, H hidden.
Sources: Elman 1990; Hochreiter and Schmidhuber 1997, Gers et al. 2000; Cho et al. 2014, as torch writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.errors import SettingError, UsageError
from lmlab.models.neural.rnn import Recurrent

Values = Mapping[str, Tensor]
"""What a layer computes at a position, each (B, H); of these `hidden`, and in an LSTM `cell`, are its state."""


def rnn_step(x_BE: Tensor, before: Values, weights: Sequence[Tensor]) -> Values:
    """One step of a plain RNN; `weights` are W, U and the bias of each, as torch keeps them."""
    enter_HE, recur_HH, enter_bias_H, bias_H = weights
    return {"hidden": torch.tanh(x_BE @ enter_HE.T + enter_bias_H + before["hidden"] @ recur_HH.T + bias_H)}


def lstm_step(x_BE: Tensor, before: Values, weights: Sequence[Tensor]) -> Values:
    """One step of an LSTM; `weights` hold input gate, forget gate, candidate, output gate, one below the other."""
    enter_FE, recur_FH, enter_bias_F, bias_F = weights
    sums_BF = x_BE @ enter_FE.T + enter_bias_F + before["hidden"] @ recur_FH.T + bias_F
    enter, forget, candidate, output = sums_BF.chunk(4, -1)
    gates = {"input": enter.sigmoid(), "forget": forget.sigmoid(), "output": output.sigmoid()}
    candidate = candidate.tanh()
    cell = gates["forget"] * before["cell"] + gates["input"] * candidate
    return {**gates, "candidate": candidate, "cell": cell, "hidden": gates["output"] * cell.tanh()}


def gru_step(x_BE: Tensor, before: Values, weights: Sequence[Tensor]) -> Values:
    """One step of a GRU; `weights` hold reset gate, update gate, candidate, one below the other."""
    enter_FE, recur_FH, enter_bias_F, bias_F = weights
    of_x, of_h = (x_BE @ enter_FE.T + enter_bias_F).chunk(3, -1), (before["hidden"] @ recur_FH.T + bias_F).chunk(3, -1)
    reset, update = (of_x[0] + of_h[0]).sigmoid(), (of_x[1] + of_h[1]).sigmoid()
    candidate = (of_x[2] + reset * of_h[2]).tanh()
    hidden = update * before["hidden"] + (1 - update) * candidate
    return {"reset": reset, "update": update, "candidate": candidate, "hidden": hidden}


STEPS: Mapping[str, Callable[[Tensor, Values, Sequence[Tensor]], Values]] = {
    "rnn": rnn_step,
    "lstm": lstm_step,
    "gru": gru_step,
}
"""By the cell's name."""
BLOCKS = {
    "rnn": ("hidden",),
    "lstm": ("input", "forget", "candidate", "output"),
    "gru": ("reset", "update", "candidate"),
}
"""What the blocks of H rows of a cell's weights compute, from top to bottom."""
GATES = ("input", "forget", "output", "reset", "update")
"""What lies between 0 and 1."""


def steps(model: Recurrent, ids_BT: Tensor) -> Iterator[list[Values]]:
    """Read texts from their start, `<bos>` being their first id: at each position what every layer computes."""
    zeros_BH = model.recurrent.all_weights[0][1].new_zeros(len(ids_BT), model.recurrent.hidden_size)
    layers: list[Values] = [{"hidden": zeros_BH, "cell": zeros_BH}] * model.recurrent.num_layers
    for ids_B in ids_BT.T:
        if model.embedding is None:
            x_BE = F.one_hot(ids_B, model.vocab_size).to(zeros_BH.dtype)
        else:
            x_BE = model.embedding.weight[ids_B]
        after: list[Values] = []
        for before, weights in zip(layers, model.recurrent.all_weights, strict=True):
            after.append(STEPS[model.cell](x_BE, before, weights))
            x_BE = after[-1]["hidden"]
        layers = after
        yield layers


def recurrent(model: Any, what: str) -> Recurrent:
    """A model that is known to be an RNN, an LSTM or a GRU.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(model, Recurrent):
        problem = f"{what} are those of a recurrent network, and this model is a {type(model).__name__}"
        raise UsageError(problem, "name a run of --model lstm, gru or rnn, without --adapt and --mix")
    return model


def check_index(name: str, value: int, size: int) -> int:
    """A layer or unit, counted from 0.

    Raises:
        SettingError: there are not so many.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < size:
        raise SettingError(name, value, f"an integer from 0 to {size - 1}", f"the model has {size}")
    return value
