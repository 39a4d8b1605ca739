"""The recurrent family: a plain RNN, the LSTM, the GRU.

Shapes: B sequences, T positions, E embedding, H hidden, L layers, V vocabulary.

Sources: Elman 1990 (RNN); Hochreiter and Schmidhuber 1997, Gers et al. 2000 (LSTM with forget gate); Cho et al. 2014
(GRU). Recurrent weights start orthogonal and the forget gate open (Jozefowicz et al. 2015, section 2.2), so that
gradients neither vanish nor explode in the first steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from lmlab.kernels.engine import worthwhile
from lmlab.kernels.neural import recurrent_layers
from lmlab.kernels.writing.layout import Weights
from lmlab.kernels.writing.network import Network, Packing
from lmlab.kernels.writing.recurrent import RecurrentBeam, RecurrentWriter
from lmlab.models.base import BatchWriter, BeamWriter, Reader
from lmlab.models.neural.base import NeuralModel, TensorState, embedding
from lmlab.models.neural.dropout import Dropout
from lmlab.models.neural.recurrent_reader import RecurrentReader
from lmlab.models.neural.settings import RecurrentSettings as RecurrentSettings
from lmlab.models.neural.stored import StoredLSTM, StoredRecurrent

_LOADED = 50  # tokens from which loading the loops pays, once torch is loaded


class Recurrent(NeuralModel):
    """Embedding, recurrent layers, output; abstract in its cell."""

    Settings = RecurrentSettings
    training_defaults: ClassVar = StoredRecurrent.training_defaults
    ladder: ClassVar = tuple({"hidden": width} for width in (64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1536))
    network: ClassVar[type[nn.RNN | nn.LSTM | nn.GRU]]
    cell: ClassVar[str]

    def __init__(self, settings: RecurrentSettings, vocab_size: int) -> None:
        tied = settings.input == "tied"
        table = None if settings.input == "one-hot" else embedding(vocab_size, settings.embedding, tied=tied)
        width = vocab_size if table is None else settings.embedding
        super().__init__(settings, vocab_size, settings.hidden, table if tied else None)
        self.embedding = table
        self.recurrent = self.network(width, settings.hidden, settings.layers)
        self.dropout = Dropout(settings.dropout)
        self.recurrent_dropout = Dropout(settings.recurrent_dropout)
        self.narrow = nn.Linear(settings.hidden, settings.embedding) if tied else nn.Identity()
        self._packing = Packing()
        self._initialise(settings)

    @torch.no_grad()
    def _initialise(self, settings: RecurrentSettings) -> None:
        for name, parameter in self.recurrent.named_parameters():
            if name.startswith("weight_hh"):
                for gate_HH in parameter.split(settings.hidden):
                    nn.init.orthogonal_(gate_HH)
            elif name.startswith("bias"):
                parameter.zero_()

    def initial_state(self, rows: int, device: torch.device) -> TensorState:
        """Zeros: h_BLH, of an LSTM also c_BLH."""
        zeros = next(self.parameters()).new_zeros(rows, self.recurrent.num_layers, self.recurrent.hidden_size)
        return TensorState((zeros.to(device),) * (2 if self.cell == "lstm" else 1))

    def features(self, ids_BT: Tensor, state: TensorState) -> tuple[Tensor, TensorState]:
        """The hidden states of the last layer at each position, and the state after the last."""
        table_VE = None if self.embedding is None else self.embedding.weight
        before = [part_BLH.transpose(0, 1) for part_BLH in state.tensors]
        weights, masks = self.recurrent.all_weights, self._masks()
        hidden_TBH, after = recurrent_layers(self.cell, ids_BT.T, table_VE, before, weights, self.dropout, masks)
        features_BTH = self.narrow(self.dropout(hidden_TBH)).transpose(0, 1)
        return features_BTH, TensorState(tuple(part_LBH.transpose(0, 1) for part_LBH in after))

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops: with the full softmax, in float32 on the CPU, not in training."""
        network = self._network(tokens)
        return None if network is None else RecurrentWriter(network, [[self.bos, *prompt] for prompt in prompts])

    def beam_writer(self, prompt: Sequence[int], width: int, tokens: int) -> BeamWriter | None:
        """Grows a beam in compiled loops, where `batch_writer` writes."""
        network = self._network(tokens)
        return None if network is None else RecurrentBeam(network, [self.bos, *prompt], width)

    def _network(self, tokens: int) -> Network | None:
        weights = self._weights() if worthwhile(tokens, _LOADED) else None
        return None if weights is None else self._packing.of(weights)

    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy, where `batch_writer` writes."""
        weights = self._weights()
        return None if weights is None else RecurrentReader(weights)

    def _weights(self) -> Weights | None:
        named = self.as_arrays()
        return None if named is None else Weights.of(named, self.temperature)

    def _masks(self) -> list[Tensor | None]:
        """What each layer's hidden state is multiplied by on its way to the next position.

        The same for all rows and positions of a batch, so that it can be applied to the columns of the recurrent
        weights, and fast kernels stay in use (weight dropout, Merity et al. 2018, section 2, by columns).
        """
        if not self.recurrent_dropout.present_share:
            return [None] * self.recurrent.num_layers
        ones_H = self.recurrent.all_weights[0][1].new_ones(self.recurrent.hidden_size)
        return [self.recurrent_dropout(ones_H) for _ in range(self.recurrent.num_layers)]


@final
class RNN(Recurrent):
    """The plain recurrent network: h = tanh(W x + U h + b)."""

    network, cell = nn.RNN, "rnn"


@final
class LSTM(Recurrent):
    """The long short-term memory: gates decide what to keep, what to write, what to show."""

    network, cell = nn.LSTM, "lstm"
    training_defaults: ClassVar = StoredLSTM.training_defaults

    @torch.no_grad()
    def _initialise(self, settings: RecurrentSettings) -> None:
        super()._initialise(settings)
        for layer in range(settings.layers):
            bias = getattr(self.recurrent, f"bias_ih_l{layer}")
            bias[settings.hidden : 2 * settings.hidden] = 1.0  # the forget gate


@final
class GRU(Recurrent):
    """The gated recurrent unit: two gates, no separate cell."""

    network, cell = nn.GRU, "gru"
