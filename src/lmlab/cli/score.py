"""Surprisal of every token of a text: how unexpected it is, its rank among all tokens, the bits so far.

The text is read as one document; its end (<eos>) is predicted too. An unknown token pays for its spelling.
"""

from __future__ import annotations

import argparse

from lmlab.cli.parser import Parser, read_text, reporter_of
from lmlab.cli.show import composition_lines, print_json, print_table

EXAMPLES = """\
  lmlab score runs/lstm poem.txt
  lmlab score runs/lstm poem.txt --adapt cache --mix runs/kn6:0.3
  echo "To be, or not to be" | lmlab score runs/lstm - --json"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model directory")
    parser.add_argument("text", metavar="FILE", help="a UTF-8 text file, or - for standard input")
    parser.add_argument("--errors", metavar="HOW", default="strict", help="bytes that are no UTF-8: strict or replace")
    parser.add_composition()


def run(options: argparse.Namespace) -> int:
    """Score, print the table and the totals."""
    from lmlab.facade.text_model import TextModel

    text = read_text(options.text, options.errors)
    lm = TextModel.load(options.run_folder).composed(options.adapt, options.mix, reporter_of(options))
    scores = lm.score(text)
    if options.json:
        print_json({**scores.total, "scores": scores.rows})
        return 0
    rows = [{**row, "text": repr(row["text"])[1:-1]} for row in scores.rows]
    total = scores.total
    print_table(
        rows,
        title=f"{options.text} by {options.run_folder}",
        note=f"{total['tokens']} tokens, {total['nats_per_token']:.4f} nats/token, perplexity "
        f"{total['perplexity']:.4g} per token, {total['bits_per_byte']:.4f} bits/byte; {total['unk_tokens']} unknown"
        + "".join(f"\n{line}" for line in composition_lines(total["protocol"])),
    )
    return 0
