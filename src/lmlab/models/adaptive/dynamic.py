"""Dynamic evaluation: a trained model that goes on learning from the text it reads (Krause et al. 2018, 2019).

A text is predicted segment by segment. When all tokens of a segment are known, the weights take one step along the
gradient of its loss, and are drawn back to the trained ones; the next segment is predicted with the new weights:

    theta <- theta - lr * g / (rms + epsilon) + decay * rms / mean(rms) * (trained - theta)

where `rms`, the root of the mean squared gradient of each weight, was measured on held-out text (`gradient_rms`). Plain
SGD has all rms equal to 1 and no epsilon.
Every token is predicted before it is learned from. The trained model itself never changes.

    model = Dynamic(lstm, Dynamic.Settings(lr=5e-4), rms_P)

Shapes: B texts, T positions, V the vocabulary, N ids of a document, P all weights laid end to end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lmlab import config
from lmlab.config import setting
from lmlab.errors import UsageError
from lmlab.models.base import Scorer
from lmlab.models.neural.base import NeuralModel, TensorState
from lmlab.models.scorers import Stream

_CHUNK = 256  # positions read at once where nothing is learned
_FLOOR = 1.0  # epsilon, in means of the rms: keeps steps small for weights that hardly ever get a gradient

R = TypeVar("R")


@dataclass(frozen=True)
class Rows(Generic[R]):
    """The state of each text of a batch; equal ones may be one object."""

    rows: tuple[R, ...]

    def select(self, rows_K: Tensor) -> Rows[R]:
        """The states of these rows, by reference."""
        return Rows(tuple(self.rows[row] for row in rows_K.tolist()))

    def joined(self, other: Rows[R]) -> Rows[R]:
        """The states of these rows, then of the other's."""
        return Rows(self.rows + other.rows)


@dataclass(frozen=True)
class Reading:
    """Where one text stands: its weights, the network's state, and the segment read but not yet learned from."""

    weights_P: Tensor
    now: TensorState | None = None
    before: TensorState | None = None  # the state before the segment
    ids: tuple[int, ...] = ()  # of the segment


class _Reader(nn.Module):
    """A model's logits and state in one call."""

    def __init__(self, model: NeuralModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, state: TensorState | None) -> tuple[Tensor, TensorState]:
        features_BTH, state = self.model.read(ids_BT, state)
        return self.model.output(features_BTH), state


class Dynamic:
    """A neural model that learns from what it reads.

    Args:
        model: the trained model.
        settings: the update rule; a learning rate of 0 reads without learning.
        rms_P: for the rule "rms", as `gradient_rms` measures it.

    Raises:
        UsageError: the rule needs `rms_P`.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """The update rule."""

        rule: str = setting("rms", "steps scaled by each weight's rms gradient, or plain", choices=("rms", "sgd"))
        lr: float = setting(1e-3, "learning rate; 0 learns nothing", ge=0)
        decay: float = setting(2e-3, "share by which a step draws the weights back to the trained ones", ge=0, le=1)
        segment: int = setting(64, "tokens whose gradient makes one step", ge=1)
        clip: float | None = setting(None, "largest norm of a segment's gradient (mean nats a token)", gt=0)

    family: ClassVar[str] = "composed"

    def __init__(self, model: NeuralModel, settings: Dynamic.Settings, rms_P: Tensor | None = None) -> None:
        self.settings = settings
        self.vocab_size, self.bos, self.eos, self.nbytes = model.vocab_size, model.bos, model.eos, model.nbytes
        self._reader = _Reader(model.eval())
        self._shapes = {name: weight.shape for name, weight in self._reader.named_parameters()}
        self._trained_P = torch.cat([weight.detach().flatten() for weight in self._reader.parameters()])
        self._learns = settings.lr > 0
        if self._learns and settings.rule == "rms" and rms_P is None:
            raise UsageError("without held-out text nothing tells the rms of the gradients", "take rule=sgd")
        if rms_P is None or settings.rule == "sgd":
            rms_P, epsilon = torch.ones_like(self._trained_P), 0.0
        else:
            epsilon = _FLOOR * float(rms_P.mean())
        self._rate_P = settings.lr / (rms_P + epsilon)
        self._decay_P = (settings.decay * rms_P / rms_P.mean()).clamp(max=1)

    def fresh(self) -> Reading:
        """A text not yet begun, read with the trained weights."""
        return Reading(self._trained_P)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Rows[Reading]]:
        """logp_BV of what follows `<bos>` and each prompt, learned from as it is read, and where the texts stand."""
        if not prompts:
            raise UsageError("start was given no prompts", "an empty prompt is [[]]")
        last = [[*self.read([self.bos, *prompt], self.fresh())][-1] for prompt in prompts]
        logits_BV = torch.stack([logits_TV[-1] for logits_TV, _ in last])
        return logits_BV.float().log_softmax(-1), Rows(tuple(reading for _, reading in last))

    def step(self, state: Rows[Reading], tokens_B: Tensor) -> tuple[Tensor, Rows[Reading]]:
        """logp_BV one token further, and where the texts then stand."""
        logits_BV, readings = self._advance(state.rows, tokens_B.tolist())
        return logits_BV.float().log_softmax(-1), Rows(readings)

    def scorer(self) -> Scorer:
        """Scores documents in order, the weights carried on."""
        return Stream(self.logp_stream, self.rows_stream)

    def logp_stream(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The log-probabilities of all tokens of documents (ids_N, `<bos>` first) but `<bos>`, piece by piece."""
        for logits_TV, ids_T in self._observe(documents):
            yield -F.cross_entropy(logits_TV.float(), ids_T, reduction="none").numpy()

    def rows_stream(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The log-probabilities of all tokens where `logp_stream` gives that of one: rows_TV, piece by piece."""
        for logits_TV, _ in self._observe(documents):
            yield logits_TV.float().log_softmax(-1).numpy()

    def _observe(self, documents: Iterable[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Read documents in order, piece by piece: logits_TV, and the ids_T that follow."""
        weights_P = self._trained_P
        for ids_N in documents:
            ids, at, reading = ids_N.tolist(), 1, Reading(weights_P)
            for logits_TV, after in self.read(ids[:-1], reading, then=ids[-1]):
                ids_T = torch.tensor(ids[at : at + len(logits_TV)])
                yield logits_TV, ids_T
                at, weights_P = at + len(ids_T), after.weights_P

    @torch.inference_mode(False)
    @torch.no_grad()
    def read(self, ids: Sequence[int], reading: Reading, then: int | None = None) -> Iterator[tuple[Tensor, Reading]]:
        """Read one text on, in pieces, learning from each segment once its last token is known.

        Args:
            ids: what is read.
            reading: where the text stands.
            then: the token after the last, if the text ends with it: then the rest of a segment is learned from too.

        Yields:
            logits_TV of what follows each id, and where the text then stands.
        """
        known, at = [*ids] if then is None else [*ids, then], 0
        while at < len(ids):
            reading = self._ready(reading, known[at])
            size = min(self.settings.segment - len(reading.ids) if self._learns else _CHUNK, len(ids) - at)
            piece, targets = known[at : at + size], known[at + 1 : at + size + 1]
            if self._learns and not reading.ids and len(targets) == size:
                logits_BTV, reading = self._learned(reading, piece, targets)
            else:
                logits_BTV, now = self._read(reading.weights_P, torch.tensor([piece]), reading.now)
                reading = self._read_on(reading, piece, now)
            yield logits_BTV[0], reading
            at += size

    @torch.inference_mode(False)
    @torch.no_grad()
    def _advance(self, readings: Sequence[Reading], tokens: Sequence[int]) -> tuple[Tensor, tuple[Reading, ...]]:
        """One token further in each text: logits_BV, and where they stand.

        Equal rows are read once and stay one; rows of the same weights are read together.
        """
        pairs = {(id(reading), token): (reading, token) for reading, token in zip(readings, tokens, strict=True)}
        groups = defaultdict(list)
        for key, (reading, token) in pairs.items():
            ready = self._ready(reading, token)
            groups[id(ready.weights_P)].append((key, ready, token))
        answers = {}
        for group in groups.values():
            ids_B1 = torch.tensor([[token] for _, _, token in group])
            before = TensorState.cat([ready.now for _, ready, _ in group if ready.now is not None])
            logits_B1V, now = self._read(group[0][1].weights_P, ids_B1, before)
            for row, (key, ready, token) in enumerate(group):
                own = TensorState(tuple(tensor[row : row + 1] for tensor in now.tensors))
                answers[key] = logits_B1V[row, 0], self._read_on(ready, [token], own)
        rows = [answers[id(reading), token] for reading, token in zip(readings, tokens, strict=True)]
        logits, after = zip(*rows, strict=True)
        return torch.stack(logits), after

    # -- reading and learning -------------------------------------------------------------------------------------

    def _read_on(self, reading: Reading, ids: Sequence[int], now: TensorState) -> Reading:
        if not self._learns:
            return replace(reading, now=now)
        before = reading.before if reading.ids else reading.now
        return Reading(reading.weights_P, now, before, (*reading.ids, *ids))

    def _ready(self, reading: Reading, next_id: int) -> Reading:
        """Where the text stands before `next_id` is read: a full segment is learned from."""
        if len(reading.ids) < self.settings.segment:
            return reading
        *_, learned = self._learned(replace(reading, now=reading.before), reading.ids, [*reading.ids[1:], next_id])
        return replace(learned, now=reading.now)

    def _read(self, weights_P: Tensor, ids_BT: Tensor, state: TensorState | None) -> tuple[Tensor, TensorState]:
        views = {} if weights_P is self._trained_P else self._views(weights_P)
        answer: tuple[Tensor, TensorState] = functional_call(self._reader, views, (ids_BT, state))
        return answer

    def _learned(self, reading: Reading, ids: Sequence[int], targets: Sequence[int]) -> tuple[Tensor, Reading]:
        """Read a segment and take the step: its logits with the weights before it."""
        grads, logits_BTV, now = self._gradient(reading, ids, targets)
        share = len(ids) / self.settings.segment
        weights_P = reading.weights_P.lerp(self._trained_P, self._decay_P * share if share < 1 else self._decay_P)
        for weight, grad, rate in zip(self._split(weights_P), grads, self._split(self._rate_P), strict=True):
            weight.addcmul_(grad.flatten(), rate, value=-1)
        return logits_BTV, Reading(weights_P, now)

    def _gradient(
        self, reading: Reading, ids: Sequence[int], targets: Sequence[int]
    ) -> tuple[Sequence[Tensor], Tensor, TensorState]:
        """Of the segment's summed nats over the length of a full one, clipped."""
        with torch.enable_grad():
            views = {name: view.requires_grad_() for name, view in self._views(reading.weights_P.detach()).items()}
            logits_BTV, now = functional_call(self._reader, views, (torch.tensor([ids]), reading.now))
            nats = F.cross_entropy(logits_BTV[0].float(), torch.tensor(targets), reduction="sum")
            grads = torch.autograd.grad(
                nats / self.settings.segment, list(views.values()), allow_unused=True, materialize_grads=True
            )
        if self.settings.clip is not None and (norm := nn.utils.get_total_norm(grads)) > self.settings.clip:
            grads = tuple(grad * (self.settings.clip / norm) for grad in grads)
        return grads, logits_BTV.detach(), now.detach()

    def _split(self, flat_P: Tensor) -> Iterable[Tensor]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        pieces: Sequence[Tensor] = flat_P.split(sizes)
        return pieces

    def _views(self, flat_P: Tensor) -> dict[str, Tensor]:
        pairs = zip(self._shapes.items(), self._split(flat_P), strict=True)
        return {name: piece.view(shape) for (name, shape), piece in pairs}


def gradient_rms(
    model: NeuralModel, documents: Iterable[np.ndarray], segment: int, progress: Callable[[int], None] | None = None
) -> Tensor:
    """The root mean square of each weight's gradient over the segments of held-out documents: rms_P.

    Args:
        model: the trained model.
        documents: ids_N each, `<bos>` first.
        segment: tokens a segment, as in the settings.
        progress: called with the number of tokens read so far.
    """
    still = Dynamic(model, Dynamic.Settings(lr=0, segment=segment))
    total_P, count, done = torch.zeros_like(still.fresh().weights_P), 0, 0
    for ids_N in documents:
        ids, reading = ids_N.tolist(), still.fresh()
        for at in range(0, len(ids) - 1, segment):
            piece = ids[at : at + segment + 1]
            grads, _, now = still._gradient(reading, piece[:-1], piece[1:])
            reading = replace(reading, now=now)
            for sum_, grad in zip(still._split(total_P), grads, strict=True):
                sum_.addcmul_(grad.flatten(), grad.flatten())
            count, done = count + 1, done + len(piece) - 1
            if progress is not None:
                progress(done)
    return (total_P / max(1, count)).sqrt_()
