"""Count one shard of a text, on whatever machine, to be merged with the others by `lmlab ngram merge`.

Shard I of N is the lines that begin in the I-th of N equal pieces of the files; a compressed file is never cut. Counts
that are there already, whole, of the same text, are left as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import print_json

EXAMPLES = """\
  lmlab ngram count big.txt --shard 1/4 -o counts-1      # and 2/4, 3/4, 4/4 elsewhere
  lmlab ngram count part-007.txt.zst --memory 4G -o counts-7"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    from lmlab.models.ngram import Ngram

    parser.add_argument("texts", nargs="+", metavar="TEXT", help="UTF-8 text files, compressed or not")
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="the folder of counts to write")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="which part of how many (default 1/1: all)")
    parser.add_overwrite()
    parser.add_settings("n-gram", "model", Ngram.Settings, "order", "memory", "compat")
    parser.add_errors()
    parser.add_symbols()


def run(options: argparse.Namespace) -> int:
    """Count, save, show."""
    from lmlab.corpora import DataSettings
    from lmlab.facade.sharding import share
    from lmlab.facade.shards import Shard, count_shard
    from lmlab.models.ngram import Ngram
    from lmlab.models.ngram.count_files import read_about

    number, of = share(options.shard)
    DataSettings(errors=options.errors)
    settings = Ngram.Settings.make(in_group(options, "model"), "model")
    shards = Shard.all_of(options.texts, of, settings, options.errors, options.skip_symbols)
    shard, out, reporter = shards[number - 1], Path(options.out), reporter_of(options)
    new = count_shard(shard, out, overwrite=options.overwrite, reporter=reporter)
    arrays = read_about(out)["arrays"]
    ngrams = [arrays[f"count_{k}"][1] for k in range(1, settings.order + 1)]
    if options.json:
        print_json({"counts": options.out, "shard": options.shard, "counted": new, "ngrams": ngrams})
        return 0
    print(out if new else f"{out} was counted before")
    for k, many in enumerate(ngrams, 1):
        print(f"{k:>8}-grams {many:>15,}")
    return 0
