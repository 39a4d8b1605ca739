"""What an n-gram model is, and what it holds, length by length."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmlab.cli.parser import Parser
from lmlab.cli.show import print_json, print_table

EXAMPLES = """\
  lmlab ngram stats runs/kn5
  lmlab ngram stats runs/kn5 --json"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model")


def run(options: argparse.Namespace) -> int:
    """Count and weigh."""
    from lmlab.facade.estimate import ngram_of
    from lmlab.facade.text_model import TextModel
    from lmlab.packed import sizes

    lm = TextModel.load(options.run_folder)
    model = ngram_of(lm)
    total, files = sum(model.ngrams), sizes(Path(options.run_folder))
    on_disk = sum(size for name, size in files.items() if name.endswith((".npy", ".bin")))
    figures = {
        "order": len(model.ngrams),
        "smoothing": model.settings.smoothing,
        "vocab_size": model.vocab_size,
        "ngrams": list(model.ngrams),
        "ngrams_in_all": total,
        "bytes_on_disk": on_disk,
        "bits_per_ngram": 8 * on_disk / total,
        "notes": list(model.notes),
    }
    if options.json:
        print_json(figures)
        return 0
    print(lm)
    print()
    rows = [{"length": k, "n-grams": many, "share": f"{many / total:.0%}"} for k, many in enumerate(model.ngrams, 1)]
    note = f"{on_disk / 1e6:.1f} MB of arrays on disk, {figures['bits_per_ngram']:.1f} bits an n-gram"
    print_table([*rows, {"length": "all", "n-grams": total, "share": "100%"}], note=note)
    return 0
