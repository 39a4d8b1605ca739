"""The ways to score known text: one class each, all with `token_logp(ids_N)`.

    Stepwise(model)         token by token through `start` and `step`: any model, and the default
    Arrays(logp_array)      documents laid end to end, in NumPy, without torch: counted models
    Padded(logp)            documents of like length side by side, padded: neural models
    Stream(logp_stream)     documents in order, learning from each: adaptive models
    Blend(models, blend)    from the scores that other models give the same tokens: mixtures

    def scorer(self):
        return Padded(self.logp)

Shapes: B documents, T positions, N ids or tokens, M components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lmlab.models.base import LanguageModel, Scorer
from lmlab.vocabulary import BOS, PAD

if TYPE_CHECKING:
    from torch import Tensor

_ARRAY_IDS = 1 << 22  # ids scored at once as an array
_SORTED_IDS = 1 << 18  # ids whose documents are sorted by length
_BATCH_TOKENS = 1 << 14  # padded tokens scored at once


def scorer_of(model: LanguageModel) -> Scorer:
    """How a model scores known text: what its `scorer()` says, or step by step where it has none."""
    declared: Callable[[], Scorer] | None = getattr(model, "scorer", None)
    return Stepwise(model) if declared is None else declared()


@dataclass(frozen=True)
class Stepwise:
    """Scores one token at a time; any model can. `normalised`: whether its rows sum to one."""

    model: LanguageModel
    normalised: bool = True
    adapts: ClassVar[bool] = False

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities of one document after the other."""
        import torch

        for document in documents(ids_N):
            (logp_V,), state = self.model.start([[]])
            logp = []
            for token in document[1:].tolist():
                logp.append(float(logp_V[token]))
                (logp_V,), state = self.model.step(state, torch.tensor([token]))
            yield np.array(logp)


@dataclass(frozen=True)
class Arrays:
    """Scores some millions of ids at a time by `logp_array`.

    It maps ids_N to logp_N; every `<bos>` opens a new document, and what it itself scores is ignored.
    """

    logp_array: Callable[[np.ndarray], np.ndarray]
    normalised: bool = True
    adapts: ClassVar[bool] = False

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities of some whole documents after the other."""
        for part_N in _groups(ids_N, _ARRAY_IDS):
            yield self.logp_array(part_N)[part_N != BOS]


@dataclass(frozen=True)
class Padded:
    """Scores batches of whole documents by `logp`, those of like length together.

    It maps ids_BT (int64, without `<bos>`, padded at the right) and mask_BT (False at padding) to logp_BT of each token
    after `<bos>` and the tokens before it, 0 at padding.
    """

    logp: Callable[[Tensor, Tensor], Tensor]
    normalised: bool = True
    adapts: ClassVar[bool] = False

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities of some whole documents after the other."""
        import torch

        for part_N in _groups(ids_N, _SORTED_IDS):
            begin_D = np.flatnonzero(part_N == BOS)
            length_D = np.diff(begin_D, append=len(part_N)) - 1
            logp_N = np.empty(int(length_D.sum()), np.float32)
            for chosen_B in _batches(length_D):
                at_BT = (begin_D + 1)[chosen_B, None] + np.arange(length_D[chosen_B].max())
                mask_BT = np.arange(at_BT.shape[1]) < length_D[chosen_B, None]
                ids_BT = np.where(mask_BT, part_N.take(at_BT, mode="clip").astype(np.int64), PAD)
                logp_BT = self.logp(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)).numpy()
                earlier_B1 = chosen_B[:, None] + 1  # the <bos> of this document and those before it
                logp_N[(at_BT - earlier_B1)[mask_BT]] = logp_BT[mask_BT]
            yield logp_N


@dataclass(frozen=True)
class Stream:
    """Scores documents in order by `logp_stream`, for a model that learns from them.

    It maps documents (ids_N each, `<bos>` first) to the log-probabilities of their other tokens, in order, in pieces of
    any length.
    """

    logp_stream: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
    normalised: bool = True
    adapts: ClassVar[bool] = True

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities, in pieces as the model gives them."""
        return self.logp_stream(documents(ids_N))


@dataclass(frozen=True)
class Blend:
    """Scores by `blend` from the scores of other models, each found in that model's own way.

    It maps documents (ids_N each, `<bos>` first) and what the components give the same tokens (logp_MN, in order, in
    pieces of any length) to log-probabilities in such pieces. `learns`: whether it carries anything between documents.
    """

    components: Sequence[LanguageModel]
    blend: Callable[[Iterable[np.ndarray], Iterator[np.ndarray]], Iterator[np.ndarray]]
    learns: bool = False

    @property
    def normalised(self) -> bool:
        """Whether the rows of all components sum to one."""
        return all(scorer_of(component).normalised for component in self.components)

    @property
    def adapts(self) -> bool:
        """Whether a component, or the blend, learns from what is scored."""
        return self.learns or any(scorer_of(component).adapts for component in self.components)

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The blended log-probabilities, in pieces as long as all components are ready."""
        pieces = [scorer_of(component).token_logp(ids_N) for component in self.components]
        return self.blend(documents(ids_N), _together(pieces))


def documents(ids_N: np.ndarray) -> Iterator[np.ndarray]:
    """The single documents of many laid end to end, `<bos>` first.

    >>> [ids_N.tolist() for ids_N in documents(np.array([2, 7, 3, 2, 3]))]
    [[2, 7, 3], [2, 3]]
    """
    for part_N in _groups(ids_N, _ARRAY_IDS):
        yield from np.split(part_N, np.flatnonzero(part_N == BOS)[1:])


def _groups(ids_N: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Runs of whole documents of at most so many ids, or of one longer document."""
    ids_N, at = np.asarray(ids_N), 0  # slices of a memory map are slow to make
    while at < len(ids_N):
        end = at + size
        if end < len(ids_N):
            (begin_D,) = np.nonzero(ids_N[at + 1 : end + 1] == BOS)
            while not len(begin_D) and end < len(ids_N):
                begin_D, end = np.flatnonzero(ids_N[end + 1 : end + size + 1] == BOS)[:1] + end - at, end + size
            end = at + 1 + int(begin_D[-1]) if len(begin_D) else len(ids_N)
        yield ids_N[at:end]
        at = end


def _batches(length_D: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of documents, short ones first, as many at once as fit a batch."""
    order_D, at = np.argsort(length_D, kind="stable"), 0
    while at < len(order_D):
        rows_D = np.arange(1, len(order_D) - at + 1)
        fitting = np.searchsorted(rows_D * length_D[order_D[at:]], _BATCH_TOKENS, side="right")
        yield order_D[at : at + max(1, int(fitting))]
        at += max(1, int(fitting))


def _together(streams: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """What several streams say of the same tokens, as soon as all have: logp_MN."""
    ready: list[Any] = [()] * len(streams)
    while True:
        for number, stream in enumerate(streams):
            while not len(ready[number]):
                if (piece := next(stream, None)) is None:
                    return
                ready[number] = piece
        size = min(map(len, ready))
        yield np.stack([logp_N[:size] for logp_N in ready])
        ready = [logp_N[size:] for logp_N in ready]
