"""Stored networks that read and write in NumPy: to import torch takes longer than a short text does.

A kind of network is described here where it can be told of, and its weights read, without torch. `whole` makes the
module of it, which does all else.

Shapes: B texts, N ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lmlab import registry
from lmlab.errors import ArtifactError
from lmlab.integrity import plain
from lmlab.kernels.engine import worthwhile
from lmlab.kernels.writing.layout import Weights
from lmlab.kernels.writing.recurrent import Network, RecurrentBeam, RecurrentWriter
from lmlab.models.base import BatchWriter, BeamWriter, Ranked, Reader, Scorer
from lmlab.models.neural.recurrent_reader import RecurrentReader
from lmlab.models.neural.settings import TEMPERATURE, WEIGHTS, RecurrentSettings
from lmlab.models.scorers import Stepwise
from lmlab.vocabulary import BOS, EOS

if TYPE_CHECKING:
    from torch import Tensor

    from lmlab.models.neural.base import NeuralModel

_LOADED = 2_000  # tokens from which loading the loops pays
_STEPPED = 1 << 33  # bytes read, by tokens that are scored one by one, from which importing torch pays
_CALLS = 1 << 19  # bytes that could be read while the calls of a step are made


class StoredRecurrent:
    """A plain RNN, as a directory keeps it; the other cells differ in name, gates and rate of learning."""

    Settings: ClassVar = RecurrentSettings
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3, "batch_size": 16, "length": 64}
    family: ClassVar = "neural"
    kind: ClassVar = "rnn"
    gates: ClassVar = 1
    bos, eos = BOS, EOS

    def __init__(
        self, settings: RecurrentSettings, named: dict[str, np.ndarray], temperature: float, path: Path
    ) -> None:
        self.settings, self.vocab_size = settings, len(named["output.bias"])
        self._named, self._path, self._temperature = named, path, temperature
        self._weights = Weights.of(named, temperature)
        self._network: NeuralModel | None = None

    @classmethod
    def load(cls, folder: Path, settings: RecurrentSettings, vocab_size: int) -> StoredRecurrent | NeuralModel:
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

    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy: many texts too are written before torch is there."""
        return RecurrentReader(self._weights)

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops."""
        texts = [[self.bos, *prompt] for prompt in prompts]
        return RecurrentWriter(self._packed, texts) if worthwhile(tokens, _LOADED) else None

    def beam_writer(self, prompt: Sequence[int], width: int, tokens: int) -> BeamWriter | None:
        """Grows a beam in compiled loops."""
        return RecurrentBeam(self._packed, [self.bos, *prompt], width) if worthwhile(tokens, _LOADED) else None

    @cached_property
    def _packed(self) -> Network:
        return Network(self._weights)

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


class StoredLSTM(StoredRecurrent):
    """An LSTM, as a directory keeps it; a GRU bears less of a rate (lab log)."""

    kind, gates = "lstm", 4
    training_defaults: ClassVar = {**StoredRecurrent.training_defaults, "lr": 6e-3}


class StoredGRU(StoredRecurrent):
    """A GRU, as a directory keeps it."""

    kind, gates = "gru", 3


@dataclass(frozen=True)
class _Scorer:
    stored: StoredRecurrent
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
