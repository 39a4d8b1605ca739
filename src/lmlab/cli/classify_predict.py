r"""The class of every text, and its probability: a line each, parted by a tab; line ends in a label show as \n.

SOURCE is a text file, whose lines are the texts (an empty line is an empty text), records, or - for lines on standard
input. With --json a list; `likeliest` has the probabilities of at most ten labels.
"""

from __future__ import annotations

import argparse

from lmlab.cli.classify_eval import shown_label
from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import print_json

EXAMPLES = """\
  echo "Oil prices fall again" | lmlab classify predict runs/news
  lmlab classify predict runs/news headlines.txt --json"""
_LIKELIEST = 10


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="directory of a classifier")
    parser.add_argument("source", nargs="?", default="-", metavar="SOURCE", help="texts (default: standard input)")
    parser.add_data(shares=False)


def run(options: argparse.Namespace) -> int:
    """Classify, a line each."""
    from lmlab.classify.classifier import Classifier
    from lmlab.classify.data import texts_of

    classifier = Classifier.load(options.run_folder)
    texts = texts_of(classifier.fitted.config, options.source, in_group(options, "data"))
    p_NC = classifier.predict_proba(texts, reporter_of(options))
    classes, best_NK = classifier.fitted.classes, (-p_NC).argsort(1, kind="stable")[:, :_LIKELIEST]
    if options.json:
        told = [
            {"label": classes[best_K[0]], "likeliest": [{"label": classes[at], "p": float(p_C[at])} for at in best_K]}
            for p_C, best_K in zip(p_NC, best_NK, strict=True)
        ]
        print_json(told)
        return 0
    for p_C, best_K in zip(p_NC, best_NK, strict=True):
        print(f"{shown_label(classes[best_K[0]])}\t{p_C[best_K[0]]:.4f}")
    return 0
