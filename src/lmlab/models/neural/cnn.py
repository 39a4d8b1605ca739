"""The causal convolutional network: a stack of filters over a known window of tokens.

Shapes: B sequences, T positions, C channels, R the receptive field.

The text is padded once, by R-1 tokens in front of the embedding, and every convolution is then `valid`: a padding of
zeros in each layer would make the first R positions differ between reading in one go and reading token by token.
Sources: Dauphin et al. 2017 (gated linear units); van den Oord et al. 2016, Bai et al. 2018 (dilation, residuals).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.config import setting
from lmlab.kernels.neural import bridge, convolution
from lmlab.models.neural.base import NeuralModel, NeuralSettings, TensorState, embedding
from lmlab.models.neural.dropout import Dropout
from lmlab.vocabulary import PAD


@final
class CNN(NeuralModel):
    """Embedding, causal convolutions, output."""

    @dataclass(frozen=True)
    class Settings(NeuralSettings):
        """The shape of the stack."""

        embedding: int = setting(64, "width of the token embedding", ge=1)
        channels: int = setting(192, "filters a layer", ge=1)
        layers: int = setting(4, "convolutions on top of each other", ge=1)
        kernel: int = setting(5, "tokens that a filter sees", ge=1)
        dilation: int = setting(1, "growth of the gaps between a filter's taps from layer to layer; 1 is none", ge=1)
        residual: bool = setting(True, "add each layer's input to its output where their widths agree")
        gated: bool = setting(False, "gated linear units instead of rectifiers")
        dropout: float = setting(0.1, "share of the features dropped after each layer", ge=0, lt=1)

    training_defaults: ClassVar = {"lr": 2e-3, "batch_size": 16, "length": 128}

    def __init__(self, settings: Settings, vocab_size: int) -> None:
        super().__init__(settings, vocab_size, settings.channels)
        self.embedding = embedding(vocab_size, settings.embedding)
        widths = [settings.embedding] + [settings.channels] * settings.layers
        gates = 2 if settings.gated else 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, gates * after, (1, settings.kernel), dilation=(1, settings.dilation**layer))
            for layer, (before, after) in enumerate(itertools.pairwise(widths))
        )
        self.dropout = Dropout(settings.dropout)
        self._gated, self._residual, self._channels = settings.gated, settings.residual, settings.channels
        self._even = not any(width % 2 for width in widths)  # where they are not, the compiled loops do not run

    @property
    def receptive_field(self) -> int:
        """How many tokens, the current one included, a prediction depends on.

        >>> CNN(CNN.Settings(layers=4, kernel=5), 10).receptive_field
        17
        >>> CNN(CNN.Settings(layers=4, kernel=2, dilation=2), 10).receptive_field
        16
        """
        settings = self.settings
        assert isinstance(settings, CNN.Settings)
        return 1 + sum((settings.kernel - 1) * settings.dilation**layer for layer in range(settings.layers))

    def features(self, ids_BT: Tensor, state: TensorState | None) -> tuple[Tensor, TensorState]:
        """See the base. The state is the last R-1 ids."""
        past = self.receptive_field - 1
        before = ids_BT.new_full((len(ids_BT), past), PAD) if state is None else state.tensors[0]
        window = torch.cat([before, ids_BT], 1)
        ours, hidden = self._even and bridge.suits(ids_BT), window
        for filters in self.convolutions:
            hidden = self._layer(hidden, filters, ours)
        return hidden, TensorState((window[:, window.shape[1] - past :],))

    def _layer(self, given: Tensor, filters: nn.Module, ours: bool) -> Tensor:
        """What is given are ids_BT, or the layer below."""
        assert isinstance(filters, nn.Conv2d)
        residual = self._residual and filters.in_channels == self._channels
        looked_up = given.ndim == 2 and ours and not residual and bridge.few_tokens(given, self.vocab_size)
        hidden = self.embedding(given) if given.ndim == 2 and not looked_up else given
        new_BTC = (self._compiled if ours else self._torchs)(hidden, filters)
        if self._gated:
            new_BTC = F.glu(new_BTC, 2)
        if self.training:
            new_BTC = self.dropout(new_BTC)
        return new_BTC + hidden[:, hidden.shape[1] - new_BTC.shape[1] :] if residual else new_BTC

    def _compiled(self, given: Tensor, filters: nn.Conv2d) -> Tensor:
        """Filters, and rectifiers where no gates follow; given are ids_BT to be looked up, or the layer below."""
        assert filters.bias is not None
        weights, rectify = (filters.weight, filters.bias, filters.dilation[1]), not self._gated
        if given.ndim == 2:
            return convolution.look_up(self.embedding.weight, given, *weights, rectify=rectify)
        return convolution.convolve(given, *weights, rectify=rectify)

    def _torchs(self, hidden_BTC: Tensor, filters: nn.Conv2d) -> Tensor:
        """The same; a view for the convolution alone (B, C, 1, T, channels last): all else is rows of C."""
        view_BC1T = hidden_BTC.transpose(1, 2).unsqueeze(2)
        new_BC1T = F.conv2d(view_BC1T, filters.weight, filters.bias, dilation=filters.dilation)
        if not self._gated:
            new_BC1T = F.relu(new_BC1T, inplace=True)
        return new_BC1T.squeeze(2).transpose(1, 2)
