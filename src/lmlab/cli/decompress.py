"""Make files again from what `lmlab compress` wrote: exactly, or not at all.

FILE comes beside each FILE.lmz, which stays. All sums are compared before anything takes its place.
"""

from __future__ import annotations

import argparse

from lmlab.cli.compress import SUFFIX, add_files, each_file
from lmlab.cli.parser import Parser
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab decompress book.txt.lmz
  lmlab decompress book.lstm.lmz --model runs/lstm --adapt dynamic -o book.txt
  lmlab decompress - < folder.tar.lmz > folder.tar"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    add_files(parser, f"where to write (default: FILE without {SUFFIX}); - is standard output")


def run(options: argparse.Namespace) -> int:
    """Decompress each file."""
    from lmlab.compression import opened, unpack

    lm = opened(options.model, options.adapt, options.mix)
    return each_file(
        options,
        "decompressing",
        lambda file, out, advance: unpack(file, out, lm, jobs=options.jobs, advance=advance),
        _without_suffix,
    )


def _without_suffix(file: str) -> str:
    if not file.endswith(SUFFIX) or file == SUFFIX:
        raise UsageError(f"{file} does not end in {SUFFIX}, which tells how to name what comes out", "name it with -o")
    return file.removesuffix(SUFFIX)
