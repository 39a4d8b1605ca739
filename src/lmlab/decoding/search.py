"""What a strategy is, and the loop that drives those that grow all their texts by one token a step.

A batch calls `start` once for all prompts, then `step` once a token for all rows of all prompts together; rows that
end leave the batch, others join it, and beams take the model's state with them.

Shapes: B live rows, V the vocabulary, K chosen continuations.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from lmlab.config import Settings, described
from lmlab.decoding.branch import Alternative, Branch, End, Pruned, Rows, Step
from lmlab.decoding.chain import PROCESSORS, Chain, Process, Processor, chain_of, cut, learns, normal, run
from lmlab.decoding.chance import Floats
from lmlab.decoding.stop import Stop
from lmlab.errors import LmlabError, SettingError, UnknownNameError, check_integer
from lmlab.models.base import LanguageModel
from lmlab.models.readers import reader_of

if TYPE_CHECKING:
    from lmlab.decoding.grammar import Grammar


Prompts = Sequence[Sequence[int]]
Steps = Iterator[list[Step | None]]
"""Of each prompt its step, or None once it is done."""
Choice = tuple[Sequence[int], Sequence[int], Sequence[float]]
"""Continuations: of each its row, its token, and the score that its branch shall have."""


@dataclass(frozen=True)
class Limits:
    """What bounds and accompanies a generation.

    Attributes:
        max_tokens: where a text is cut, `<eos>` counted.
        max_seconds: when all texts are cut, at least one token long; None is never.
        stop: asked about each new branch; yes ends it.
        forbidden: ids that are never chosen, unless no other can be.
        alternatives: how many of the likeliest tokens each branch tells beside its own.
        trace: whether each branch tells what every processor left.
        grammar: the texts that may be written; one that is cut begins as one of them does.

    Raises:
        SettingError: a value outside its bound.
    """

    max_tokens: int = 200
    max_seconds: float | None = None
    stop: Stop | None = None
    forbidden: Sequence[int] = ()
    alternatives: int = 0
    trace: bool = False
    grammar: Grammar | None = None
    began: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        check_integer("max_tokens", self.max_tokens, 1)
        check_integer("alternatives", self.alternatives, 0)
        object.__setattr__(self, "forbidden", tuple(self.forbidden))
        if self.max_seconds is not None and not self.max_seconds >= 0:
            raise SettingError("max_seconds", self.max_seconds, "a number >= 0")

    def end_of(self, branch: Branch, eos: int) -> End | None:
        """Why a text ends here, if it does."""
        if branch.token == eos:
            return "eos"
        if self.stop is not None and self.stop(branch):
            return "stop"
        if branch.length >= self.max_tokens:
            return "length"
        late = self.max_seconds is not None and time.monotonic() >= self.began + self.max_seconds
        return "time" if late else None


class Search(ABC):
    """One run of a strategy from one prompt, which the loop asks at each token."""

    plain: ClassVar[bool] = False  # whether it keeps the highest scores, sums of log-probabilities: a beam as such
    lanes: Sequence[int] = (0,)  # of the branches that start from the prompt
    pruned: tuple[Pruned, ...] = ()  # the best of what the last choice dropped

    @property
    def most(self) -> int:
        """How many texts may be live at once."""
        return len(self.lanes)

    @abstractmethod
    def choose(self, rows: Rows, chain_BV: Floats) -> Choice:
        """The continuations to grow.

        Args:
            rows: the live texts.
            chain_BV: the log-probabilities of what follows them, after the processors; rows sum to at most one.
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
    def run(self, model: LanguageModel, prompts: Prompts, n: int, limits: Limits, batch: Batch | None = None) -> Steps:
        """Generate from all prompts, in a batch that others may share."""


class Together(Strategy):
    """A strategy that grows the texts of all prompts by one token a step."""

    drops: ClassVar[bool] = False  # whether a text that cannot go on makes room for others

    @abstractmethod
    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run for n results.

        Raises:
            SettingError: the strategy cannot give n results.
        """

    def run(self, model: LanguageModel, prompts: Prompts, n: int, limits: Limits, batch: Batch | None = None) -> Steps:
        """Generate from all prompts in one batch."""
        searches = [Growing(prompt, self, self.search(prompt, n, limits.max_tokens), limits) for prompt in prompts]
        return (batch or Batch(model)).run(searches)


class Alone(Strategy):
    """A strategy that goes its own pace from each prompt."""

    def check(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> None:
        """Raise what is wrong before the first step."""

    @abstractmethod
    def steps(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> Iterator[Step]:
        """Generate from one prompt."""

    def run(self, model: LanguageModel, prompts: Prompts, n: int, limits: Limits, batch: Batch | None = None) -> Steps:
        """Generate from each prompt by itself."""
        for prompt in prompts:
            self.check(model, prompt, n, limits)
        return (list(steps) for steps in zip_longest(*(self.steps(model, prompt, n, limits) for prompt in prompts)))


class Next:
    """What may follow some texts: the model's rows, and what the chain makes of them.

    Attributes:
        logp_BV: the model's log-probabilities.
        chain_BV: after the processors; rows sum to at most one.
        stuck: the rows after which the grammar has no token; theirs mean nothing.

    Args:
        drop: whether there may be such rows.

    Raises:
        LmlabError: the model or a processor gave NaN, or no token a probability; a row is stuck.
    """

    def __init__(self, rows: Rows, logp_BV: Floats, chain: Chain, limits: Limits, *, drop: bool = False) -> None:
        logp_BV = np.asarray(logp_BV, np.float64)
        top_B1 = _top(logp_BV, "the model gave", "its weights are damaged or its training diverged")
        self._rows, self._limits = rows, limits
        self.logp_BV = self.chain_BV = logp_BV
        self.stuck: frozenset[int] = frozenset()
        allowed_BV: NDArray[np.bool_] | None = None
        if limits.grammar is not None:
            allowed_BV = limits.grammar.allowed(rows)
            stuck_B = ~(allowed_BV & np.isfinite(logp_BV)).any(-1)
            self.stuck = frozenset(np.flatnonzero(stuck_B).tolist())
            if self.stuck and not drop:
                raise limits.grammar.dead_end(rows[min(self.stuck)])
            allowed_BV[stuck_B] = True
            self.chain_BV = np.where(allowed_BV, logp_BV, -np.inf)
        self.chain_BV = _without(self.chain_BV, limits.forbidden)
        self._passes = list(run(chain, rows, self.chain_BV))
        if self._passes:
            self.chain_BV = self._passes[-1][2]
            if allowed_BV is not None:  # whatever a processor revived
                self.chain_BV = np.where(allowed_BV, self.chain_BV, -np.inf)
        if self.chain_BV is not logp_BV:
            top_B1 = _top(self.chain_BV, "the processors left", "mend the one that is not lmlab's")
        self._sum_B = (top_B1 + np.log(np.exp(self.chain_BV - top_B1).sum(-1, keepdims=True)))[:, 0]
        if chain:
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

    def children(
        self,
        rows: Sequence[int],
        tokens: Sequence[int],
        scores: Sequence[float | None],
        limits: Limits | None = None,
    ) -> list[Branch]:
        """The branches of these rows, each grown by a token; without a score it is `drawn_total`."""
        limits = limits or self._limits
        logp_K = self.logp_BV[rows, tokens].tolist()
        drawn_K = (self.chain_BV[rows, tokens] - self._sum_B[rows]).tolist()
        grown, remembers = [], any(self._memories)
        for row, token, score, logp, drawn in zip(rows, tokens, scores, logp_K, drawn_K, strict=True):
            parent = self._rows.live[row]
            total, drawn_total, length = parent.total + logp, parent.drawn_total + drawn, parent.length + 1
            score = drawn_total if score is None else score
            branch = Branch(token, logp, drawn, total, drawn_total, score, length, parent.lane, parent)
            if remembers:
                branch.memory = self._remembered(row, token)
            if limits.alternatives:
                branch.alternatives = self._alternatives(row, limits.alternatives)
            if limits.trace:
                branch.trace = tuple(cut(process, old_BV[row], new_BV[row]) for process, old_BV, new_BV in self._passes)
            branch.end = limits.end_of(branch, self._rows.eos)
            grown.append(branch)
        return grown

    def _remembered(self, row: int, token: int) -> tuple[Any, ...]:
        old = self._rows.live[row].memory or [None] * len(self._memories)
        return tuple(
            kept and kept[0].remember(known, float(kept[1][row, token]), float(kept[2][row, token]))
            for kept, known in zip(self._memories, old, strict=True)
        )

    def _alternatives(self, row: int, count: int) -> tuple[Alternative, ...]:
        logp_V, chain_V = self.logp_BV[row], self.chain_BV[row] - self._sum_B[row]
        tokens = best_of(logp_V, count)
        return tuple(Alternative(int(token), float(logp_V[token]), float(chain_V[token])) for token in tokens)


class Growing:
    """One prompt's search in a batch.

    Attributes:
        live: the branches that may go on.
        rows: where each stands in the model's batch; none before the prompt is read.
        made: steps that nobody has taken yet, or what went wrong.
    """

    def __init__(self, prompt: Sequence[int], strategy: Together, search: Search, limits: Limits) -> None:
        self.prompt, self.strategy, self.search, self.limits = prompt, strategy, search, limits
        self.live = [Branch.root(lane) for lane in search.lanes]
        self.rows: list[int] = []
        self.made: deque[Step | Exception] = deque()
        draws = any(not isinstance(process, Processor) or "rows" in process.wanted for process in strategy.processors)
        seed = strategy.seed if draws else None
        self.chain = (strategy.processors, limits.forbidden, limits.grammar, strategy.drops, seed)

    def grow(self, texts: Rows, after: Next, offset: int) -> None:
        """Grow by a token, the live branches standing at an offset of the texts."""
        mine = [row for row in range(offset, offset + len(self.live)) if row not in after.stuck]
        every = len(mine) == len(texts)
        asked = (texts, after.chain_BV) if every else (texts.part(mine), after.chain_BV[mine])
        picked = self.search.choose(*asked) if mine else ((), (), ())
        rows = [mine[row] for row in picked[0]]
        children = after.children(rows, *picked[1:], self.limits)
        self.search.settle(children)
        kept = [
            (self.rows[row - offset], child) for row, child in zip(rows, children, strict=True) if child.end is None
        ]
        self.rows, self.live = [row for row, _ in kept], [child for _, child in kept]
        done = not self.live or self.search.settled()
        if done and self.limits.grammar is not None and not self.search.best():
            raise self.limits.grammar.dead_end(self.prompt)
        ended = tuple(child for child in children if child.end is not None)
        found = self.search.best(), done, self.search.rivals(), self.search.pruned
        self.made.append(Step(tuple(self.live), ended, *found))
        if done:
            self.live = []

    def fail(self, error: Exception) -> None:
        """End with an error, which is raised where the step would have been taken."""
        self.made.append(error)
        self.live = []


class Batch:
    """The texts of one model that grow together, a token a step.

    Searches of several calls may share it: they join between two tokens, and leave when they are done or nobody takes
    their steps any more. Each gives what it gives alone.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._growing, self._reader = model, list[Growing](), reader_of(model)
        self._position: Any = None  # the model's rows and its state, where all but the newest stand

    def run(self, searches: Sequence[Growing]) -> Iterator[list[Step | None]]:
        """Join, and give the steps of these searches, None once one is done; whoever wants a step drives them all."""
        if not self._growing:
            self._reader = reader_of(self._model, sum(each.search.most for each in searches))
        self._growing += searches
        return self._steps(searches)

    def _steps(self, mine: Sequence[Growing]) -> Iterator[list[Step | None]]:
        try:
            while any(each.live or each.made for each in mine):
                if any(each.live and not each.made for each in mine):
                    self._step()
                steps = [each.made.popleft() if each.made else None for each in mine]
                for step in steps:
                    if isinstance(step, Exception):
                        raise step
                yield cast("list[Step | None]", steps)
        finally:
            self._growing = [each for each in self._growing if each not in mine]

    def _step(self) -> None:
        logp_BV = self._read()
        alike: dict[Any, list[Growing]] = {}
        for each in self._growing:
            alike.setdefault(each.chain, []).append(each)
        for group in alike.values():
            rows = [row for each in group for row in each.rows]
            prompts = [each.prompt for each in group for _ in each.live]
            tips = [tip for each in group for tip in each.live]
            texts = Rows(prompts, tips, self._model.eos, group[0].strategy.seed or 0)
            try:
                every = logp_BV if rows == [*range(len(logp_BV))] else logp_BV[rows]
                first = group[0]
                after = Next(texts, every, first.strategy.processors, first.limits, drop=first.strategy.drops)
            except Exception as error:  # noqa: BLE001 - raised by each of those that it concerns
                for each in group:
                    each.fail(error)
                continue
            offset = 0
            for each, width in zip(group, [len(each.live) for each in group], strict=True):
                try:
                    each.grow(texts, after, offset)
                except Exception as error:  # noqa: BLE001 - raised by the search that it concerns
                    each.fail(error)
                offset += width
        self._growing = [each for each in self._growing if each.live]

    def _read(self) -> Floats:
        """Read the newest token of each text, and the prompts of those that joined."""
        old, new = ([each for each in self._growing if bool(each.rows) is known] for known in (True, False))
        if old:
            logp_BV, state = self._position
            needed = [row for each in old for row in each.rows]
            if needed != [*range(len(logp_BV))]:
                state = state.select(needed)
            self._position = self._reader.step(state, [tip.token for each in old for tip in each.live])
        if new:
            fresh = self._reader.start([each.prompt for each in new])
            self._position = _joined(self._position, fresh) if old else fresh
        end = 0
        for each in old:
            each.rows = [*range(end, end := end + len(each.live))]
        for row, each in enumerate(new, end):
            each.rows = [row] * len(each.live)
        rows_BV: Floats = self._position[0]
        return rows_BV


def _joined(one: Any, other: Any) -> tuple[Floats, Any]:
    """Two positions side by side."""
    return np.concatenate([one[0], other[0]]), one[1].joined(other[1])


def best_of(values_N: Floats, k: int) -> Any:
    """The indices of the k largest that are not -inf, largest first, the lowest index first among equals."""
    least = np.partition(values_N, -k)[-k] if k < len(values_N) else -np.inf
    found = np.flatnonzero(values_N >= least if least > -np.inf else values_N > least)
    return found[np.argsort(-values_N[found], kind="stable")[:k]]


def broken(who: str, remedy: str) -> LmlabError:
    """The error where no token can be chosen."""
    return LmlabError(f"{who} NaN or no token at all", remedy)


def _top(logp_BV: Floats, who: str, remedy: str) -> Floats:
    """The largest of each row; an error where there is none."""
    top_B1: Floats = logp_BV.max(-1, keepdims=True)  # which hands NaN on
    if not np.isfinite(top_B1).all():
        raise broken(who, remedy)
    return top_B1


def _without(logp_BV: Floats, forbidden: Sequence[int]) -> Floats:
    """The rows with these ids at -inf, but for rows that have no other."""
    if not forbidden:
        return logp_BV
    rest_BV = logp_BV.copy()
    rest_BV[:, list(forbidden)] = -np.inf
    return np.where(np.isfinite(rest_BV).any(-1, keepdims=True), rest_BV, logp_BV)
