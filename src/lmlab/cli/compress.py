"""Compress any file by what a model expects; without --model nothing is trained, and any processor reads it again.

FILE.lmz comes beside each FILE, which stays. With --model decompressing needs the same model, and the kind of machine
that compressed: sums tell where its numbers differ. Memory is bounded. - is standard input, which goes to standard
output.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json
from lmlab.errors import LmlabError, UsageError

EXAMPLES = """\
  lmlab compress book.txt
  lmlab compress book.txt --model runs/lstm --adapt dynamic -o book.lstm.lmz
  lmlab compress big.csv --block 4M --jobs 4
  tar c folder | lmlab compress - > folder.tar.lmz"""
SUFFIX = ".lmz"
Code = Callable[[BinaryIO, BinaryIO, Callable[[int], None]], Mapping[str, Any]]


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    add_files(parser, f"where to write (default: FILE{SUFFIX}); - is standard output")
    parser.add_argument("--block", metavar="SIZE", help="compress parts of so many bytes apart, as in 4M: larger files")
    parser.add_argument("--memory", default="128M", metavar="SIZE", help="of a block's model (default 128M)")


def add_files(parser: Parser, out: str) -> None:
    """What both ways have."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="files, or - for standard input")
    parser.add_argument("-o", "--out", metavar="OUT", help=out)
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="blocks at a time (default 1)")
    parser.add_argument("--model", metavar="RUN", help="a model directory (default: contexts of bytes, mixed)")
    parser.add_composition()


def run(options: argparse.Namespace) -> int:
    """Compress each file."""
    from lmlab.compression import Packing, opened, pack

    packing = Packing(options.memory, options.block, options.jobs)
    lm = opened(options.model, options.adapt, options.mix)
    return each_file(
        options, "compressing", lambda file, out, advance: pack(file, out, packing, lm, advance), lambda f: f + SUFFIX
    )


def each_file(options: argparse.Namespace, doing: str, code: Code, named: Callable[[str], str]) -> int:
    """Code one file after the other, each written whole or not at all, and tell the sizes."""
    if options.out is not None and len(options.files) > 1:
        raise UsageError("-o names one file, but several are to be written", "leave it out, or name one FILE")
    places = {file: options.out or ("-" if file == "-" else named(file)) for file in options.files}
    if options.json and "-" in places.values():
        raise UsageError("--json and the bytes cannot share standard output", "name a file with -o")
    told, reporter = [], reporter_of(options)
    for file, place in places.items():
        _check_place(file, place, overwrite=options.overwrite)
    for file, place in places.items():
        began = time.perf_counter()
        with (
            _reading(file) as source,
            _writing(place) as out,
            reporter.stage(f"{doing} {file}", _size(file)) as advance,
        ):
            try:
                figures = code(source, out, advance)
            except LmlabError as error:
                raise type(error)(f"{file}: {error}") from error
        row = {"file": file, "out": place, **figures, "seconds": round(time.perf_counter() - began, 3)}
        told.append(row)
        if not options.json and place != "-" and not options.quiet:
            print(_line(row))
    if options.json:
        print_json(told)
    return 0


def _check_place(file: str, place: str, *, overwrite: bool) -> None:
    from lmlab.disk import exists

    if place == "-":
        return
    if exists(place) and not overwrite:
        raise UsageError(f"{place} already exists", "name another with -o, or --overwrite it")
    if exists(place) and exists(file) and os.path.samefile(file, place):
        raise UsageError(f"{place} would be read and written", "name another with -o")


@contextlib.contextmanager
def _reading(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb") as source:
        yield source


@contextlib.contextmanager
def _writing(place: str) -> Iterator[BinaryIO]:
    """A file that takes its place when all is written, or standard output."""
    if place == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    from lmlab.disk import replacing

    with replacing(Path(place)) as out:
        yield out


def _size(file: str) -> int | None:
    return None if file == "-" else os.path.getsize(file)


def _line(row: Mapping[str, Any]) -> str:
    bits = 8 * row["packed_bytes"] / max(1, row["bytes"])
    rate = row["bytes"] / 1e3 / max(1e-9, row["seconds"])
    return f"{row['out']}: {row['bytes']:,} bytes in {row['packed_bytes']:,}, {bits:.3f} bits a byte, {rate:.0f} kB/s"
