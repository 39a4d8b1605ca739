"""The model of the counts of all shards: byte for byte that of one process that reads the text whole.

Shards may have been counted on different machines, in any number. Counts of several texts are merged as well; these
follow each other as they are named.
"""

from __future__ import annotations

import argparse

from lmlab.cli.ngram_estimate import show_estimated, workers
from lmlab.cli.parser import Parser, in_group, reporter_of

EXAMPLES = """\
  lmlab ngram merge counts-* -o runs/kn5
  lmlab ngram merge 2025/counts-* 2026/counts-* --prune 0,0,1 --min-count 3 -o runs/both"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    from lmlab.config import described
    from lmlab.models.ngram import Ngram

    parser.add_argument("counts", nargs="+", metavar="COUNTS", help="folders that `lmlab ngram count` wrote")
    parser.add_model_out()
    parser.add_overwrite()
    names = [field.name for field in described(Ngram.Settings) if field.name not in ("order", "compat")]
    parser.add_settings("n-gram", "model", Ngram.Settings, *names)
    parser.add_vocabulary()
    parser.add_cluster()


def run(options: argparse.Namespace) -> int:
    """Merge, smooth, save, show."""
    from lmlab.facade.estimate import merge

    with workers(options.cluster) as executor:
        lm = merge(
            *options.counts,
            out=options.out,
            vocab_size=options.vocab_size,
            min_count=options.min_count,
            executor=executor,
            overwrite=options.overwrite,
            reporter=reporter_of(options),
            **in_group(options, "model"),
        )
    return show_estimated(lm, options)
