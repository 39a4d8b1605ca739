"""Decoding strategies, and the one loop that drives them all.

    for step in decode(model, prompt_ids, Sample(temperature=0.8, top_p=0.95, seed=1), n=3, max_tokens=100):
        print(step.best[0].ids())
    results = finish(decode(model, prompt_ids, Beam(width=5), n=5))

A strategy is an object that you name. The loop calls `start` once for the prompt, then `step` once a token for all rows
together; rows that end leave the batch, and beams take the model's state with them.

Shapes: L live rows, V the vocabulary, K chosen continuations.
"""

from __future__ import annotations

import operator
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from lmlab.config import Settings, setting
from lmlab.decoding.branch import Branch, Step
from lmlab.decoding.processors import NAMED, Processor, Temperature, leading
from lmlab.decoding.stop import Stop
from lmlab.errors import LmlabError, SettingError, UnknownNameError, UsageError
from lmlab.models.base import LanguageModel


class Search(ABC):
    """One run of a strategy, which `decode` asks at each token."""

    rows = 1  # how many branches start from the prompt

    @abstractmethod
    def choose(self, live: Sequence[Branch], logp_LV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The continuations to grow: their rows_K in `live`, tokens_K and the log-probabilities drawn_K."""

    @abstractmethod
    def settle(self, children: Sequence[Branch]) -> None:
        """Take in the branches that grew from what was chosen, in that order."""

    @abstractmethod
    def best(self) -> tuple[Branch, ...]:
        """The results as they stand."""

    def settled(self) -> bool:
        """Whether going on can change nothing, though branches are live."""
        return False


class Strategy(Protocol):
    """How the next tokens are chosen.

    Attributes:
        revises: whether a later step may replace the text of an earlier one, as a beam does; if not, results only grow.
    """

    @property
    def revises(self) -> bool: ...  # noqa: D102

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run for n results.

        Raises:
            SettingError: the strategy cannot give n results.
        """
        ...


@dataclass(frozen=True)
class Greedy:
    """Always the likeliest token, the lowest id on ties. It has one answer, so n must be 1."""

    revises: ClassVar[bool] = False

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        if n != 1:
            raise SettingError("n", n, "1 for greedy decoding, which has one answer", "for more, sample or use a beam")
        return _Rows(prompt_ids, (Temperature(0),), seed=0, n=1)


@dataclass(frozen=True, init=False)
class Sample:
    """Draws each token from the model's distribution, after the processors in the caller's order.

    Args:
        *processors: functions `(ids, logp_BV) -> logp_BV`; they run first.
        seed: an integer >= 0; None takes a fresh one, which `seed` then shows. The same object gives the same text
            again, and row i draws the same numbers however many rows there are and whichever of them have ended.
        **named: `temperature`, `top_k`, `top_p`, `min_p`, `typical`, `repetition_penalty`, `no_repeat_ngram`, in the
            order in which they shall run; None is off.

    Raises:
        SettingError: a value outside its bound.
        UnknownNameError: a keyword that names no processor.

    >>> Sample(temperature=0.8, top_k=None, top_p=0.95, seed=1).processors
    (Temperature(temperature=0.8), TopP(top_p=0.95, keep='reach'))
    """

    processors: tuple[Processor, ...]
    seed: int
    revises: ClassVar[bool] = False

    def __init__(self, *processors: Processor, seed: int | None = None, **named: float | None) -> None:
        if (wrong := next((given for given in processors if not callable(given)), None)) is not None:
            raise UsageError(f"Sample got {wrong!r}, which is no processor", "name it, as in temperature=0.8")
        if (unknown := next((name for name in named if name not in NAMED), None)) is not None:
            raise UnknownNameError("keyword of Sample", unknown, NAMED)
        made = tuple(NAMED[name](value) for name, value in named.items() if value is not None)
        object.__setattr__(self, "processors", processors + made)
        object.__setattr__(self, "seed", secrets.randbits(32) if seed is None else _integer("seed", seed, 0))

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        return _Rows(prompt_ids, self.processors, self.seed, n)


@dataclass(frozen=True)
class Beam(Settings):
    """Keeps the likeliest `width` texts at every token, and returns the n best of those that ended.

    A text scores its total log-probability divided by `length ** length_penalty`, its `<eos>` counted in both: 1 is the
    mean per token, under which texts of unequal lengths compare; 0 is the plain total, under which the short ones win
    (Wu et al. 2016, section 7, without the constant).
    """

    revises: ClassVar[bool] = True
    width: int = setting(5, "texts kept at every token", ge=1)
    length_penalty: float = setting(1.0, "0 is the total log-probability, 1 the mean per token", ge=0, le=10)

    def score(self, branch: Branch) -> float:
        """What the beam ranks texts by, in nats."""
        return float(branch.total / branch.length**self.length_penalty)

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        if n > self.width:
            raise SettingError("n", n, f"an integer <= the beam's width {self.width}", "widen the beam")
        return _Beams(self, n, max_tokens)


def decode(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    strategy: Strategy,
    *,
    n: int = 1,
    max_tokens: int = 200,
    stop: Stop | None = None,
    forbidden: Sequence[int] = (),
) -> Iterator[Step]:
    """Generate, one step a token.

    Args:
        model: any language model; only `start`, `step` and its state's `select` are used.
        prompt_ids: the ids after `<bos>`; may be empty.
        strategy: `Greedy()`, `Sample(...)`, `Beam(...)` or one of your own.
        n: how many results; a beam gives fewer only where fewer texts are possible.
        max_tokens: where a text is cut, `<eos>` counted.
        stop: asked about each new branch; yes ends it.
        forbidden: ids that are never chosen, unless no other can be.

    Raises:
        SettingError: n, max_tokens or a prompt id outside its bound, or no strategy (at once, before the first step).
        LmlabError: the model gave NaN, or no token a probability.
    """
    if isinstance(strategy, type) or not callable(getattr(strategy, "search", None)):
        raise SettingError("strategy", strategy, "a strategy", "for example Sample(temperature=0.8) or Beam(width=5)")
    _integer("n", n, 1)
    _integer("max_tokens", max_tokens, 1)
    prompt_ids = list(prompt_ids)
    for token in prompt_ids:
        if not 0 <= token < model.vocab_size:
            raise SettingError("prompt id", token, f"an id of the vocabulary, 0 to {model.vocab_size - 1}")
    return _steps(model, prompt_ids, strategy.search(prompt_ids, n, max_tokens), max_tokens, stop, list(forbidden))


def finish(steps: Iterable[Step]) -> list[Branch]:
    """Drain a generation and return its results: best first for a beam, in row order for samples."""
    return list(deque(steps, maxlen=1).pop().best)


@torch.no_grad()
def _steps(
    model: LanguageModel,
    prompt_ids: list[int],
    search: Search,
    max_tokens: int,
    stop: Stop | None,
    forbidden: list[int],
) -> Iterator[Step]:
    logp_BV, state = model.start([prompt_ids])
    live = (Branch.root(),) * search.rows
    origin = [0] * search.rows  # the row of the model's state behind each live branch
    while True:
        if not logp_BV.amax(-1).isfinite().all():  # amax hands NaN on
            problem = "the model gave NaN or no token at all"
            raise LmlabError(problem, "its weights are damaged or its training diverged")
        logp_LV = _without(logp_BV.double(), forbidden).expand(len(live), -1)
        rows_K, tokens_K, drawn_K = search.choose(live, logp_LV)
        rows, tokens = rows_K.tolist(), tokens_K.tolist()
        children = []
        for row, token, logp, drawn in zip(
            rows, tokens, logp_LV[rows_K, tokens_K].tolist(), drawn_K.tolist(), strict=True
        ):
            parent = live[row]
            child = Branch(token, logp, drawn, parent.total + logp, parent.length + 1, parent)
            children.append(_ended(child, model.eos, max_tokens, stop))
        search.settle(children)
        kept = [i for i, child in enumerate(children) if child.end is None]
        live = tuple(children[i] for i in kept)
        done = not live or search.settled()
        yield Step(live, tuple(child for child in children if child.end is not None), search.best(), done)
        if done:
            return
        needed = [origin[rows[i]] for i in kept]
        if needed != list(range(len(logp_BV))):
            state = state.select(torch.tensor(needed, device=tokens_K.device))
        logp_BV, state = model.step(state, tokens_K[kept])
        origin = list(range(len(live)))


def _without(logp_BV: Tensor, forbidden: list[int]) -> Tensor:
    """The rows with these ids at -inf, but for rows that have no other."""
    if not forbidden:
        return logp_BV
    rest_BV = logp_BV.index_fill(-1, torch.tensor(forbidden, device=logp_BV.device), -torch.inf)
    return rest_BV.where(rest_BV.isfinite().any(-1, keepdim=True), logp_BV)


def _ended(branch: Branch, eos: int, max_tokens: int, stop: Stop | None) -> Branch:
    """The branch with its end, where it has one."""
    if branch.token == eos:
        return replace(branch, end="eos")
    if stop is not None and stop(branch):
        return replace(branch, end="stop")
    if branch.length >= max_tokens:
        return replace(branch, end="length")
    return branch


class _Rows(Search):
    """Independent rows, each drawn with its own stream of random numbers."""

    def __init__(self, prompt_ids: Sequence[int], processors: Sequence[Processor], seed: int, n: int) -> None:
        self.rows = n
        self._prompt_ids = prompt_ids
        self._processors = processors
        self._streams = [np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(row,))) for row in range(n)]
        self._results = [Branch.root()] * n
        self._live = list(range(n))

    def choose(self, live: Sequence[Branch], logp_LV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        contexts = _Contexts(self._prompt_ids, live)
        for process in self._processors:
            logp_LV = process(contexts, logp_LV)
        logp_LV = logp_LV.log_softmax(-1)
        uniform_L = torch.tensor([self._streams[row].random() for row in self._live], dtype=torch.float64)
        tokens_L = _draw(logp_LV.exp(), uniform_L.to(logp_LV.device))
        rows_L = torch.arange(len(live), device=logp_LV.device)
        return rows_L, tokens_L, logp_LV[rows_L, tokens_L]

    def settle(self, children: Sequence[Branch]) -> None:
        for row, child in zip(self._live, children, strict=True):
            self._results[row] = child
        self._live = [row for row in self._live if self._results[row].end is None]

    def best(self) -> tuple[Branch, ...]:
        return tuple(self._results)


class _Beams(Search):
    """The likeliest texts of each length, and the best of those that ended."""

    def __init__(self, beam: Beam, n: int, max_tokens: int) -> None:
        self._beam, self._n, self._max_tokens = beam, n, max_tokens
        self._ended: list[Branch] = []
        self._live: list[Branch] = []

    def choose(self, live: Sequence[Branch], logp_LV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # All candidates are of one length, so that their totals rank them as their scores do.
        totals_L = torch.tensor([branch.total for branch in live], dtype=torch.float64, device=logp_LV.device)
        flat = (totals_L[:, None] + logp_LV).flatten()
        chosen_K = (leading(flat, self._beam.width) & flat.isfinite()).nonzero()[:, 0]
        chosen_K = chosen_K[flat[chosen_K].argsort(descending=True, stable=True)]
        vocab_size = logp_LV.shape[-1]
        return chosen_K // vocab_size, chosen_K % vocab_size, logp_LV.flatten()[chosen_K]

    def settle(self, children: Sequence[Branch]) -> None:
        self._live = [child for child in children if child.end is None]
        self._ended = self._ranked(self._ended + [child for child in children if child.end is not None])

    def best(self) -> tuple[Branch, ...]:
        return tuple(self._ranked(self._ended + self._live))

    def settled(self) -> bool:
        # A total only falls as its text grows, and no text grows beyond max_tokens: the score of what becomes of a live
        # branch of total s <= 0 is at most s / max_tokens ** length_penalty, and so is its score now. Once the n-th
        # ended text scores no less than that for every live branch, none can displace it, and `best` is all ended.
        if len(self._ended) < self._n:
            return False
        highest = max(branch.total for branch in self._live) / self._max_tokens**self._beam.length_penalty
        return bool(self._beam.score(self._ended[-1]) >= highest)

    def _ranked(self, branches: list[Branch]) -> list[Branch]:
        return sorted(branches, key=self._beam.score, reverse=True)[: self._n]


class _Contexts(Sequence[Sequence[int]]):
    """The prompt and the generated ids of each row, put together only for the processors that read them."""

    def __init__(self, prompt_ids: Sequence[int], live: Sequence[Branch]) -> None:
        self._prompt_ids, self._live = prompt_ids, live

    def __len__(self) -> int:
        return len(self._live)

    def __getitem__(self, row: Any) -> Any:
        return [*self._prompt_ids, *self._live[operator.index(row)].ids()]


def _draw(p_LV: Tensor, uniform_L: Tensor) -> Tensor:
    """The token at each uniform number of [0, 1), by the inverse of the cumulated probabilities (float64).

    The first place where the cumulated mass exceeds the target is a place where it rises: probability 0 is never drawn.
    """
    cumulated_LV = p_LV.cumsum(-1)
    target_L1 = uniform_L[:, None] * cumulated_LV[:, -1:]
    return torch.searchsorted(cumulated_LV, target_L1, right=True)[:, 0]


def _integer(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise SettingError(name, value, f"an integer >= {least}")
    return int(value)
