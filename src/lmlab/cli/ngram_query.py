"""Score sentences, one a line, from a file or standard input; prints what KenLM's query prints.

Of each word: word=id, the length of the n-gram found, log10 of its probability; the id 0 is an unknown word.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from lmlab.cli.parser import Parser
from lmlab.cli.show import print_json
from lmlab.codecs.scan import opened
from lmlab.vocab import BOS, EOS, SPECIALS

EXAMPLES = """\
  echo "to be or not to be" | lmlab ngram query runs/kn5
  lmlab ngram query kn5.arpa.gz held-out.txt -v summary
  lmlab ngram query runs/kn5 held-out.txt --json"""
_LEVELS = ("word", "sentence", "summary")


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model directory or an ARPA file")
    parser.add_argument("text", nargs="?", default="-", metavar="TEXT", help="a file (default: standard input)")
    parser.add_argument("-n", "--no-marks", action="store_true", help="without <s> before and </s> after a sentence")
    parser.add_argument(
        "-v", "--show", action="append", choices=_LEVELS, metavar="WHAT", help="word, sentence, summary (default: all)"
    )


def run(options: argparse.Namespace) -> int:
    """Score line by line, sum up."""
    from lmlab.compat.kenlm import Model

    model = Model(options.model)
    shown = set() if options.json else set(options.show or _LEVELS)
    tokens = unknown = 0
    total = known_total = 0.0
    marked = not options.no_marks
    ids = {word: id for id, word in enumerate(model.words, len(SPECIALS))} | {b"<s>": BOS, b"</s>": EOS}
    for line in _lines(options.text):
        words = line.split()
        scores = list(model.full_scores(line, bos=marked, eos=marked))
        tokens += len(scores)
        line_unknown = sum(oov for _, _, oov in scores)
        line_total = math.fsum(logp for logp, _, _ in scores)
        unknown += line_unknown
        total += line_total
        known_total += math.fsum(logp for logp, _, oov in scores if not oov)
        if "word" in shown:
            named = zip([*words, b"</s>"], scores, strict=False)
            parts = (
                f"{word.decode(errors='backslashreplace')}={0 if oov else ids[word]} {n} {logp:.8g}\t"
                for word, (logp, n, oov) in named
            )
            print(*parts, sep="", end="" if "sentence" in shown else "\n")
        if "sentence" in shown:
            print(f"Total: {line_total:.8g} OOV: {line_unknown}")
    summary = {
        "perplexity_with_oovs": _perplexity(total, tokens),
        "perplexity_without_oovs": _perplexity(known_total, tokens - unknown),
        "oovs": unknown,
        "tokens": tokens,
    }
    if options.json:
        print_json(summary)
    elif "summary" in shown:
        print(f"Perplexity including OOVs:\t{summary['perplexity_with_oovs']}")
        print(f"Perplexity excluding OOVs:\t{summary['perplexity_without_oovs']}")
        print(f"OOVs:\t{unknown}\nTokens:\t{tokens}")
    return 0


def _perplexity(log10: float, tokens: int) -> float:
    return 10 ** (-log10 / tokens) if tokens else math.nan


def _lines(name: str) -> Iterator[bytes]:
    with opened(name) as file:
        for line in file:
            yield line.rstrip(b"\n").replace(b"\0", b" ")
