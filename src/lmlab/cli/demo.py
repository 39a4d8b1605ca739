"""Two minutes, no download: four kinds of model learn English from the docstrings of Python's own library.

One screen shows what each needs for a byte of text that none has seen, down to their mixture; what the LSTM wrote
before, early and at the end of its training; and a sentence coloured by surprisal. index.html in the folder keeps it.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json

if TYPE_CHECKING:
    from lmlab.facade.compare import Comparison
    from lmlab.facade.surprisal import Scores
    from lmlab.facade.text_model import TextModel
    from lmlab.report.ladder import Rung

EXAMPLES = """\
  lmlab demo
  lmlab demo --minutes 1 -o runs/quick"""

SENTENCE = "Return a list of the names of all files in the given directory, sorted by banana."
PROMPT = "Return the "
_STDLIB = "python-stdlib"
_TOKENS = {"kind": "bpe", "vocab_size": 1_000}
_SHARES = {"cnn": 0.2, "lstm": 0.6}  # of the minutes left once the text is there; the rest mixes, scores and draws
_MODELS: dict[str, dict[str, Any]] = {
    "ngram": {"model": {"order": 5}},
    "cm": {},
    "cnn": {"model": {"channels": 128, "layers": 2, "kernel": 4, "dropout": 0.0}, "train": {"lr": 5e-3}},
    "lstm": {},
}
_DRAWN = 3  # samples at each stage of training
_LINES = 3  # of them on the screen


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("-o", "--out", metavar="DIR", default="runs/demo", help="where the runs go (default runs/demo)")
    parser.add_overwrite()
    parser.add_argument("--minutes", type=float, default=2.0, metavar="M", help="for all of it, about (default 2)")
    parser.add_argument("--source", default=_STDLIB, metavar="SOURCE", help="another text")


def run(options: argparse.Namespace) -> int:
    """Train, compare, mix, show."""
    from lmlab import scoring
    from lmlab.cli.compare import draw
    from lmlab.corpora import stdlib
    from lmlab.disk import write_file
    from lmlab.facade.compare import compare
    from lmlab.store import PAGE, check_free

    out = Path(options.out)
    reporter, early = reporter_of(options), Early(out / "lstm")
    check_free(out, overwrite=options.overwrite)
    if options.source == _STDLIB:
        with reporter.stage("collecting docstrings"):
            stdlib.ensure()
    left = max(options.minutes / 2, options.minutes - (time.perf_counter() - options.began) / 60)
    budgets = {kind: {"minutes": share * left} for kind, share in _SHARES.items()}
    settings = {kind: own | {"train": own.get("train", {}) | budgets.get(kind, {})} for kind, own in _MODELS.items()}
    models = compare(
        options.source,
        list(_MODELS),
        out=out,
        overwrite=options.overwrite,
        reporter=reporter,
        listeners=[early],
        settings=settings,
        tokenizer=_TOKENS,
        data={"text_field": "docstring"} if options.source == _STDLIB else {},
    )
    lm, mixture = models[-2], models[-1]
    adapting = models[[*_MODELS].index("cm")].composed(adapt="online", reporter=reporter)
    with reporter.stage("scoring it as it reads", models.held_out.tokens, " tokens") as advance:
        bits = scoring.evaluate(adapting.model, models.held_out, advance).bits_per_byte
    seconds = time.perf_counter() - options.began
    shown = Shown(models, bits, samples(lm, early), mixture.score(SENTENCE), seconds)
    draw(models, out, shown.ladder)
    write_file(out / PAGE, shown.page(out))
    if options.json:
        found = {"results": models.rows, "adapting_bits_per_byte": bits, "samples": dict(shown.samples)}
        print_json({**found, "page": str(out / PAGE), "next": commands(out)})
        return 0
    print(shown.screen(shutil.get_terminal_size((100, 24)).columns, colour=sys.stdout.isatty()))
    print(f"\nthe page:  {out / PAGE}  (open it in a browser: the mouse shows bits and rank)\n\nnext:")
    print("\n".join(f"  {command}" for command in commands(out)))
    print("and then your own text: lmlab train my.txt")
    return 0


class Early:
    """A listener that keeps the weights which a run has at its first evaluation.

    Args:
        run: the run's directory, into which training writes its best weights so far.
    """

    def __init__(self, run: Path) -> None:
        self._weights, self.kept, self.step = run / "model.safetensors", b"", 0

    def __call__(self, event: object) -> None:
        """Copy the weights, once there are some."""
        from lmlab.training.events import Evaluated

        if isinstance(event, Evaluated) and not self.kept and self._weights.is_file():
            self.kept, self.step = self._weights.read_bytes(), event.step

    def model(self, lm: TextModel) -> Any:
        """The model with those weights."""
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, self._weights.name).write_bytes(self.kept)
            return type(lm.model).load(Path(folder), lm.config.model.settings, lm.tokenizer.vocab_size)


def commands(out: Path) -> list[str]:
    """What to try next."""
    mixture, cm = shlex.quote(str(out / "mixture")), shlex.quote(str(out / "cm"))
    return [
        f'lmlab generate {mixture} --prompt "{PROMPT}" --temperature 0.7 --max-tokens 30 -n 3',
        f'echo "{SENTENCE}" | lmlab score {mixture} - --by word',
        f"lmlab eval {cm} --adapt online",
    ]


def samples(lm: TextModel, early: Early) -> list[tuple[str, str]]:
    """What a model made of one prompt before its training, early in it, and makes of it now."""
    import torch

    from lmlab.facade.text_model import TextModel

    model_class: Any = type(lm.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lm.config.seed)
        untrained = model_class(lm.config.model.settings, lm.tokenizer.vocab_size).eval()
    stages = [("before training", untrained)]
    steps = lm.manifest["results"]["steps"]
    if early.kept and early.step < steps:
        stages.append((f"after {early.step:,} steps", early.model(lm)))
    stages.append((f"after {steps:,} steps", lm.model))
    return [(name, _written(TextModel(model, lm.tokenizer, lm.config, lm.manifest))) for name, model in stages]


def _beside(name: str, label: int, text: str, width: int) -> str:
    """Two lines of a text beside its name."""
    lines = textwrap.wrap(text, width, max_lines=_LINES, placeholder=" …")
    return "\n".join(f"  {name if not n else '':<{label}}  {line}" for n, line in enumerate(lines))


def _written(lm: TextModel) -> str:
    found = lm.generate(PROMPT, temperature=0.6, seed=1, n=_DRAWN, max_tokens=25, allow_unknown=True)
    return "  /  ".join(PROMPT + " ".join(each.text.split()) for each in found)


@dataclass(frozen=True)
class Shown:
    """All that the demo shows."""

    models: Comparison
    adapting: float
    samples: list[tuple[str, str]]
    scores: Scores
    seconds: float

    @property
    def learned(self) -> str:
        """What was learned from."""
        data = self.models[0].manifest["data"]
        train = data["splits"]["train"]
        names = {_STDLIB: "the docstrings of Python's standard library, nothing downloaded"}
        size = f"{train['documents']:,} text{'s' * (train['documents'] != 1)}, {train['bytes'] / 1e6:.2f} MB"
        return f"Learned from {names.get(data['name'], data['name'])}: {size}, in {self.seconds:.0f} s on this machine."

    @property
    def tested(self) -> str:
        """What was measured."""
        test = self.models[0].manifest["results"]["test"]
        return (
            f"Tested on {test['bytes'] / 1e3:,.0f} kB of the same kind that no model has seen ({test['split']} split)."
        )

    @property
    def ladder(self) -> list[Rung]:
        """Of the models, and of context mixing that learns from what it reads."""
        from lmlab.report.ladder import Rung

        return [
            *self.models.ladder,
            Rung("adapting", self.adapting, "cm, learning as it reads"),
        ]

    @property
    def verdict(self) -> str:
        """Who is best, and by how much."""
        ngram = next(rung for rung in self.ladder if rung.name == "ngram")
        best = min(self.ladder, key=lambda rung: rung.bits if rung.bits is not None else 8.0)
        ahead = 1 - (best.bits or 8.0) / (ngram.bits or 8.0)
        return f"The best, {best.name}, needs {ahead:.1%} less than the n-gram alone."

    def screen(self, width: int, *, colour: bool) -> str:
        """For a terminal."""
        from lmlab.report.ladder import ladder_text
        from lmlab.report.screen import heat_lines

        words = self.scores.by("word").rows
        pairs = [(row["text"], row["bits"]) for row in words if row["text"] != "<eos>"]
        label = max(len(name) for name, _ in self.samples)
        room = max(20, min(width, 120) - label - 5)
        return "\n".join(
            [
                "",
                self.learned,
                self.tested,
                "",
                "Bits for each byte of it: 8 is knowing nothing, lower is better.",
                ladder_text(self.ladder),
                f"  {self.verdict} {' '.join(self.models.notes)}".rstrip(),
                "",
                f'What the LSTM makes of "{PROMPT.strip()}":',
                *(_beside(name, label, text, room) for name, text in self.samples),
                "",
                f"How surprising the mixture finds each word ({'redder' if colour else 'higher'} is more):",
                *(f"  {line}" for line in heat_lines(pairs, min(width, 120) - 2, colour=colour)),
            ]
        )

    def page(self, out: Path) -> str:
        """A page that needs no other file."""
        from lmlab.report.html import coloured, escape, page
        from lmlab.report.ladder import ladder_html

        written = "".join(f'<p class="note">{escape(name)}</p><pre>{escape(text)}</pre>' for name, text in self.samples)
        return page(
            "lmlab demo",
            "<h1>Language models in two minutes</h1>",
            f"<p>{escape(self.learned)} {escape(self.tested)}</p>",
            "<h2>Bits for each byte: 8 is knowing nothing, lower is better</h2>",
            ladder_html(self.ladder),
            f"<p>{escape(self.verdict)} {escape(' '.join(self.models.notes))}</p>",
            f"<h2>What the LSTM makes of “{PROMPT.strip()}”</h2>",
            written,
            "<h2>How surprising the mixture finds each token</h2>",
            '<p class="note">the redder, the more surprising; the mouse shows bits and rank</p>',
            coloured(self.scores.pieces(0)),
            "<h2>Next</h2>",
            "".join(f"<pre>{escape(command)}</pre>" for command in commands(out)),
        )
