"""The ways to score known text: one class each, all with `token_logp(ids_N)`.

    Stepwise(model)             token by token through `start` and `step`: any model, and the default
    Arrays(logp_array)          documents laid end to end, in NumPy, without torch: counted models
    Padded(logp)                documents of like length side by side, padded: neural models
    Stream(logp_stream)         documents in order, learning from each: adaptive models
    Blend(components, blend)    from the scores that other models give the same tokens: mixtures

    def scorer(self):
        return Padded(self.logp, self.rows)

A rank, and the mixture of several models, need the log-probabilities of all tokens at each position: rows. Each class
takes a second function for them; a model that gives none is ranked step by step, each document on its own.

Shapes: B documents, T positions, S of a segment, N ids or tokens, M components, V the vocabulary.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lmlab.models.base import LanguageModel, Ranked, Scorer
from lmlab.models.readers import reader_of
from lmlab.vocabulary import BOS, PAD

if TYPE_CHECKING:
    from torch import Tensor

_ARRAY_IDS = 1 << 22  # ids scored at once as an array
_SORTED_IDS = 1 << 18  # ids whose documents are sorted by length
_BATCH_TOKENS = 1 << 14  # padded tokens scored at once
_ROW_TOKENS = 1 << 8  # padded tokens whose rows are held at once
_TOGETHER = 1 << 20  # numbers of each component that are blended at once
_MOST_DOCUMENTS = 1 << 9  # side by side: at one position, a row each


def scorer_of(model: LanguageModel) -> Scorer:
    """How a model scores known text: what its `scorer()` says, or step by step where it has none."""
    declared: Callable[[], Scorer] | None = getattr(model, "scorer", None)
    return Stepwise(model) if declared is None else declared()


def account_of(model: LanguageModel, ids_N: np.ndarray) -> Mapping[str, np.ndarray]:
    """What a model tells of how it predicts each token of one document but `<bos>`: nothing, where it has no way."""
    declared: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = getattr(model, "account", None)
    return {} if declared is None else declared(ids_N)


def ranks_of(model: LanguageModel, ids_N: np.ndarray) -> Iterator[Ranked]:
    """The log-probability and the rank of every token, in the model's own way or step by step."""
    return scorer_of(model).token_ranks(ids_N) or Stepwise(model).token_ranks(ids_N)


def rows_of(model: LanguageModel, ids_N: np.ndarray) -> Iterator[np.ndarray]:
    """The log-probabilities of all tokens at every position, in the model's own way or step by step."""
    return scorer_of(model).token_rows(ids_N) or Stepwise(model).token_rows(ids_N)


def top_of(rows_NV: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k likeliest tokens of each row, ids_NK, the likeliest first and of equals the lower id; their logp_NK."""
    ids_NK = rows_NV.argmax(-1)[:, None] if k == 1 else np.argsort(-rows_NV, -1, kind="stable")[:, :k]
    return ids_NK, np.take_along_axis(rows_NV, ids_NK, -1)


class _ByRows(abc.ABC):
    """Finds ranks from whole rows."""

    @abc.abstractmethod
    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray] | None:
        """Whole rows, or None."""

    def token_ranks(self, ids_N: np.ndarray) -> Iterator[Ranked] | None:
        """Log-probabilities and ranks, in pieces of any length."""
        return None if (rows := self.token_rows(ids_N)) is None else _ranked(documents(ids_N), rows)


@dataclass(frozen=True)
class Stepwise:
    """Scores one token at a time; any model can. `normalised`: whether its rows sum to one."""

    model: LanguageModel
    normalised: bool = True
    adapts: ClassVar[bool] = False

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities, one token after the other."""
        return (logp_N for logp_N, _ in self.token_ranks(ids_N))

    def token_ranks(self, ids_N: np.ndarray) -> Iterator[Ranked]:
        """Log-probabilities and ranks, one token after the other."""
        return _ranked(documents(ids_N), self.token_rows(ids_N))

    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities of all tokens, one position after the other."""
        reader = reader_of(self.model)
        for document in documents(ids_N):
            logp_BV, state = reader.start([[]])
            yield logp_BV
            for token in document[1:-1].tolist():
                logp_BV, state = reader.step(state, [token])
                yield logp_BV


@dataclass(frozen=True)
class Arrays(_ByRows):
    """Scores some millions of ids at a time by `logp_array`.

    It maps ids_N to logp_N; every `<bos>` opens a new document, and what it itself scores is ignored. `rows` maps ids_N
    to rows_NV of the tokens but `<bos>`, in pieces of any length; `rank_array` to rank_N, quicker than by rows.
    """

    logp_array: Callable[[np.ndarray], np.ndarray]
    rows: Callable[[np.ndarray], Iterator[np.ndarray]] | None = None
    rank_array: Callable[[np.ndarray], np.ndarray] | None = None
    normalised: bool = True
    adapts: ClassVar[bool] = False

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities of some whole documents after the other."""
        for part_N in _groups(ids_N, _ARRAY_IDS):
            yield self.logp_array(part_N)[part_N != BOS]

    def token_ranks(self, ids_N: np.ndarray) -> Iterator[Ranked] | None:
        """Log-probabilities and ranks of some whole documents after the other."""
        if (rank_array := self.rank_array) is None:
            return super().token_ranks(ids_N)
        parts = ((part_N, part_N != BOS) for part_N in _groups(ids_N, _ARRAY_IDS))
        return ((self.logp_array(ids_N)[kept_N], rank_array(ids_N)[kept_N]) for ids_N, kept_N in parts)

    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray] | None:
        """Rows in pieces as the model gives them."""
        if (rows := self.rows) is None:
            return None
        return (rows_NV for part_N in _groups(ids_N, _ARRAY_IDS) for rows_NV in rows(part_N))


@dataclass(frozen=True)
class Padded:
    """Scores batches of whole documents by `logp`, those of like length together.

    It maps ids_BT (int64, without `<bos>`, padded at the right) and mask_BT (False at padding) to logp_BT of each token
    after `<bos>` and the tokens before it, 0 at padding. `rows` maps ids_BT to the log-probabilities of all tokens at
    these positions, rows_BSV, segment by segment.
    """

    logp: Callable[[Tensor, Tensor], Tensor]
    rows: Callable[[Tensor], Iterator[Tensor]] | None = None
    normalised: bool = True
    adapts: ClassVar[bool] = False

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities of some whole documents after the other."""
        import torch

        for part_N in _groups(ids_N, _SORTED_IDS):
            logp_N = np.empty(np.count_nonzero(part_N != BOS), np.float32)
            for ids_BT, mask_BT, place_BT in _batches(part_N, _BATCH_TOKENS, by_length=True):
                logp_BT = self.logp(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)).numpy()
                logp_N[place_BT[mask_BT]] = logp_BT[mask_BT]
            yield logp_N

    def token_ranks(self, ids_N: np.ndarray) -> Iterator[Ranked] | None:
        """Log-probabilities and ranks of some whole documents after the other."""
        return None if self.rows is None else self._token_ranks(ids_N, self.rows)

    def _token_ranks(self, ids_N: np.ndarray, rows: Callable[[Tensor], Iterator[Tensor]]) -> Iterator[Ranked]:
        import torch

        for part_N in _groups(ids_N, _SORTED_IDS):
            size = np.count_nonzero(part_N != BOS)
            logp_N, rank_N = np.empty(size, np.float32), np.empty(size, np.int64)
            for ids_BT, mask_BT, place_BT in _batches(part_N, _BATCH_TOKENS, by_length=True):
                at = 0
                for rows_BSV in rows(torch.from_numpy(ids_BT)):
                    segment = np.s_[:, at : at + rows_BSV.shape[1]]
                    logp_BS, rank_BS = _chosen(rows_BSV.numpy(), ids_BT[segment])
                    place_M = place_BT[segment][mask_BT[segment]]
                    logp_N[place_M], rank_N[place_M] = logp_BS[mask_BT[segment]], rank_BS[mask_BT[segment]]
                    at += rows_BSV.shape[1]
            yield logp_N, rank_N

    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray] | None:
        """Rows of some whole documents after the other, or of segments of a long one."""
        return None if self.rows is None else self._token_rows(ids_N, self.rows)

    def _token_rows(self, ids_N: np.ndarray, rows: Callable[[Tensor], Iterator[Tensor]]) -> Iterator[np.ndarray]:
        import torch

        for part_N in _groups(ids_N, _SORTED_IDS):
            for ids_BT, mask_BT, _ in _batches(part_N, _ROW_TOKENS, by_length=False):
                segments = rows(torch.from_numpy(ids_BT))
                if len(ids_BT) == 1:
                    yield from (rows_BSV[0].numpy() for rows_BSV in segments)
                else:
                    yield torch.cat(list(segments), 1).numpy()[mask_BT]


@dataclass(frozen=True)
class Stream(_ByRows):
    """Scores documents in order by `logp_stream`, for a model that learns from them.

    It maps documents (ids_N each, `<bos>` first) to the log-probabilities of their other tokens, in order, in pieces of
    any length; `rows_stream` to rows_NV of the same positions.
    """

    logp_stream: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
    rows_stream: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]] | None = None
    normalised: bool = True
    adapts: ClassVar[bool] = True

    def token_logp(self, ids_N: np.ndarray) -> Iterator[np.ndarray]:
        """The log-probabilities, in pieces as the model gives them."""
        return self.logp_stream(documents(ids_N))

    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray] | None:
        """Rows, in pieces as the model gives them."""
        return None if self.rows_stream is None else self.rows_stream(documents(ids_N))


@dataclass(frozen=True)
class Blend(_ByRows):
    """Scores by `blend` from the scores of other models, each found in that model's own way; without it, by rows.

    It maps documents (ids_N each, `<bos>` first) and what the components give the same tokens (logp_MN, in order, in
    pieces of any length) to log-probabilities in such pieces. `blend_rows` maps documents and rows_MNV to rows_NV
    likewise. `learns`: whether it carries anything between documents.
    """

    components: Sequence[LanguageModel]
    blend: Callable[[Iterable[np.ndarray], Iterator[np.ndarray]], Iterator[np.ndarray]] | None
    blend_rows: Callable[[Iterable[np.ndarray], Iterator[np.ndarray]], Iterator[np.ndarray]] | None = None
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
        if self.blend is None:
            rows = beside(documents(ids_N), self.token_rows(ids_N) or ())
            return (rows_NV[np.arange(len(known_N)), known_N] for known_N, rows_NV in rows)
        pieces = [scorer_of(component).token_logp(ids_N) for component in self.components]
        return self.blend(documents(ids_N), _together(pieces))

    def token_ranks(self, ids_N: np.ndarray) -> Iterator[Ranked] | None:
        """Log-probabilities to the last bit as `token_logp` gives them, and ranks by rows."""
        ranked = super().token_ranks(ids_N)
        if ranked is None or self.blend is None:
            return ranked
        ranks = (rank_N.astype(np.float64) for _, rank_N in ranked)
        pieces = _together([self.token_logp(ids_N), ranks])
        return ((logp_N, rank_N.astype(np.int64)) for logp_N, rank_N in pieces)

    def token_rows(self, ids_N: np.ndarray) -> Iterator[np.ndarray] | None:
        """The blended rows, in pieces as long as all components are ready."""
        if self.blend_rows is None:
            return None
        pieces = [rows_of(component, ids_N) for component in self.components]
        return self.blend_rows(documents(ids_N), _together(pieces))


def beside(documents: Iterable[np.ndarray], rows: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The predicted ids of documents beside pieces of rows, (.., N, V), of the same positions."""
    texts, ids_N = iter(documents), np.empty(0, np.int64)
    for piece in rows:
        while len(ids_N) < piece.shape[-2]:
            ids_N = np.concatenate([ids_N, next(texts)[1:]])
        yield ids_N[: piece.shape[-2]], piece
        ids_N = ids_N[piece.shape[-2] :]


def _ranked(documents: Iterable[np.ndarray], rows: Iterable[np.ndarray]) -> Iterator[Ranked]:
    return (_chosen(rows_NV, ids_N) for ids_N, rows_NV in beside(documents, rows))


def _chosen(rows: np.ndarray, ids: np.ndarray) -> Ranked:
    """The log-probability of each id in its row, and its rank: 1 is the likeliest, equals share the better one."""
    logp = np.take_along_axis(rows, ids[..., None], -1)
    return logp[..., 0], 1 + np.count_nonzero(rows > logp, axis=-1)


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


def _batches(
    part_N: np.ndarray, tokens: int, *, by_length: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Documents, short ones first or in order, as many at once as have so many tokens when padded, or one longer one.

    Yields:
        ids_BT (int64, without `<bos>`), mask_BT (False at padding), and the place of each among the tokens of all.
    """
    begin_D = np.flatnonzero(part_N == BOS)
    length_D = np.diff(begin_D, append=len(part_N)) - 1
    order_D, at = np.argsort(length_D, kind="stable") if by_length else np.arange(len(length_D)), 0
    while at < len(order_D):
        widest_D = np.maximum.accumulate(length_D[order_D[at : at + min(tokens, _MOST_DOCUMENTS)]])
        fitting = np.searchsorted(widest_D * np.arange(1, len(widest_D) + 1), tokens, side="right")
        chosen_B = order_D[at : at + max(1, int(fitting))]
        at += len(chosen_B)
        at_BT = (begin_D + 1)[chosen_B, None] + np.arange(length_D[chosen_B].max())
        mask_BT = np.arange(at_BT.shape[1]) < length_D[chosen_B, None]
        ids_BT = np.where(mask_BT, part_N.take(at_BT, mode="clip").astype(np.int64), PAD)
        yield ids_BT, mask_BT, at_BT - (chosen_B[:, None] + 1)  # less the <bos> of this document and those before it


def _together(streams: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """What several streams say of the same tokens, as soon as all have: logp_MN, or rows_MNV."""
    ready: list[Any] = [()] * len(streams)
    while True:
        for number, stream in enumerate(streams):
            while not len(ready[number]):
                if (piece := next(stream, None)) is None:
                    return
                ready[number] = piece
        size = min(*map(len, ready), max(1, _TOGETHER // ready[0][0].size))
        yield np.stack([piece[:size] for piece in ready])
        ready = [piece[size:] for piece in ready]
