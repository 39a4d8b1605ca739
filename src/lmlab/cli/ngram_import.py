"""An ARPA file of KenLM, SRILM or IRSTLM, compressed or not, as a model directory that every verb knows."""

from __future__ import annotations

import argparse

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json, print_table

EXAMPLES = """\
  lmlab ngram import kn5.arpa.gz -o runs/kn5
  lmlab ngram import irstlm.arpa --positive zero -o runs/ir"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("file", metavar="FILE", help="an ARPA file")
    parser.add_model_out()
    parser.add_argument(
        "--errors", default="strict", choices=("strict", "replace"), help="words that are not UTF-8: refuse, or U+FFFD"
    )
    parser.add_argument(
        "--positive",
        default="refuse",
        choices=("refuse", "zero"),
        help="log10 p above 0: refuse, or zero as KenLM's -i",
    )


def run(options: argparse.Namespace) -> int:
    """Read, save, show."""
    from lmlab.facade.estimate import import_arpa

    said = {"errors": options.errors, "positive": options.positive}
    lm = import_arpa(options.file, out=options.out, reporter=reporter_of(options), **said)
    ngrams = lm.manifest["results"]["ngrams"]
    if options.json:
        print_json({"run": str(lm.folder), "vocab_size": lm.tokenizer.vocab_size, "ngrams": ngrams})
        return 0
    print_table([{"length": k, "n-grams": many} for k, many in enumerate(ngrams, 1)], title=str(lm.folder))
    return 0
