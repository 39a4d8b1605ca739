"""Text straight to an n-gram model: a line is a sentence, a run of non-space a word, every word is kept.

What KenLM's lmplz does. The model directory that comes out is known to every verb; `lmlab ngram arpa` turns it into an
ARPA file. `lmlab train --model ngram` also splits and evaluates, and knows other tokenizers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import print_json

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from lmlab.facade.text_model import TextModel

EXAMPLES = """\
  lmlab ngram estimate my.txt -o runs/kn5
  lmlab ngram estimate a.txt b.txt --order 3 --prune 0,0,1 -o runs/small
  lmlab ngram estimate my.txt -o kn5.lm                 # one file in place of a folder
  lmlab ngram estimate big.txt.zst --memory 2G -o runs/big
  lmlab ngram estimate big.txt --shards 64 --memory 2G --cluster tcp://10.0.0.1:8786 -o runs/big"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="UTF-8 text files, compressed or not, or -")
    parser.add_model_out()
    parser.add_overwrite()
    parser.add_ngram("prune_entropy", "prune_to", "k", "compat")
    parser.add_errors()
    parser.add_symbols()
    parser.add_vocabulary()
    parser.add_argument("--shards", type=int, metavar="N", help="count N parts of the files apart, a process a core")
    parser.add_cluster()


def run(options: argparse.Namespace) -> int:
    """Estimate, save, show."""
    gc.disable()  # what is loaded and counted is kept: to look for garbage takes 5 ms of a megabyte's 130
    try:
        return _run(options)
    finally:
        gc.enable()


def _run(options: argparse.Namespace) -> int:
    from lmlab.facade.estimate import estimate

    with workers(options.cluster) as executor:
        lm = estimate(
            *options.texts,
            out=options.out,
            vocab_size=options.vocab_size,
            min_count=options.min_count,
            errors=options.errors,
            skip_symbols=options.skip_symbols,
            shards=options.shards,
            executor=executor,
            overwrite=options.overwrite,
            reporter=reporter_of(options),
            **in_group(options, "model"),
        )
    return show_estimated(lm, options)


@contextlib.contextmanager
def workers(cluster: str | None) -> Iterator[Executor | None]:
    """The workers of a cluster, where one is named."""
    if cluster is None:
        yield None
        return
    if cluster.startswith("ray:"):
        from lmlab.facade.ray_tasks import connected
    else:
        from lmlab.facade.sharding import dask as connected
    with connected(cluster) as executor:
        yield executor


def show_estimated(lm: TextModel, options: argparse.Namespace) -> int:
    """Say where a model lies, and what it holds."""
    results = lm.manifest["results"]
    if options.json:
        print_json({"run": str(lm.folder), "vocab_size": lm.tokenizer.vocab_size, **results})
        return 0
    print(lm.folder)
    for k, many in enumerate(results["ngrams"], 1):  # no table: it takes longer to load than a megabyte to count
        print(f"{k:>8}-grams {many:>15,}")
    print(f"estimated in {results['train_seconds']:.1f} s")
    return 0
