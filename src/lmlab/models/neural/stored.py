"""Stored networks that read and write in NumPy: to import torch takes longer than a short text does.

A kind of network is described here where it can be told of, and its weights read, without torch. `whole` makes the
module of it, which does all else.

Shapes: B texts, N ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lmlab import registry
from lmlab.errors import ArtifactError
from lmlab.integrity import plain
from lmlab.kernels.engine import worthwhile
from lmlab.kernels.writing.layout import BlockWeights, ConvolutionWeights, Weights
from lmlab.kernels.writing.network import ConvolutionWriter, NetworkWriter, Packing, TransformerWriter
from lmlab.kernels.writing.recurrent import RecurrentBeam, RecurrentWriter
from lmlab.models.base import BatchWriter, BeamWriter, Ranked, Reader, Scorer
from lmlab.models.neural.convolution_reader import ConvolutionReader
from lmlab.models.neural.recurrent_reader import RecurrentReader
from lmlab.models.neural.settings import (
    TEMPERATURE,
    WEIGHTS,
    ConvolutionSettings,
    RecurrentSettings,
    TransformerSettings,
)
from lmlab.models.neural.transformer_reader import TransformerReader
from lmlab.models.scorers import Stepwise
from lmlab.vocabulary import BOS, EOS

if TYPE_CHECKING:
    from torch import Tensor

    from lmlab.models.neural.base import NeuralModel

_LOADED, _LOADED_SOON = 2_000, 500  # tokens from which loading the loops pays; those of a Transformer save more
SEVERAL = 2  # texts from which a Transformer's loops, for the first of which NumPy is quick enough, pay
_STEPPED = 1 << 33  # bytes read, by tokens that are scored one by one, from which importing torch pays
_CALLS = 1 << 19  # bytes that could be read while the calls of a step are made


class Stored(ABC):
    """A network, as a directory keeps it; abstract in its kind."""

    Settings: ClassVar[Any]
    training_defaults: ClassVar[Mapping[str, Any]]
    family: ClassVar = "neural"
    kind: ClassVar[str]
    bos, eos = BOS, EOS
    _weights: Any

    def __init__(self, settings: Any, named: dict[str, np.ndarray], temperature: float, path: Path) -> None:
        self.settings, self.vocab_size = settings, len(named["output.bias"])
        self._named, self._path, self._temperature = named, path, temperature
        self._network: NeuralModel | None = None
        self._packing = Packing()

    @classmethod
    @abstractmethod
    def shapes(cls, settings: Any, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Of the weights, by torch's names; those of the full softmax."""

    @abstractmethod
    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy: many texts too are written before torch is there."""

    @classmethod
    def load(cls, folder: Path, settings: Any, vocab_size: int) -> Self | NeuralModel:
        """Read the weights; the module, which tells what is wrong, where they are not as NumPy can step them."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = plain(folder / WEIGHTS)
        try:
            named = load_file(path)
        except (OSError, SafetensorError, TypeError, KeyError):
            named = {}
        temperature = float(named.pop(TEMPERATURE, 1.0))
        written = {name: (array.dtype.name, array.shape) for name, array in named.items()}
        wanted = {name: ("float32", shape) for name, shape in cls.shapes(settings, vocab_size).items()}
        if written != wanted or not 0 < temperature < np.inf:
            module: NeuralModel = cls._module().load(folder, settings, vocab_size)
            return module
        return cls(settings, named, temperature, path)

    @classmethod
    def _module(cls) -> Any:
        return registry.resolve("model", cls.kind)

    def whole(self) -> NeuralModel:
        """The module of these weights."""
        if self._network is None:
            import torch

            tensors = {name: torch.from_numpy(array) for name, array in self._named.items()}
            tensors[TEMPERATURE] = torch.tensor(self._temperature, dtype=torch.float64)
            self._network = self._module().of(tensors, self.settings, self.vocab_size, self._path)
        return self._network

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return sum(array.nbytes for array in self._named.values())

    def check(self) -> None:
        """Look for weights that are NaN or infinite.

        Raises:
            ArtifactError: there are some.
        """
        for name, array in self._named.items():
            if not np.isfinite(array).all():
                raise ArtifactError(f"weights of the model are NaN or infinite ({name})", "train it again")

    def _written(self, kind: type[NetworkWriter], prompts: Sequence[Sequence[int]]) -> BatchWriter:
        return kind(self._packing.of(self._weights), [[self.bos, *prompt] for prompt in prompts])

    def scorer(self) -> Scorer:
        """Step by step for short texts, by the module for others."""
        return _Scorer(self)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """Read `<bos>` and each prompt, by the module."""
        return self.whole().start(prompts)

    def step(self, state: Any, tokens_B: Tensor) -> tuple[Tensor, Any]:
        """Read one token a context, by the module."""
        return self.whole().step(state, tokens_B)

    def save(self, folder: Path) -> None:
        """Write the weights, by the module."""
        self.whole().save(folder)


class StoredRecurrent(Stored):
    """A plain RNN, as a directory keeps it; the other cells differ in name, gates and rate of learning."""

    Settings: ClassVar = RecurrentSettings
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3, "batch_size": 16, "length": 64}
    kind, gates = "rnn", 1

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._weights = Weights.of(self._named, self._temperature)

    @classmethod
    def shapes(cls, settings: RecurrentSettings, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Of the weights, by torch's names; those of the full softmax."""
        hidden, gates = settings.hidden, cls.gates * settings.hidden
        width = vocab_size if settings.input == "one-hot" else settings.embedding
        found: dict[str, tuple[int, ...]] = {"output.bias": (vocab_size,)}
        for layer in range(settings.layers):
            found |= {f"recurrent.bias_{side}_l{layer}": (gates,) for side in ("ih", "hh")}
            found[f"recurrent.weight_hh_l{layer}"] = gates, hidden
            found[f"recurrent.weight_ih_l{layer}"] = gates, hidden if layer else width
        if settings.input != "one-hot":
            found["embedding.weight"] = vocab_size, width
        if settings.input == "tied":
            return found | {"narrow.weight": (width, hidden), "narrow.bias": (width,)}
        return found | {"output.weight": (vocab_size, hidden)}

    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy: many texts too are written before torch is there."""
        return RecurrentReader(self._weights)

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops."""
        return self._written(RecurrentWriter, prompts) if worthwhile(tokens, _LOADED) else None

    def beam_writer(self, prompt: Sequence[int], width: int, tokens: int) -> BeamWriter | None:
        """Grows a beam in compiled loops."""
        pays = worthwhile(tokens, _LOADED)
        return RecurrentBeam(self._packing.of(self._weights), [self.bos, *prompt], width) if pays else None


class StoredLSTM(StoredRecurrent):
    """An LSTM, as a directory keeps it; a GRU bears less of a rate (lab log)."""

    kind, gates = "lstm", 4
    training_defaults: ClassVar = {**StoredRecurrent.training_defaults, "lr": 6e-3}


class StoredGRU(StoredRecurrent):
    """A GRU, as a directory keeps it."""

    kind, gates = "gru", 3


class StoredCNN(Stored):
    """A stack of causal convolutions, as a directory keeps it."""

    Settings: ClassVar = ConvolutionSettings
    training_defaults: ClassVar = {"lr": 2e-3, "batch_size": 16, "length": 128}
    kind = "cnn"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._weights = ConvolutionWeights.of(self._named, self.settings, self._temperature)

    @classmethod
    def shapes(cls, settings: ConvolutionSettings, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Of the weights, by torch's names; those of the full softmax."""
        channels, found = settings.channels, _ends(vocab_size, settings.embedding, settings.channels)
        for layer in range(settings.layers):
            before, after = channels if layer else settings.embedding, channels * (1 + settings.gated)
            found[f"convolutions.{layer}.weight"] = after, before, 1, settings.kernel
            found[f"convolutions.{layer}.bias"] = (after,)
        return found

    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy, unless a text's columns take very much memory."""
        return ConvolutionReader(self._weights) if self._weights.small else None

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops, unless their columns take very much memory."""
        pays = worthwhile(tokens, _LOADED) and self._weights.small
        return self._written(ConvolutionWriter, prompts) if pays else None


class StoredTransformer(Stored):
    """A Transformer, as a directory keeps it."""

    Settings: ClassVar = TransformerSettings
    training_defaults: ClassVar = {"lr": 3e-3, "batch_size": 8, "length": 256, "carry": False}
    kind = "transformer"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._weights = BlockWeights.of(self._named, self.settings, self._temperature)

    @classmethod
    def shapes(cls, settings: TransformerSettings, vocab_size: int) -> dict[str, tuple[int, ...]]:
        """Of the weights, by torch's names; those of the full softmax."""
        width, found = settings.width, _ends(vocab_size, settings.width, settings.width)
        found["norm.weight"] = (width,)
        for layer in range(settings.layers):
            block = f"blocks.{layer}."
            found |= {f"{block}norm_{part}.weight": (width,) for part in ("attention", "feed")}
            found |= {f"{block}project.weight": (3 * width, width), f"{block}attended.weight": (width, width)}
            found |= {f"{block}widen.weight": (4 * width, width), f"{block}narrow.weight": (width, 4 * width)}
        return found

    def reader(self, rows: int) -> Reader | None:
        """Steps without torch, unless the window is too wide for a copy a token."""
        network = self._packing.of(self._weights) if worthwhile(rows, SEVERAL) else None
        return TransformerReader(self._weights, None, network) if self._weights.narrow_window else None

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops, unless their keys and values take very much memory."""
        pays = worthwhile(tokens, _LOADED_SOON) and self._weights.small
        return self._written(TransformerWriter, prompts) if pays else None


def _ends(vocab_size: int, entering: int, leaving: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the embedding and the full softmax."""
    shapes = (vocab_size, entering), (vocab_size, leaving), (vocab_size,)
    return dict(zip(("embedding.weight", "output.weight", "output.bias"), shapes, strict=True))


@dataclass(frozen=True)
class _Scorer:
    stored: Stored
    normalised: bool = True
    adapts: bool = False

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        return self._chosen(ids_N).token_logp(ids_N)

    def token_ranks(self, ids_N: np.ndarray) -> Iterator[Ranked] | None:
        return self._chosen(ids_N).token_ranks(ids_N)

    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray] | None:
        return self._chosen(ids_N).token_rows(ids_N)

    def _chosen(self, ids_N: np.ndarray) -> Scorer:
        short = len(ids_N) * (self.stored.nbytes + _CALLS) < _STEPPED
        return Stepwise(self.stored) if short else self.stored.whole().scorer()
