"""KenLM's query: score sentences from standard input, one a line; what comes out is KenLM's, digit for digit.

MODEL is a binary file of KenLM's, an ARPA file, or a model directory of ours; the latter two are made a binary first,
as KenLM does in memory. Of each word: word=id, the length of the n-gram found, log10 of its probability; the id 0 is an
unknown word. A last line without an end has no </s> and no total.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from lmlab.cli.parser import ToolParser
from lmlab.cli.show import byte_output
from lmlab.corpora.raw import named_origin
from lmlab.corpora.reading import inflate
from lmlab.models.ngram.kenlm_file import KenlmFile, is_kenlm_file

EXAMPLES = """\
  echo "to be or not to be" | lmlab kenlm query my.bin
  cat held-out.txt | lmlab kenlm query -v summary my.arpa"""
_LEVELS = ("summary", "sentence", "word")


def add_arguments(parser: ToolParser) -> None:
    """The verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a binary file of KenLM's, an ARPA file or a model directory")
    parser.add_argument("-n", action="store_true", help="without <s> before and </s> after a sentence")
    parser.add_argument("-b", action="store_true", help="show each line as soon as it is scored")
    parser.add_argument(
        "-v",
        action="append",
        choices=(*_LEVELS, "0", "1", "2"),
        help="what is shown (default: all)",
    )
    parser.add_argument("-l", choices=("lazy", "populate", "read", "parallel"), help="taken; files are always mapped")


def run(options: argparse.Namespace) -> int:
    """Score line by line, sum up."""
    shown: set[str] = set()
    for level in options.v or ["2"]:  # a number says all, a word says more
        shown = set(_LEVELS[: int(level) + 1]) if level.isdigit() else shown | {level}
    file, out = _opened(Path(options.model)), byte_output()
    marked, ids, ended = not options.n, _Ids(file), b"</s>" if not options.n else b""
    total = unknown_total = 0.0
    tokens = unknown = 0
    for line, whole in _lines():
        scores, _ = file.told(line, marked, whole and marked)
        if "word" in shown:
            words = [*line.split(), *[ended] * bool(ended and whole)]
            said = zip(words, scores["logp"], scores["found"].tolist(), strict=True)
            out.write(b"".join(b"%b=%d %d %b\t" % (word, ids[word], found, _said(logp)) for word, logp, found in said))
        unknown_M = scores["unknown"]
        tokens += len(scores)
        for logp in scores["logp"][unknown_M].tolist():  # one by one, as KenLM adds them up
            unknown_total += logp
        if whole:
            sum_of_line = np.cumsum(scores["logp"], dtype=np.float32)[-1] if len(scores) else np.float32(0)
            total += float(sum_of_line)
            unknown += int(np.count_nonzero(unknown_M))
            if "sentence" in shown:
                out.write(b"Total: %b OOV: %d\n" % (_said(sum_of_line), np.count_nonzero(unknown_M)))
        if options.b:
            out.flush()
    if "summary" in shown:
        including, excluding = _perplexity(total, tokens), _perplexity(total - unknown_total, tokens - unknown)
        out.write(b"Perplexity including OOVs:\t%b\nPerplexity excluding OOVs:\t%b\n" % (including, excluding))
        out.write(b"OOVs:\t%d\nTokens:\t%d\n" % (unknown, tokens))
    out.flush()
    return 0


def _opened(path: Path) -> KenlmFile:
    """A binary file as it is; what else there is, as hash tables in a file without a name."""
    if path.is_file() and is_kenlm_file(path):
        file = KenlmFile(path)
        print(f"This binary file contains {file.kind}.", file=sys.stderr)
        return file
    from lmlab.compat.kenlm import listing_of
    from lmlab.models.ngram.kenlm_write import write_probing

    listing = listing_of(path)
    with tempfile.TemporaryDirectory() as folder:
        write_probing(Path(folder) / path.name, listing, spelled=False)
        return KenlmFile(Path(folder) / path.name)


def _lines() -> Iterator[tuple[bytes, bool]]:
    """Lines of standard input, and whether each has an end; the last has none, if only because it is empty."""
    origin, rest = named_origin("-"), b""
    for chunk in inflate(origin.read(), origin.name):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line, True
    if rest:
        yield rest, False


class _Ids(dict[bytes, int]):
    """The ids of words, looked up once each."""

    def __init__(self, file: KenlmFile) -> None:
        self._file = file

    def __missing__(self, word: bytes) -> int:
        self[word] = id = self._file.id_of(word)
        return id


@lru_cache(1 << 16)
def _said(value: np.floating) -> bytes:
    """A number in the fewest digits that bring it back, as KenLM writes it."""
    if not np.isfinite(value):
        return b"NaN" if np.isnan(value) else b"inf" if value > 0 else b"-inf"
    if value and not 1e-6 <= abs(value) < 1e21:
        return np.format_float_scientific(value, trim="-", exp_digits=1).replace("e+", "e").encode()
    return np.format_float_positional(value, trim="-").encode()


def _perplexity(log10: float, tokens: int) -> bytes:
    try:
        return _said(np.float64(math.pow(10.0, -(log10 / tokens)) if tokens else math.nan))
    except OverflowError:
        return b"inf"
