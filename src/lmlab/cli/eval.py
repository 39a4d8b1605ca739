"""Score held-out text with trained models, all on one ruler.

Without --on, each run is scored on the test split of the text it was trained on.
"""

from __future__ import annotations

import argparse

from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import composition_lines, figures_row, print_json, print_table, unknown_lines
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab eval runs/lstm runs/kn5 --on held-out.txt
  lmlab eval runs/news --on papers.jsonl --template "{title} ; {summary}"
  lmlab eval runs/lstm --split valid --json
  lmlab eval runs/lstm --adapt dynamic --mix runs/kn6
  lmlab eval runs/kn5 hf:models/gpt2 --on held-out.txt"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="model directories, or hf:PATH_OR_NAME")
    parser.add_argument("--on", metavar="SOURCE", help="a text that they were not trained on")
    parser.add_argument("--split", metavar="NAME", help="of the corpus: train, valid, test or all")
    parser.add_spelling()
    parser.add_composition()
    parser.add_data(shares=False)


def run(options: argparse.Namespace) -> int:
    """Score each run, show one table."""
    from lmlab.facade.text_model import TextModel

    reporter, data = reporter_of(options), in_group(options, "data")
    if data and options.on is None:
        raise UsageError(f"{', '.join(data)} say how a text is read, but --on names none", "name one with --on")
    models = [TextModel.load(path).composed(options.adapt, options.mix, reporter) for path in options.runs]
    asked = {"split": options.split, "data": data, "spelling": options.spelling, "reporter": reporter}
    figures = [lm.evaluate(options.on, **asked) for lm in models]
    if options.json:
        print_json(figures)
        return 0
    rows = [
        figures_row(each["run"], each, tokens=each["tokens"], chars=each["chars"], bytes=each["bytes"])
        for each in figures
    ]
    texts = [_text(each["protocol"]) for each in figures]
    if len(set(texts)) > 1:
        rows = [{**row, "text": text} for row, text in zip(rows, texts, strict=True)]
    protocol = figures[0]["protocol"]
    lines = [
        f"{each['run']}: {line}"
        for each in figures
        for line in (*unknown_lines(each), *composition_lines(each["protocol"]))
    ]
    print_table(
        rows,
        title=texts[0] if len(set(texts)) == 1 else "each on its own text: only bits/byte compare, and roughly",
        note=f"{protocol['boundaries']}; {protocol['context']}; unknown tokens: {protocol['unknown']}"
        + "".join(f"\n{line}" for line in lines),
    )
    return 0


def _text(protocol: dict[str, str]) -> str:
    return f"{protocol['data']}, split {protocol['split']}, sha256 {protocol['data_sha256'][:12]}"
