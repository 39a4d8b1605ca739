"""The causal convolutional network: a stack of filters over a known window of tokens.

Shapes: B sequences, T positions, C channels, R the receptive field.

The text is padded once, by R-1 tokens in front of the embedding, and every convolution is then `valid`: a padding of
zeros in each layer would make the first R positions differ between reading in one go and reading token by token.
Sources: Dauphin et al. 2017 (gated linear units); van den Oord et al. 2016, Bai et al. 2018 (dilation, residuals).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.kernels.engine import worthwhile
from lmlab.kernels.writing.layout import ConvolutionWeights
from lmlab.kernels.writing.network import ConvolutionWriter, Packing
from lmlab.models.base import BatchWriter, Reader
from lmlab.models.neural.base import NeuralModel, TensorState, embedding
from lmlab.models.neural.convolution_reader import ConvolutionReader
from lmlab.models.neural.dropout import Dropout
from lmlab.models.neural.settings import ConvolutionSettings
from lmlab.models.neural.stored import StoredCNN
from lmlab.vocabulary import PAD

_LOADED = 50  # tokens from which loading the loops pays, once torch is loaded


@final
class CNN(NeuralModel):
    """Embedding, causal convolutions, output."""

    Settings = ConvolutionSettings
    training_defaults: ClassVar = StoredCNN.training_defaults

    def __init__(self, settings: ConvolutionSettings, vocab_size: int) -> None:
        super().__init__(settings, vocab_size, settings.channels)
        self.embedding = embedding(vocab_size, settings.embedding)
        widths = [settings.embedding] + [settings.channels] * settings.layers
        gates = 2 if settings.gated else 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, gates * after, (1, settings.kernel), dilation=(1, settings.dilation**layer))
            for layer, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.dropout = Dropout(settings.dropout)
        self._gated, self._residual = settings.gated, settings.residual
        self._packing = Packing()

    @property
    def receptive_field(self) -> int:
        """How many tokens, the current one included, a prediction depends on.

        >>> CNN(CNN.Settings(layers=4, kernel=5), 10).receptive_field
        17
        >>> CNN(CNN.Settings(layers=4, kernel=2, dilation=2), 10).receptive_field
        16
        """
        assert isinstance(self.settings, ConvolutionSettings)
        return self.settings.receptive_field

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops: with the full softmax, in float32 on the CPU, not in training."""
        weights = self._weights() if worthwhile(tokens, _LOADED) else None
        texts = [[self.bos, *prompt] for prompt in prompts]
        return None if weights is None else ConvolutionWriter(self._packing.of(weights), texts)

    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy, where `batch_writer` writes."""
        weights = self._weights()
        return None if weights is None else ConvolutionReader(weights)

    def _weights(self) -> ConvolutionWeights | None:
        named = self.as_arrays()
        weights = None if named is None else ConvolutionWeights.of(named, self.settings, self.temperature)
        return weights if weights and weights.small else None

    def initial_state(self, rows: int, device: torch.device) -> TensorState:
        """The last R-1 ids: padding."""
        return TensorState((torch.full((rows, self.receptive_field - 1), PAD, device=device),))

    def features(self, ids_BT: Tensor, state: TensorState) -> tuple[Tensor, TensorState]:
        """The channels of the last layer at each position, and the last R-1 ids."""
        window = torch.cat([state.tensors[0], ids_BT], 1)
        hidden_BTC = self.embedding(window)
        for filters in self.convolutions:
            hidden_BTC = self._layer(hidden_BTC, filters)
        return hidden_BTC, TensorState((window[:, window.shape[1] - self.receptive_field + 1 :],))

    def _layer(self, hidden_BTC: Tensor, filters: nn.Module) -> Tensor:
        """Convolution, non-linearity, dropout, residual; rows of C but for the convolution (B, C, 1, T)."""
        assert isinstance(filters, nn.Conv2d)
        new_BC1T = F.conv2d(
            hidden_BTC.transpose(1, 2).unsqueeze(2), filters.weight, filters.bias, dilation=filters.dilation
        )
        new_BTC = (new_BC1T if self._gated else F.relu(new_BC1T, inplace=True)).squeeze(2).transpose(1, 2)
        new_BTC = self.dropout(F.glu(new_BTC, 2) if self._gated else new_BTC)
        residual = self._residual and hidden_BTC.shape[2] == new_BTC.shape[2]
        added: Tensor = new_BTC + hidden_BTC[:, hidden_BTC.shape[1] - new_BTC.shape[1] :] if residual else new_BTC
        return added
