"""What a search grows: branches, and the steps that show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lmlab.vocabulary import BOS

End = Literal["eos", "stop", "length"]


@dataclass(frozen=True, eq=False, slots=True)
class Branch:
    """One token at the tip of a text, linked to the text before it.

    A node is never altered, so that beams share their common past and one more token costs O(1).

    Attributes:
        token: its id.
        logp: the model's log-probability of the token, in nats, before any processor.
        drawn_logp: the log-probability it was drawn with, after the processors.
        total: sum of `logp` over the generated tokens, `<eos>` included.
        length: how many tokens that sum runs over.
        parent: the branch before it; None at the root, which stands for the prompt.
        end: why the text ends here, or None while it may go on.
    """

    token: int
    logp: float
    drawn_logp: float
    total: float
    length: int
    parent: Branch | None = field(repr=False)
    end: End | None = None

    @classmethod
    def root(cls) -> Branch:
        """The prompt, before anything is generated."""
        return cls(BOS, 0.0, 0.0, 0.0, 0, None)

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


@dataclass(frozen=True, eq=False)
class Step:
    """What one token further looks like.

    Attributes:
        live: the branches that may go on; best first for a beam, in row order for samples.
        ended: the branches that ended in this very step.
        best: the n results as they stand, ended or not: best first for a beam, in row order for samples.
        done: whether this was the last step; `best` then holds the final results, all of them ended.
    """

    live: tuple[Branch, ...]
    ended: tuple[Branch, ...]
    best: tuple[Branch, ...]
    done: bool
