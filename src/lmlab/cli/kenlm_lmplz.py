"""KenLM's lmplz: a text from standard input to an ARPA file on standard output, with modified Kneser-Ney smoothing.

The options are lmplz's, and so are the n-grams and their numbers (to the precision of its own). What only steers how
lmplz sorts on disk is taken and changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmlab.cli.parser import ToolParser, reporter_of
from lmlab.cli.show import byte_output
from lmlab.disk import replacing
from lmlab.errors import SettingError, UsageError

EXAMPLES = """\
  lmlab kenlm lmplz -o 5 -S 2G --text my.txt --arpa my.arpa
  zcat my.txt.gz | lmlab kenlm lmplz -o 3 --prune 0 0 1 --arpa my.arpa
  lmlab kenlm lmplz -o 6 --discount_fallback --text letters.txt --arpa letters.arpa"""
_FALLBACK = ("0.5", "1", "1.5")
_UNITS = "bKMGTPEZY"
_LEAST_MEMORY = 512 << 20
_IDLE = ("minimum_block", "sort_block", "block_count", "vocab_estimate")


def add_arguments(parser: ToolParser) -> None:
    """The verb's arguments."""
    parser.add_argument("-o", "--order", type=int, required=True, metavar="N", help="the longest n-grams")
    parser.add_argument("--text", default="-", metavar="FILE", help="read from a file, compressed or not")
    parser.add_argument("--arpa", metavar="FILE", help="write to a file")
    parser.add_argument("--intermediate", metavar="PREFIX", help="write PREFIX.kenlm_intermediate, for interpolate")
    parser.add_argument("-S", "--memory", metavar="SIZE", help="what counting may take, 512M at least; beyond, on disk")
    parser.add_argument("-T", "--temp_prefix", metavar="PREFIX", help="where temporary files go")
    parser.add_argument(
        "--prune", nargs="+", default=[], metavar="N", help="of each length, the count up to which n-grams are dropped"
    )
    parser.add_argument("--limit_vocab_file", metavar="FILE", help="the only words that n-grams may have")
    parser.add_argument(
        "--discount_fallback", nargs="*", metavar="D", help="discounts where the counts allow none (default 0.5 1 1.5)"
    )
    parser.add_argument(
        "--interpolate_unigrams", nargs="?", const="1", default="1", metavar="0|1", help="0: the unknown word takes all"
    )
    parser.add_argument("--skip_symbols", action="store_true", help="<s>, </s> and <unk> in the text are white space")
    parser.add_argument("--vocab_pad", type=int, default=0, metavar="V", help="take the vocabulary for so large")
    parser.add_argument("--collapse_values", action="store_true", help="probability and backoff in one number")
    parser.add_argument("--verbose_header", action="store_true", help="what was made of what, before the ARPA file")
    parser.add_argument("--renumber", action="store_true", help="taken; n-grams are the same in any order")
    for name in _IDLE:
        parser.add_argument(f"--{name}", metavar="X", help="taken; nothing depends on it")
    parser.add_errors()


def run(options: argparse.Namespace) -> int:
    """Estimate, write."""
    from lmlab.compat.lmplz import estimate
    from lmlab.corpora.raw import named_origin
    from lmlab.models.ngram import Ngram
    from lmlab.models.ngram.smoothing import Lmplz

    if idle := [f"--{name}" for name in (*_IDLE, "renumber") if getattr(options, name)]:
        print(f"lmplz: taken, and nothing depends on it: {', '.join(idle)}", file=sys.stderr)
    interpolated = _yes(options.interpolate_unigrams)
    if options.vocab_pad and not interpolated:
        raise UsageError("--vocab_pad requires --interpolate_unigrams be on", "leave one out")
    allowed = None
    if options.limit_vocab_file:
        allowed = set(Path(options.limit_vocab_file).read_bytes().translate(bytes.maketrans(b"\0", b" ")).split())
    fallback = None if options.discount_fallback is None else _discounts(options.discount_fallback or _FALLBACK)
    names = [f"{options.intermediate}.kenlm_intermediate"] * bool(options.intermediate)
    names += [options.arpa] * bool(options.arpa)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_temporary(options.temp_prefix))
        files = [stack.enter_context(written(name)) for name in names or ["/dev/stdout"]]
        estimated = estimate(
            named_origin(options.text),
            Ngram.Settings(order=options.order, memory=_memory(options.memory), compat="lmplz"),
            Lmplz(fallback, interpolated, options.vocab_pad),
            reporter_of(options),
            prune=_thresholds(options.prune, options.order),
            allowed=allowed,
            skip_symbols=options.skip_symbols,
            collapse=options.collapse_values,
            errors=options.errors,
        )
        for note in estimated.notes:
            print(f"lmplz: {note}", file=sys.stderr)
        for file in files:
            if options.verbose_header:
                shown = os.fsencode("/dev/stdin" if options.text == "-" else options.text)
                file.write(b"# Input file: %b\n# Token count: %d\n" % (shown, estimated.tokens))
                file.write(b"# Smoothing: Modified Kneser-Ney\n")
            estimated.write(file)
    return 0


@contextlib.contextmanager
def written(name: str) -> Iterator[Any]:
    """A file to write, whole or not at all; what is no plain file, such as /dev/stdout, as it comes."""
    if name == "/dev/stdout":
        yield byte_output()
    elif os.path.exists(name) and not os.path.isfile(name):
        with open(name, "wb") as file:
            yield file
    else:
        with replacing(Path(name)) as file:
            yield file


@contextlib.contextmanager
def _temporary(prefix: str | None) -> Iterator[None]:
    """Keep temporary files where a prefix of their names says."""
    before = tempfile.tempdir
    if prefix:
        tempfile.tempdir = prefix if os.path.isdir(prefix) else os.path.dirname(prefix) or "."
    try:
        yield
    finally:
        tempfile.tempdir = before


def _yes(text: str) -> bool:
    values = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
    if text.lower() not in values:
        raise SettingError("--interpolate_unigrams", text, "0 or 1")
    return values[text.lower()]


def _thresholds(said: list[str], order: int) -> list[int]:
    """What is dropped of each length."""
    if not all(each.isascii() and each.isdigit() and len(each) < 19 for each in said):
        raise SettingError("--prune", " ".join(said), "whole numbers, as in 0 0 1")
    numbers = [int(each) for each in said]
    if len(numbers) > order or numbers != sorted(numbers):
        raise SettingError("--prune", " ".join(said), f"up to {order} numbers that never fall, as in 0 0 1")
    return numbers


def _discounts(said: tuple[str, ...] | list[str]) -> list[float]:
    """The discounts for counts of 1, of 2, of 3 and more."""
    if len(said) > 3:
        raise SettingError("--discount_fallback", " ".join(said), "at most three numbers")
    try:
        found = [float(said[min(j, len(said) - 1)]) for j in range(3)]
    except ValueError:
        found = [-1.0]
    if not all(0 <= discount <= j for j, discount in enumerate(found, 1)):
        raise SettingError("--discount_fallback", " ".join(said), "up to three numbers within 0..1, 0..2 and 0..3")
    return found


def _memory(said: str | None) -> str:
    """A size as GNU sort has it, such as 80%, 2G or 1048576 (K); nothing said is no bound."""
    if said is None:
        return ""
    from lmlab.memory import physical

    number, unit = (said[:-1], said[-1]) if said[-1:] in (*_UNITS, "%") and said[-1:] else (said, "K")
    try:
        share = float(number)
        size = share / 100 * (physical() or 1 << 30) if unit == "%" else share * 1024.0 ** _UNITS.index(unit)
    except ValueError:
        size = -1.0
    if not 0 < size < 2**80:
        raise SettingError("-S", said, "a size such as 2G or 80%")
    return str(max(int(size), _LEAST_MEMORY)) if size < 2**59 else ""
