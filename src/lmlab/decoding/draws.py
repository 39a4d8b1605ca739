"""Strategies whose texts grow apart from one another: greedy choice, sampling, and the best of many samples.

Shapes: B live rows, V the vocabulary.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lmlab.config import setting
from lmlab.decoding.branch import Branch, Rows
from lmlab.decoding.chance import Floats, uniforms
from lmlab.decoding.search import Batch, Limits, Prompts, Search, Steps, Strategy, Together
from lmlab.decoding.writing import write
from lmlab.errors import SettingError
from lmlab.models.base import LanguageModel

_AHEAD = 64  # places whose numbers are drawn at once


class Single(Together):
    """A strategy whose texts do not look at one another, so that a model may write each by itself."""

    def run(self, model: LanguageModel, prompts: Prompts, n: int, limits: Limits, batch: Batch | None = None) -> Steps:
        """Generate by the model's own writer where it has one for this, else all texts in one batch."""
        self.search((), n, limits.max_tokens)  # refuses what it cannot do
        written = None if batch else write(model, prompts, self, n, limits)
        return written or super().run(model, prompts, n, limits, batch)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Greedy(Single):
    """Always the likeliest token, the lowest id on ties. It has one answer, so n must be 1."""

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        if n != 1:
            raise SettingError("n", n, "1 for greedy decoding, which has one answer", "for more, sample or use a beam")
        return _Texts(1, None)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Seeded(Strategy):
    """A strategy that draws: the same object gives the same texts again."""

    seed: int | None = setting(
        None, "of everything random; none takes a fresh one, which it then shows", ge=0, lt=2**63
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed is None:
            object.__setattr__(self, "seed", secrets.randbits(32))


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Sample(Seeded, Single):
    """Draws each token from the model's distribution, after the processors.

    Row i draws the same numbers however many rows and prompts there are, and whichever of them have ended.

    >>> Sample("top_k=40", temperature=0.8, top_p=None, seed=1)
    Sample(top_k(top_k=40), temperature(temperature=0.8), seed=1)
    """

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        return _Texts(n, self.seed)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class MBR(Seeded, Together):
    """Minimum Bayes risk: of many samples those that agree best with all of them (Eikema and Aziz 2020).

    Two texts agree as far as their runs of 1 to `order` tokens do: the mean F1 score.
    """

    revises: ClassVar[bool] = True
    samples: int = setting(20, "texts drawn", ge=1, le=1000)
    order: int = setting(4, "longest runs of tokens compared", ge=1, le=20)

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        if n > self.samples:
            raise SettingError("n", n, f"an integer <= the {self.samples} samples", "draw more samples")
        return _Agreeing(self, n)


class _Texts(Search):
    """Independent texts: drawn, or by the likeliest token where there is no seed."""

    def __init__(self, n: int, seed: int | None) -> None:
        self.lanes, self._seed = range(n), seed
        self._results = [Branch.root()] * n
        self._uniform_TB = np.empty((0, n))

    def choose(self, rows: Rows, chain_BV: Floats) -> tuple[Sequence[int], Sequence[int], Sequence[float]]:
        tokens_B = chain_BV.argmax(-1)
        if self._seed is not None:
            length = rows.live[0].length  # all are of one length
            if length % _AHEAD == 0:
                places_T1 = np.arange(length, length + _AHEAD)[:, None]
                self._uniform_TB = uniforms(self._seed, np.array(self.lanes), places_T1)
            uniform_B = self._uniform_TB[length % _AHEAD, [branch.lane for branch in rows.live]]
            tokens_B = draw(np.exp(chain_BV - chain_BV.max(-1, keepdims=True)), uniform_B)
        scores_B = chain_BV[np.arange(len(rows)), tokens_B]
        return range(len(rows)), tokens_B.tolist(), scores_B.tolist()

    def settle(self, children: Sequence[Branch]) -> None:
        for child in children:
            self._results[child.lane] = child

    def best(self) -> tuple[Branch, ...]:
        return tuple(self._results)


class _Agreeing(_Texts):
    """Samples, and in the end those of them that agree best with all."""

    def __init__(self, mbr: MBR, n: int) -> None:
        super().__init__(mbr.samples, mbr.seed)
        self._order, self._n = mbr.order, n

    def best(self) -> tuple[Branch, ...]:
        if any(branch.end is None for branch in self._results):
            return tuple(self._results[: self._n])
        texts = [branch.ids() for branch in self._results]
        runs = [[_runs(ids, size) for size in range(1, self._order + 1)] for ids in texts]
        gains = [sum(_agreement(one, other) for other in runs) for one in runs]
        ranked, seen = [], set()
        for row in sorted(range(len(gains)), key=lambda row: -gains[row]):
            if tuple(texts[row]) not in seen:
                ranked.append(self._results[row])
                seen.add(tuple(texts[row]))
        return tuple(ranked[: self._n])

    def rivals(self) -> tuple[Branch, ...]:
        return tuple(self._results)


def draw(p_BV: Floats, uniform_B: Floats) -> np.ndarray:
    """The token at each uniform number of [0, 1), by the inverse of the cumulated weights, whose sum may be any.

    The first place where the cumulated mass exceeds the target is a place where it rises: probability 0 is never drawn.
    """
    cumulated_BV = p_BV.cumsum(-1)
    whole_B = cumulated_BV[:, -1]
    target_B = np.minimum(uniform_B * whole_B, np.nextafter(whole_B, 0))
    return np.asarray((cumulated_BV <= target_B[:, None]).sum(-1))


def _runs(ids: Sequence[int], size: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(ids[at : at + size]) for at in range(len(ids) - size + 1))


def _agreement(one: list[Counter[tuple[int, ...]]], other: list[Counter[tuple[int, ...]]]) -> float:
    """The mean F1 of the runs of each length; two texts without runs of a length agree there."""
    scores = []
    for mine, theirs in zip(one, other, strict=True):
        whole = mine.total() + theirs.total()
        scores.append(2 * (mine & theirs).total() / whole if whole else 1.0)
    return sum(scores) / len(scores)
