"""Surprisal of every token of a text: how unexpected it is, its rank among all tokens, the bits so far.

A text is read as the run's own text was, unless --unit says otherwise; each document's end (<eos>) is predicted too. An
unknown token pays for its spelling. A word takes in the white space before it.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import composition_lines, in_words, print_json, print_table, unknown_lines

if TYPE_CHECKING:
    from lmlab.facade.surprisal import Scores

EXAMPLES = """\
  lmlab score runs/lstm poem.txt
  lmlab score runs/lstm sentences.txt --unit line --by word -o surprisal.csv
  lmlab score runs/news papers.jsonl --template "{title} ; {summary}" --by document
  lmlab score runs/lstm poem.txt --adapt counts --mix runs/kn6:0.3
  lmlab score runs/lstm poem.txt --colour
  echo "To be, or not to be" | lmlab score runs/lstm - --json"""

_MOST_SHOWN = 1000
_MOST_COLOURED = 20_000  # tokens
_HIDDEN = ("sentence", "word", "start", "end")  # what the table for people leaves out


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model directory, or hf:PATH_OR_NAME")
    parser.add_argument("text", metavar="FILE", help="a text file, folder or named corpus, or - for standard input")
    parser.add_argument("--by", default="token", metavar="UNIT", help="a row a token, word, sentence or document")
    parser.add_argument(
        "--alternatives", type=int, default=0, metavar="N", help="of tokens: the N likeliest in the place of each"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="write the rows: .csv, .jsonl or .parquet")
    parser.add_argument("--colour", action="store_true", help="show the text on the colour of its surprisal, by token")
    parser.add_spelling()
    parser.add_composition()
    parser.add_data(shares=False)


def run(options: argparse.Namespace) -> int:
    """Score, print the table and the totals, or write the rows."""
    from lmlab.facade.surprisal import check_path, check_unit
    from lmlab.facade.text_model import TextModel

    check_unit(options.by)
    if options.out is not None:
        check_path(options.out)
    reporter = reporter_of(options)
    lm = TextModel.load(options.run_folder).composed(options.adapt, options.mix, reporter)
    data = in_group(options, "data")
    asked = {"spelling": options.spelling, "alternatives": options.alternatives, "reporter": reporter}
    asked["ranks"] = options.by == "token"
    scores = lm.score(on=options.text, data=data, **asked)
    table = scores.by(options.by)
    if options.out is not None:
        table.write(options.out)
    if options.json:
        print_json({**scores.total, **({} if options.out else {"scores": table.rows})})
        return 0
    total, rows = scores.total, table.rows
    notes = [
        f"{total['tokens']} tokens, {total['nats_per_token']:.4f} nats/token, perplexity "
        f"{total['perplexity']:.4g} per token, {total['bits_per_byte']:.4f} bits/byte; {total['unk_tokens']} unknown",
        *unknown_lines(total),
        *composition_lines(total["protocol"]),
    ]
    if options.out is not None:
        print("\n".join([*notes, f"{len(rows):,} rows written to {options.out}"]))
        return 0
    if options.colour:
        print(_coloured(scores))
        print("\n".join(notes))
        return 0
    hidden = {*_HIDDEN, *(() if total["unk_tokens"] else ("bits_without_spelling",))}
    hidden |= {"document", "id"} if total["documents"] == 1 and options.by != "document" else {"document"}
    shown = [
        {
            name: in_words(value) if name in ("text", "alternatives") else value
            for name, value in row.items()
            if name not in hidden
        }
        for row in rows[:_MOST_SHOWN]
    ]
    if len(shown) < len(rows):
        notes.insert(0, f"{len(rows) - len(shown):,} rows more: write them all with -o FILE.csv")
    print_table(shown, title=f"{options.text} by {options.run_folder}", note="\n".join(notes))
    return 0


def _coloured(scores: Scores) -> str:
    """The texts in colour, a text below the other, and what was left out."""
    from lmlab.report.screen import coloured_text

    shown = np.asarray(scores.columns["document"][:_MOST_COLOURED])
    texts = [coloured_text(scores.pieces(number, _MOST_COLOURED)) for number in range(int(shown[-1]) + 1)]
    left = len(scores.columns["bits"]) - len(shown)
    return "\n".join(texts) + f"\n{left:,} tokens more: lmlab plot surprisal, or -o FILE.csv for all" * (left > 0)
