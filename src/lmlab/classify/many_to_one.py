"""Many to one: a sequence is read, its last real state or a pool of all becomes one vector, a linear layer answers.

Numbers in: `RNNModel`, `LSTMModel`, `GRUModel`. Tokens in: `TextNetwork`, any trained architecture of lmlab with its
embedding in front. Padding stands on the right and is never pooled, so it changes no answer.

Shapes: B sequences, T positions, E inputs, H hidden, L layers, C outputs or classes, P the pooled width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lmlab.classify.settings import POOLS
from lmlab.errors import DataError, SettingError
from lmlab.kernels.neural import recurrent_layers
from lmlab.models.neural.base import NeuralModel
from lmlab.models.neural.dropout import Dropout
from lmlab.vocabulary import BOS


def pooled(hidden_BTH: Tensor, lengths_B: Tensor, how: str) -> Tensor:
    """One vector for each sequence, (B, P), from its first `lengths_B` states: P = H, or 3 H where `how` is concat."""
    parts = []
    real_BT1 = (torch.arange(hidden_BTH.shape[1], device=hidden_BTH.device) < lengths_B[:, None])[..., None]
    if how in ("last", "concat"):
        parts.append(hidden_BTH[torch.arange(len(lengths_B), device=hidden_BTH.device), lengths_B - 1])
    if how in ("max", "concat"):
        parts.append(hidden_BTH.masked_fill(~real_BT1, -torch.inf).amax(1))
    if how in ("mean", "concat"):
        parts.append(hidden_BTH.masked_fill(~real_BT1, 0.0).sum(1) / lengths_B[:, None])
    return torch.cat(parts, -1)


class ManyToOne(nn.Module):
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
    cell: ClassVar[str]

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
        self.pool, self.hidden_dim, self.layer_dim = pool, hidden_dim, layer_dim
        self.recurrent = self.network(input_dim, hidden_dim, layer_dim)
        self.dropout = Dropout(dropout)
        self.fc = nn.Linear(3 * hidden_dim if pool == "concat" else hidden_dim, output_dim)

    def forward(self, x_BTE: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """outputs_BC of sequences, of which the first `lengths_B` positions are real (None: all).

        Raises:
            DataError: the shape is another, a length is out of bounds, or a real number is NaN or infinite.
        """
        if x_BTE.ndim != 3 or x_BTE.shape[1] < 1 or x_BTE.shape[2] != self.recurrent.input_size:
            wanted = f"(rows, positions >= 1, {self.recurrent.input_size})"
            raise DataError(f"the input has shape {tuple(x_BTE.shape)}, but {wanted} is expected", "reshape it")
        rows, length, _ = x_BTE.shape
        if lengths_B is None:
            lengths_B = torch.full((rows,), length, device=x_BTE.device)
        if len(lengths_B) != rows or not bool(((lengths_B >= 1) & (lengths_B <= length)).all()):
            raise DataError(f"the lengths are not {rows} integers from 1 to {length}", "give one for each row")
        real_BT1 = (torch.arange(length, device=x_BTE.device) < lengths_B[:, None])[..., None]
        x_BTE = x_BTE.masked_fill(~real_BT1, 0.0)
        if not bool(x_BTE.isfinite().all()):
            row, at, _ = (~x_BTE.isfinite()).nonzero()[0].tolist()
            raise DataError(f"the input is NaN or infinite in row {row}, position {at}", "fill it in or leave it out")
        zeros_LBH = x_BTE.new_zeros(self.layer_dim, rows, self.hidden_dim)
        state = [zeros_LBH] * (2 if self.cell == "lstm" else 1)
        weights, masks = self.recurrent.all_weights, [None] * self.layer_dim
        hidden_TBH, _ = recurrent_layers(self.cell, x_BTE.transpose(0, 1), None, state, weights, self.dropout, masks)
        outputs_BC: Tensor = self.fc(self.dropout(pooled(hidden_TBH.transpose(0, 1), lengths_B, self.pool)))
        return outputs_BC


class RNNModel(ManyToOne):
    """The plain recurrent network, many to one."""

    network, cell = nn.RNN, "rnn"


class LSTMModel(ManyToOne):
    """The long short-term memory, many to one."""

    network, cell = nn.LSTM, "lstm"


class GRUModel(ManyToOne):
    """The gated recurrent unit, many to one."""

    network, cell = nn.GRU, "gru"


class TextNetwork(nn.Module):
    """A trained architecture read as an encoder, its output layer for tokens replaced by one for classes.

    Args:
        encoder: of a language model, or fresh; it loses its output layer.
        classes: C.
        pool: one of `POOLS`.
        dropout: share of the pooled vector that is dropped in training.
    """

    def __init__(self, encoder: NeuralModel, classes: int, pool: str, dropout: float) -> None:
        super().__init__()
        encoder.output = nn.Identity()  # type: ignore[assignment]  # no token is predicted
        self.encoder, self.pool, self.dropout = encoder, pool, Dropout(dropout)
        with torch.no_grad():
            width = encoder.read(torch.full((1, 1), BOS, device=encoder.device))[0].shape[-1]
        self.head = nn.Linear(width * (3 if pool == "concat" else 1), classes)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """logits_BC of texts, each of `lengths_B` ids with `[PAD]` after them."""
        hidden_BTH, _ = self.encoder.read(ids_BT)
        logits_BC: Tensor = self.head(self.dropout(pooled(hidden_BTH.float(), lengths_B, self.pool)))
        return logits_BC

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """The parameters from the output down: the head, each layer from the last to the first, the embedding."""
        by_depth: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.encoder.named_parameters():
            numbers = [int(part.removeprefix("l")) for part in name.replace("_", ".").split(".") if _is_layer(part)]
            depth = -1 if name.startswith("embedding") else numbers[0] if numbers else 10**6
            by_depth.setdefault(depth, []).append(parameter)
        return [[*self.head.parameters()], *(by_depth[depth] for depth in sorted(by_depth, reverse=True))]


def _is_layer(part: str) -> bool:
    """Whether a part of a parameter's name numbers its layer, as in `weight_ih_l0` or `layers.0.weight`."""
    return part.removeprefix("l").isdigit()
