"""The recurrent family: a plain RNN, the LSTM, the GRU.

Shapes: B sequences, T positions, E embedding, H hidden, L layers, V vocabulary.

Sources: Elman 1990 (RNN); Hochreiter and Schmidhuber 1997, Gers et al. 2000 (LSTM with forget gate); Cho et al. 2014
(GRU). Recurrent weights start orthogonal and the forget gate open (Jozefowicz et al. 2015, section 2.2), so that
gradients neither vanish nor explode in the first steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.config import setting
from lmlab.errors import SettingError
from lmlab.kernels.neural import recurrent
from lmlab.kernels.neural.bridge import few_tokens
from lmlab.models.neural.base import NeuralModel, NeuralSettings, TensorState, embedding
from lmlab.models.neural.dropout import Dropout


@dataclass(frozen=True)
class RecurrentSettings(NeuralSettings):
    """What the three have in common."""

    hidden: int = setting(512, "numbers remembered a layer", ge=1)
    layers: int = setting(1, "recurrent layers on top of each other", ge=1)
    embedding: int = setting(64, "width of the learned token embedding", ge=1)
    input: str = setting(
        "learned",
        "how a token enters: learned embedding, the same matrix as the output (tied), or one-hot",
        choices=("learned", "tied", "one-hot"),
    )
    dropout: float = setting(0.1, "share of the features dropped between layers and before the output", ge=0, lt=1)
    recurrent_dropout: float = setting(
        0.0, "share of the hidden numbers that the next position does not see, drawn anew for each batch", ge=0, lt=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input == "tied" and self.softmax != "full":
            raise SettingError("softmax", self.softmax, "full where the input is tied to the output")


class Recurrent(NeuralModel):
    """Embedding, recurrent layers, output; abstract in its cell."""

    Settings = RecurrentSettings
    training_defaults: ClassVar = {"lr": 4e-3, "batch_size": 16, "length": 64}
    ladder: ClassVar = tuple({"hidden": width} for width in (64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1536))
    network: ClassVar[type[nn.RNN | nn.LSTM | nn.GRU]]
    layer: ClassVar[Callable[..., Any]]
    cell: ClassVar[Callable[..., Any]]
    parts: ClassVar[int]  # tensors that a layer remembers: (h,) or (h, c)
    compiled: ClassVar = True  # where `recurrent.suits`

    def __init__(self, settings: RecurrentSettings, vocab_size: int) -> None:
        tied = settings.input == "tied"
        table = None if settings.input == "one-hot" else embedding(vocab_size, settings.embedding, tied=tied)
        width = vocab_size if table is None else settings.embedding
        super().__init__(settings, vocab_size, settings.hidden, table if tied else None)
        self.embedding = table
        self.recurrent = self.network(
            width, settings.hidden, settings.layers, dropout=settings.dropout if settings.layers > 1 else 0.0
        )
        self.dropout = Dropout(settings.dropout)
        self.forgets = Dropout(settings.recurrent_dropout)
        self.narrow = nn.Linear(settings.hidden, settings.embedding) if tied else nn.Identity()
        self._initialise(settings)

    @torch.no_grad()
    def _initialise(self, settings: RecurrentSettings) -> None:
        for name, parameter in self.recurrent.named_parameters():
            if name.startswith("weight_hh"):
                for gate_HH in parameter.split(settings.hidden):
                    nn.init.orthogonal_(gate_HH)
            elif name.startswith("bias"):
                parameter.zero_()

    def features(self, ids_BT: Tensor, state: TensorState | None) -> tuple[Tensor, TensorState]:
        """See the base. The state is (h_BLH,) or (h_BLH, c_BLH)."""
        if state is None:
            zeros = next(self.parameters()).new_zeros(
                len(ids_BT), self.recurrent.num_layers, self.recurrent.hidden_size
            )
            state = TensorState((zeros,) * self.parts)
        if ids_BT.shape[1] == 1 and not self.training:
            hidden_TBH, state = self._one_token(self._enter(ids_BT[:, 0]), state)
        else:
            hidden_TBH, state = self._many_tokens(ids_BT.T, state)
        return self.narrow(self.dropout(hidden_TBH)).transpose(0, 1), state

    def _enter(self, ids: Tensor) -> Tensor:
        if self.embedding is None:
            return F.one_hot(ids, self.vocab_size).to(next(self.recurrent.parameters()).dtype)
        entered: Tensor = self.embedding(ids)
        return entered

    def _many_tokens(self, ids_TB: Tensor, state: TensorState) -> tuple[Tensor, TensorState]:
        before = tuple(part_BLH.transpose(0, 1).contiguous() for part_BLH in state.tensors)
        whole = ids_TB.is_cuda and not self.forgets.share  # cuDNN keeps all layers in one buffer, drops between
        if whole:
            hidden_TBH, after = self.recurrent(self._enter(ids_TB), before if self.parts > 1 else before[0])
            after = after if self.parts > 1 else (after,)
        else:
            hidden_TBH, after = self._layer_by_layer(ids_TB, before)
        return hidden_TBH, TensorState(tuple(part_LBH.transpose(0, 1) for part_LBH in after))

    def _layer_by_layer(self, ids_TB: Tensor, before: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the network does, with our dropout between its layers and on what they remember.

        What a layer remembers is dropped in every row and at every position of the batch alike, so that fast kernels
        stay in use: as a column of the recurrent weights (weight dropout, Merity et al. 2018, section 2, by columns).
        """
        ours = self.compiled and recurrent.suits(ids_TB, self.recurrent.hidden_size)
        hidden_TBH, after = ids_TB, []
        for layer, weights in enumerate(self.recurrent.all_weights):
            drops = self.training and self.forgets.share
            kept_H = self.forgets(weights[1].new_ones(self.recurrent.hidden_size)) if drops else None
            state = [part_LBH[layer : layer + 1] for part_LBH in before]
            if layer:
                hidden_TBH = self.dropout(hidden_TBH)
            hidden_TBH, *new = (self._compiled_layer if ours else self._torchs_layer)(
                hidden_TBH, state, weights, kept_H
            )
            after.append(new)
        return hidden_TBH, tuple(torch.cat(part) for part in zip(*after, strict=True))

    def _torchs_layer(
        self, given: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], kept_H: Tensor | None
    ) -> Sequence[Tensor]:
        """What is given are ids_TB, or the layer below."""
        enter, recur, *biases = weights
        read: Sequence[Tensor] = self.layer(
            self._enter(given) if given.ndim == 2 else given,
            tuple(state) if self.parts > 1 else state[0],
            [enter, recur if kept_H is None else recur * kept_H, *biases],
            *(True, 1, 0.0, self.training, False, False),  # biases, one layer, no dropout, one direction, time first
        )
        return read

    def _compiled_layer(
        self, given: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], kept_H: Tensor | None
    ) -> Sequence[Tensor]:
        """The same, in bfloat16."""
        enter_FE, recur_FH, enter_bias_F, bias_F = weights
        if given.ndim == 2 and few_tokens(given, self.vocab_size):
            inputs, tokens_TB = self._added_by_each_token(enter_FE, enter_bias_F), given
        else:
            entered_TBE = self._enter(given) if given.ndim == 2 else given
            inputs, tokens_TB = F.linear(entered_TBE, enter_FE, enter_bias_F), None
        return recurrent.layer(inputs, tokens_TB, state, recur_FH, bias_F, kept_H)

    def _added_by_each_token(self, enter_FE: Tensor, bias_F: Tensor) -> Tensor:
        if self.embedding is None:
            return (enter_FE.T + bias_F).contiguous()
        inputs_VF: Tensor = F.linear(self.embedding.weight, enter_FE, bias_F)
        return inputs_VF

    def _one_token(self, hidden_BH: Tensor, state: TensorState) -> tuple[Tensor, TensorState]:
        """The cells one by one: a third of the time, since nothing is repacked for one token."""
        after = []
        for layer in range(self.recurrent.num_layers):
            before = tuple(part_BLH[:, layer] for part_BLH in state.tensors)
            cell_weights = (getattr(self.recurrent, f"{name}_l{layer}") for name in _CELL_WEIGHTS)
            new = self.cell(hidden_BH, before if self.parts > 1 else before[0], *cell_weights)
            new = new if self.parts > 1 else (new,)
            hidden_BH = new[0]
            after.append(new)
        return hidden_BH[None], TensorState(tuple(torch.stack(part, 1) for part in zip(*after, strict=True)))


_CELL_WEIGHTS: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@final
class RNN(Recurrent):
    """The plain recurrent network: h = tanh(W x + U h + b)."""

    network = nn.RNN
    layer = staticmethod(torch.rnn_tanh)
    cell = staticmethod(torch.rnn_tanh_cell)
    parts = 1
    compiled = False


@final
class LSTM(Recurrent):
    """The long short-term memory: gates decide what to keep, what to write, what to show."""

    network = nn.LSTM
    layer = staticmethod(torch.lstm)
    cell = staticmethod(torch.lstm_cell)
    parts = 2
    training_defaults: ClassVar = {**Recurrent.training_defaults, "lr": 6e-3}  # a GRU bears less (lab log)

    @torch.no_grad()
    def _initialise(self, settings: RecurrentSettings) -> None:
        super()._initialise(settings)
        for layer in range(settings.layers):
            bias = getattr(self.recurrent, f"bias_ih_l{layer}")
            bias[settings.hidden : 2 * settings.hidden] = 1.0  # the forget gate


@final
class GRU(Recurrent):
    """The gated recurrent unit: two gates, no separate cell."""

    network = nn.GRU
    layer = staticmethod(torch.gru)
    cell = staticmethod(torch.gru_cell)
    parts = 1
