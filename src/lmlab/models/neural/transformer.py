"""A small Transformer, the modern yardstick: rotary positions, RMSNorm, squared ReLU, sliding-window attention.

Shapes: B sequences, T new positions, S positions with those carried, W the window, D width, A heads, F = D/A.

Each position attends to the W last ones (itself included). The state keeps the W-1 last keys and values of every
layer, so a text of any length is read in pieces, and reading it in one call gives the same. Keys are kept unrotated:
rotary scores depend on distances alone, so positions are counted within the window and never grow.
Sources: Vaswani et al. 2017; Su et al. 2021 (RoPE); So et al. 2021 (squared ReLU); Beltagy et al. 2020 (window).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.kernels.engine import worthwhile
from lmlab.kernels.neural import attention
from lmlab.kernels.writing.layout import BlockWeights
from lmlab.kernels.writing.network import Packing, TransformerWriter
from lmlab.models.base import BatchWriter, Reader
from lmlab.models.neural.base import NeuralModel, TensorState, embedding
from lmlab.models.neural.dropout import Dropout
from lmlab.models.neural.settings import TransformerSettings
from lmlab.models.neural.stored import SEVERAL, StoredTransformer
from lmlab.models.neural.transformer_reader import TransformerReader

_LOADED = 50  # tokens from which loading the loops pays, once torch is loaded


@final
class Transformer(NeuralModel):
    """Embedding, blocks of attention and feed-forward, output."""

    Settings = TransformerSettings
    training_defaults: ClassVar = StoredTransformer.training_defaults
    ladder: ClassVar = tuple({"width": width, "heads": width // 32} for width in (64, 96, 128, 192, 256, 384, 512, 768))

    def __init__(self, settings: TransformerSettings, vocab_size: int) -> None:
        super().__init__(settings, vocab_size, settings.width)
        self.embedding = embedding(vocab_size, settings.width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = nn.RMSNorm(settings.width)
        self._heads, self._window = settings.heads, settings.window
        self._stacked: BlockWeights | None = None
        self._packing = Packing()
        self.segment = settings.window  # attention takes memory by the square of what is read at once

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops: with the full softmax, in float32 on the CPU, not in training."""
        weights = self._weights() if worthwhile(tokens, _LOADED) else None
        texts = [[self.bos, *prompt] for prompt in prompts]
        return TransformerWriter(self._packing.of(weights), texts) if weights and weights.small else None

    def reader(self, rows: int) -> Reader | None:
        """Steps without torch, where `batch_writer` writes and the window is not too wide for a copy a token."""
        weights = self._weights()
        if weights is None or not weights.narrow_window:
            return None
        return TransformerReader(weights, self, self._packing.of(weights) if worthwhile(rows, SEVERAL) else None)

    def _weights(self) -> BlockWeights | None:
        named = self.as_arrays()
        if named is None:
            return None
        kept = self._stacked  # comparing takes a quarter of the time of a copy, and texts may be many
        if kept is None or not kept.holds(named, self.temperature):
            kept = self._stacked = BlockWeights.of(named, self.settings, self.temperature)
        return kept

    def initial_state(self, rows: int, device: torch.device) -> TensorState:
        """Of each layer no keys and no values; and how many of the keys carried are padding: none."""
        nothing_BAPF = self.embedding.weight.new_zeros(
            rows, self._heads, 0, self.embedding.embedding_dim // self._heads, device=device
        )
        missing_B = torch.zeros(rows, dtype=torch.int64, device=device)
        return TensorState((*(nothing_BAPF,) * (2 * len(self.blocks)), missing_B))

    def restart(self, state: TensorState, rows_B: Tensor) -> TensorState:
        """The state where all keys carried by these rows (bool) count as padding."""
        *caches, missing_B = state.tensors
        return TensorState((*caches, missing_B.masked_fill(rows_B, caches[0].shape[2])))

    def features(self, ids_BT: Tensor, state: TensorState) -> tuple[Tensor, TensorState]:
        """The last block's output at each position, normalised; and (keys, values) of each block, then the padding."""
        *caches, missing_B = state.tensors
        hidden_BTD, carried = self.embedding(ids_BT), []
        for block, *cache in zip(self.blocks, caches[::2], caches[1::2], strict=True):
            hidden_BTD, *cache = block(hidden_BTD, *cache, missing_B)
            carried += [_last(part_BASF, self._window - 1) for part_BASF in cache]
        added = self._window - 1 - caches[0].shape[2] - ids_BT.shape[1]  # in front, of what is carried
        return self.norm(hidden_BTD), TensorState((*carried, (missing_B + added).clamp(min=0)))


class Block(nn.Module):
    """Attention, then feed-forward, each reading a norm of what came in and adding to it."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.window = settings.heads, settings.window
        self.norm_attention, self.norm_feed = nn.RMSNorm(width), nn.RMSNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.dropout = Dropout(settings.dropout)
        for last in (self.attended, self.narrow):
            nn.init.normal_(last.weight, std=0.02 / settings.layers**0.5)

    def forward(
        self, hidden_BTD: Tensor, keys_BAPF: Tensor, values_BAPF: Tensor, missing_B: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The block's output; and all keys and values, unrotated, those carried first, of which some are padding."""
        batch, length, width = hidden_BTD.shape
        projected = self.project(self.norm_attention(hidden_BTD)).view(batch, length, 3, self.heads, -1)
        queries_BATF, keys, values = projected.permute(2, 0, 3, 1, 4)
        if keys_BAPF.shape[2]:
            keys, values = torch.cat([keys_BAPF, keys], 2), torch.cat([values_BAPF, values], 2)
        seen_BATF = attention(queries_BATF, keys, values, missing_B, self.window)
        hidden_BTD = hidden_BTD + self.dropout(self.attended(seen_BATF.transpose(1, 2).reshape(batch, length, width)))
        fed_BTD = self.narrow(F.relu(self.widen(self.norm_feed(hidden_BTD))).square())
        return hidden_BTD + self.dropout(fed_BTD), keys, values


def _last(x_BASF: Tensor, count: int) -> Tensor:
    """The last `count` positions, zeros in front where there are fewer."""
    length = x_BASF.shape[2]
    return F.pad(x_BASF, (0, 0, max(0, count - length), 0))[:, :, max(0, length - count) :]
