"""Train several kinds of model on the same tokens, each for the same budget, mix them, and show one ladder.

The figures are those of the test split, which no model has seen and on which nothing is chosen.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.cli.parser import NGRAM, Parser, named, reporter_of
from lmlab.cli.show import PROTOCOL, figures_row, print_json, print_table, unknown_lines
from lmlab.errors import UsageError

if TYPE_CHECKING:
    from lmlab.facade.compare import Comparison
    from lmlab.report.ladder import Rung

EXAMPLES = """\
  lmlab compare my.txt --models ngram,cnn,lstm --minutes 1
  lmlab compare ag_news_test --template "{title} ; {description}" --models ngram,gru --minutes 2 -o runs/news"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="the text; see lmlab train --help")
    kinds = "kinds (default ngram,cnn,lstm); hf:PATH is scored as it is"
    parser.add_argument("--models", default="ngram,cnn,lstm", metavar="A,B", help=kinds)
    parser.add_argument("-o", "--out", metavar="DIR", help="keep the runs and the picture here")
    parser.add_overwrite()
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
    reporter = reporter_of(options)
    models = compare_named(given, kinds, {"ngram": own}, options.out, reporter, overwrite=options.overwrite)
    if options.out:
        draw(models, Path(options.out), models.ladder)
    if options.json:
        print_json(models.rows)
        return 0
    print(models)
    print_figures(models)
    if options.out:
        print(f"runs and learning curves (curves.png) in {options.out}")
    return 0


def print_figures(models: Comparison) -> None:
    """One table of several models."""
    rows = [
        figures_row(
            row["model"], row, steps=row["steps"], passes=row["passes"], seconds=row["train_seconds"],
            MB=row["model_bytes"] / 1e6,
        )
        for row in models.rows
    ]  # fmt: skip
    print_table(rows, note="\n".join([PROTOCOL, *unknown_lines(models.rows[-1])]))


def draw(models: Comparison, folder: Path, rungs: Sequence[Rung]) -> None:
    """The ladder and all learning curves in one picture; counted models as level lines (validation split)."""
    from lmlab.seeing.curves import draw_curves, read_curve
    from lmlab.store import CURVES, METRICS

    curves, levels = {}, {}
    for lm in models:
        kind = lm.config.model.kind
        if lm.folder and (lm.folder / METRICS).is_file():
            curves[kind] = read_curve(lm.folder / METRICS)
        elif "valid" in lm.manifest["results"]:
            levels[kind] = math.log(lm.manifest["results"]["valid"]["perplexity_unk_as_class"])
    data = models[0].manifest["data"]["name"]
    title = f"{data}, by {models[0].config.tokenizer.kind} tokens"
    draw_curves(curves, folder / CURVES, levels, title, rungs)
