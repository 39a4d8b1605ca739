"""Many to one: a sequence is read, its last real state or a pool of all becomes one vector, a linear layer answers.

Padding stands on the right and is never pooled, so it changes no answer.

Shapes: B sequences, T positions, E inputs, H hidden, L layers, C outputs or classes, P the pooled width.
"""

from __future__ import annotations

import signal
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.classify.batches import Sequences
from lmlab.classify.settings import POOLS
from lmlab.errors import DataError, SettingError
from lmlab.kernels.neural import recurrent_layers
from lmlab.models.neural.base import TensorState
from lmlab.models.neural.dropout import Dropout
from lmlab.train_settings import TrainSettings
from lmlab.training.events import Event, Stepped
from lmlab.training.fit import Fit
from lmlab.vocabulary import IGNORE


def pooled(hidden_BTH: Tensor, lengths_B: Tensor, how: str) -> Tensor:
    """One vector for each sequence, (B, P), from its first `lengths_B` states: P = H, or 3 H where `how` is concat."""
    parts, real_BT1 = [], _real(hidden_BTH, lengths_B)
    if how in ("last", "concat"):
        parts.append(hidden_BTH[torch.arange(len(lengths_B), device=hidden_BTH.device), lengths_B - 1])
    if how in ("max", "concat"):
        parts.append(hidden_BTH.masked_fill(~real_BT1, -torch.inf).amax(1))
    if how in ("mean", "concat"):
        parts.append(hidden_BTH.masked_fill(~real_BT1, 0.0).sum(1) / lengths_B[:, None])
    return torch.cat(parts, -1)


def _real(x_BTE: Tensor, lengths_B: Tensor) -> Tensor:
    """Whether a position is no padding, (B, T, 1)."""
    return (torch.arange(x_BTE.shape[1], device=x_BTE.device) < lengths_B[:, None])[..., None]


class Learner(nn.Module):
    """What the training loop asks of a network whose targets stand one a sequence."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def loss(
        self, inputs: Tensor, targets_B1: Tensor, state: TensorState | None = None, fresh_B: Tensor | None = None
    ) -> tuple[Tensor, TensorState]:
        """Summed nats of classes (those equal to `IGNORE` left out), or squared errors of real numbers; no state."""
        outputs_BC, targets_B = self(inputs).float(), targets_B1[:, 0]
        if targets_B.is_floating_point():
            return F.mse_loss(outputs_BC[:, 0], targets_B, reduction="sum"), TensorState(())
        return F.cross_entropy(outputs_BC, targets_B, ignore_index=IGNORE, reduction="sum"), TensorState(())


class ManyToOne(Learner):
    """Recurrent layers over numbers and one linear layer; abstract in its cell.

    Args:
        input_dim: numbers at each position, E.
        hidden_dim: hidden size, H.
        layer_dim: recurrent layers, L.
        output_dim: outputs, C.
        dropout: share dropped between layers and before the output, in training.
        pool: one of `POOLS`.
    """

    network: ClassVar[type[nn.RNN | nn.LSTM | nn.GRU]]

    def __init__(
        self, input_dim: int, hidden_dim: int, layer_dim: int, output_dim: int, dropout: float = 0.0, pool: str = "last"
    ) -> None:
        super().__init__()
        sizes = {"input_dim": input_dim, "hidden_dim": hidden_dim, "layer_dim": layer_dim, "output_dim": output_dim}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise SettingError(name, size, "an integer >= 1")
        if not 0 <= dropout < 1:
            raise SettingError("dropout", dropout, "a number >= 0 and < 1")
        if pool not in POOLS:
            raise SettingError("pool", pool, f"one of {', '.join(POOLS)}")
        self.pool, self.dropout = pool, Dropout(dropout)
        self.recurrent = self.network(input_dim, hidden_dim, layer_dim)
        self.fc = nn.Linear(3 * hidden_dim if pool == "concat" else hidden_dim, output_dim)

    def forward(self, x_BTE: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """outputs_BC of sequences, of which the first `lengths_B` positions are real (None: all).

        Raises:
            DataError: the shape is another, a length is out of bounds, or a real number is NaN or infinite.
        """
        layers = self.recurrent
        if x_BTE.ndim != 3 or x_BTE.shape[1] < 1 or x_BTE.shape[2] != layers.input_size:
            wanted = f"(rows, positions >= 1, {layers.input_size})"
            raise DataError(f"the input has shape {tuple(x_BTE.shape)}, but {wanted} is expected", "reshape it")
        rows, length, _ = x_BTE.shape
        if lengths_B is None:
            lengths_B = torch.full((rows,), length, device=x_BTE.device)
        if len(lengths_B) != rows or not bool(((lengths_B >= 1) & (lengths_B <= length)).all()):
            raise DataError(f"the lengths are not {rows} integers from 1 to {length}", "give one for each row")
        x_BTE = x_BTE.masked_fill(~_real(x_BTE, lengths_B), 0.0)
        if not bool(x_BTE.isfinite().all()):
            row, at, _ = (~x_BTE.isfinite()).nonzero()[0].tolist()
            raise DataError(f"the input is NaN or infinite in row {row}, position {at}", "fill it in or leave it out")
        state = [x_BTE.new_zeros(layers.num_layers, rows, layers.hidden_size)] * (2 if self.network is nn.LSTM else 1)
        cell, weights, masks = self.network.__name__.lower(), layers.all_weights, [None] * layers.num_layers
        hidden_TBH, _ = recurrent_layers(cell, x_BTE.transpose(0, 1), None, state, weights, self.dropout, masks)
        outputs_BC: Tensor = self.fc(self.dropout(pooled(hidden_TBH.transpose(0, 1), lengths_B, self.pool)))
        return outputs_BC


class RNNModel(ManyToOne):
    """The plain recurrent network, many to one."""

    network = nn.RNN


class LSTMModel(ManyToOne):
    """The long short-term memory, many to one."""

    network = nn.LSTM

    @torch.no_grad()
    def remember(self, length: int) -> Self:
        """Draw biases of the gates with which units remember for 1 to `length` positions (Tallec and Ollivier 2018)."""
        hidden = self.recurrent.hidden_size
        for name, bias_4H in self.recurrent.named_parameters():
            if name.startswith("bias"):
                bias_4H.zero_()
            if name.startswith("bias_ih"):
                forget_H = torch.empty(hidden).uniform_(1, max(1, length - 1)).log_()
                bias_4H[: 2 * hidden] = torch.cat([-forget_H, forget_H])
        return self


class GRUModel(ManyToOne):
    """The gated recurrent unit, many to one."""

    network = nn.GRU


def fit_numbers(
    model: ManyToOne, x_NTE: Tensor, y_N: Tensor, steps: int, lr: float = 1e-3, seed: int = 0, batch_size: int = 32
) -> list[float]:
    """Train on sequences of numbers: classes by cross-entropy, real targets by squared error.

    Returns:
        The mean loss of each of 200 parts of training, or of each step where there are fewer.

    Raises:
        DataError: the input is NaN, infinite or of another shape.
        NonFiniteError: the loss became so.
    """
    losses: list[float] = []
    settings = TrainSettings(steps=steps, lr=lr, threads=1, precision="fp32")

    def hear(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.train_nats)

    batches = Sequences(x_NTE, y_N, batch_size, seed)  # type: ignore[arg-type]  # a tensor is a sequence of its rows
    outcome = Fit(model, batches, settings, seed, listeners=[hear]).go()  # type: ignore[arg-type]  # has what it asks
    if outcome.signal:  # half a training must not look like a whole one
        signal.raise_signal(outcome.signal)
    return losses
