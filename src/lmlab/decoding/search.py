"""What a strategy is, and the loop that drives those that grow all their texts by one token a step.

The loop calls `start` once for all prompts, then `step` once a token for all rows of all prompts together; rows that
end leave the batch, and beams take the model's state with them.

Shapes: B live rows, V the vocabulary, K chosen continuations.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lmlab.config import Settings, described
from lmlab.decoding.branch import Alternative, Branch, End, Pruned, Rows, Step
from lmlab.decoding.chain import PROCESSORS, Chain, Process, chain_of, cut, learns, normal, run
from lmlab.decoding.chance import Floats
from lmlab.decoding.stop import Stop
from lmlab.errors import LmlabError, SettingError, UnknownNameError
from lmlab.models.base import LanguageModel

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Limits:
    """What bounds and accompanies a generation; `decode` explains them."""

    max_tokens: int = 200
    deadline: float = float("inf")
    stop: Stop | None = None
    forbidden: tuple[int, ...] = ()
    alternatives: int = 0
    trace: bool = False

    def end_of(self, branch: Branch, eos: int) -> End | None:
        """Why a text ends here, if it does."""
        if branch.token == eos:
            return "eos"
        if self.stop is not None and self.stop(branch):
            return "stop"
        if branch.length >= self.max_tokens:
            return "length"
        return "time" if time.monotonic() >= self.deadline else None


class Search(ABC):
    """One run of a strategy from one prompt, which the loop asks at each token."""

    lanes: Sequence[int] = (0,)  # of the branches that start from the prompt
    pruned: tuple[Pruned, ...] = ()  # the best of what the last choice dropped

    @abstractmethod
    def choose(self, rows: Rows, chain_BV: Floats) -> tuple[Sequence[int], Sequence[int], Sequence[float]]:
        """The continuations to grow.

        Args:
            rows: the live texts.
            chain_BV: the log-probabilities of what follows them, after the processors; rows sum to at most one.

        Returns:
            Of each its row, its token, and the score that its branch shall have.
        """

    @abstractmethod
    def settle(self, children: Sequence[Branch]) -> None:
        """Take in the branches that grew from what was chosen, in that order."""

    @abstractmethod
    def best(self) -> tuple[Branch, ...]:
        """The results as they stand."""

    def rivals(self) -> tuple[Branch, ...]:
        """The branches one of which the first result will be or begin with."""
        return self.best()[:1]

    def settled(self) -> bool:
        """Whether going on can change nothing, though branches are live."""
        return False


class Strategy(Settings):
    """How the next tokens are chosen: an object with settings and a chain of processors.

    Args:
        *processors: functions `(rows, logp_BV) -> logp_BV`, or a chain as text: `"penalties,top_k=40"`; they run first.
        **named: the strategy's own settings, and processors by name in the order in which they shall run; None is off.

    Raises:
        SettingError: a value outside its bound.
        UnknownNameError: a keyword that names neither.
    """

    revises: ClassVar[bool] = False  # whether a later step may replace text of an earlier one; if not, it only grows
    objects: ClassVar[tuple[str, ...]] = ()  # keywords that are no settings
    processors: Chain
    seed: int | None = None

    def __init__(self, *processors: Process | str, **named: Any) -> None:
        own = {field.name: field for field in described(type(self))}
        known = {*own, *self.objects}
        chain = {name: value for name, value in named.items() if name not in known}
        if (unknown := next((name for name in chain if name not in PROCESSORS), None)) is not None:
            raise UnknownNameError(f"keyword of {type(self).__name__}", unknown, {*known, *PROCESSORS})
        values = {name: field.convert(named.get(name, field.default)) for name, field in own.items()}
        for name, value in {**values, "processors": chain_of(*processors, **chain)}.items():
            object.__setattr__(self, name, value)
        for name in self.objects:
            object.__setattr__(self, name, named.get(name))
        self.__post_init__()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), self.processors))

    def __repr__(self) -> str:
        told = [f"{name}={value!r}" for name, value in vars(self).items() if name != "processors"]
        return f"{type(self).__name__}({', '.join([*map(repr, self.processors), *told])})"

    @classmethod
    def make(cls, values: Any, where: str) -> Self:
        """Build from a mapping, text values turned into the types of the settings."""
        return cls(**values)

    def in_ids(self, encode: Callable[[str], Sequence[int]]) -> Self:
        """The strategy with all text that it holds turned into ids."""
        return self

    @abstractmethod
    def run(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], n: int, limits: Limits
    ) -> Iterator[list[Step | None]]:
        """Generate from all prompts: of each its step, or None once it is done."""


class Together(Strategy):
    """A strategy that grows the texts of all prompts by one token a step."""

    @abstractmethod
    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run for n results.

        Raises:
            SettingError: the strategy cannot give n results.
        """

    def run(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], n: int, limits: Limits
    ) -> Iterator[list[Step | None]]:
        """Generate from all prompts in one batch."""
        searches = [self.search(prompt, n, limits.max_tokens) for prompt in prompts]
        return grow(model, prompts, self, searches, limits)


class Alone(Strategy):
    """A strategy that goes its own pace from each prompt."""

    def check(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> None:
        """Raise what is wrong before the first step."""

    @abstractmethod
    def steps(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> Iterator[Step]:
        """Generate from one prompt."""

    def run(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], n: int, limits: Limits
    ) -> Iterator[list[Step | None]]:
        """Generate from each prompt by itself."""
        for prompt in prompts:
            self.check(model, prompt, n, limits)
        return (list(steps) for steps in zip_longest(*(self.steps(model, prompt, n, limits) for prompt in prompts)))


class Next:
    """What may follow some texts: the model's rows, and what the chain makes of them.

    Attributes:
        logp_BV: the model's log-probabilities.
        chain_BV: after the processors; rows sum to at most one.

    Raises:
        LmlabError: the model or a processor gave NaN, or no token a probability.
    """

    def __init__(self, rows: Rows, logp_BV: Floats, chain: Chain, limits: Limits) -> None:
        _refuse_broken(logp_BV, "the model gave", "its weights are damaged or its training diverged")
        self._rows, self._limits = rows, limits
        self.logp_BV = logp_BV
        self._passes = list(run(chain, rows, _without(logp_BV, limits.forbidden)))
        self.chain_BV = self._passes[-1][2] if self._passes else _without(logp_BV, limits.forbidden)
        top_B1 = self.chain_BV.max(-1, keepdims=True)
        self._sum_B = (top_B1 + np.log(np.exp(self.chain_BV - top_B1).sum(-1, keepdims=True)))[:, 0]
        if chain:
            _refuse_broken(self.chain_BV, "the processors left", "mend the one that is not lmlab's")
            # No row holds more than 1, so that totals only fall; less is left as it is (see `beams`).
            self.chain_BV = self.chain_BV - np.maximum(self._sum_B, 0)[:, None]
            self._sum_B = np.minimum(self._sum_B, 0)
        self._memories = [
            (process, normal(before_BV), normal(after_BV)) if learns(process) else None
            for process, before_BV, after_BV in self._passes
        ]

    def child(self, row: int, token: int, score: float | None = None) -> Branch:
        """The branch of a row grown by a token."""
        return self.children([row], [token], [score])[0]

    def children(self, rows: Sequence[int], tokens: Sequence[int], scores: Sequence[float | None]) -> list[Branch]:
        """The branches of these rows, each grown by a token; without a score it is `drawn_total`."""
        logp_K = self.logp_BV[rows, tokens].tolist()
        drawn_K = (self.chain_BV[rows, tokens] - self._sum_B[rows]).tolist()
        grown = []
        for row, token, score, logp, drawn in zip(rows, tokens, scores, logp_K, drawn_K, strict=True):
            parent = self._rows.live[row]
            total, drawn_total, length = parent.total + logp, parent.drawn_total + drawn, parent.length + 1
            score = drawn_total if score is None else score
            branch = Branch(token, logp, drawn, total, drawn_total, score, length, parent.lane, parent)
            if any(self._memories):
                branch.memory = self._remembered(row, token)
            if self._limits.alternatives:
                branch.alternatives = self._alternatives(row)
            if self._limits.trace:
                branch.trace = tuple(cut(process, old_BV[row], new_BV[row]) for process, old_BV, new_BV in self._passes)
            branch.end = self._limits.end_of(branch, self._rows.eos)
            grown.append(branch)
        return grown

    def _remembered(self, row: int, token: int) -> tuple[Any, ...]:
        old = self._rows.live[row].memory or [None] * len(self._memories)
        return tuple(
            kept and kept[0].remember(known, float(kept[1][row, token]), float(kept[2][row, token]))
            for kept, known in zip(self._memories, old, strict=True)
        )

    def _alternatives(self, row: int) -> tuple[Alternative, ...]:
        logp_V, chain_V = self.logp_BV[row], self.chain_BV[row] - self._sum_B[row]
        tokens = best_of(logp_V, self._limits.alternatives)
        return tuple(Alternative(int(token), float(logp_V[token]), float(chain_V[token])) for token in tokens)


def grow(
    model: LanguageModel, prompts: Sequence[Sequence[int]], strategy: Strategy, searches: list[Search], limits: Limits
) -> Iterator[list[Step | None]]:
    """Drive one search a prompt, all rows in one batch."""
    logp_BV, state, device = started(model, prompts)
    live = [[Branch.root(lane) for lane in search.lanes] for search in searches]
    origin = [row for row, branches in enumerate(live) for _ in branches]  # of each live branch in the model's batch
    while True:
        owners = [prompts[owner] for owner, branches in enumerate(live) for _ in branches]
        tips = [branch for branches in live for branch in branches]
        every = logp_BV if origin == list(range(len(logp_BV))) else logp_BV[origin]
        texts = Rows(owners, tips, model.eos, strategy.seed or 0)
        after = Next(texts, every, strategy.processors, limits)
        steps: list[Step | None] = [None] * len(searches)
        kept: list[tuple[int, int]] = []  # rows and tokens that go on
        offset = 0
        for owner, (search, branches) in enumerate(zip(searches, live, strict=True)):
            if not branches:
                continue
            mine = range(offset, offset + len(branches))
            picked = search.choose(texts.part(mine), after.chain_BV[mine.start : mine.stop])
            rows, tokens, scores = [offset + row for row in picked[0]], picked[1], picked[2]
            children = after.children(rows, tokens, scores)
            search.settle(children)
            offset += len(branches)
            live[owner] = [child for child in children if child.end is None]
            done = not live[owner] or search.settled()
            ended = tuple(child for child in children if child.end is not None)
            steps[owner] = Step(tuple(live[owner]), ended, search.best(), done, search.rivals(), search.pruned)
            if done:
                live[owner] = []
            else:
                grown = zip(rows, tokens, children, strict=True)
                kept += [(row, token) for row, token, child in grown if child.end is None]
        yield steps
        if not kept:
            return
        needed = [origin[row] for row, _ in kept]
        if needed != list(range(len(logp_BV))):
            state = selected(state, needed, device)
        logp_BV, state = stepped(model, state, [token for _, token in kept], device)
        origin = list(range(len(kept)))


def started(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[Floats, Any, torch.device]:
    """The model's rows after the prompts, its state, and where it computes."""
    import torch

    with torch.no_grad():
        logp_BV, state = model.start([list(prompt) for prompt in prompts])
    return as_array(logp_BV), state, logp_BV.device


def stepped(model: LanguageModel, state: Any, tokens: Sequence[int], device: torch.device) -> tuple[Floats, Any]:
    """The model's rows one token further, and its state."""
    import torch

    with torch.no_grad():
        logp_BV, state = model.step(state, torch.tensor(tokens, device=device))
    return as_array(logp_BV), state


def selected(state: Any, rows: Sequence[int], device: torch.device) -> Any:
    """The model's state of some rows."""
    import torch

    return state.select(torch.tensor(rows, device=device))


def best_of(values_N: Floats, k: int) -> Any:
    """The indices of the k largest that are not -inf, largest first, the lowest index first among equals."""
    if k < len(values_N):
        found = np.flatnonzero(values_N >= np.partition(values_N, -k)[-k])
    else:
        found = np.arange(len(values_N))
    found = found[values_N[found] > -np.inf]
    return found[np.argsort(-values_N[found], kind="stable")[:k]]


def as_array(logp_BV: torch.Tensor) -> Floats:
    """The rows in NumPy, float64."""
    return np.asarray(logp_BV.double().cpu().numpy())


def _refuse_broken(logp_BV: Floats, who: str, remedy: str) -> None:
    if not np.isfinite(logp_BV.max(-1)).all():  # max hands NaN on
        raise LmlabError(f"{who} NaN or no token at all", remedy)


def _without(logp_BV: Floats, forbidden: Sequence[int]) -> Floats:
    """The rows with these ids at -inf, but for rows that have no other."""
    if not forbidden:
        return logp_BV
    rest_BV = logp_BV.copy()
    rest_BV[:, list(forbidden)] = -np.inf
    return np.where(np.isfinite(rest_BV).any(-1, keepdims=True), rest_BV, logp_BV)


def integer(name: str, value: Any, least: int) -> int:
    """The value, once it is an integer and no less than the least; SettingError where it is not."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise SettingError(name, value, f"an integer >= {least}")
    return int(value)
