"""Settings of the networks that can be read and told of without torch."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.config import Settings, setting
from lmlab.errors import SettingError

WIDEST, DEEPEST = 65_536, 256
"""No layer has more features, and no model more layers."""
WEIGHTS, TEMPERATURE = "model.safetensors", "temperature"
"""The file of the weights, and the one of them that logits are divided by, where it is not 1."""
_FURTHEST = 1_000_000  # tokens that a prediction may depend on


@dataclass(frozen=True)
class NeuralSettings(Settings):
    """What all trained models have in common."""

    softmax: str = setting(
        "full",
        "output layer; adaptive predicts rare tokens in two steps: several times as fast where the vocabulary is tens "
        "of thousands of words, and another model",
        choices=("full", "adaptive"),
    )


@dataclass(frozen=True)
class RecurrentSettings(NeuralSettings):
    """What the three have in common."""

    hidden: int = setting(512, "hidden size of a layer", ge=1, le=WIDEST)
    layers: int = setting(1, "recurrent layers on top of each other", ge=1, le=DEEPEST)
    embedding: int = setting(64, "width of the learned token embedding", ge=1, le=WIDEST)
    input: str = setting(
        "learned",
        "how a token enters: learned embedding, the same matrix as the output (tied), or one-hot",
        choices=("learned", "tied", "one-hot"),
    )
    dropout: float = setting(0.1, "share of the features dropped between layers and before the output", ge=0, lt=1)
    recurrent_dropout: float = setting(
        0.0, "share of the hidden state dropped on its way to the next position, drawn anew for each batch", ge=0, lt=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input == "tied" and self.softmax != "full":
            raise SettingError("softmax", self.softmax, "full where the input is tied to the output")


@dataclass(frozen=True)
class ConvolutionSettings(NeuralSettings):
    """The shape of a stack of convolutions."""

    embedding: int = setting(64, "width of the token embedding", ge=1, le=WIDEST)
    channels: int = setting(192, "filters a layer", ge=1, le=WIDEST)
    layers: int = setting(4, "convolutions on top of each other", ge=1, le=DEEPEST)
    kernel: int = setting(5, "tokens that a filter sees", ge=1, le=1024)
    dilation: int = setting(
        1, "growth of the gaps between a filter's taps from layer to layer; 1 is none", ge=1, le=1024
    )
    residual: bool = setting(True, "add each layer's input to its output where their widths agree")
    gated: bool = setting(False, "gated linear units instead of rectifiers")
    dropout: float = setting(0.1, "share of the features dropped after each layer", ge=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (field := self.receptive_field) > _FURTHEST:
            bound = f"so small that a prediction depends on {_FURTHEST:,} tokens at most, not {field:,}"
            raise SettingError("dilation", self.dilation, bound, "lower it, or layers, or kernel")

    @property
    def receptive_field(self) -> int:
        """How many tokens, the current one included, a prediction depends on."""
        gaps: int = sum(self.dilation**layer for layer in range(self.layers))
        return 1 + (self.kernel - 1) * gaps


@dataclass(frozen=True)
class TransformerSettings(NeuralSettings):
    """The shape of a Transformer's blocks."""

    width: int = setting(192, "features a position; an even multiple of heads", ge=2, le=WIDEST)
    layers: int = setting(4, "blocks", ge=1, le=DEEPEST)
    heads: int = setting(6, "attention heads", ge=1, le=WIDEST // 2)
    window: int = setting(256, "positions that attention reaches back, the current one included", ge=1, le=1_000_000)
    dropout: float = setting(0.0, "share of the features dropped after attention and feed-forward", ge=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % (2 * self.heads):
            raise SettingError("width", self.width, f"a multiple of twice the heads ({2 * self.heads})")
