"""What every trained model shares; an architecture adds `features` and `initial_state`.

Shapes: B sequences, T positions, H features, V the vocabulary, N = B*T rows, K selected rows.

The contract of an architecture, which another package may sign too (entry point `lmlab.models`):

- `Settings`, a dataclass derived from `NeuralSettings`; the constructor takes it and the size of the vocabulary, and
  calls this one's with the number of features.
- `initial_state(rows, device)`: what is known before the first token. It may hold learned tensors.
- `features(ids_BT, state)`: what the output layer reads at each position, and the state after the last. Reading a text
  in one call or in pieces gives the same, and rows do not see each other.
- Dropout by `lmlab.models.neural.dropout.Dropout`: its masks repeat when a run is resumed, and its share follows the
  schedule. torch's own dropout, and any other draw from torch's generator, is refused in training.
- `training_defaults`, `ladder` and `segment` where the inherited ones do not suit.

From these follow the logits (`forward`), the `loss`, and `start`, `step` and `logp` of a language model. The output
layer is made here, so that the logits of a large vocabulary never need to exist all at once.
"""

from __future__ import annotations

import abc
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lmlab import memory
from lmlab.errors import ArtifactError, LmlabError, UsageError
from lmlab.integrity import plain
from lmlab.kernels.neural import embedding as rows_of_table
from lmlab.kernels.neural.choice import array_of
from lmlab.models.base import Scorer
from lmlab.models.neural.output import AdaptiveSoftmax, FullSoftmax
from lmlab.models.neural.settings import TEMPERATURE, WEIGHTS
from lmlab.models.neural.settings import NeuralSettings as NeuralSettings
from lmlab.models.scorers import Padded
from lmlab.vocabulary import BOS, EOS, PAD

_SEGMENT_FLOATS = 1 << 24  # parallel scoring holds at most so many log-probabilities (64 MB) at once
_SEGMENT_TOKENS = 1 << 14  # and reads at most so many positions of each row
_BYTES_A_WEIGHT = 16  # in fp32: itself, its gradient, and the two moments of Adam


@dataclass(frozen=True)
class TensorState:
    """A state made of tensors whose first axis is the batch."""

    tensors: tuple[Tensor, ...]

    def select(self, rows_K: Tensor) -> TensorState:
        """The state of these rows, copied."""
        return TensorState(tuple(tensor.index_select(0, rows_K) for tensor in self.tensors))

    def joined(self, other: TensorState) -> TensorState:
        """The state of these rows, then of the other's."""
        return TensorState.cat([self, other])

    def detach(self) -> TensorState:
        """These values, cut from the graph: truncated backpropagation through time stops here."""
        return TensorState(tuple(tensor.detach() for tensor in self.tensors))

    def clear(self, rows_B: Tensor, initial: TensorState) -> TensorState:
        """This state, but these rows (bool) as `initial` has them."""
        pairs = zip(self.tensors, initial.tensors, strict=True)
        return TensorState(
            tuple(torch.where(rows_B.view(-1, *[1] * (old.ndim - 1)), new.to(old.dtype), old) for old, new in pairs)
        )

    @staticmethod
    def cat(states: Sequence[TensorState]) -> TensorState:
        """Several batches as one."""
        return TensorState(tuple(torch.cat(parts) for parts in zip(*(s.tensors for s in states), strict=True)))


class NeuralModel(nn.Module, abc.ABC):
    """Base of the trained models; abstract."""

    family: ClassVar[str] = "neural"
    Settings: ClassVar[Any]
    training_defaults: ClassVar[Mapping[str, Any]] = {"lr": 3e-3}
    """What `train` settings suit this architecture when the user names none; a subclass inherits what it leaves out."""
    ladder: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Settings from small to large among which a run of given minutes is planned; empty: it is never planned."""
    bos = BOS
    eos = EOS

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        named = [vars(base).get("training_defaults", {}) for base in reversed(cls.__mro__)]
        cls.training_defaults = {name: value for defaults in named for name, value in defaults.items()}

    def __init__(
        self, settings: NeuralSettings, vocab_size: int, features: int, tied: nn.Embedding | None = None
    ) -> None:
        """Make the output layer: a matrix of its own, the embedding's (`tied`, of `features` columns), or clusters."""
        super().__init__()
        self.settings = settings
        self.vocab_size = vocab_size
        self.output: FullSoftmax | AdaptiveSoftmax = (
            AdaptiveSoftmax(features, vocab_size)
            if settings.softmax == "adaptive"
            else FullSoftmax(features, vocab_size, tied)
        )
        self.segment = _SEGMENT_TOKENS  # positions read at once; less where memory grows faster with the length

    @abc.abstractmethod
    def initial_state(self, rows: int, device: torch.device) -> TensorState:
        """The state of so many texts of which nothing is read yet."""

    @abc.abstractmethod
    def features(self, ids_BT: Tensor, state: TensorState) -> tuple[Tensor, TensorState]:
        """What the output layer reads at each position, (B, T, H), and the state after the last."""

    def restart(self, state: TensorState, rows_B: Tensor) -> TensorState:
        """The state where these rows (bool) begin a new text: they have the initial state again."""
        return state.clear(rows_B, self.initial_state(len(rows_B), rows_B.device))

    def read(
        self, ids_BT: Tensor, state: TensorState | None = None, fresh_B: Tensor | None = None
    ) -> tuple[Tensor, TensorState]:
        """Features and new state of a text read on from a state (None: the initial one); fresh rows begin anew."""
        if state is None:
            state = self.initial_state(len(ids_BT), ids_BT.device)
        elif fresh_B is not None:
            state = self.restart(state, fresh_B)
        return self.features(ids_BT, state)

    @property
    def temperature(self) -> float:
        """What logits are divided by: 1 in training, calibrated on held-out text afterwards."""
        return self.output.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.output.temperature = value

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def parameter_count(self) -> int:
        """Trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def core_parameters(self) -> int:
        """Trained numbers between embedding and output, which do not grow with the vocabulary."""
        outside = {id(p) for name, p in self.named_parameters() if name.startswith(("embedding", "output"))}
        return sum(parameter.numel() for parameter in self.parameters() if id(parameter) not in outside)

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())

    def as_arrays(self) -> dict[str, np.ndarray] | None:
        """The weights by name, in place; None unless all are float32 on the CPU, the softmax full, training over."""
        named = self.state_dict()
        elsewhere = any(weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in named.values())
        if self.training or elsewhere or not isinstance(self.output, FullSoftmax):
            return None
        return {name: array_of(weight) for name, weight in named.items()}

    def forward(self, ids_BT: Tensor, state: TensorState | None = None) -> tuple[Tensor, TensorState]:
        """logits_BTV of the token after each position (-inf where never predicted), and the new state."""
        features_BTH, state = self.read(ids_BT, state)
        logits_BTV: Tensor = self.output(features_BTH)
        return logits_BTV, state

    def loss(
        self, ids_BT: Tensor, targets_BT: Tensor, state: TensorState | None = None, fresh_B: Tensor | None = None
    ) -> tuple[Tensor, TensorState]:
        """Summed nats of the targets (those equal to `IGNORE` left out), and the new state; `state` as in `read`."""
        features_BTH, state = self.read(ids_BT, state, fresh_B)
        return self.output.nats(features_BTH.flatten(0, 1), targets_BT.flatten()), state

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, TensorState]:
        """logp_BV of the token after `<bos>` and each prompt, and the state there.

        Prompts of one length are read together, so that no padding is ever read.
        """
        if not prompts:
            raise UsageError("start was given no prompts", "an empty prompt is [[]]")
        by_length = defaultdict(list)
        for row, prompt in enumerate(prompts):
            by_length[len(prompt)].append(row)
        logp, states, order = [], [], []
        for rows in by_length.values():
            ids_BT = torch.tensor([[self.bos, *prompts[row]] for row in rows], device=self.device)
            features_BTH, state = self._in_segments(ids_BT)
            logp.append(self._last_logp(features_BTH))
            states.append(state)
            order.extend(rows)
        back = torch.tensor(order, device=self.device).argsort()
        return torch.cat(logp)[back], TensorState.cat(states).select(back)

    def _in_segments(self, ids_BT: Tensor) -> tuple[Tensor, TensorState]:
        """A text from its start, in segments to bound memory: the features of the last one, and the state after it."""
        first_BT, *rest = ids_BT.split(self.segment, dim=1)
        features_BTH, state = self.read(first_BT)
        for segment_BT in rest:
            features_BTH, state = self.features(segment_BT, state)
        return features_BTH, state

    @torch.inference_mode()
    def step(self, state: TensorState, tokens_B: Tensor) -> tuple[Tensor, TensorState]:
        """logp_BV of the token after these, and the state there."""
        features_BTH, state = self.features(tokens_B[:, None], state)
        return self._last_logp(features_BTH), state

    @torch.inference_mode()
    def read_on(self, state: TensorState | None, ids_BT: Tensor) -> tuple[Tensor, Tensor, TensorState]:
        """What the output layer reads after each token, (B, T, H), and logp_BV and the state after the last."""
        features_BTH, state = self.read(ids_BT, state)
        return features_BTH, self._last_logp(features_BTH), state

    def _last_logp(self, features_BTH: Tensor) -> Tensor:
        logits_BV: Tensor = self.output(features_BTH[:, -1])
        return logits_BV.float().log_softmax(-1)

    def scorer(self) -> Scorer:
        """Scores padded batches."""
        return Padded(self.logp, self.rows)

    @torch.inference_mode()
    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and what precedes it; 0 where the mask is False (padding on the right).

        Texts of any length: read in segments, the state carried, so that memory stays bounded.

        Raises:
            LmlabError: the model gives NaN or infinite numbers.
        """
        parts, at = [torch.zeros(len(ids_BT), 0, device=ids_BT.device)], 0
        for logits_BSV, norm_BS1 in self._segments(ids_BT):
            chosen_BS1 = logits_BSV.gather(-1, ids_BT[:, at : at + logits_BSV.shape[1], None])
            parts.append((chosen_BS1.float() - norm_BS1)[..., 0])
            at += logits_BSV.shape[1]
        return torch.cat(parts, 1).masked_fill(~mask_BT, 0.0)

    @torch.inference_mode()
    def rows(self, ids_BT: Tensor) -> Iterator[Tensor]:
        """The log-probabilities of all tokens where `logp` gives that of one: rows_BSV, segment by segment.

        Raises:
            LmlabError: the model gives NaN or infinite numbers.
        """
        for logits_BSV, norm_BS1 in self._segments(ids_BT):
            yield logits_BSV.float().sub_(norm_BS1)

    def _segments(self, ids_BT: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """logits_BSV of segments of a text, and the logarithms of their sums."""
        rows, length = ids_BT.shape
        inputs_BT = F.pad(ids_BT[:, :-1], (1, 0), value=self.bos)
        segment = min(self.segment, max(1, _SEGMENT_FLOATS // (rows * self.vocab_size)))
        state = None
        for at in range(0, length, segment):
            logits_BSV, state = self.forward(inputs_BT[:, at : at + segment], state)
            norm_BS1 = logits_BSV.float().logsumexp(-1, keepdim=True)
            if not norm_BS1.isfinite().all():
                remedy = "its weights are damaged, or its training diverged; train it again"
                raise LmlabError("the model gives NaN or infinite log-probabilities", remedy)
            yield logits_BSV, norm_BS1

    def save(self, folder: Path) -> None:
        """Write the weights, as safetensors, and the temperature where it is not 1."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        if self.temperature != 1:
            tensors[TEMPERATURE] = torch.tensor(self.temperature, dtype=torch.float64)
        save_file(tensors, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path, settings: Any, vocab_size: int) -> Self:
        """Build from the weights that `save` wrote.

        Raises:
            ArtifactError: the file is missing, damaged, or of another shape.
        """
        weights = plain(folder / WEIGHTS)
        try:
            return cls.of(load_file(weights), settings, vocab_size, weights)  # mapped: nothing is read yet
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(f"{weights} cannot be read ({reason})", "train it again") from error

    @classmethod
    def of(cls, tensors: dict[str, Tensor], settings: Any, vocab_size: int, path: Path) -> Self:
        """Build from copies of the weights that a file holds.

        Raises:
            ArtifactError: they are of another shape.
        """
        temperature = tensors.pop(TEMPERATURE, torch.ones(())).item()
        written, wanted = _shapes(tensors), _shapes(cls.blank(settings, vocab_size))
        if written != wanted:
            raise _unlike(path, written, wanted)
        if not 0 < temperature < torch.inf:
            raise ArtifactError(f"{path} has temperature {temperature}, not above 0", "train it again")
        with _Unfilled():
            model = cls(settings, vocab_size)  # type: ignore[call-arg]  # every architecture takes these two
        model.load_state_dict(tensors)  # a copy: sums over mapped weights, which lie otherwise, round otherwise
        model.temperature = temperature
        return model.eval()

    @classmethod
    def blank(cls, settings: Any, vocab_size: int) -> dict[str, Tensor]:
        """All weights by name, on the meta device: their types and shapes, without memory."""
        with torch.device("meta"), _Unfilled():
            return cls(settings, vocab_size).state_dict()  # type: ignore[call-arg]

    @classmethod
    def check_room(cls, settings: Any, vocab_size: int) -> None:
        """Compare what training takes at least with the memory of this machine, before any weight is made.

        Raises:
            UsageError: the machine has less.
        """
        weights, there = sum(weight.numel() for weight in cls.blank(settings, vocab_size).values()), memory.physical()
        if there is not None and _BYTES_A_WEIGHT * weights > there:
            needed, has = (f"{size / 2**30:,.0f} GiB" for size in (_BYTES_A_WEIGHT * weights, there))
            problem = f"training {weights:,} weights takes {needed} of memory at least, but this machine has {has}"
            raise UsageError(problem, "make the model smaller, with --set model.NAME=VALUE")

    def check(self) -> None:
        """Look for weights that are NaN or infinite.

        Raises:
            ArtifactError: there are some.
        """
        check_finite_weights(self, "model")


def check_finite_weights(network: nn.Module, what: str) -> None:
    """Look for weights that are NaN or infinite.

    Raises:
        ArtifactError: there are some.
    """
    for name, weight in network.state_dict().items():
        if not torch.stack(weight.aminmax()).isfinite().all():
            raise ArtifactError(f"weights of the {what} are NaN or infinite ({name})", "train it again")


_RANDOM = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "orthogonal_"}


class _Unfilled(TorchFunctionMode):
    """Draws no random weights where others take their places: half a second for 100 MB.

    On the meta device torch would load its compiler for that.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        if func is torch.linalg.qr:  # which makes drawn weights orthogonal
            return args[0], args[0]
        return func(*args, **(kwargs or {}))


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{str(weight.dtype).removeprefix('torch.')} {tuple(weight.shape)}" for name, weight in weights.items()
    }


def _unlike(path: Path, written: Mapping[str, str], wanted: Mapping[str, str]) -> ArtifactError:
    name = next(name for name in sorted({*written, *wanted}) if written.get(name) != wanted.get(name))
    told = f"{name} is {written.get(name, 'nothing')}, wanted is {wanted.get(name, 'nothing')}"
    return ArtifactError(f"{path} is not of this configuration ({told})", "train it again")


def embedding(vocab_size: int, width: int, *, tied: bool = False) -> nn.Embedding:
    """An embedding whose padding is zero, and stays so; small where it is the output layer too (Press and Wolf 2017).

    An input of unit variance drives the gates from the first step: measured better than a smaller one (lab log).
    """
    table = _Embedding(vocab_size, width, padding_idx=PAD)
    nn.init.normal_(table.weight, std=width**-0.5 if tied else 1.0)
    with torch.no_grad():
        table.weight[PAD] = 0
    return table


class _Embedding(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return rows_of_table(self.weight, ids)
