"""Write an n-gram model as an ARPA file, which KenLM, SRILM and many a decoder read."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json

EXAMPLES = """\
  lmlab ngram arpa runs/kn5 kn5.arpa
  lmlab ngram arpa runs/kn5 kn5.arpa.gz"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model directory")
    parser.add_argument("file", metavar="FILE", help="the file to write; compressed if it ends in .gz")


def run(options: argparse.Namespace) -> int:
    """Write, tell how much."""
    from lmlab.facade.estimate import ngram_of, words_of
    from lmlab.facade.text_model import TextModel
    from lmlab.models.ngram import arpa

    lm, path = TextModel.load(options.run_folder), Path(options.file)
    words, trie = words_of(lm), ngram_of(lm).fast_trie
    with reporter_of(options).stage(f"writing {path.name}"):
        arpa.write(path, trie, words)
    said = {"file": str(path), "bytes": path.stat().st_size}
    print_json(said) if options.json else print(f"{path}: {said['bytes']:,} bytes")
    return 0
