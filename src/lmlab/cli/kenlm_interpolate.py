"""One ARPA file on standard output of several: log-linear as KenLM's interpolate, or linear (--linear) as SRILM's.

The models are ARPA files, model directories of ours, or what lmplz --intermediate wrote, by its prefix; their
vocabularies and orders may differ. Weights are given, or tuned on a text.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lmlab.cli.parser import ToolParser
from lmlab.cli.show import byte_output
from lmlab.corpora.raw import named_origin
from lmlab.corpora.reading import inflate
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab kenlm interpolate -m news.arpa talk.arpa -w 0.7 0.3
  lmlab kenlm interpolate --linear -m news.arpa talk.arpa -t held-out.txt"""


def add_arguments(parser: ToolParser) -> None:
    """The verb's arguments."""
    parser.add_argument("-m", "--model", nargs="+", action="extend", required=True, metavar="MODEL", help="one or more")
    parser.add_argument("-w", "--weight", nargs="+", action="extend", type=float, metavar="X", help="one a model")
    parser.add_argument("-t", "--tuning", metavar="FILE", help="a text, a sentence a line, that the weights are fit to")
    parser.add_argument("--just_tune", action="store_true", help="print the weights alone")
    parser.add_argument("--linear", action="store_true", help="the weighted mean, its weights by EM; not of KenLM")
    for names in (("-T", "--temp_prefix"), ("-S", "--memory"), ("--sort_block",)):
        parser.add_argument(*names, metavar="X", help="taken; nothing depends on it")


def run(options: argparse.Namespace) -> int:
    """Read, weigh, write."""
    from lmlab.compat.kenlm import listing_of
    from lmlab.models.ngram.interpolate import Union, checked

    if (options.weight is None) == (options.tuning is None):
        raise UsageError("weights are not said once", "provide a tuning file with -t xor weights with -w")
    paths = [Path(name) for name in options.model]
    beside = [path.with_name(f"{path.name}.kenlm_intermediate") for path in paths]
    found = [other if not path.exists() and other.exists() else path for path, other in zip(paths, beside, strict=True)]
    union = Union([listing_of(path) for path in found])
    weights = options.weight
    if options.tuning:
        origin = named_origin(options.tuning)
        sentences = b"".join(inflate(origin.read(), origin.name)).splitlines()
        weights = union.tune_linear(sentences) if options.linear else union.tune_log_linear(sentences)
        print("Final weights:", *map("{:g}".format, weights), file=sys.stderr)
        if options.just_tune:
            print(*map("{:g}".format, weights))
            return 0
    weights = checked(weights, len(found), shares=options.linear)
    model = union.linear(weights) if options.linear else union.log_linear(weights)
    model.write(byte_output())
    return 0
