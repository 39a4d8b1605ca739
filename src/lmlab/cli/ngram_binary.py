"""Write an n-gram model as a binary file that KenLM reads: what its build_binary makes of the model's ARPA file.

The file holds hash tables, KenLM's probing kind. KenLM's own files, of this and of its other kinds, are read wherever a
model is queried.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json

EXAMPLES = """\
  lmlab ngram binary runs/kn5 kn5.bin
  lmlab ngram binary kn5.arpa.gz kn5.bin --multiplier 2"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory or an ARPA file")
    parser.add_argument("file", metavar="FILE", help="the file to write")
    parser.add_argument(
        "--multiplier", type=float, default=1.5, metavar="X", help="buckets an n-gram, above 1: fewer are slower"
    )


def run(options: argparse.Namespace) -> int:
    """Write, tell how much."""
    from lmlab.compat.kenlm import listing_of
    from lmlab.models.ngram.kenlm_write import write_probing

    path = Path(options.file)
    with reporter_of(options).stage(f"writing {path.name}"):
        write_probing(path, listing_of(Path(options.model)), options.multiplier)
    said = {"file": str(path), "bytes": path.stat().st_size}
    print_json(said) if options.json else print(f"{path}: {said['bytes']:,} bytes")
    return 0
