"""What a search grows: branches, and the steps that show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from lmlab import scoring
from lmlab.vocabulary import BOS

End = Literal["eos", "stop", "length", "time"]


class Alternative(NamedTuple):
    """A token that could have come: the log-probabilities of the model and of the chain, in nats."""

    token: int
    logp: float
    drawn_logp: float


class Cut(NamedTuple):
    """What a processor left: how many tokens, and their mass under the row that it was given."""

    processor: Any
    tokens: int
    mass: float


@dataclass(eq=False, slots=True)
class Branch:
    """One token at the tip of a text, linked to the text before it.

    A node is never altered, so that beams share their common past and one more token costs O(1). (Not frozen: that
    would triple what it costs to make one.)

    Attributes:
        token: its id.
        logp: the model's log-probability of the token, in nats, before any processor.
        drawn_logp: the log-probability it was drawn with, after the processors.
        total: sum of `logp` over the generated tokens, `<eos>` included.
        drawn_total: sum of `drawn_logp` over them.
        score: what the search ranks texts of one length by; `drawn_total` where it does not say otherwise.
        length: how many tokens these sums run over.
        lane: the row of a sample, or the group of a beam.
        parent: the branch before it; None at the root, which stands for the prompt.
        memory: what processors with a memory know after this token.
        alternatives: the likeliest tokens here, where they were asked for.
        trace: what each processor left, where that was asked for.
        end: why the text ends here, or None while it may go on.
    """

    token: int
    logp: float
    drawn_logp: float
    total: float
    drawn_total: float
    score: float
    length: int
    lane: int
    parent: Branch | None = field(repr=False)
    memory: tuple[Any, ...] = field(default=(), repr=False)
    alternatives: tuple[Alternative, ...] = field(default=(), repr=False)
    trace: tuple[Cut, ...] = field(default=(), repr=False)
    end: End | None = None

    @classmethod
    def root(cls, lane: int = 0) -> Branch:
        """The prompt, before anything is generated."""
        return cls(BOS, 0.0, 0.0, 0.0, 0.0, 0.0, 0, lane, None)

    @property
    def perplexity(self) -> float:
        """Of the generated tokens under the model, `<eos>` included."""
        return scoring.perplexity(-self.total / max(self.length, 1))

    def path(self) -> list[Branch]:
        """The branches from the first generated token to this one."""
        return self._last(self.length)

    def ids(self) -> list[int]:
        """The generated ids, without `<eos>`."""
        return self.tail(self.length)

    def tail(self, count: int) -> list[int]:
        """The last `count` of `ids()`, walking no further back than that."""
        tip = self.parent if self.end == "eos" and self.parent is not None else self
        return [branch.token for branch in tip._last(count)]

    def _last(self, count: int) -> list[Branch]:
        nodes: list[Branch] = []
        node = self
        while node.parent is not None and len(nodes) < count:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class Pruned(NamedTuple):
    """A hypothesis that a search dropped: where it would have grown, by which token, its score, why (`tree.WHY`)."""

    parent: Branch
    token: int
    score: float
    why: str


class Step(NamedTuple):
    """What one token further looks like.

    Attributes:
        live: the branches that may go on; best first for a beam, in row order for samples.
        ended: the branches that ended in this very step.
        best: the n results as they stand, ended or not: best first for a beam, in row order for samples.
        done: whether this was the last step; `best` then holds the final results, all of them ended.
        rivals: the branches one of which the first result will be or begin with.
        pruned: the best of what a beam dropped in this step.
    """

    live: tuple[Branch, ...]
    ended: tuple[Branch, ...]
    best: tuple[Branch, ...]
    done: bool
    rivals: tuple[Branch, ...] = ()
    pruned: tuple[Pruned, ...] = ()

    @property
    def stable(self) -> int:
        """How many of the first tokens of `best[0]` no later step can replace."""
        path = self.best[0].path()
        for branch in () if self.done else self.rivals:
            nodes = branch.path()
            same = (at for at, (one, other) in enumerate(zip(path, nodes, strict=False)) if one.token != other.token)
            path = path[: next(same, min(len(path), len(nodes)))]
        return len(path)


class Rows(Sequence[Sequence[int]]):
    """The texts that rows continue, as processors see them: `rows[i]` is the prompt and the generated ids of row i.

    Attributes:
        prompts: of each row.
        live: the branch of each row.
        eos: the id that ends a text.
        seed: of the numbers that processors draw.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], live: Sequence[Branch], eos: int, seed: int = 0) -> None:
        self.prompts, self.live, self.eos, self.seed = prompts, live, eos, seed

    def __len__(self) -> int:
        return len(self.live)

    def __getitem__(self, row: Any) -> Any:
        return [*self.prompts[row], *self.live[row].ids()]

    def __iter__(self) -> Iterator[Sequence[int]]:
        return (self[row] for row in range(len(self)))

    def places(self) -> tuple[list[int], list[int]]:
        """The lane of each row, and how many tokens it has generated."""
        return [branch.lane for branch in self.live], [branch.length for branch in self.live]

    def part(self, rows: Sequence[int]) -> Rows:
        """Some of the rows."""
        return Rows([self.prompts[row] for row in rows], [self.live[row] for row in rows], self.eos, self.seed)
