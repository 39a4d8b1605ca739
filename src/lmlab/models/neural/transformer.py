"""A small Transformer, the modern yardstick: rotary positions, RMS norm, squared ReLU, sliding-window attention.

Shapes: B sequences, T new positions, S remembered positions, W the window, D width, A heads, F = D/A.

Each position attends to the W last ones (itself included). The state keeps the W-1 last keys and values of every
layer, so a text of any length is read in pieces, and reading it in one go gives the same. Keys are kept unrotated:
rotary scores depend on distances alone, so positions are counted inside the window and never grow.
Sources: Vaswani et al. 2017; Su et al. 2021 (rotary); So et al. 2021 (squared ReLU); Beltagy et al. 2020 (window).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.config import setting
from lmlab.errors import SettingError
from lmlab.kernels.neural import attention, bridge
from lmlab.models.neural.base import NeuralModel, NeuralSettings, TensorState, embedding
from lmlab.models.neural.dropout import Dropout


@final
class Transformer(NeuralModel):
    """Embedding, blocks of attention and feed-forward, output."""

    @dataclass(frozen=True)
    class Settings(NeuralSettings):
        """The shape of the blocks."""

        width: int = setting(192, "features a position; an even multiple of heads", ge=2)
        layers: int = setting(4, "blocks", ge=1)
        heads: int = setting(6, "attention heads", ge=1)
        window: int = setting(256, "positions that attention reaches back, the current one included", ge=1)
        dropout: float = setting(0.0, "share of the features dropped after attention and feed-forward", ge=0, lt=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.width % (2 * self.heads):
                raise SettingError("width", self.width, f"a multiple of twice the heads ({2 * self.heads})")

    training_defaults: ClassVar = {"lr": 3e-3, "batch_size": 8, "length": 256, "carry": False}
    ladder: ClassVar = tuple({"width": width, "heads": width // 32} for width in (64, 96, 128, 192, 256, 384, 512, 768))

    def __init__(self, settings: Settings, vocab_size: int) -> None:
        super().__init__(settings, vocab_size, settings.width)
        self.embedding = embedding(vocab_size, settings.width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm = nn.RMSNorm(settings.width)
        self._window = settings.window
        self.segment = settings.window  # attention takes memory by the square of what is read at once

    def features(self, ids_BT: Tensor, state: TensorState | None) -> tuple[Tensor, TensorState]:
        """See the base. The state is (keys, values) of each layer, (B, A, W-1, F), and which of them are real."""
        batch, length = ids_BT.shape
        past = self._window - 1
        if state is None:
            real_BS = torch.ones(batch, 0, dtype=torch.bool, device=ids_BT.device)
            caches: list[tuple[Tensor, ...]] = [()] * len(self.blocks)
        else:
            real_BS = state.tensors[-1]
            caches = list(zip(state.tensors[0:-1:2], state.tensors[1:-1:2], strict=True))
        ours = bridge.suits(ids_BT)
        mask = None if ours else self._mask(real_BS, length)
        missing_B = (~real_BS).sum(1) if ours else None
        hidden_BTD, kept = self.embedding(ids_BT), []
        for block, cache in zip(self.blocks, caches, strict=True):
            hidden_BTD, keys, values = block(hidden_BTD, cache, mask, missing_B)
            kept += [_last(keys, past), _last(values, past)]
        real_BS = F.pad(real_BS, (0, length), value=True)
        return self.norm(hidden_BTD), TensorState((*kept, _last(real_BS[:, None, :, None], past)[:, 0, :, 0]))

    def _mask(self, real_BS: Tensor, length: int) -> Tensor | None:
        """Which of S+T keys each of T queries may see, (B, 1, T, S+T); None is plain causal attention."""
        past = real_BS.shape[1]
        if past == 0 and length <= self._window:
            return None
        distance = torch.arange(past, past + length, device=real_BS.device)[:, None] - torch.arange(
            past + length, device=real_BS.device
        )
        near = (distance >= 0) & (distance < self._window)
        return near & F.pad(real_BS, (0, length), value=True)[:, None, None, :]


class Block(nn.Module):
    """Attention, then feed-forward, each read through a norm and added to what came in."""

    def __init__(self, settings: Transformer.Settings) -> None:
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
        self, hidden_BTD: Tensor, cache: tuple[Tensor, ...], mask: Tensor | None, missing_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The block's output, and all keys and values, (B, A, S+T, F), unrotated.

        Args:
            hidden_BTD: what came in.
            cache: keys and values remembered.
            mask: which keys each query may see; None is plain causal attention.
            missing_B: how many of the first remembered are not real; not None, attention is compiled and needs no mask.
        """
        batch, length, width = hidden_BTD.shape
        projected = self.project(self.norm_attention(hidden_BTD)).view(batch, length, 3, self.heads, -1)
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)
        if cache:
            keys, values = torch.cat([cache[0], keys], 2), torch.cat([cache[1], values], 2)
        if missing_B is None:
            rotated, queries = _rotate(_unit(keys), 0), _rotate(_unit(queries), keys.shape[2] - length)
            seen = F.scaled_dot_product_attention(queries, rotated, values, attn_mask=mask, is_causal=mask is None)
        else:
            turns_2SH = _turns(0, keys.shape[2], queries)
            seen = attention.attend(queries, keys, values, turns_2SH, missing_B, self.window)
        seen_BTD = seen.transpose(1, 2).reshape(batch, length, width)
        hidden_BTD = hidden_BTD + self.dropout(self.attended(seen_BTD))
        fed_BTD = self.narrow(F.relu(self.widen(self.norm_feed(hidden_BTD))).square())
        return hidden_BTD + self.dropout(fed_BTD), keys, values


def _unit(x: Tensor) -> Tensor:
    """Queries and keys on a sphere, scaled: attention logits stay bounded (Henry et al. 2020)."""
    return F.rms_norm(x, x.shape[-1:])


def _rotate(x_BATF: Tensor, first: int) -> Tensor:
    """Rotary positions: pairs of features turned by angles that grow with the position, counted from `first`."""
    cos, sin = _turns(first, x_BATF.shape[2], x_BATF).to(x_BATF.dtype)
    a, b = x_BATF.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _turns(first: int, length: int, x_BATF: Tensor) -> Tensor:
    """Cosine and sine of the angles, float32: (2, length, F/2)."""
    half = x_BATF.shape[3] // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=x_BATF.device) / half)
    angle = torch.arange(first, first + length, device=x_BATF.device)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


def _last(x_BASF: Tensor, count: int) -> Tensor:
    """The last `count` positions, zeros (not real) in front where there are fewer."""
    length = x_BASF.shape[2]
    return F.pad(x_BASF, (0, 0, max(0, count - length), 0))[:, :, max(0, length - count) :]
