"""Draws docs/guide/decoding/*.png: each strategy at work on texts small enough to see whole. `make pictures`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import lmlab
from lmlab import decoding
from lmlab.decoding import Branch, Sample, Strategy, decode, finish
from lmlab.decoding.draws import _agreement, _runs
from lmlab.models.toy import RowCount, Scripted, Uniform
from lmlab.seeing.style import BLUE, COLOURS, DARK, GREEN, GREY, MAP, RED, bare

FOLDER = Path(__file__).parent / "guide" / "decoding"
WORDS = ("the", "a", "king", "queen", "cat", "sleeps", "dreams", "sings")
TREE = {
    "": {"the": 0.55, "a": 0.45},
    "the": {"king": 0.4, "queen": 0.35, "cat": 0.25},
    "a": {"cat": 0.9, "king": 0.1},
    "the king": {"sleeps": 0.4, "dreams": 0.35, "sings": 0.25},
    "the queen": {"dreams": 0.55, "sings": 0.45},
    "the cat": {"sleeps": 0.6, "dreams": 0.4},
    "a cat": {"sleeps": 0.9, "dreams": 0.1},
    "a king": {"sings": 1.0},
}
RHYME = """This is the dog that worried the cat that killed the rat that ate the malt that lay in the house.
This is the cat that killed the rat that ate the malt that lay in the house that Jack built.
This is the cow that tossed the dog that worried the cat that lay in the malt.
This is the rat that ate the malt that the cow tossed.
""".replace("\n", " ")
UNK = (1,)
Words = tuple[str, ...]


def ids(text: str | Sequence[str]) -> tuple[int, ...]:
    """The ids of words."""
    return tuple(4 + WORDS.index(word) for word in (text.split() if isinstance(text, str) else text))


def row(followers: dict[str, float]) -> list[float]:
    """The probabilities of all tokens."""
    return [0, 0, 0, float(not followers), *(followers.get(word, 0) for word in WORDS)]


def words(branch: Branch) -> Words:
    """The words of a branch."""
    return tuple(WORDS[id - 4] for id in branch.ids())


def leaves(path: Words = ()) -> Iterator[Words]:
    """The whole texts, from top to bottom."""
    followers = TREE.get(" ".join(path), {})
    for word in followers:
        yield from leaves((*path, word))
    if not followers:
        yield path


def tree(
    name: str, title: str, strategy: Strategy, n: int, colours: Sequence[str] = (BLUE,), *, numbers: bool = False
) -> None:
    """What a strategy grew, dropped and gave back; thick is what it gave back."""
    model = Scripted.make({ids(text): row(followers) for text, followers in TREE.items()}, row({}))
    kept: dict[Words, int] = {}
    dropped: set[Words] = set()
    for step in decode(model, [], strategy, n=n):
        for branch in (*step.live, *step.ended):
            kept.setdefault(words(branch), branch.lane)
        dropped |= {(*words(one.parent), WORDS[one.token - 4]) for one in step.pruned if one.token != model.eos}
    results = {words(branch)[:size]: branch.lane for branch in reversed(step.best) for size in (1, 2, 3)}
    figure = Figure(figsize=(7, 3.1), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    height = {path: float(-at) for at, path in enumerate(leaves())}
    for size in (2, 1, 0):
        for path in dict.fromkeys(path[:size] for path in leaves()):
            height[path] = -float(np.mean([at for at, leaf in enumerate(leaves()) if leaf[:size] == path]))
    for path, y in height.items():
        if path:
            x, p = len(path), TREE[" ".join(path[:-1])][path[-1]]
            lane = results.get(path, kept.get(path))
            colour = GREY if lane is None else colours[lane % len(colours)]
            colour, style = (RED, "--") if lane is None and path in dropped else (colour, "-")
            width = 3.5 if path in results else 1.6 if path in kept else 1
            axes.plot([x - 1 + 0.27, x - 0.27], [height[path[:-1]], y], style, color=colour, lw=width, zorder=1)
            number = f" {[*kept].index(path) + 1}" if numbers and path in kept else ""
            weight, ink = ("bold", DARK) if path in results else ("normal", DARK if path in kept else GREY)
            axes.text(x, y, f"{path[-1]}{number}", ha="center", va="center", fontsize=10, weight=weight, color=ink)
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axes.text(x - 0.26, y, f"{p:g}", ha="right", va="center", fontsize=7, color=ink, bbox=paper)
    for path in leaves():
        p = np.prod([TREE[" ".join(path[:at])][path[at]] for at in range(3)])
        ink = DARK if path in results else GREY
        axes.text(3.4, height[path], f"{p:.3f}", va="center", fontsize=9, color=ink)
    axes.set(xlim=(0, 3.7), ylim=(-9.6, 0.8))
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, loc="left")
    save(figure, name)


def drafts(name: str, title: str, strategy: Any, lm: Any, prompt: str) -> None:
    """What was drafted at each step, and what came."""
    rounds: list[tuple[list[int], list[int]]] = []

    class Noted:
        """A drafter that is watched."""

        def __init__(self, drafter: Any) -> None:
            self._drafter = drafter

        def propose(self, tip: Branch) -> Any:
            made = self._drafter.propose(tip)
            rounds.append(([token for token, _ in made], []))
            return made

        def follow(self, tokens: Sequence[int]) -> None:
            rounds[-1][1].extend(tokens)
            self._drafter.follow(tokens)

    make = strategy.drafter
    object.__setattr__(strategy, "drafter", lambda *given: Noted(make(*given)))
    finish(decode(lm.model, lm.ids(prompt), strategy, max_tokens=18, forbidden=UNK))
    figure = Figure(figsize=(7, 0.7 + 0.33 * len(rounds)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    text = lm.tokenizer.token_text
    for at, (drafted, came) in enumerate(rounds):
        for place in range(max(len(drafted), len(came))):
            draft, real = (each[place] if place < len(each) else None for each in (drafted, came))
            colour = GREEN if draft == real else BLUE if real is not None else GREY
            shown = text(real if real is not None else draft)
            axes.text(place, -at, shown, color="white", fontsize=9, ha="center", va="center",
                      bbox={"facecolor": colour, "edgecolor": "none", "pad": 3})  # fmt: skip
            if draft is not None and real is not None and draft != real:
                axes.text(place + 0.42, -at + 0.05, text(draft), fontsize=8, color=RED, va="center", ha="center")
                axes.plot([place + 0.28, place + 0.56], [-at, -at], color=RED, lw=1)
    axes.set(xlim=(-0.6, 5), ylim=(-len(rounds) + 0.4, 0.6))
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, loc="left")
    save(figure, name)


def agreement(lm: Any) -> None:
    """How far samples agree with one another."""
    strategy = decoding.MBR(samples=8, seed=4)
    asked: dict[str, Any] = {"max_tokens": 12, "forbidden": UNK}
    drawn = finish(decode(lm.model, lm.ids("This is the"), Sample(seed=strategy.seed), n=8, **asked))
    (best,) = finish(decode(lm.model, lm.ids("This is the"), strategy, **asked))
    runs = [[_runs(each.ids(), size) for size in range(1, strategy.order + 1)] for each in drawn]
    matrix = np.array([[_agreement(one, other) for other in runs] for one in runs])
    order = np.argsort(-matrix.sum(1), kind="stable")
    figure = Figure(figsize=(7, 2.9), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix[order][:, order], cmap=MAP, vmin=0, vmax=1, aspect="auto")
    labels = [lm.tokenizer.decode(drawn[at].ids()).replace("\n", " ") for at in order]
    axes.set_yticks(range(8), [label if len(label) < 44 else label[:43] + "…" for label in labels], fontsize=8)
    axes.get_yticklabels()[[drawn[at].ids() for at in order].index(best.ids())].set_weight("bold")
    axes.set_xticks([])
    figure.colorbar(image, label="agreement (mean F1)")
    figure.suptitle("MBR(samples=8): the sample that agrees best with all (bold)", fontsize=10, x=0.01, ha="left")
    save(figure, "mbr")


class Facing(Uniform):
    """Its hidden state is the token read, as a direction; it always thinks the same."""

    device = torch.device("cpu")
    p: ClassVar = {"sleeps": 0.5, "dreams": 0.3, "sings": 0.2}

    def read_on(self, state: Any, ids_BT: Any) -> Any:
        """See `lmlab.models.base`."""
        return torch.eye(12)[ids_BT], torch.tensor(row(self.p)).log().repeat(len(ids_BT), 1), RowCount(len(ids_BT))


def contrastive() -> None:
    """What each candidate scores at each place."""
    strategy = decoding.Contrastive(alpha=0.4, candidates=3)
    (made,) = finish(decode(Facing(12), ids("the king"), strategy, max_tokens=4))
    figure = Figure(figsize=(7, 2.3), dpi=100, layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    before: list[str] = []
    for axes, chosen in zip(panels, words(made), strict=True):
        for at, (word, p) in enumerate(Facing.p.items()):
            gain, loss = (1 - strategy.alpha) * p, -strategy.alpha * (word in before)
            axes.barh(at, gain, color=BLUE, height=0.35)
            axes.barh(at, loss, color=RED, height=0.35)
            axes.plot(gain + loss, at, "o", color=DARK, ms=7 if word == chosen else 3)
        axes.set_yticks(range(3), list(Facing.p))
        axes.axvline(0, color=DARK, lw=0.6)
        bare(axes, note=f"{len(before) + 1}: {chosen}", grid=False)
        axes.set_xlim(-0.45, 0.35)
        before.append(chosen)
    panels[0].invert_yaxis()
    title = "Contrastive(alpha=0.4): likely (blue), less for being like what came (red)"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    save(figure, "contrastive")


def save(figure: Figure, name: str) -> None:
    """Write a picture in few colours, so that it stays small."""
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64)
    picture.save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    """Draw all."""
    FOLDER.mkdir(exist_ok=True)
    tree("greedy", "Greedy(): the likeliest word each time, into a garden path", decoding.Greedy(), 1)
    tree("sample", "Sample(seed=1), n=3: each text drawn by itself", Sample(seed=1), 3, COLOURS)
    tree("beam", "Beam(width=2): two live texts; what fell out is red", decoding.Beam(width=2), 2)
    tree("beam_sample", "BeamSample(width=2): two live texts, drawn", decoding.BeamSample(width=2, seed=3), 2)
    diverse = decoding.DiverseBeam(width=3, groups=3, diversity=1)
    tree("diverse_beam", "DiverseBeam(width=3, groups=3, diversity=1): a group a colour", diverse, 3, COLOURS)
    title = "StochasticBeam(width=4): four different texts, drawn"
    tree("stochastic_beam", title, decoding.StochasticBeam(width=4, seed=1), 4)
    constrained = decoding.Constrained(must=[ids("queen"), ids("dreams")], width=3)
    tree("constrained", 'Constrained(must=["queen", "dreams"], width=3)', constrained, 1)
    title = "Exact(): beginnings in the order in which they are read; then nothing is likelier"
    tree("exact", title, decoding.Exact(), 1, numbers=True)
    lm = lmlab.train(text=RHYME, tokenizer="word", model="ngram", order=3, settings={"data": {"split": "none"}})
    small = lmlab.train(text=RHYME, tokenizer="word", model="ngram", order=2, settings={"data": {"split": "none"}})
    title = "Speculative(draft=bigram): kept (green), the model's own (blue), its draft (red), unread (grey)"
    drafts("speculative", title, decoding.Speculative(draft=small.model, seed=8), lm, "This is")
    title = "Lookup(): a line a step; copied from before (green) as long as the model agrees"
    drafts("lookup", title, decoding.Lookup(temperature=0, ngram=2), lm, "the cat that killed the rat that ate the cat")
    agreement(lm)
    contrastive()


if __name__ == "__main__":
    main()
