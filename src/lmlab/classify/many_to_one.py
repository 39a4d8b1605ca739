"""Many to one: a sequence is read, its last real state or a pool of all becomes one vector, a linear layer answers.

Numbers in: `RNNModel`, `LSTMModel`, `GRUModel`. Tokens in: `TextNetwork`, any trained architecture of lmlab with its
embedding in front. Padding stands on the right and is never pooled, so it changes no answer.

Shapes: B sequences, T positions, E inputs, H hidden, L layers, C outputs or classes, P the pooled width.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.classify.batches import Texts
from lmlab.classify.settings import POOLS
from lmlab.errors import ArtifactError, DataError, LmlabError, SettingError
from lmlab.integrity import plain
from lmlab.kernels.neural import recurrent_layers
from lmlab.models.neural.base import NeuralModel, TensorState, check_finite_weights
from lmlab.models.neural.dropout import Dropout
from lmlab.progress import Reporter
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, IGNORE, PAD

_WEIGHTS = "model.safetensors"


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

    @torch.no_grad()
    def remember(self, length: int) -> Self:
        """Draw biases of the gates with which units remember for 1 to `length` positions (Tallec and Ollivier 2018)."""
        for name, bias_4H in self.recurrent.named_parameters():
            if name.startswith("bias"):
                bias_4H.zero_()
            if name.startswith("bias_ih"):
                forget_H = torch.empty(self.hidden_dim).uniform_(1, max(1, length - 1)).log_()
                bias_4H[self.hidden_dim : 2 * self.hidden_dim] = forget_H
                bias_4H[: self.hidden_dim] = -forget_H
        return self


class GRUModel(ManyToOne):
    """The gated recurrent unit, many to one."""

    network, cell = nn.GRU, "gru"


class TextNetwork(Learner):
    """A trained architecture read as an encoder, its output layer for tokens replaced by one for classes.

    Args:
        encoder: of a language model, or fresh; it loses its output layer.
        classes: C.
        pool: one of `POOLS`.
        dropout: share of the pooled vector that is dropped in training.
        longest: ids of a text that are read.
    """

    def __init__(self, encoder: NeuralModel, classes: int, pool: str, dropout: float, longest: int) -> None:
        super().__init__()
        encoder.output = nn.Identity()  # type: ignore[assignment]  # no token is predicted
        self.encoder, self.pool, self.dropout, self.longest = encoder, pool, Dropout(dropout), longest
        with torch.no_grad():
            width = encoder.read(torch.full((1, 1), BOS, device=encoder.device))[0].shape[-1]
        self.head = nn.Linear(width * (3 if pool == "concat" else 1), classes)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BC of texts with `[PAD]` after them."""
        hidden_BTH, _ = self.encoder.read(ids_BT)
        lengths_B = (ids_BT != PAD).sum(1).clamp_(min=1)
        logits_BC: Tensor = self.head(self.dropout(pooled(hidden_BTH.float(), lengths_B, self.pool)))
        return logits_BC

    @torch.inference_mode()
    def logits(self, tokens: TokenStore, reporter: Reporter) -> np.ndarray:
        """logits_NC of texts, read side by side with others of like length.

        Raises:
            LmlabError: the network gives NaN or infinite numbers.
        """
        logits_NC = np.empty((len(tokens), self.head.out_features))
        with reporter.stage("classifying", len(tokens), " texts") as advance:
            done = 0
            for which_B, batch in zip(*Texts(tokens, self.longest).in_order(), strict=True):
                logits_NC[which_B] = self(batch.ids_BT).numpy()
                advance(done := done + len(which_B))
        if not np.isfinite(logits_NC).all():
            raise LmlabError("the network gives NaN or infinite numbers", "its training diverged; lower train.lr")
        return logits_NC

    def save(self, folder: Path) -> None:
        """Write the weights, as safetensors."""
        save_file({name: weight.contiguous() for name, weight in self.state_dict().items()}, folder / _WEIGHTS)

    def read(self, folder: Path) -> Self:
        """Take the weights that `save` wrote.

        Raises:
            ArtifactError: they are missing, damaged, or of another shape.
        """
        try:
            self.load_state_dict(load_file(plain(folder / _WEIGHTS)))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(f"{folder / _WEIGHTS} cannot be read ({reason})", "train it again") from error
        return self.eval()

    def check(self) -> None:
        """Look for weights that are NaN or infinite.

        Raises:
            ArtifactError: there are some.
        """
        check_finite_weights(self, "classifier")

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
