"""The named corpora: what they are, where they lie on this machine or how to get them, licence and split rule."""

from __future__ import annotations

import argparse

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json, print_table

EXAMPLES = """\
  lmlab corpora
  lmlab corpora tinyshakespeare          # fetch it, check it, show its splits
  lmlab corpora --json"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="fetch this one if need be, and show its splits")


def run(options: argparse.Namespace) -> int:
    """List all, or fetch and describe one."""
    from lmlab.corpora import DataSettings, corpus_table

    if options.name is None:
        rows = [vars(row) for row in corpus_table()]
        print_json(rows) if options.json else print_table(rows, title="named corpora")
        return 0
    from lmlab.facade.prepare import open_source

    corpus = open_source(options.name, DataSettings(), reporter_of(options))
    splits = [{"split": name, **vars(size)} for name, size in corpus.sizes.items()]
    if options.json:
        print_json({"name": corpus.name, "sha256": corpus.sha256, "rule": corpus.rule, "splits": splits})
        return 0
    print_table(splits, title=f"{corpus.name}, sha256 {corpus.sha256[:12]}", note=corpus.rule)
    return 0
