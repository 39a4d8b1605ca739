"""Counts of the text that is being read, on top of any model: what a text has said, it says again.

A hierarchy of contexts, each falling back on the one a token shorter, the shortest on the model itself (a Pitman-Yor
hierarchy as in Teh 2006, section 4, with one table a word; Kuhn and De Mori 1990 gave the idea of a cache):

    q_k(w) = (max(c_k(w) - discount, 0) + (strength + discount * types_k) * q_{k-1}(w)) / (total_k + strength)
    p(w)   = weight * q_longest(w) + (1 - weight) * model(w)            q_{shortest - 1} = model

where c_k(w) is how often w followed the last k tokens in the text so far. Nothing is learned by gradient, so it costs
next to nothing, and it works around counted models and mixtures as well as neural ones. A token is counted after it was
predicted. Memory is bounded: after `SPAN` tokens the counts begin anew.

    model = Recount(Mixture(...), Recount.Settings())

Shapes: B texts, V words, N tokens, K lengths of contexts.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.errors import SettingError
from lmlab.models.base import LanguageModel, Scorer, State
from lmlab.models.mixture import fit_weights
from lmlab.models.scorers import Blend
from lmlab.vocabulary import BOS

SPAN = 1 << 22


@dataclass(frozen=True)
class RecountState:
    """The model's state, and all ids of each text from `<bos>` on."""

    inner: State
    said: tuple[np.ndarray, ...]

    def select(self, rows_K: Tensor) -> RecountState:
        """The state of these rows; texts are shared, never altered."""
        return RecountState(self.inner.select(rows_K), tuple(self.said[row] for row in rows_K.tolist()))

    def joined(self, other: RecountState) -> RecountState:
        """The state of these rows, then of the other's."""
        return RecountState(self.inner.joined(other.inner), self.said + other.said)


class Recount:
    """A model that also counts what it reads.

    Args:
        inner: any model whose rows sum to one.
        settings: which contexts count, and how much.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """How the text's own counts are weighed."""

        shortest: int = setting(4, "tokens of the shortest context that is counted", ge=0)
        longest: int = setting(8, "tokens of the longest context that is counted", ge=0)
        discount: float = setting(0.8, "taken from every count, and given to the shorter context", ge=0, lt=1)
        strength: float = setting(0.5, "weight of the shorter context's distribution, in tokens", ge=0)
        weight: float = setting(0.4, "weight of the counts beside the model itself", ge=0, le=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.longest < self.shortest:
                raise SettingError("longest", self.longest, f"at least the shortest, {self.shortest}")

    family: ClassVar[str] = "composed"

    def __init__(self, inner: LanguageModel, settings: Recount.Settings | None = None) -> None:
        self.inner, self.settings = inner, settings or Recount.Settings()
        self.vocab_size, self.bos, self.eos = inner.vocab_size, inner.bos, inner.eos

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, RecountState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        logp_BV, inner = self.inner.start(prompts)
        said = tuple(_recent(np.array([self.bos, *prompt], np.int64)) for prompt in prompts)
        return self._revised(logp_BV, said), RecountState(inner, said)

    def step(self, state: RecountState, tokens_B: Tensor) -> tuple[Tensor, RecountState]:
        """logp_BV one token further, and the new state."""
        logp_BV, inner = self.inner.step(state.inner, tokens_B)
        said = tuple(
            _recent(np.append(row_N, token)) for row_N, token in zip(state.said, tokens_B.tolist(), strict=True)
        )
        return self._revised(logp_BV, said), RecountState(inner, said)

    def _revised(self, logp_BV: Tensor, said: Sequence[np.ndarray]) -> Tensor:
        rows = [self._row(logp_V, said_N) for logp_V, said_N in zip(logp_BV.double().numpy(), said, strict=True)]
        return torch.from_numpy(np.stack(rows)).to(logp_BV.dtype)

    def _row(self, logp_V: np.ndarray, said_N: np.ndarray) -> np.ndarray:
        """A whole row after the text said so far, of one document."""
        followed = np.arange(1, len(said_N))  # where a token follows the context, as yet empty
        inside_N = np.arange(len(said_N) + 1)
        for length in range(1, self.settings.shortest + 1):
            followed = _still(followed, length, said_N, inside_N)
        return self._counted(logp_V, said_N, inside_N, followed)

    def _counted(
        self, logp_V: np.ndarray, said_N: np.ndarray, inside_N: np.ndarray, followed: np.ndarray
    ) -> np.ndarray:
        """The plain reading of the formula, for a whole row.

        Args:
            logp_V: of the model.
            said_N: what was said so far.
            inside_N: how many tokens lie before each, and before the one to come, in its document.
            followed: the places of the tokens that followed the shortest context.
        """
        settings, model_V = self.settings, np.exp(logp_V)
        row_V = model_V
        for length in range(settings.shortest, settings.longest + 1):
            if length > settings.shortest:
                followed = _still(followed, length, said_N, inside_N)
            if not len(followed):
                break
            count_V = np.bincount(said_N[followed], minlength=self.vocab_size)
            kept_V = np.maximum(count_V - settings.discount, 0)
            backed = settings.strength + settings.discount * np.count_nonzero(count_V)
            row_V = (kept_V + backed * row_V) / (len(followed) + settings.strength)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(settings.weight * row_V + (1 - settings.weight) * model_V))

    def scorer(self) -> Scorer:
        """Scores from the model's own scores; the counts go on from document to document."""
        return Blend([self.inner], self.blend, self.blend_rows, learns=True)

    def blend(self, documents: Iterable[np.ndarray], logp: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """From what the model gives the tokens of these documents, pieces of logp_1N, to pieces of logp_N."""
        left_N = np.empty(0, np.float32)
        for ids_N in _spans(documents):
            given_N, kept_N = shares(ids_N, self.settings)
            at = 0
            while at < len(given_N):
                if not len(left_N):
                    (left_N,) = next(logp)
                take = min(len(left_N), len(given_N) - at)
                with np.errstate(divide="ignore"):
                    counted_N, model_N = np.log(given_N[at : at + take]), np.log(kept_N[at : at + take])
                yield np.logaddexp(counted_N, model_N + left_N[:take])
                left_N, at = left_N[take:], at + take

    def blend_rows(self, documents: Iterable[np.ndarray], rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """From the model's rows at these documents' tokens, pieces of rows_1NV, to pieces of rows_NV."""
        row = (logp_V for (rows_NV,) in rows for logp_V in rows_NV)
        for ids_N in _spans(documents):
            ids_N, shortest = ids_N.astype(np.int64), self.settings.shortest
            inside_N = _inside(ids_N)
            after: defaultdict[bytes, array[int]] = defaultdict(lambda: array("q"))  # places that followed a context
            for place in np.flatnonzero(ids_N != BOS).tolist():
                known = after[ids_N[place - shortest : place].tobytes()] if inside_N[place] >= shortest else array("q")
                logp_V = next(row).astype(np.float64)
                yield self._counted(logp_V, ids_N[:place], inside_N[: place + 1], np.array(known, np.int64))[None]
                if inside_N[place]:
                    known.append(place)


def _still(followed: np.ndarray, length: int, said_N: np.ndarray, inside_N: np.ndarray) -> np.ndarray:
    """Those of the followers of a context that also follow the one a token longer, of this length."""
    if length > inside_N[-1]:
        return followed[:0]
    followed = followed[inside_N[followed] >= length]
    return np.asarray(followed[said_N[followed - length] == said_N[-length]])


def shares(ids_N: np.ndarray, settings: Recount.Settings) -> tuple[np.ndarray, np.ndarray]:
    """What each token gets from counts, and the factor on its model's probability: p = given + kept * model.

    The recursion is linear in the model's probability. The tokens are those of documents laid end to end but `<bos>`.
    """
    given_N, kept_N = np.zeros(len(ids_N)), np.ones(len(ids_N))
    for count_N, types_N, total_N in _followers(ids_N, settings.shortest, settings.longest):
        seen_N = total_N > 0
        norm_N = np.where(seen_N, total_N + settings.strength, 1)
        backed_N = np.where(seen_N, settings.strength + settings.discount * types_N, 1) / norm_N
        given_N = np.maximum(count_N - settings.discount, 0) / norm_N + backed_N * given_N
        kept_N = backed_N * kept_N
    predicted_N, weight = ids_N != BOS, settings.weight
    return weight * given_N[predicted_N], (weight * kept_N + 1 - weight)[predicted_N]


_TRIED: dict[str, tuple[dict[str, float], ...]] = {
    "contexts": tuple({"shortest": length, "longest": length + 4} for length in range(7)),
    "discount": tuple({"discount": value} for value in (0.5, 0.6, 0.7, 0.9)),
    "strength": tuple({"strength": value} for value in (0.1, 2.0, 8.0)),
}


def fit_counts(
    documents: Sequence[np.ndarray], logp_N: np.ndarray, settings: Recount.Settings, free: Sequence[str]
) -> Recount.Settings:
    """The settings that suit held-out documents best, one after the other; the weight by expectation maximisation.

    Args:
        documents: ids_N each, `<bos>` first, of one span at most.
        logp_N: what the model gives their tokens, in order.
        settings: to begin with.
        free: what may change: contexts (shortest and longest), discount, strength, weight.
    """
    ids_N, logp_N = np.concatenate(documents), logp_N.astype(np.float64)

    def weighed(tried: Recount.Settings) -> tuple[float, Recount.Settings]:
        given_N, kept_N = shares(ids_N, replace(tried, weight=1.0))
        both_2N = np.stack([np.log(given_N + kept_N * np.exp(logp_N)), logp_N])
        weights_2 = fit_weights(both_2N) if "weight" in free else np.array([tried.weight, 1 - tried.weight])
        with np.errstate(divide="ignore"):
            nats = -float(np.logaddexp.reduce(both_2N + np.log(weights_2)[:, None]).mean())
        return nats, replace(tried, weight=float(min(1.0, weights_2[0])))

    least, best = weighed(settings)
    for name in _TRIED:
        for values in _TRIED[name] if name in free else ():
            nats, tried = weighed(replace(best, **values))  # type: ignore[arg-type]
            if nats < least:
                least, best = nats, tried
    return best


def _recent(said_N: np.ndarray) -> np.ndarray:
    """The ids of a text that count: all since the last span was full."""
    return said_N[len(said_N) // SPAN * SPAN :]


def _spans(documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Documents laid end to end, cut after every span of tokens."""
    pieces: list[np.ndarray] = []
    room = SPAN
    for ids_N in documents:
        while len(ids_N) >= room:
            yield np.concatenate([*pieces, ids_N[:room]])
            ids_N, pieces, room = ids_N[room:], [], SPAN
        pieces.append(ids_N)
        room -= len(ids_N)
    if room < SPAN:
        yield np.concatenate(pieces)


def _followers(ids_N: np.ndarray, shortest: int, longest: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each length of context: how often each token followed it before, how many types did, how many tokens did.

    Contexts do not reach across a document's `<bos>`, which itself is never counted.
    """
    ids_N = ids_N.astype(np.int64)
    size = int(ids_N.max()) + 1
    inside_N = _inside(ids_N)
    context_N = np.zeros(len(ids_N), np.int64)
    for length in range(longest + 1):
        if length:
            before_N = np.where(inside_N >= length, np.roll(ids_N, length), -1) + 1
            context_N = np.unique(context_N * (size + 1) + before_N, return_inverse=True)[1]
        if length >= shortest:
            counted_N = (inside_N >= max(1, length)) & (ids_N != BOS)
            yield _ranks(context_N, ids_N, counted_N, size)


def _inside(ids_N: np.ndarray) -> np.ndarray:
    """How many tokens lie before each in its document; where a span cut it, in the span."""
    place_N = np.arange(len(ids_N))
    return np.asarray(place_N - np.maximum.accumulate(np.where(ids_N == BOS, place_N, 0)))


def _ranks(
    context_N: np.ndarray, ids_N: np.ndarray, counted_N: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every counted token: earlier ones alike after the same context, earlier types after it, earlier tokens."""
    answers: Any = np.zeros((3, len(ids_N)), np.int64)
    place_M = np.flatnonzero(counted_N)
    context_M = context_N[place_M]
    alike_M = _rank(context_M * size + ids_N[place_M])
    order_M = np.argsort(context_M, kind="stable")
    new_M = (alike_M[order_M] == 0).astype(np.int64)
    total_M = _rank(context_M)
    types_M = np.cumsum(new_M) - new_M  # before each, over all contexts; less what lies before its own
    first_M = total_M[order_M] == 0
    types_M -= np.maximum.accumulate(np.where(first_M, types_M, 0))
    answers[0, place_M], answers[2, place_M] = alike_M, total_M
    answers[1, place_M[order_M]] = types_M
    return answers[0], answers[1], answers[2]


def _rank(key_M: np.ndarray) -> np.ndarray:
    """How many earlier elements are equal to each."""
    order_M = np.argsort(key_M, kind="stable")
    sorted_M, place_M = key_M[order_M], np.arange(len(key_M))
    begins_M = np.concatenate([[True], sorted_M[1:] != sorted_M[:-1]]) if len(key_M) else np.empty(0, bool)
    rank_M = np.empty(len(key_M), np.int64)
    rank_M[order_M] = place_M - np.maximum.accumulate(np.where(begins_M, place_M, 0))
    return rank_M
