"""Strategies that go their own pace: exact and contrastive search, and drafts that the model only checks.

Shapes: B = 1 row, V the vocabulary.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from lmlab.config import setting
from lmlab.decoding.branch import Branch, Rows, Step
from lmlab.decoding.chain import normal
from lmlab.decoding.chance import Floats, uniforms
from lmlab.decoding.draws import Seeded, draw
from lmlab.decoding.search import Alone, Limits, Next, best_of
from lmlab.errors import LmlabError, SettingError, UsageError
from lmlab.models.base import LanguageModel, Reader, whole
from lmlab.models.readers import as_array, reader_of


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Exact(Alone):
    """The n texts of largest total log-probability, none missed, by best-first search.

    It reads the beginnings of texts from the likeliest on, until the n-th text that has ended is likelier than any
    beginning. That takes a model that is sure of itself, or few tokens.
    """

    revises: ClassVar[bool] = True
    readings: int = setting(10_000, "beginnings read at most", ge=1)

    def steps(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> Iterator[Step]:
        """Search from one prompt; a step is a beginning read.

        Raises:
            LmlabError: it took too many.
        """
        order: count[int] = count()
        found: list[Branch] = []
        frontier: list[tuple[float, int, Next, Any, int]] = []  # a text's score, its order, and how to grow it

        def push(after: Next, base: float, tokens: Any, rank: int) -> None:
            if rank < len(tokens):
                score = base + float(after.chain_BV[0, tokens[rank]])
                heapq.heappush(frontier, (-score, next(order), after, tokens, rank))

        tip, base, reader = Branch.root(), 0.0, reader_of(model)
        for _ in range(self.readings):
            logp_BV, _ = reader.start([[*prompt, *tip.ids()]])
            after = Next(Rows([prompt], [tip], model.eos), logp_BV, self.processors, limits, drop=True)
            if not after.stuck:
                push(after, base, best_of(after.chain_BV[0], logp_BV.shape[-1]), 0)
            ended: list[Branch] = []
            live: tuple[Branch, ...] = ()
            while frontier and not live and len(found) + len(ended) < n:
                worth, _, after, tokens, rank = heapq.heappop(frontier)
                push(after, -worth - float(after.chain_BV[0, tokens[rank]]), tokens, rank + 1)  # its next brother
                tip, base = after.child(0, int(tokens[rank]), -worth), -worth
                if tip.end is None:
                    live = (tip,)
                else:
                    ended.append(tip)
            found += ended
            if not found and not live and limits.grammar is not None:
                raise limits.grammar.dead_end(prompt)
            rivals = tuple(found[:1]) or (Branch.root(),)
            yield Step(live, tuple(ended), (*found, *live), not live, rivals)
            if not live:
                return
        problem = f"the {n} likeliest texts are not among the first {self.readings:,} beginnings"
        raise LmlabError(problem, "raise readings, lower max_tokens, or use a beam")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Contrastive(Alone):
    """Of the likeliest tokens the one least like what came before, by the model's hidden states (Su et al. 2022).

    A token scores (1 - alpha) p - alpha s, s the largest cosine between its hidden state and one before it, those of
    the prompt and `<bos>` included. It has one answer, so n must be 1; alpha 0 is greedy choice.
    """

    candidates: int = setting(4, "likeliest tokens compared", ge=1, le=10_000)
    alpha: float = setting(0.6, "weight of being unlike what came before", ge=0, le=1)

    def check(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> None:
        """Raise where n is not 1, or the model declares no hidden states."""
        if n != 1:
            raise SettingError("n", n, "1 for contrastive search, which has one answer")
        if getattr(whole(model), "read_on", None) is None:
            problem = f"contrastive search compares hidden states, and {type(model).__name__} has none"
            raise UsageError(problem, "take a neural model that is not composed, or another strategy")

    def steps(self, model: Any, prompt: Sequence[int], n: int, limits: Limits) -> Iterator[Step]:
        """Generate from one prompt."""
        import torch

        model = whole(model)
        hidden_BTH, logp_BV, state = model.read_on(None, torch.tensor([[model.bos, *prompt]], device=model.device))
        past_TH, row_BV, tip = _unit(hidden_BTH[0]), as_array(logp_BV), Branch.root()
        while tip.end is None:
            after = Next(Rows([prompt], [tip], model.eos), row_BV, self.processors, limits)
            tokens_K = best_of(after.chain_BV[0], self.candidates)
            p_K = np.exp(normal(after.chain_BV))[0, tokens_K]
            ids_K1 = torch.tensor(tokens_K[:, None], device=model.device)
            hidden_K1H, logp_KV, states = model.read_on(state.select(torch.zeros_like(ids_K1[:, 0])), ids_K1)
            new_KH = _unit(hidden_K1H[:, 0])
            best = int(np.argmax((1 - self.alpha) * p_K - self.alpha * (new_KH @ past_TH.T).max(-1)))
            tip = after.child(0, int(tokens_K[best]))
            past_TH = np.concatenate([past_TH, new_KH[best : best + 1]])
            row_BV, state = as_array(logp_KV[best : best + 1]), states.select(torch.tensor([best], device=model.device))
            yield Step(
                (tip,) if tip.end is None else (), (tip,) if tip.end else (), (tip,), tip.end is not None, (tip,)
            )


def _unit(hidden_TH: Any) -> Floats:
    """Rows of length 1."""
    rows_TH = as_array(hidden_TH)
    return np.asarray(rows_TH / np.maximum(np.linalg.norm(rows_TH, axis=-1, keepdims=True), 1e-12))


Proposals = list[tuple[int, Floats | None]]
"""Tokens, and the distribution that each was drawn from; None where no other could come."""


class Drafter(Protocol):
    """Writes ahead of the model."""

    def propose(self, tip: Branch) -> Proposals:
        """What may come after a text."""
        ...

    def follow(self, tokens: Sequence[int]) -> None:
        """Read what has come."""
        ...


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Drafted(Seeded, Alone):
    """Samples whose tokens are drafted ahead and then accepted or replaced, such that each is drawn from the model.

    A draft x from q is kept with probability p(x) / q(x); else the token is drawn from max(p - q, 0) (Leviathan et al.
    2023, Chen et al. 2023). `temperature=0` gives the greedy text.
    """

    lookahead: int = setting(4, "tokens drafted ahead", ge=1, le=1000)

    @abstractmethod
    def drafter(self, prompt: Sequence[int], lane: int, limits: Limits) -> Drafter:
        """Who drafts one text."""

    def steps(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> Iterator[Step]:
        """Generate from one prompt; a step is one draft, and the token after it, for each text."""
        reader = reader_of(model)
        position = reader.start([prompt])
        tips = [Branch.root(lane) for lane in range(n)]
        positions: list[Any] = [position] * n
        drafters = [self.drafter(prompt, lane, limits) for lane in range(n)]
        while True:
            before = [tip.end for tip in tips]
            for lane, tip in enumerate(tips):
                if tip.end is None:
                    tips[lane], positions[lane] = self._checked(
                        reader, model.eos, prompt, tip, positions[lane], drafters[lane].propose(tip), limits
                    )
                    drafters[lane].follow([node.token for node in tips[lane].path()[tip.length :]])
            live = tuple(tip for tip in tips if tip.end is None)
            ended = tuple(tip for tip, end in zip(tips, before, strict=True) if tip.end and not end)
            yield Step(live, ended, tuple(tips), not live, tuple(tips[:1]))
            if not live:
                return

    def _checked(
        self,
        reader: Reader,
        eos: int,
        prompt: Sequence[int],
        tip: Branch,
        position: Any,
        proposals: Proposals,
        limits: Limits,
    ) -> tuple[Branch, Any]:
        """The text grown by the drafts that stand and by one token more, and the model's rows and state after it."""
        logp_BV, state = position
        for token, drafted_V in [*proposals, (-1, np.zeros(logp_BV.shape[-1]))]:
            after = Next(Rows([prompt], [tip], eos, self.seed or 0), logp_BV, self.processors, limits)
            p_V = np.exp(normal(after.chain_BV[0]))
            q_V = np.arange(len(p_V)) == token if drafted_V is None else drafted_V
            place = (self.seed or 0, tip.lane, tip.length)
            stands = token >= 0 and uniforms(*place, 2)[0] * q_V[token] < p_V[token]
            if not stands:
                rest_V = np.maximum(p_V - q_V, 0)
                token = int(draw((rest_V if rest_V.any() else p_V)[None], uniforms(*place))[0])
            tip = after.child(0, token)
            if tip.end is None:
                logp_BV, state = reader.step(state, [token])
            if tip.end is not None or not stands:
                break
        return tip, (logp_BV, state)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Speculative(Drafted):
    """Drafts by a quicker model of the same vocabulary: an n-gram, a smaller network."""

    objects: ClassVar[tuple[str, ...]] = ("draft",)
    if TYPE_CHECKING:
        draft: Any = None

    def check(self, model: LanguageModel, prompt: Sequence[int], n: int, limits: Limits) -> None:
        """Raise SettingError where there is no draft model, or one of another vocabulary."""
        size = getattr(self.draft, "vocab_size", None)
        if size != model.vocab_size:
            shown = "nothing" if self.draft is None else f"a model of {size} tokens"
            raise SettingError("draft", shown, f"a model of the same vocabulary, {model.vocab_size} tokens")

    def drafter(self, prompt: Sequence[int], lane: int, limits: Limits) -> Drafter:
        """The draft model at one text."""
        return _ByModel(self, prompt, limits)


class _ByModel:
    """A draft model that has read the text as far as it stands."""

    def __init__(self, strategy: Speculative, prompt: Sequence[int], limits: Limits) -> None:
        self._strategy, self._prompt, self._limits = strategy, prompt, limits
        self._reader = reader_of(strategy.draft)
        self._logp_BV, self._state = self._reader.start([prompt])
        self._ahead: list[tuple[int, Any, Any]] = []  # drafted tokens, and the model after each

    def propose(self, tip: Branch) -> Proposals:
        proposals: Proposals = []
        model, seed = self._strategy.draft, self._strategy.seed or 0
        logp_BV, state = self._logp_BV, self._state
        self._ahead = []
        while len(proposals) < self._strategy.lookahead and tip.end is None:
            rows = Rows([self._prompt], [tip], model.eos, seed)
            after = Next(rows, logp_BV, self._strategy.processors, self._limits, drop=True)
            if after.stuck:
                break
            q_V = np.exp(normal(after.chain_BV[0]))
            token = int(draw(q_V[None], uniforms(seed, tip.lane, tip.length, 3))[0])
            proposals.append((token, q_V))
            tip = after.child(0, token)
            logp_BV, state = self._reader.step(state, [token])
            self._ahead.append((token, logp_BV, state))
        return proposals

    def follow(self, tokens: Sequence[int]) -> None:
        for at, token in enumerate(tokens):
            if at < len(self._ahead) and self._ahead[at][0] == token:
                _, self._logp_BV, self._state = self._ahead[at]
            else:
                self._ahead = []
                self._logp_BV, self._state = self._reader.step(self._state, [token])


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Lookup(Drafted):
    """Drafts what followed the last tokens when they came before, prompt included (prompt lookup, Saxena 2023)."""

    ngram: int = setting(3, "longest run looked up", ge=1, le=100)

    def drafter(self, prompt: Sequence[int], lane: int, limits: Limits) -> Drafter:
        """The text itself."""
        return _ByText(self, prompt)


class _ByText:
    def __init__(self, strategy: Lookup, prompt: Sequence[int]) -> None:
        self._strategy, self._ids = strategy, list(prompt)

    def propose(self, tip: Branch) -> Proposals:
        for size in range(min(self._strategy.ngram, len(self._ids) - 1), 0, -1):
            run = self._ids[-size:]
            for at in range(len(self._ids) - size - 1, -1, -1):
                if self._ids[at : at + size] == run:
                    return [(token, None) for token in self._ids[at + size :][: self._strategy.lookahead]]
        return []

    def follow(self, tokens: Sequence[int]) -> None:
        self._ids += tokens
