"""Settings of the networks that can be read and told of without torch."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab.config import Settings, setting
from lmlab.errors import SettingError

WIDEST, DEEPEST = 65_536, 256
"""No layer has more features, and no model more layers."""
WEIGHTS, TEMPERATURE = "model.safetensors", "temperature"
"""The file of the weights, and the one of them that logits are divided by, where it is not 1."""


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
