"""Is lmlab worth leaving the notebook for? Each recipe as the course notebook does it, beside ours, in one run.

    LMLAB_DATA=... python benchmarks/notebooks.py --minutes 1
    LMLAB_DATA=... python benchmarks/notebooks.py --minutes 3 --only arxiv-lstm --sooner 30 20 15 10

Both sides see the same split, the same vocabulary and the same minutes, one after the other, each in a process of its
own (ours changes the memory allocation of its process; a notebook's must not profit from it). `notebook_loops.py` is
the notebooks' side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import notebook_loops as loops
from common import Endless, machine, rate, short, table
from lmlab import scoring
from lmlab.config import load_recipe
from lmlab.decoding import Sample, decode, finish
from lmlab.facade.learn import train
from lmlab.facade.prepare import Prepared, open_source, prepare
from lmlab.progress import Console, Silent
from lmlab.run_config import RunConfig, from_tables
from lmlab.tokens.id_store import TokenStore

LENGTHS = (100, 500)
SEED = 0
SIDES = ("notebook", "lmlab")
_MIXTURES = (0.3, 0.5, 0.7, 0.9)

PROTOCOL = """\
Protocol: one run, seed 0, the notebook's side and ours in turn, each in its own process, torch's default threads.
AG News's test file stands in for arXiv, the Python standard library for CodeSearchNet. Each side trains for {minutes:g}
min of wall clock (n-grams: as long as counting takes) on the training split, with one vocabulary made from it; the
notebook's minutes are all steps and its last weights count, ours include the choice of threads and the scoring of the
validation split, whose best weights count. Held out is the test split, used for nothing else: nats/token over every
token, each document after `<bos>`, its `<eos>` predicted, context carried within a document, `[UNK]` predicted and its
spelling charged to both alike (`lmlab.scoring`). Training tokens/s: tokens read, padding not counted, over the whole
budget. Generated tokens/s: one text of {lengths} tokens from an empty prompt, temperature 1, `<eos>` forbidden; the
notebook reads its whole prefix again for every token."""


@dataclass(frozen=True)
class Experiment:
    """A notebook's experiment.

    Attributes:
        recipe: ours.
        source: the corpus that stands in for the notebook's own.
        learn: trains the notebook's model: `(prepared, minutes) -> (model, run, note)`.
        data: settings of the data beyond the recipe's.
    """

    recipe: str
    source: str
    learn: Callable[[Prepared, float], tuple[loops.FromScratch, loops.Run, str]]
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """One side of one experiment.

    Attributes:
        nats: held-out, a token.
        spelling: what of them is the spelling of unknown tokens, the same for every model.
        held_out: over how many tokens that is.
        trained_a_second, generated_a_second: tokens; generated of each length of `LENGTHS`.
        seconds: of the notebook's loop; ours from the call to the trained model, reading and all.
        note: how it was done.
    """

    nats: float
    spelling: float
    held_out: int
    trained_a_second: float
    generated_a_second: tuple[float, ...]
    seconds: float = 0.0
    note: str = ""


# -- the notebooks' side ----------------------------------------------------------------------------------------------


def _trained(
    make: Callable[[int], loops.Network], loop: Callable[[loops.Network, TokenStore, float], loops.Run]
) -> Any:
    """A network of a vocabulary's size, trained by a loop on the training split for some minutes."""

    def learn(prepared: Prepared, minutes: float) -> tuple[loops.FromScratch, loops.Run, str]:
        network = make(prepared.tokenizer.vocab_size)
        run = loop(network, prepared.stores["train"], minutes)
        return loops.Trained(network), run, f"{run.steps} steps"

    return learn


def _documents(tokens: TokenStore) -> list[np.ndarray]:
    return [tokens.document(i) for i in range(len(tokens))]


def _lines(network: loops.Network, tokens: TokenStore, minutes: float) -> loops.Run:
    return loops.train_lines(network, _documents(tokens), minutes, longest=512)


def _last_position(network: loops.Network, tokens: TokenStore, minutes: float) -> loops.Run:
    return loops.train_windows(network, np.asarray(tokens.ids), minutes, every_position=False)


def _all_positions(network: loops.Network, tokens: TokenStore, minutes: float) -> loops.Run:
    return loops.train_windows(network, np.asarray(tokens.ids), minutes, every_position=True)


def _columns(network: loops.Network, tokens: TokenStore, minutes: float) -> loops.Run:
    return loops.train_columns(network, np.asarray(tokens.ids), minutes)


def _counted(prepared: Prepared, minutes: float) -> tuple[loops.FromScratch, loops.Run, str]:
    """Counts once; then Lidstone 0.1 or a mixture, whichever is best on the validation split."""
    documents, vocab_size = _documents(prepared.stores["train"]), prepared.tokenizer.vocab_size
    began = time.perf_counter()
    counts = loops.Counts(documents, order=5)
    run = loops.Run(1, prepared.stores["train"].tokens, time.perf_counter() - began)
    choices = {"Lidstone 0.1": loops.CountedNotebook(counts, vocab_size)}
    choices |= {f"mixture {w:g}": loops.CountedNotebook(counts, vocab_size, weight=w) for w in _MIXTURES}
    nats = {name: scoring.evaluate(model, prepared.stores["valid"]).nats_per_token for name, model in choices.items()}
    best = min(nats, key=lambda name: nats[name])
    tried = ", ".join(f"{name} {value:.3f}" for name, value in nats.items())
    return choices[best], run, f"{best} chosen on the validation split ({tried})"


def notebook_side(experiment: Experiment, minutes: float) -> Figures:
    """Train, score and generate as the notebook does."""
    prepared = prepared_for(experiment)
    torch.manual_seed(SEED)
    model, run, note = experiment.learn(prepared, minutes)
    report = scoring.evaluate(model, prepared.stores["test"])

    def write(count: int) -> int:
        return len(prepared.tokenizer.decode(loops.generate(model, count, SEED))) and count

    return _figures(asdict(report), run.tokens / run.seconds, write, run.seconds, note)


def prepared_for(experiment: Experiment) -> Prepared:
    """The experiment's corpus, tokenizer and encoded splits, as our own training makes them."""
    named = from_tables(load_recipe(experiment.recipe)) | from_tables({"data": experiment.data})
    config = RunConfig.build(named | {"source": experiment.source, "seed": SEED})
    return prepare(open_source(experiment.source, config.data, Silent()), config.tokenizer, Silent())


def _figures(
    report: Mapping[str, Any], trained: float, write: Callable[[int], int], seconds: float, note: str
) -> Figures:
    write(5)  # first-time costs
    generated = tuple(rate(lambda count=count: write(count)) for count in LENGTHS)  # type: ignore[misc]
    spelling = report["unk_spelling_nats"] / report["tokens"]
    return Figures(report["nats_per_token"], spelling, report["tokens"], trained, generated, seconds, note)


# -- our side ---------------------------------------------------------------------------------------------------------


def lmlab_side(experiment: Experiment, minutes: float) -> Figures:
    """The same through lmlab's front door."""
    budget = {} if load_recipe(experiment.recipe)["model"]["kind"] == "ngram" else {"minutes": minutes}
    settings = {"data": experiment.data, "train": {"baseline": False, **budget}}
    recipe, source = experiment.recipe, experiment.source
    began = time.perf_counter()
    lm = train(source, recipe=recipe, seed=SEED, settings=settings, reporter=Console())
    seconds = time.perf_counter() - began
    results, data = lm.manifest["results"], lm.manifest["data"]
    tokens = results.get("tokens_seen", data["splits"]["train"]["tokens"])
    model = Endless(lm.model)

    def write(count: int) -> int:
        (branch,) = finish(decode(model, [], Sample(seed=SEED), max_tokens=count))
        return len(lm.tokenizer.decode(branch.ids())) and count

    note = f"{results['steps']} steps, {_how(lm.config)}" if "steps" in results else "modified Kneser-Ney"
    return _figures(lm.evaluate(split="test"), tokens / results["train_seconds"], write, seconds, note)


def _how(config: RunConfig) -> str:
    return f"{config.train.precision}, {config.train.threads} thread(s)"


# -- the table --------------------------------------------------------------------------------------------------------

_ARXIV = {"template": "{title} ; {description}"}
_ARXIV_CNN = _trained(lambda v: loops.ConvNet(v, 16, 64, layers=4, kernel=5, residual=False), _lines)
_ARXIV_LSTM = _trained(lambda v: loops.RecurrentNet(v, 16, 256), _lines)
_CODE_CNN = _trained(lambda v: loops.ConvNet(v, 300, 100, layers=4, kernel=5, residual=True), _lines)
_CODE_LSTM = _trained(lambda v: loops.RecurrentNet(v, 300, 50), _lines)
_NEWS_LAST = _trained(lambda v: loops.RecurrentNet(v, None, 64), _last_position)
_NEWS_ALL = _trained(lambda v: loops.RecurrentNet(v, None, 64), _all_positions)
_WORDS = _trained(lambda v: loops.RecurrentNet(v, 64, 64), _columns)

EXPERIMENTS = {
    "arxiv-cnn": Experiment("arxiv-cnn", "ag_news_test", _ARXIV_CNN, _ARXIV),
    "arxiv-lstm": Experiment("arxiv-lstm", "ag_news_test", _ARXIV_LSTM, _ARXIV),
    "codesearchnet-ngram": Experiment("codesearchnet-ngram", "python-stdlib", _counted),
    "codesearchnet-cnn": Experiment("codesearchnet-cnn", "python-stdlib", _CODE_CNN),
    "codesearchnet-lstm": Experiment("codesearchnet-lstm", "python-stdlib", _CODE_LSTM),
    "agnews-onehot-lstm": Experiment("agnews-onehot-lstm", "ag_news_test", _NEWS_LAST),
    "agnews-onehot-lstm, all positions": Experiment("agnews-onehot-lstm", "ag_news_test", _NEWS_ALL),
    "shakespeare-words-lstm": Experiment("shakespeare-words-lstm", "tinyshakespeare", _WORDS),
}
"""By the name of a row. The last position alone is what the AG News notebook learns from; all positions is its own
better variant."""

_HEAD = (
    "recipe",
    "held-out nats/token, notebook",
    "lmlab",
    "train tokens/s, notebook",
    "lmlab",
    "ratio",
    f"generated tokens/s ({' · '.join(map(str, LENGTHS))} tokens), notebook",
    "lmlab",
    "ratio",
)


def row(name: str, notebook: Figures, lmlab: Figures) -> list[str]:
    """A line of the table."""
    generated = [" · ".join(map(short, side.generated_a_second)) for side in (notebook, lmlab)]
    pairs = zip(lmlab.generated_a_second, notebook.generated_a_second, strict=True)
    return [
        name,
        f"{notebook.nats:.4f}",
        f"{lmlab.nats:.4f}",
        short(notebook.trained_a_second),
        short(lmlab.trained_a_second),
        f"{lmlab.trained_a_second / notebook.trained_a_second:.1f}",
        *generated,
        " · ".join(short(mine / theirs) for mine, theirs in pairs),
    ]


def _note(name: str, notebook: Figures, lmlab: Figures) -> str:
    spelled = f"; {notebook.spelling:.2f} nats/token of both are spelling" if notebook.spelling else ""
    return f"- {name}: notebook {notebook.note}; lmlab {lmlab.note}{spelled}"


_SOONER_HEAD = ("recipe", "side", "seconds taken", "as many times sooner", "held-out nats/token", "reached")

SOONER_PROTOCOL = """\
Protocol: the notebook's loop trains for {minutes:g} min, all of them steps (its reading and vocabulary are not
counted), and its last weights count; ours gets the named part of that time for everything from the text on: reading,
vocabulary, planning, the choice of threads, training, scoring the validation split; starting Python and importing torch
are counted for neither. Seed 0, one process after the other, the test split for nothing but the figures."""


def sooner(name: str, minutes: float, times: Sequence[float]) -> tuple[list[list[str]], dict[str, Any]]:
    """Lines of a table, and the figures: the notebook's minutes beside parts of them given to ours."""
    theirs = in_own_process(name, "notebook", minutes)
    figures: dict[str, Any] = {"notebook": asdict(theirs)}
    lines = [[name, f"notebook, {theirs.note}", f"{theirs.seconds:.1f}", "1", f"{theirs.nats:.4f}", ""]]
    for count in times:
        ours = in_own_process(name, "lmlab", minutes / count)
        figures[f"lmlab {count:g}"] = asdict(ours)
        reached = "yes" if ours.nats <= theirs.nats else "no"
        ratio = f"{theirs.seconds / ours.seconds:.1f}"
        lines.append([name, f"lmlab, {ours.note}", f"{ours.seconds:.1f}", ratio, f"{ours.nats:.4f}", reached])
    return lines, figures


def in_own_process(name: str, side: str, minutes: float) -> Figures:
    """One side of an experiment in a fresh interpreter; its progress goes to standard error."""
    print(f"{name}: {side}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--only", name, "--side", side, f"--minutes={minutes}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    print(f"  {done.stdout.strip()}", file=sys.stderr, flush=True)
    found = json.loads(done.stdout)
    return Figures(**found | {"generated_a_second": tuple(found["generated_a_second"])})


def one_side(name: str, side: str, minutes: float) -> Figures:
    """One side of an experiment, in this process."""
    return {"notebook": notebook_side, "lmlab": lmlab_side}[side](EXPERIMENTS[name], minutes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiments asked for and print the table."""
    asked = _parser().parse_args(arguments)
    names = asked.only or list(EXPERIMENTS)
    if asked.side:
        print(json.dumps(asdict(one_side(names[0], asked.side, asked.minutes))))
        return
    about = machine()
    print(about, file=sys.stderr, flush=True)
    if asked.sooner:
        _print_sooner(about, names, asked)
        return
    found = {name: {side: in_own_process(name, side, asked.minutes) for side in SIDES} for name in names}
    print(about, table(_HEAD, [row(name, **sides) for name, sides in found.items()]), sep="\n\n")
    notes = [_note(name, **sides) for name, sides in found.items()]
    protocol = PROTOCOL.format(minutes=asked.minutes, lengths=" and ".join(map(str, LENGTHS)))
    print("", protocol, "", *notes, sep="\n")
    figures = {name: {side: asdict(f) for side, f in sides.items()} for name, sides in found.items()}
    _keep(asked, {"machine": about, "protocol": protocol, "minutes": asked.minutes, "experiments": figures})


def _print_sooner(about: str, names: Sequence[str], asked: argparse.Namespace) -> None:
    found = {name: sooner(name, asked.minutes, asked.sooner) for name in names}
    print(about, table(_SOONER_HEAD, [line for lines, _ in found.values() for line in lines]), sep="\n\n")
    protocol = SOONER_PROTOCOL.format(minutes=asked.minutes)
    print("", protocol, sep="\n")
    figures = {name: figures for name, (_, figures) in found.items()}
    _keep(asked, {"machine": about, "protocol": protocol, "minutes": asked.minutes, "experiments": figures})


def _keep(asked: argparse.Namespace, content: Mapping[str, Any]) -> None:
    if asked.json:
        asked.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/notebooks.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="training budget of each side")
    parser.add_argument("--only", action="append", choices=list(EXPERIMENTS), metavar="NAME", help="repeatable")
    parser.add_argument(
        "--sooner",
        type=float,
        nargs="+",
        metavar="TIMES",
        help="time to the notebook's loss: give ours that part of the minutes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--side", choices=SIDES, help="one side alone, in this process, as JSON")
    return parser


if __name__ == "__main__":
    main()
