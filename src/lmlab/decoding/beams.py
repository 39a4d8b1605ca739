"""Strategies that keep several texts and let them compete: beams.

All rank by what the chain gives: a token that a processor forbids or makes less likely is so for a beam too. Rows are
not normalised again after the processors, so that forbidding a token changes no other text's score.

Shapes: B live texts, V the vocabulary, N candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lmlab.config import setting
from lmlab.decoding.branch import Branch, Pruned, Rows
from lmlab.decoding.chain import normal
from lmlab.decoding.chance import Floats, gumbels
from lmlab.decoding.draws import Seeded
from lmlab.decoding.search import Batch, Choice, Limits, Prompts, Search, Steps, Together, best_of
from lmlab.decoding.writing import write_beams
from lmlab.errors import LmlabError, SettingError
from lmlab.models.base import LanguageModel

_WIDTH = setting(5, "texts kept at every token", ge=1, le=100_000)
_PENALTY = setting(1.0, "score = log p / length ** this: 0 is the total, 1 the mean per token", ge=0, le=10)
_EARLY = setting(
    "optimal",
    "stop when nothing can win, when nothing now leads (heuristic), or when enough have ended (first)",
    choices=("optimal", "heuristic", "first"),
)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Beam(Together):
    """Keeps the likeliest `width` texts at every token, and returns the n best of those that ended.

    A text scores its total log-probability divided by `length ** length_penalty`, its `<eos>` counted in both: 1 is the
    mean per token, under which texts of unequal lengths compare; 0 is the plain total, under which the short ones win
    (Wu et al. 2016, section 7, without the constant).
    """

    revises: ClassVar[bool] = True
    drops: ClassVar[bool] = True
    width: int = _WIDTH
    length_penalty: float = _PENALTY
    early_stopping: str = _EARLY

    def score(self, branch: Branch) -> float:
        """What the beam ranks texts by, in nats."""
        return float(branch.score / branch.length**self.length_penalty)

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        if n > self.width:
            raise SettingError("n", n, f"an integer <= the beam's width {self.width}", "widen the beam")
        return self._beams(n, max_tokens)

    def run(self, model: LanguageModel, prompts: Prompts, n: int, limits: Limits, batch: Batch | None = None) -> Steps:
        """Generate by the model's own beams where it has them for this, else all texts in one batch."""
        searches = [self.search(prompt, n, limits.max_tokens) for prompt in prompts]
        plain = batch is None and all(search.plain for search in searches)
        written = write_beams(model, prompts, self, self.width, searches, limits) if plain else None
        return written or super().run(model, prompts, n, limits, batch)

    def _beams(self, n: int, max_tokens: int) -> Search:
        return _Beams(self, self.width, n, max_tokens)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class BeamSample(Seeded, Beam):
    """A beam that draws its continuations, without replacement, in proportion to the probability of the whole text."""

    def _beams(self, n: int, max_tokens: int) -> Search:
        return _Drawn(self, self.width, n, max_tokens)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class DiverseBeam(Beam):
    """Groups of beams, each of which shuns the tokens that the groups before it chose now (Vijayakumar et al. 2018).

    Each such choice takes `diversity` off a token in the ranking, not off the scores (Hamming diversity). The results
    are the best of each group, then the second best, best first.
    """

    width: int = setting(6, "texts kept at every token, shared by the groups", ge=1, le=100_000)
    groups: int = setting(3, "beams that shun one another", ge=1)
    diversity: float = setting(0.5, "nats off a token for each text before that chose it", ge=0, le=1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.groups:
            raise SettingError("width", self.width, f"a multiple of the {self.groups} groups")

    def _beams(self, n: int, max_tokens: int) -> Search:
        return _Groups(self, n, max_tokens)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class StochasticBeam(Seeded, Together):
    """Draws `width` different texts, without replacement from all texts (Kool et al. 2019).

    The results come in the order in which they were drawn; the first is an ordinary sample.
    """

    revises: ClassVar[bool] = True
    drops: ClassVar[bool] = True
    width: int = setting(5, "texts drawn", ge=1, le=100_000)

    def search(self, prompt_ids: Sequence[int], n: int, max_tokens: int) -> Search:
        """Begin a run."""
        if n > self.width:
            raise SettingError("n", n, f"an integer <= the beam's width {self.width}", "widen the beam")
        return _Perturbed(self.width, n)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Constrained(Beam):
    """A beam whose texts contain all of `must`, each a run of ids or, in a text model, a string.

    The beam is shared out in banks by how much of the constraints a text has met (Post and Vilar 2018), and a text may
    end only when it has met all.

    Raises:
        SettingError: no run, or an empty one.
    """

    objects: ClassVar[tuple[str, ...]] = ("must",)
    if TYPE_CHECKING:
        must: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        must = (self.must,) if isinstance(self.must, str) else tuple(self.must or ())
        if not must or not all(must):
            raise SettingError("must", must, "one or more words, none empty", "for example must=['king']")
        object.__setattr__(self, "must", tuple(one if isinstance(one, str) else tuple(one) for one in must))

    def in_ids(self, encode: Callable[[str], Sequence[int]]) -> Self:
        """The strategy with its words turned into ids."""
        ids = [encode(one) if isinstance(one, str) else one for one in self.must]
        return type(self)(*self.processors, must=ids, **self.dump())

    def _beams(self, n: int, max_tokens: int) -> Search:
        longest = max(map(len, self.must))
        if longest > max_tokens:
            raise SettingError("max_tokens", max_tokens, f"an integer >= {longest}, the tokens of the longest word")
        return _Banks(self, self.width, n, max_tokens)


class _Pool(Search):
    """Texts that compete, those that go on and those that ended; the n of highest score are the results."""

    def __init__(self, width: int, n: int, score: Callable[[Branch], float] = attrgetter("score")) -> None:
        self._width, self._n, self._score = width, n, score
        self._ended: list[Branch] = []
        self._live: list[Branch] = []

    @property
    def most(self) -> int:
        return self._width

    def settle(self, children: Sequence[Branch]) -> None:
        self._live = [child for child in children if child.end is None]
        self._ended += [child for child in children if child.end is not None]

    def best(self) -> tuple[Branch, ...]:
        return tuple(sorted(self._ended + self._live, key=self._score, reverse=True)[: self._n])

    def rivals(self) -> tuple[Branch, ...]:
        return tuple(self._ended + self._live)


def _picked(at_K: Any, keys_N: Floats, vocab_size: int) -> Choice:
    """Candidates by their places among the keys of all rows."""
    return (at_K // vocab_size).tolist(), (at_K % vocab_size).tolist(), keys_N[at_K].tolist()


def _pruned(rows: Rows, at_K: Any, scores_N: Floats, vocab_size: int, why: str) -> tuple[Pruned, ...]:
    """Those of them that were not taken."""
    picked = zip(*_picked(at_K, scores_N, vocab_size), strict=True)
    return tuple(Pruned(rows.live[row], token, score, why) for row, token, score in picked)


class _Beams(_Pool):
    """The best texts of each length, and the best of those that ended."""

    plain: ClassVar[bool] = True

    def __init__(self, beam: Beam, width: int, n: int, max_tokens: int) -> None:
        super().__init__(width, n, beam.score)
        self._beam, self._max_tokens = beam, max_tokens

    def choose(self, rows: Rows, chain_BV: Floats, penalty_V: Floats | float = 0.0) -> Choice:
        # All candidates are of one length, so that their totals rank them as their scores do.
        scores_BV = np.array([branch.score for branch in rows.live])[:, None] + chain_BV
        keys_N = self._keys(rows, scores_BV - penalty_V).ravel()
        # As many as can be needed: each live text can end but once, and its end makes room for no other that ends.
        order = best_of(keys_N, 2 * self._width)
        rows_K, tokens_K, scores_K = _picked(order, scores_BV.ravel(), chain_BV.shape[-1])
        chosen = self.taken(rows.live, list(zip(scores_K, rows_K, tokens_K, strict=True)), rows.eos)
        return [row for _, row, _ in chosen], [token for *_, token in chosen], [score for score, *_ in chosen]

    def taken(self, live: Sequence[Branch], candidates: Sequence[Any], eos: int) -> list[Any]:
        """Of candidates (score, row, token, ...), best first, those that are grown; the others are `pruned`."""
        chosen, pruned, room = [], [], self._width
        for place, one in enumerate(candidates):
            ends = one[2] == eos
            if place < self._width if ends else room:
                chosen.append(one)
                room -= not ends
            else:
                pruned.append(Pruned(live[one[1]], one[2], one[0], "width"))
        self.pruned = tuple(pruned)
        return chosen

    def settle(self, children: Sequence[Branch]) -> None:
        super().settle(children)
        ranked = sorted(self._ended, key=self._score, reverse=True)
        self._ended = ranked[: self._width]
        self.pruned += tuple(
            Pruned(branch.parent, branch.token, branch.score, "ended")
            for branch in ranked[self._width :]
            if branch.parent is not None
        )

    def best(self) -> tuple[Branch, ...]:
        if self.settled() or not self._live:
            return tuple(self._ended[: self._n])
        return super().best()

    def settled(self) -> bool:
        full = len(self._ended) >= (self._width if self._beam.early_stopping != "optimal" else self._n)
        if not full or not self._live:
            return full
        if self._beam.early_stopping == "first":
            return True
        if self._beam.early_stopping == "heuristic":
            return bool(self._score(self._ended[-1]) >= max(map(self._score, self._live)))
        # A total only falls as its text grows (the chain's does too, or is taken to), and no text grows beyond
        # max_tokens: what becomes of a live branch of total s <= 0 scores at most s / max_tokens ** length_penalty.
        # Once the n-th ended text scores no less than that for every live branch, none can displace it.
        highest = max(branch.score for branch in self._live) / self._max_tokens**self._beam.length_penalty
        return bool(self._score(self._ended[self._n - 1]) >= highest)

    def _keys(self, rows: Rows, scores_BV: Floats) -> Floats:
        """What candidates are ranked by."""
        return scores_BV


class _Drawn(_Beams):
    """A beam ranked by scores with Gumbel noise: the leading ones are draws without replacement."""

    plain: ClassVar[bool] = False

    def _keys(self, rows: Rows, scores_BV: Floats) -> Floats:
        return scores_BV + _noise(rows, scores_BV)


class _Groups(Search):
    """Beams in order; the lane of a branch is its group."""

    def __init__(self, beam: DiverseBeam, n: int, max_tokens: int) -> None:
        share = beam.width // beam.groups
        self.lanes = range(beam.groups)
        self._beam, self._n = beam, n
        self._groups = [_Beams(beam, share, min(n, share), max_tokens) for _ in self.lanes]

    @property
    def most(self) -> int:
        return self._beam.width

    def choose(self, rows: Rows, chain_BV: Floats) -> Choice:
        taken_V = np.zeros(chain_BV.shape[-1])
        chosen: list[tuple[int, int, float]] = []
        for lane, group in enumerate(self._groups):
            mine = [row for row, branch in enumerate(rows.live) if branch.lane == lane]
            if not mine or group.settled():
                continue
            part = group.choose(rows.part(mine), chain_BV[mine], self._beam.diversity * taken_V)
            chosen += [(mine[row], token, score) for row, token, score in zip(*part, strict=True)]
            taken_V += np.bincount(part[1], minlength=len(taken_V))
        rows_N, tokens_N, scores_N = zip(*chosen, strict=True) if chosen else ((), (), ())
        return rows_N, tokens_N, scores_N

    def settle(self, children: Sequence[Branch]) -> None:
        for lane, group in enumerate(self._groups):
            if not group.settled():
                group.settle([child for child in children if child.lane == lane])
        self.pruned = tuple(one for group in self._groups if not group.settled() for one in group.pruned)

    def best(self) -> tuple[Branch, ...]:
        ranked = [group.best() for group in self._groups]
        turns = [branches[turn] for turn in range(self._n) for branches in ranked if turn < len(branches)]
        return tuple(sorted(turns[: self._n], key=self._beam.score, reverse=True))

    def rivals(self) -> tuple[Branch, ...]:
        return tuple(branch for group in self._groups for branch in group.rivals())

    def settled(self) -> bool:
        return all(group.settled() for group in self._groups)


class _Perturbed(_Pool):
    """The texts of largest perturbed log-probability, top down through the tree; a branch's score is that."""

    def choose(self, rows: Rows, chain_BV: Floats) -> Choice:
        totals_B1 = np.array([[branch.drawn_total] for branch in rows.live])
        highest_B1 = np.array([[branch.score] for branch in rows.live])
        noisy_BV = totals_B1 + normal(chain_BV) + _noise(rows, chain_BV)
        # Conditioned on their maximum being that of the parent, stably (Kool et al. 2019, appendix B.3).
        with np.errstate(divide="ignore"):
            gap_BV = highest_B1 - noisy_BV + np.log1p(-np.exp(noisy_BV - noisy_BV.max(-1, keepdims=True)))
        keys_N = (highest_B1 - np.maximum(gap_BV, 0) - np.log1p(np.exp(-np.abs(gap_BV)))).ravel()
        pool_N = np.concatenate([keys_N, [branch.score for branch in self._ended]])
        kept = best_of(pool_N, self._width)
        self._ended = [self._ended[at - len(keys_N)] for at in kept if at >= len(keys_N)]
        return _picked(kept[kept < len(keys_N)], keys_N, chain_BV.shape[-1])


class _Banks(_Beams):
    """A beam shared out by how much of the constraints each text has met."""

    plain: ClassVar[bool] = False

    def __init__(self, beam: Constrained, width: int, n: int, max_tokens: int) -> None:
        super().__init__(beam, width, n, max_tokens)
        self._must = tuple(dict.fromkeys(beam.must))
        self._met: dict[Branch, frozenset[int]] = {}

    def choose(self, rows: Rows, chain_BV: Floats, penalty_V: Floats | float = 0.0) -> Choice:
        scores_BV = np.array([branch.score for branch in rows.live])[:, None] + chain_BV
        for row, branch in enumerate(rows.live):
            if len(self._met.get(branch, ())) < len(self._must):
                scores_BV[row, rows.eos] = -np.inf
        vocab_size = chain_BV.shape[-1]
        likely = best_of(scores_BV.ravel(), 2 * self._width).tolist()
        nearer = [row * vocab_size + id for row, tip in enumerate(rows.live) for id in self._wanted(tip)]
        scores_N = scores_BV.ravel()
        banks: dict[int, list[int]] = {}
        for at in sorted({*likely, *nearer}, key=lambda at: -scores_N[at]):
            if scores_N[at] > -np.inf:
                banks.setdefault(self._bank(rows.live[at // vocab_size], at % vocab_size), []).append(at)
        # A place for each bank in turn, the fullest constraints first, until the beam is full.
        turns = [banks[bank][turn : turn + 1] for turn in range(self._width) for bank in sorted(banks, reverse=True)]
        chosen = [at for turn in turns for at in turn][: self._width]
        dropped = sorted({*likely} - {*chosen}, key=lambda at: -scores_N[at])[: self._width]
        self.pruned = _pruned(rows, np.array(dropped, dtype=int), scores_N, vocab_size, "bank")
        return _picked(np.array(chosen, dtype=int), scores_N, vocab_size)

    def settle(self, children: Sequence[Branch]) -> None:
        self._met = {child: self._after(child.parent, child.token) for child in children if child.parent is not None}
        whole = [child for child in children if child.end is None or len(self._met[child]) == len(self._must)]
        super().settle(whole)
        if not self._live and not self._ended:
            said = f"no text of up to {self._max_tokens} tokens that was found"
            problem = f"{said} has all of the {len(self._must)} words"
            raise LmlabError(problem, "raise max_tokens or the width, or ask for words that the model can write")

    def _after(self, branch: Branch | None, token: int) -> frozenset[int]:
        """Which words a text has met, one token further."""
        assert branch is not None
        tail = (*branch.tail(max(map(len, self._must)) - 1), token)
        here = (at for at, word in enumerate(self._must) if tail[-len(word) :] == word)
        return self._met.get(branch, frozenset()).union(here)

    def _begun(self, ids: Sequence[int], met: frozenset[int]) -> list[tuple[int, tuple[int, ...]]]:
        """Of each word that is not met: how many of its tokens the ids end in, and the word."""
        words = [word for at, word in enumerate(self._must) if at not in met]
        return [
            (max(size for size in range(len(word)) if tuple(ids[len(ids) - size :]) == word[:size]), word)
            for word in words
        ]

    def _wanted(self, branch: Branch) -> set[int]:
        """The tokens that bring a text nearer to a word."""
        ids = branch.tail(max(map(len, self._must)))
        return {word[size] for size, word in self._begun(ids, self._met.get(branch, frozenset()))}

    def _bank(self, branch: Branch, token: int) -> int:
        """How many tokens of words a text has, one token further."""
        met = self._after(branch, token)
        ids = [*branch.tail(max(map(len, self._must))), token]
        begun = max((size for size, _ in self._begun(ids, met)), default=0)
        return sum(len(self._must[at]) for at in met) + begun


def _noise(rows: Rows, like_BV: Floats) -> Floats:
    """Gumbel noise of each candidate, by its row, its place in the text and its token."""
    tokens_V = np.arange(like_BV.shape[-1])
    return gumbels(rows.seed, np.arange(len(rows))[:, None], rows.live[0].length, 2 + tokens_V)
