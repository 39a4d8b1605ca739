"""One page on one or several models, which needs no other file: figures, curves, samples, surprisal, beams, manifests.

What a model cannot show is left out, with a line that says why.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab report runs/lstm
  lmlab report runs/ngram runs/cnn runs/lstm -o report.html
  lmlab report hf:gpt2 runs/lstm --on held-out.txt --prompt "To be" """


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="model directories, or hf:PATH_OR_NAME")
    parser.add_argument("-o", "--out", metavar="FILE", default="report.html", help="the page (default report.html)")
    parser.add_argument("--on", metavar="SOURCE", help="a text that they were not trained on (default: one held out)")
    parser.add_argument("--prompt", metavar="TEXT", help="of samples and beams (default: how that text begins)")
    parser.add_composition()


def run(options: argparse.Namespace) -> int:
    """Make the page, say what it lacks."""
    from lmlab.disk import write_file
    from lmlab.facade.report import report_on
    from lmlab.facade.text_model import TextModel

    out = Path(options.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out} is no page", "end it in .html")
    reporter = reporter_of(options)
    models = [TextModel.load(path).composed(options.adapt, options.mix, reporter) for path in options.runs]
    report = report_on(models, options.on, options.prompt)
    page = report.page(reporter).encode()
    write_file(out, page)
    if options.json:
        print_json({"report": str(out), "bytes": len(page), "left_out": report.left_out})
        return 0
    print("\n".join([*(f"left out: {each}" for each in report.left_out), f"report: {out}, {len(page) / 1e6:.2f} MB"]))
    return 0
