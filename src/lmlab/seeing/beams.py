"""The tree of a beam: every hypothesis with its scores, where it was pruned and why, and the way that greedy goes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lmlab.decoding import Beam, Greedy, Node, Tree, decode, finish
from lmlab.decoding.tree import WHY
from lmlab.errors import UsageError, check_integer
from lmlab.models.base import LanguageModel
from lmlab.report.html import escape
from lmlab.seeing.picture import Picture, Seen, subject
from lmlab.seeing.style import BLUE, DARK, FAINT, GREEN, GREY, RED, plain, token_label
from lmlab.vocabulary import UNK

_MOST_NODES, _MOST_TOKENS = 1_000, 40
_MARKS = {"live": "·", "ended": "■", "pruned": "✕", "greedy": "○"}
_STYLE = """<style>
.beam ul{list-style:none;margin:0;padding:0 0 0 .55em;border-left:1px solid rgba(128,128,128,.35)}
.beam>ul{border:0;padding:0}.beam li{margin:.15em 0}.beam b{font-family:ui-monospace,monospace;white-space:pre-wrap}
.beam .leads>b{background:rgba(59,111,182,.3);border-radius:3px}
.beam .greedy>b{border-bottom:2px dashed #d1603d}.beam .pruned>b{font-weight:400}
.beam ul.cut{display:flex;flex-wrap:wrap;gap:0 1.2em;border:0}
</style>"""


def beams(lm: Seen, prompt: str = "", *, width: int = 5, max_tokens: int = 8, length_penalty: float = 1.0) -> Picture:
    """Every hypothesis of a beam with its scores, where it was pruned and why, and what greedy search finds.

    Args:
        lm: the model.
        prompt: text from the beginning of a document on; may be empty.
        width: texts kept at every token.
        max_tokens: at most so many tokens a text, its end counted.
        length_penalty: score = log p / length ** this: 0 is the total, 1 the mean per token.

    Raises:
        SettingError: a value outside its bound.
        UsageError: the prompt has what the vocabulary lacks, or the tree is too large to be seen.
    """
    check_integer("width", width)
    check_integer("max_tokens", max_tokens)
    if max_tokens > _MOST_TOKENS or 2 * width * max_tokens > _MOST_NODES:
        problem = f"the tree of a beam of {width} and {max_tokens} tokens is too large to be seen"
        raise UsageError(problem, f"take width * tokens <= {_MOST_NODES // 2} and at most {_MOST_TOKENS} tokens")
    tree = grown(lm.model, lm.ids(prompt), Beam(width=width, length_penalty=length_penalty), max_tokens)
    names = {node.token: lm.tokenizer.token_text(node.token) for node in tree.nodes[1:]}
    shown = _Shown(tree, [prompt or "<bos>", *(names[node.token] for node in tree.nodes[1:])])
    title = f"A beam of {width} after {prompt!r} · {subject(lm)}"
    found = [_found(lm, [tree.nodes[id] for id in path]) for path in (tree.greedy, tree.best)]
    note = f"Greedy finds {found[0]}; the beam finds {found[1]}."
    size = (max(7.2, 2.6 + shown.column * max(shown.depths)), 1.1 + 0.36 * (1 + max(shown.lines)))
    told = (
        f"{note} Beside a token: its probability, and score = log p / length ** {length_penalty:g} up to it, in nats."
    )
    return Picture(title, shown.rows, shown.draw, size, told, shown.html(told), shown.text(title))


@dataclass(frozen=True)
class Searched:
    """What a beam and greedy search made of a prompt.

    Attributes:
        nodes: of the beam, and after them those that greedy search alone went through.
        kept: how many are the beam's.
        best: the numbers from the prompt to the beam's best result.
        greedy: the numbers from the prompt to what greedy search finds.
    """

    nodes: Sequence[Node]
    kept: int
    best: Sequence[int]
    greedy: Sequence[int]


def grown(model: LanguageModel, ids: Sequence[int], beam: Beam, max_tokens: int) -> Searched:
    """Grow the tree of a beam, and the way of greedy search into it; `[UNK]` is never chosen."""
    tree = Tree(beam.length_penalty)
    for step in decode(model, ids, beam, n=beam.width, max_tokens=max_tokens, forbidden=(UNK,)):
        tree.grow(step)
    (branch,) = finish(decode(model, ids, Greedy(), max_tokens=max_tokens, forbidden=(UNK,)))
    nodes, greedy = list(tree.nodes), [0]
    known = {(node.parent, node.token): node.id for node in nodes}
    for each in branch.path():
        id = known.get((greedy[-1], each.token), len(nodes))
        if id == len(nodes):
            score = each.total / each.length**beam.length_penalty
            went = id, greedy[-1], each.token, each.logp, each.total, score
            nodes.append(Node(*went, "ended" if each.end else "live", each.end or ""))
        greedy.append(id)
    return Searched(nodes, len(tree.nodes), tree.path(tree.best[0]), greedy)


def _found(lm: Seen, path: Sequence[Node]) -> str:
    text = lm.tokenizer.decode([node.token for node in path])
    return f"{text!r}, p {math.exp(path[-1].total):.3g}, score {path[-1].score:.3f}"


class _Shown:
    """A tree laid out: a column a token, a line a leaf; the first child stands on its parent's line, the best first."""

    def __init__(self, tree: Searched, names: Sequence[str]) -> None:
        self._tree, self._names = tree, names
        self._best, self._greedy = set(tree.best), set(tree.greedy)
        self._children: defaultdict[int | None, list[int]] = defaultdict(list)
        order = sorted(tree.nodes, key=lambda node: (node.id not in self._best, node.state == "pruned", -node.total))
        for node in order:
            self._children[node.parent].append(node.id)
        self.depths, self.lines = [0] * len(names), [0] * len(names)
        self.column = 0.35 + 0.085 * max(len(token_label(name)) for name in names[1:])
        self._walk(0, 0, 0)

    def _walk(self, id: int, depth: int, line: int) -> int:
        """Place what stands below a node; the next free line."""
        self.depths[id], self.lines[id], free = depth, line, line
        for child in self._children[id]:
            free = self._walk(child, depth + 1, free)
        return max(free, line + 1)

    def _state(self, node: Node) -> str:
        return node.state if node.id < self._tree.kept else "greedy"

    def _name(self, id: int) -> str:
        """A token in a line of text: its white space is seen."""
        return repr(self._names[id])[1:-1].replace(" ", "␣") if id else self._names[id]

    def _why(self, node: Node) -> str:
        return "greedy alone" if self._state(node) == "greedy" else WHY.get(node.why, "")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A dict a node, in the order of their numbers."""
        return [
            {
                "id": node.id,
                "parent": node.parent,
                "text": self._names[node.id],
                "logp": node.logp,
                "total": node.total,
                "score": node.score,
                "state": self._state(node),
                "why": node.why,
                "best": node.id in self._best,
                "greedy": node.id in self._greedy,
            }
            for node in self._tree.nodes
        ]

    def draw(self, figure: Any) -> None:
        """A line a token, its text above and its probability below; scores where a hypothesis goes no further."""
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.text(-0.05, 0, token_label(self._names[0]), ha="right", va="center", weight="bold")
        for node in self._tree.nodes[1:]:
            self._draw(axes, node)
        axes.set_xlim(-0.6, max(self.depths) + 1.3)
        axes.set_ylim(max(self.lines) + 0.6, -0.6)
        key = "blue: the best; red dashes: greedy; ■ ended, with its score; ✕ pruned, with its score and why"
        axes.set_title(plain(key), fontsize=9, loc="left", color=FAINT)

    def _draw(self, axes: Any, node: Node) -> None:
        assert node.parent is not None
        x, y, above, state = self.depths[node.id], self.lines[node.id], self.lines[node.parent], self._state(node)
        best, faint = node.id in self._best, state == "pruned"
        colour, wide = (BLUE, 2.4) if best else (GREY, 1) if faint else (DARK, 1.2)
        way = [x - 1, x - 1, x - 0.08], [above, y, y]
        axes.plot(*way, color=colour, linewidth=wide, zorder=2 + best)
        if node.id in self._greedy:
            axes.plot(*way, color=RED, linewidth=1.4, linestyle=(0, (4, 3)), zorder=4)
        ink = FAINT if faint else "black"
        axes.text(x - 0.94, y - 0.08, token_label(self._names[node.id]), fontsize=9, color=ink, va="bottom")
        axes.text(x - 0.94, y + 0.1, f"{math.exp(node.logp):.3g}", fontsize=7, color=FAINT, va="top")
        if not self._children[node.id]:
            reason = f" {node.why}" if node.why != "eos" else ""
            told = f"{_MARKS[state]} {node.score:.2f}{reason}"
            axes.text(x, y, told, fontsize=8, color=GREEN if state == "ended" else FAINT, va="center")

    def text(self, title: str) -> str:
        """An indented tree, for a terminal."""
        lines = [(label, self._tree.nodes[id]) for label, id in self._indented(0, "", "")]
        width = max(len(label) for label, _ in lines)
        told = [
            f"{label:<{width}}  {math.exp(node.logp):6.4f}  {node.score:8.4f}  {_MARKS[self._state(node)]} "
            f"{'best ' if node.id in self._best else ''}{'greedy ' if node.id in self._greedy else ''}{self._why(node)}"
            for label, node in lines[1:]
        ]
        head = f"{lines[0][0]:<{width}}       p     score"
        return "\n".join([title, "", head, *(line.rstrip() for line in told)])

    def _indented(self, id: int, first: str, rest: str) -> Iterator[tuple[str, int]]:
        yield first + self._name(id), id
        children = self._children[id]
        for child in children:
            last = child == children[-1]
            yield from self._indented(child, rest + ("└ " if last else "├ "), rest + ("  " if last else "│ "))

    def html(self, note: str) -> str:
        """Nested lists, which a keyboard and a screen reader know."""
        reasons = sorted({node.why for node in self._tree.nodes if node.state == "pruned"})
        pruned = ", ".join(f"✕ {why}: {WHY[why]}" for why in reasons)
        key = f"Blue: the best; underlined in dashes: greedy; ■: ended; {pruned}."
        head = f'<p>{escape(note)}</p><p class="note">{key}</p>'
        return f'{_STYLE}{head}<div class="beam"><ul>{self._item(0)}</ul></div>'

    def _item(self, id: int) -> str:
        node, state = self._tree.nodes[id], self._state(self._tree.nodes[id])
        marks = {"leads": id in self._best, "greedy": id in self._greedy, state: True}
        ends = f" {_MARKS[state]} {node.why}" if state in ("ended", "pruned") else ""
        told = f"{math.exp(node.logp):.3g} · {node.score:.3f}{ends}" if id else ""
        cut = [child for child in self._children[id] if self._leaf(child)]
        rest = [child for child in self._children[id] if not self._leaf(child)]
        below = "".join(f"<ul>{self._item(child)}</ul>" for child in rest)
        below += f'<ul class="cut">{"".join(map(self._item, cut))}</ul>' if cut else ""
        kinds, name = " ".join(kind for kind, true in marks.items() if true), escape(self._name(id))
        return f'<li class="{kinds}"><b>{name}</b> <span class="dim">{told}</span>{below}</li>'

    def _leaf(self, id: int) -> bool:
        return self._tree.nodes[id].state == "pruned" and not self._children[id]
