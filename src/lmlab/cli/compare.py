"""Train several kinds of model on the same tokens, each for the same budget, and show one table.

The figures are those of the test split, which no model has seen and on which nothing is chosen.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from lmlab.cli.parser import NGRAM, Parser, named, reporter_of
from lmlab.cli.show import figures_row, print_json, print_table
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab compare my.txt --models ngram,cnn,lstm --minutes 1
  lmlab compare ag_news_test --template "{title} ; {description}" --models ngram,gru --minutes 2 -o runs/news"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="the text; see lmlab train --help")
    kinds = "kinds (default ngram,cnn,lstm); hf:PATH is scored as it is"
    parser.add_argument("--models", default="ngram,cnn,lstm", metavar="A,B", help=kinds)
    parser.add_argument("-o", "--out", metavar="DIR", help="keep the runs and the picture here")
    parser.add_learning()
    parser.add_data()


def run(options: argparse.Namespace) -> int:
    """Train each, show one table."""
    from lmlab.facade.compare import compare_named

    kinds = [name.strip() for name in options.models.split(",") if name.strip()]
    if not kinds:
        raise UsageError("--models names no model", "for example --models ngram,lstm")
    given, flags = named(options), [f"model.{name}" for name in NGRAM]
    own = {path: given.pop(path) for path in flags if getattr(options, path) is not None}
    models = compare_named(given, kinds, {"ngram": own}, options.out, reporter_of(options))
    if options.out:
        draw(models, Path(options.out))
    if options.json:
        print_json([result(lm) for lm in models])
        return 0
    test = models[0].manifest["results"]["test"]
    part = (
        f", its first {test['tokens']:,} of {test['of_tokens']:,} tokens" if test["tokens"] < test["of_tokens"] else ""
    )
    print_comparison(models, f"{options.source}, {test['split']} split{part}")
    if options.out:
        print(f"runs and learning curves (curves.png) in {options.out}")
    return 0


def result(lm: Any) -> dict[str, Any]:
    """A text model's figures, for JSON."""
    results = lm.manifest["results"]
    return {
        "run": str(lm.folder) if lm.folder else None,
        "model": lm.config.model.kind,
        **results["test"],
        "train_seconds": results["train_seconds"],
        "model_bytes": lm.model.nbytes,
    }


def print_comparison(models: list[Any], title: str) -> None:
    """One table of several models."""
    rows = [
        figures_row(
            lm.config.model.kind,
            lm.manifest["results"]["test"],
            seconds=lm.manifest["results"]["train_seconds"],
            MB=lm.model.nbytes / 1e6,
        )
        for lm in models
    ]
    note = "documents read after <bos>, <eos> counted, context reset between documents, unknown tokens charged"
    print_table(rows, title=title, note=note)


def draw(models: list[Any], folder: Path) -> Path:
    """All learning curves in one picture; counted models as level lines (validation split)."""
    from lmlab.plots import draw_curves, read_curve
    from lmlab.store import METRICS

    curves, levels = {}, {}
    for lm in models:
        kind = lm.config.model.kind
        if lm.folder and (lm.folder / METRICS).is_file():
            curves[kind] = read_curve(lm.folder / METRICS)
        elif "valid" in lm.manifest["results"]:
            levels[kind] = math.log(lm.manifest["results"]["valid"]["perplexity_unk_as_class"])
    draw_curves(curves, folder / "curves.png", levels)
    return folder / "curves.png"
