"""Train several kinds of model on the same tokens, each for the same budget, and show one table.

The figures are those of the test split, which no model has seen and on which nothing is chosen.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import figures_row, print_json, print_table
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab compare my.txt --models ngram,cnn,lstm --minutes 1
  lmlab compare ag_news_test --template "{title} ; {description}" --models ngram,gru --minutes 2 -o runs/news"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="the text; see lmlab train --help")
    parser.add_argument("--models", default="ngram,cnn,lstm", metavar="A,B", help="kinds (default ngram,cnn,lstm)")
    parser.add_argument("-o", "--out", metavar="DIR", help="keep the runs and the picture here")
    parser.add_learning()
    parser.add_data()


def run(options: argparse.Namespace) -> int:
    """Train each, show one table."""
    from lmlab.cli.train import named_tree
    from lmlab.workbench import learn

    models = [name.strip() for name in options.models.split(",") if name.strip()]
    if not models:
        raise UsageError("--models names no model", "for example --models ngram,lstm")
    order, options.order = options.order, None
    benches = learn.compare(
        options.source,
        models,
        seed=options.seed or 0,
        out=options.out,
        settings={"ngram": {"model": {"order": order}}} if order else None,
        reporter=reporter_of(options),
        **named_tree(options),
    )
    if options.out:
        draw(benches, Path(options.out))
    if options.json:
        print_json([result(bench) for bench in benches])
        return 0
    print_comparison(benches, f"{options.source}, {benches[0].manifest['results']['test']['split']} split")
    if options.out:
        print(f"runs and learning curves (curves.png) in {options.out}")
    return 0


def result(bench: Any) -> dict[str, Any]:
    """A bench's figures, for JSON."""
    results = bench.manifest["results"]
    return {
        "run": str(bench.folder) if bench.folder else None,
        "model": bench.config["model"]["kind"],
        **results["test"],
        "train_seconds": results["train_seconds"],
        "model_bytes": bench.model.nbytes,
    }


def print_comparison(benches: list[Any], title: str) -> None:
    """One table of several benches."""
    rows = [
        figures_row(
            bench.config["model"]["kind"],
            bench.manifest["results"]["test"],
            seconds=bench.manifest["results"]["train_seconds"],
            MB=bench.model.nbytes / 1e6,
        )
        for bench in benches
    ]
    note = "documents read after <bos>, <eos> counted, context reset between documents, unknown tokens charged"
    print_table(rows, title=title, note=note)


def draw(benches: list[Any], folder: Path) -> Path:
    """All learning curves in one picture; counted models as level lines (validation split)."""
    from lmlab.plots import draw_curves, read_curve
    from lmlab.store import METRICS

    curves, levels = {}, {}
    for bench in benches:
        kind = bench.config["model"]["kind"]
        if bench.folder and (bench.folder / METRICS).is_file():
            curves[kind] = read_curve(bench.folder / METRICS)
        elif "valid" in bench.manifest["results"]:
            levels[kind] = math.log(bench.manifest["results"]["valid"]["perplexity_unk_as_class"])
    draw_curves(curves, folder / "curves.png", levels)
    return folder / "curves.png"
