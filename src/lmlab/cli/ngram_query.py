"""Score sentences, one a line, from a file or standard input; prints what KenLM's query prints.

Of each word: word=id, the length of the n-gram found, log10 of its probability; the id 0 is an unknown word.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lmlab.cli.parser import Parser
from lmlab.cli.show import print_json
from lmlab.tokens.scan import WordScanner, chunks, opened, scanner
from lmlab.vocabulary import BOS, EOS, SPECIALS, UNK

EXAMPLES = """\
  echo "to be or not to be" | lmlab ngram query runs/kn5
  lmlab ngram query kn5.arpa.gz held-out.txt -v summary
  lmlab ngram query runs/kn5 held-out.txt --json"""
_LEVELS = ("word", "sentence", "summary")
_BYTES_A_WORD = 5  # or thereabouts


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory or an ARPA file")
    parser.add_argument("text", nargs="?", default="-", metavar="TEXT", help="a file (default: standard input)")
    parser.add_argument("-n", "--no-marks", action="store_true", help="without <s> before and </s> after a sentence")
    parser.add_argument(
        "-v", "--show", action="append", choices=_LEVELS, metavar="WHAT", help="word, sentence, summary (default: all)"
    )


@dataclass
class _Sums:
    """What is summed up: tokens, unknown tokens, log10 of all and of the known."""

    tokens: int = 0
    unknown: int = 0
    total: float = 0.0
    known: float = 0.0


def run(options: argparse.Namespace) -> int:
    """Score, line by line where lines are to be shown, sum up."""
    shown = set() if options.json else set(options.show or _LEVELS)
    whole = not options.no_marks and shown <= {"summary"}
    sums = _whole(options) if whole else _by_line(options, shown)
    summary = {
        "perplexity_with_oovs": _perplexity(sums.total, sums.tokens),
        "perplexity_without_oovs": _perplexity(sums.known, sums.tokens - sums.unknown),
        "oovs": sums.unknown,
        "tokens": sums.tokens,
    }
    if options.json:
        print_json(summary)
    elif "summary" in shown:
        print(f"Perplexity including OOVs:\t{summary['perplexity_with_oovs']}")
        print(f"Perplexity excluding OOVs:\t{summary['perplexity_without_oovs']}")
        print(f"OOVs:\t{sums.unknown}\nTokens:\t{sums.tokens}")
    return 0


def _whole(options: argparse.Namespace) -> _Sums:
    """A whole text in large pieces."""
    from lmlab.compat.kenlm import read

    trie, spelled = read(Path(options.model), compact=True)
    size = None if options.text == "-" else Path(options.text).stat().st_size
    score = trie.scorer(None if size is None else size // _BYTES_A_WORD)
    words = scanner(size, [word.decode() for word in spelled], learn=False)
    sums, tail_N = _Sums(), np.empty(0, dtype=np.uint32)
    with opened(options.text) as file:
        for piece_N in _fed(words, file):
            ids_N = np.concatenate([tail_N, piece_N])
            log10_N = score(ids_N)[len(tail_N) :] / math.log(10)
            known_N = piece_N != UNK
            sums.tokens += int(np.count_nonzero(piece_N != BOS))
            sums.unknown += int(np.count_nonzero(~known_N))
            sums.total += float(log10_N.sum(dtype=np.float64))
            sums.known += float(log10_N[known_N].sum(dtype=np.float64))
            tail_N = ids_N[max(0, len(ids_N) - trie.order + 1) :]
    return sums


def _fed(words: WordScanner, file: BinaryIO) -> Iterator[np.ndarray]:
    yield from map(words.feed, chunks(file))
    yield words.close()


def _by_line(options: argparse.Namespace, shown: set[str]) -> _Sums:
    from lmlab.compat.kenlm import Model

    model, marked, sums = Model(options.model), not options.no_marks, _Sums()
    ids = {word: id for id, word in enumerate(model.words, len(SPECIALS))} | {b"<s>": BOS, b"</s>": EOS}
    for line in _lines(options.text):
        scores = list(model.full_scores(line, bos=marked, eos=marked))
        total, unknown = math.fsum(logp for logp, _, _ in scores), sum(oov for _, _, oov in scores)
        sums.tokens += len(scores)
        sums.unknown += unknown
        sums.total += total
        sums.known += math.fsum(logp for logp, _, oov in scores if not oov)
        if "word" in shown:
            named = zip([*line.split(), b"</s>"], scores, strict=False)
            parts = (
                f"{word.decode(errors='backslashreplace')}={0 if oov else ids[word]} {n} {logp:.8g}\t"
                for word, (logp, n, oov) in named
            )
            print(*parts, sep="", end="" if "sentence" in shown else "\n")
        if "sentence" in shown:
            print(f"Total: {total:.8g} OOV: {unknown}")
    return sums


def _perplexity(log10: float, tokens: int) -> float:
    return 10 ** (-log10 / tokens) if tokens else math.nan


def _lines(name: str) -> Iterator[bytes]:
    with opened(name) as file:
        for line in file:
            yield line.rstrip(b"\n").replace(b"\0", b" ")
