"""What every trained model shares: an architecture writes `features`, the rest is derived here.

Shapes: B sequences, T positions, H features, V the vocabulary, N = B*T rows, K selected rows.

An architecture is `features(ids_BT, state) -> (features_BTH, state)`, where `state=None` means "nothing read yet" and
reading a text in one call or in pieces gives the same features. From it follow `forward` (logits), `loss` (training),
`start` and `step` (the waist) and `logp` (parallel scoring). The output layer is made here too, so that the logits of a
large vocabulary never need to exist all at once (`output.py`, `loss.py`).
"""

from __future__ import annotations

import abc
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, UsageError
from lmlab.models.base import Scorer
from lmlab.models.neural.output import AdaptiveSoftmax, FullSoftmax, Sharp
from lmlab.models.scorers import Padded
from lmlab.vocabulary import BOS, EOS, PAD

_SEGMENT_FLOATS = 1 << 24  # parallel scoring holds at most so many log-probabilities (64 MB) at once
_SEGMENT_TOKENS = 1 << 14  # and reads at most so many positions of each row
_WEIGHTS, _SHARPNESS = "model.safetensors", "sharpness"


@dataclass(frozen=True)
class TensorState:
    """A state made of tensors whose first axis is the batch."""

    tensors: tuple[Tensor, ...]

    def select(self, rows_K: Tensor) -> TensorState:
        """The state of these rows, copied."""
        return TensorState(tuple(tensor.index_select(0, rows_K) for tensor in self.tensors))

    def detach(self) -> TensorState:
        """The same values, cut from the graph: truncated backpropagation through time stops here."""
        return TensorState(tuple(tensor.detach() for tensor in self.tensors))

    def clear(self, rows_B: Tensor) -> TensorState:
        """These rows (bool) as if nothing had been read; in every architecture that is zeros."""
        keep_B = ~rows_B
        return TensorState(
            tuple(tensor * keep_B.view(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype) for tensor in self.tensors)
        )

    @staticmethod
    def cat(states: Sequence[TensorState]) -> TensorState:
        """Several batches as one."""
        return TensorState(tuple(torch.cat(parts) for parts in zip(*(s.tensors for s in states), strict=True)))


@dataclass(frozen=True)
class NeuralSettings(config.Settings):
    """What all trained models have in common."""

    softmax: str = setting(
        "full",
        "output layer; adaptive predicts rare tokens in two steps: several times as fast where the vocabulary is tens "
        "of thousands of words, and another model",
        choices=("full", "adaptive"),
    )


class NeuralModel(nn.Module, abc.ABC):
    """Base of the trained models; abstract."""

    family: ClassVar[str] = "neural"
    Settings: ClassVar[Any]
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    """What `train` settings suit this architecture when the user names none."""
    bos = BOS
    eos = EOS

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
        self.segment = _SEGMENT_TOKENS  # an architecture whose memory grows faster with the length sets a smaller one

    @abc.abstractmethod
    def features(self, ids_BT: Tensor, state: TensorState | None) -> tuple[Tensor, TensorState]:
        """What the output layer reads at each position, and what is remembered after the last."""

    @property
    def sharpness(self) -> float:
        """What logits are multiplied by: 1 in training, fitted afterwards."""
        return self.output.sharpness

    @sharpness.setter
    def sharpness(self, value: float) -> None:
        for layer in self.output.modules():
            if isinstance(layer, Sharp):
                layer.sharpness = value

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

    def forward(self, ids_BT: Tensor, state: TensorState | None = None) -> tuple[Tensor, TensorState]:
        """logits_BTV of the token after each position (-inf where never predicted), and the new state."""
        features_BTH, state = self.features(ids_BT, state)
        logits_BTV: Tensor = self.output(features_BTH)
        return logits_BTV, state

    def loss(self, ids_BT: Tensor, targets_BT: Tensor, state: TensorState | None) -> tuple[Tensor, TensorState]:
        """Summed nats of the targets (those equal to `IGNORE` not counted), and the new state."""
        features_BTH, state = self.features(ids_BT, state)
        return self.output.nats(features_BTH.flatten(0, 1), targets_BT.flatten()), state

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, TensorState]:
        """See `LanguageModel.start`. Prompts of one length are read together, so that no padding is ever read."""
        if not prompts:
            raise UsageError("start was given no prompts", "an empty prompt is [[]]")
        by_length = defaultdict(list)
        for row, prompt in enumerate(prompts):
            by_length[len(prompt)].append(row)
        logp, states, order = [], [], []
        for rows in by_length.values():
            ids_BT = torch.tensor([[self.bos, *prompts[row]] for row in rows], device=self.device)
            features_BTH, state = self._read(ids_BT)
            logp.append(self._last_logp(features_BTH))
            states.append(state)
            order.extend(rows)
        back = torch.tensor(order, device=self.device).argsort()
        return torch.cat(logp)[back], TensorState.cat(states).select(back)

    def _read(self, ids_BT: Tensor) -> tuple[Tensor, TensorState]:
        """A text of any length from its start, in segments: the features of the last one, and the state after it."""
        first_BT, *rest = ids_BT.split(self.segment, dim=1)
        features_BTH, state = self.features(first_BT, None)
        for segment_BT in rest:
            features_BTH, state = self.features(segment_BT, state)
        return features_BTH, state

    @torch.inference_mode()
    def step(self, state: TensorState, tokens_B: Tensor) -> tuple[Tensor, TensorState]:
        """See `LanguageModel.step`."""
        features_BTH, state = self.features(tokens_B[:, None], state)
        return self._last_logp(features_BTH), state

    def _last_logp(self, features_BTH: Tensor) -> Tensor:
        logits_BV: Tensor = self.output(features_BTH[:, -1])
        return logits_BV.float().log_softmax(-1)

    def scorer(self) -> Scorer:
        """Scores padded batches."""
        return Padded(self.logp)

    @torch.inference_mode()
    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False.

        Texts of any length are read in segments, the state carried, so that memory is bounded.
        """
        rows, length = ids_BT.shape
        inputs_BT = F.pad(ids_BT[:, :-1], (1, 0), value=self.bos)
        segment = min(self.segment, max(1, _SEGMENT_FLOATS // (rows * self.vocab_size)))
        state, parts = None, []
        for at in range(0, length, segment):
            logits_BTV, state = self.forward(inputs_BT[:, at : at + segment], state)
            chosen_BT1 = logits_BTV.gather(-1, ids_BT[:, at : at + segment, None])
            parts.append(chosen_BT1[..., 0].float() - logits_BTV.float().logsumexp(-1))
        return torch.cat(parts, 1).masked_fill(~mask_BT, 0.0) if parts else torch.zeros(ids_BT.shape)

    def save(self, folder: Path) -> None:
        """Write the weights, as safetensors, and the sharpness where it is not 1."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        if self.sharpness != 1:
            tensors[_SHARPNESS] = torch.tensor(self.sharpness, dtype=torch.float64)
        save_file(tensors, folder / _WEIGHTS)

    @classmethod
    def load(cls, folder: Path, settings: Any, vocab_size: int) -> Self:
        """Build from the weights that `save` wrote.

        Raises:
            ArtifactError: the file is missing, damaged, or of another shape.
        """
        model = cls(settings, vocab_size)  # type: ignore[call-arg]  # every architecture takes these two
        try:
            tensors = load_file(folder / _WEIGHTS)
            model.sharpness = float(tensors.pop(_SHARPNESS, torch.ones(())).item())
            model.load_state_dict(tensors)
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ArtifactError(f"{folder / _WEIGHTS} cannot be read ({reason})", "train it again") from error
        if not 0 < model.sharpness < torch.inf:
            raise ArtifactError(f"{folder / _WEIGHTS} has sharpness {model.sharpness}, not above 0", "train it again")
        return model.eval()


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
    """Torch's, but with a gradient that takes a sixth of the time on a CPU where the vocabulary is small."""

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table."""
        if ids.is_cuda or not torch.is_grad_enabled():
            return super().forward(ids)
        rows: Tensor = _Rows.apply(self.weight, ids)
        return rows


class _Rows(torch.autograd.Function):
    """Looks rows up; that of the padding learns nothing."""

    @staticmethod
    def forward(ctx: Any, table_VE: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.size = len(table_VE)
        return F.embedding(ids, table_VE)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        grad_VE = grad.new_zeros(ctx.size, grad.shape[-1]).index_add_(0, ids.flatten(), grad.flatten(0, -2))
        grad_VE[PAD] = 0
        return grad_VE, None
