"""The tree of a beam: every hypothesis that it grew or dropped, as numbered nodes that a picture or a server shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lmlab.decoding.branch import Branch, Step
from lmlab.vocabulary import BOS

State = Literal["live", "ended", "pruned"]
WHY = {
    "width": "fell out of the beam",
    "bank": "its bank is full",
    "ended": "better ones have ended",
    "eos": "ended by itself",
    "stop": "ended by a stop string",
    "length": "reached max_tokens",
    "time": "ran out of time",
}
"""Why a hypothesis goes no further."""


class Node(NamedTuple):
    """A hypothesis: the text up to a token.

    Attributes:
        id: its number; 0 is the prompt, and a child comes after its parent.
        parent: the number of the text before the token; None at the prompt.
        token: its id.
        logp: the token's log-probability after the processors, in nats.
        total: the sum of `logp` from the prompt to here.
        score: what the beam ranks by: total / length ** length_penalty.
        state: live (it went on, or may), ended, or pruned.
        why: a key of `WHY`; empty while live.
    """

    id: int
    parent: int | None
    token: int
    logp: float
    total: float
    score: float
    state: State
    why: str


class Tree:
    """Grows with the steps of one prompt, by a beam whose scores are sums of log-probabilities.

    Args:
        length_penalty: the beam's.

    Attributes:
        nodes: by number.
        best: the numbers of the results as they stand, best first.
    """

    def __init__(self, length_penalty: float) -> None:
        self._penalty = length_penalty
        self.nodes = [Node(0, None, BOS, 0.0, 0.0, 0.0, "live", "")]
        self.best: Sequence[int] = ()
        self._ids: dict[tuple[Branch | None, int], int] = {}  # by the branch before the token, and the token
        self._live: dict[int, int] = {}  # the lane of each node that may go on

    def grow(self, step: Step) -> list[Node]:
        """The nodes that a step adds or changes, in the order of their numbers."""
        grown = [*step.live, *step.ended]
        changed = [
            self._put(each.parent, each.token, each.score, "ended" if each.end else "live", each.end or "")
            for each in grown
        ]
        lanes, parents = {each.lane for each in grown}, {self.nodes[id].parent for id in changed}
        changed += [self._put(one.parent, one.token, one.score, "pruned", one.why) for one in step.pruned]
        # What has no child that is kept fell out; a group of beams that is done grows no more.
        given_up = {id: "width" if lane in lanes else "ended" for id, lane in self._live.items() if id not in parents}
        self._live = {self._ids[each.parent, each.token]: each.lane for each in step.live}
        if step.done:
            given_up |= dict.fromkeys(self._live, "ended")
        for id, why in given_up.items():
            self.nodes[id] = self.nodes[id]._replace(state="pruned", why=why)
        self.best = [self._ids[each.parent, each.token] for each in step.best]
        return [self.nodes[id] for id in sorted({*changed, *given_up})]

    def path(self, id: int) -> list[int]:
        """The numbers from the prompt's to this one."""
        path = [id]
        while (parent := self.nodes[path[-1]].parent) is not None:
            path.append(parent)
        return path[::-1]

    def _put(self, before: Branch | None, token: int, total: float, state: State, why: str) -> int:
        """Add a node, or change the one that is there; its number."""
        assert before is not None
        id = self._ids.setdefault((before, token), len(self.nodes))
        parent = self._ids[before.parent, before.token] if before.parent is not None else 0
        score = total / (before.length + 1) ** self._penalty
        self.nodes[id : id + 1] = [Node(id, parent, token, total - before.score, total, score, state, why)]
        return id
