"""A smaller n-gram model: drop the n-grams that matter least, measured by entropy (Stolcke 1998).

To a threshold (how much one n-gram may change the perplexity, relatively) or to a number of n-grams. A model directory
has no counts any more; Kneser-Ney models are pruned better when they are estimated (--prune, --prune-to).
"""

from __future__ import annotations

import argparse

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json, print_table
from lmlab.disk import exists
from lmlab.errors import RunExistsError, UsageError

EXAMPLES = """\
  lmlab ngram prune runs/kn5 -o runs/small --threshold 1e-8
  lmlab ngram prune runs/kn5 -o runs/small --ngrams 1000000"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model")
    parser.add_model_out()
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="drop what changes perplexity less than this share"
    )
    parser.add_argument("--ngrams", type=int, metavar="N", help="keep so many, of all lengths together")


def run(options: argparse.Namespace) -> int:
    """Prune, save, show."""
    from lmlab.facade.estimate import ngram_of, with_trie
    from lmlab.facade.text_model import TextModel
    from lmlab.models.ngram import prune

    if (options.threshold is None) == (options.ngrams is None):
        raise UsageError("how much to prune is not said once", "give --threshold or --ngrams")
    if exists(options.out):
        raise RunExistsError(options.out)
    lm = TextModel.load(options.run_folder)
    before = ngram_of(lm).ngrams
    with reporter_of(options).stage("pruning"):
        trie = prune.by_entropy(ngram_of(lm).fast_trie, threshold=options.threshold, ngrams=options.ngrams)
    pruned = with_trie(lm, trie, f"pruned by entropy from {sum(before):,} n-grams")
    pruned.save(options.out)
    after = ngram_of(pruned).ngrams
    if options.json:
        print_json({"run": options.out, "ngrams": list(after), "before": list(before)})
        return 0
    rows = [{"length": k, "before": b, "after": a} for k, (b, a) in enumerate(zip(before, after, strict=True), 1)]
    print_table(rows, title=options.out)
    return 0
