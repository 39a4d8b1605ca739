"""Score held-out text with trained models, all on one ruler.

Without --on, each run is scored on the test split of the text it was trained on.
"""

from __future__ import annotations

import argparse

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import figures_row, print_json, print_table

EXAMPLES = """\
  lmlab eval runs/lstm runs/kn5 --on held-out.txt
  lmlab eval runs/lstm --split valid --json"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="model directories")
    parser.add_argument("--on", metavar="SOURCE", help="a text that they were not trained on")
    parser.add_argument("--split", metavar="NAME", help="of the corpus: train, valid, test or all")


def run(options: argparse.Namespace) -> int:
    """Score each run, show one table."""
    from lmlab.workbench.bench import Bench

    reporter = reporter_of(options)
    figures = [Bench.load(path).evaluate(options.on, split=options.split, reporter=reporter) for path in options.runs]
    if options.json:
        print_json(figures)
        return 0
    rows = [
        figures_row(each["run"], each, tokens=each["tokens"], chars=each["chars"], bytes=each["bytes"])
        for each in figures
    ]
    protocol = figures[0]["protocol"]
    print_table(
        rows,
        title=f"{protocol['data']}, split {protocol['split']}, sha256 {protocol['data_sha256'][:12]}",
        note=f"{protocol['boundaries']}; {protocol['context']}; unknown tokens: {protocol['unknown']}",
    )
    return 0
