"""Score many records, each on its own, and keep those asked for: perplexity filtering, and buckets as in CCNet.

Records of JSONL, CSV, TSV or Parquet come out as they were, with `perplexity`, `bits_per_byte` and `length` (tokens)
beside, and `bucket` where there are any. Plain text is read by line; as text come out the lines alone, with figures
where OUT is of another kind. Quantiles are those of --reference, or of FILE itself, which is then read twice.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import print_json
from lmlab.errors import DataError, UsageError

EXAMPLES = """\
  lmlab filter runs/kn5 web.jsonl.gz --at-most 500 -o kept.jsonl
  lmlab filter runs/kn5 web.parquet --reference wikipedia.jsonl --keep head,middle --processes 4 -o kept.parquet
  lmlab filter runs/kn5 lines.txt --cuts 0.5,0.5 --keep head -o half.txt
  zcat lines.txt.gz | lmlab filter runs/kn5 - --by bits_per_byte --at-most 2"""
_PARQUET_ROWS = 1 << 12  # written at once
Write = Callable[[Mapping[str, Any]], None]


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model directory")
    parser.add_argument("source", metavar="FILE", help="records or lines, packed or not, or - for lines")
    parser.add_argument("-o", "--out", metavar="OUT", help="a .jsonl, .csv, .tsv, .parquet, else text (default: print)")
    parser.add_argument("--by", default="perplexity", metavar="FIGURE", help="perplexity, bits_per_byte or length")
    parser.add_argument("--at-most", type=float, metavar="X", help="keep records whose figure is X or less")
    parser.add_argument("--at-least", type=float, metavar="X", help="keep records whose figure is X or more")
    parser.add_argument("--cuts", metavar="A,B", help="quantiles that end the buckets head and middle (0.3,0.6)")
    parser.add_argument("--keep", metavar="NAMES", help="keep these buckets: head, middle, tail")
    parser.add_argument("--reference", metavar="FILE", help="records or lines whose quantiles are taken")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that score (default 1)")
    parser.add_spelling()
    parser.add_data(shares=False)


def run(options: argparse.Namespace) -> int:
    """Score, write what is kept, tell how much that was."""
    from lmlab.corpora import DataSettings
    from lmlab.corpora.raw import kind_of
    from lmlab.facade.text_model import TextModel

    data = in_group(options, "data")
    settings = DataSettings.make(data, "data")
    given = "text" if settings.unit == "line" else "jsonl" if settings.unit == "record" else kind_of(options.source)
    kind = _kind(options, given)
    reporter = reporter_of(options)
    kept = TextModel.load(options.run_folder).filter(
        options.source,
        by=options.by,
        at_least=options.at_least,
        at_most=options.at_most,
        cuts=_numbers(options.cuts),
        keep=[name.strip() for name in options.keep.split(",")] if options.keep else (),
        reference=options.reference,
        spelling=options.spelling,
        data=data,
        processes=options.processes,
        reporter=reporter,
    )
    numbers = itertools.count()
    with contextlib.closing(kept), _output(options.out) as file, _writer(kind, file, settings) as write:
        for record in kept:
            write(record)
            next(numbers)
    count = next(numbers)
    if options.json:
        print_json({"out": options.out, "kept": count})
    elif options.out:
        print(f"{count:,} records written to {options.out}")
    return 0


def _kind(options: argparse.Namespace, given: str) -> str:
    """What is written: as OUT says, or what was given."""
    from lmlab.corpora.raw import PACKED, kind_of

    if options.out is None:
        if options.json:
            raise UsageError("--json tells how many records were written, but no -o is named", "name one")
        return "jsonl" if given in ("json", "parquet") else given
    if Path(options.out).suffix in PACKED:
        raise UsageError(f"{options.out} would be packed, which filter does not", "write it plain, or pipe it on")
    if Path(options.out).is_dir():
        raise UsageError(f"{options.out} is a folder", "name a file")
    return kind_of(options.out)


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise UsageError(f"--cuts takes two shares, not {text!r}", "for example --cuts 0.3,0.6") from None


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[bytes] | None]:
    """A file that takes its place when all is written; None is standard output."""
    if path is None:
        yield None
        return
    from lmlab import disk

    with disk.replacing(Path(path)) as file:
        yield file


@contextlib.contextmanager
def _writer(kind: str, file: IO[bytes] | None, settings: Any) -> Iterator[Write]:
    """What writes a record in a kind of file."""
    if kind == "parquet":
        with _parquet(file) as write:
            yield write
        return
    put: Callable[[str], Any] = sys.stdout.write if file is None else lambda text: file.write(text.encode())
    if kind in ("csv", "tsv"):
        yield _delimited(put, settings, tabbed=kind == "tsv")
    elif kind == "text":
        yield lambda record: put(f"{record.get('text', '')}\n")
    else:
        encode = json.JSONEncoder(ensure_ascii=False, default=str).encode  # `dumps` would make one a record
        yield lambda record: put(encode(_finite(record)) + "\n")


def _finite(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A perplexity beyond all floats as null: JSON has no infinity."""
    return record if math.isfinite(record["perplexity"]) else {**record, "perplexity": None}


def _delimited(put: Callable[[str], Any], settings: Any, *, tabbed: bool) -> Write:
    delimiter, quote, escape = settings.dialect(tabbed)
    quoting: Any = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    how = {"delimiter": delimiter, "quotechar": quote, "escapechar": escape, "lineterminator": "\n"}
    rows: Any = csv.writer(argparse.Namespace(write=put), quoting=quoting, **how)
    columns: list[str] = []
    numbers = itertools.count(1)

    def write(record: Mapping[str, Any]) -> None:
        number = next(numbers)
        try:
            if not columns:
                columns.extend(record)
                if not settings.columns:
                    rows.writerow(columns)
            if list(record) != columns:
                raise DataError(f"record {number} has other fields than the first", "write a .jsonl")
            rows.writerow(record.values())
        except csv.Error as error:
            raise DataError(f"record {number} does not fit a table ({error})", "write a .jsonl") from error

    return write


@contextlib.contextmanager
def _parquet(file: IO[bytes] | None) -> Iterator[Write]:
    """Writes rows in groups; the first group tells the types."""
    from lmlab.errors import MissingExtraError

    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("writing parquet", "parquet") from error
    held: list[Mapping[str, Any]] = []
    with contextlib.ExitStack() as stack:
        writer: Any = None

        def flush() -> None:
            nonlocal writer
            try:
                table = pyarrow.Table.from_pylist(held, None if writer is None else writer.schema)
            except (pyarrow.ArrowException, OverflowError) as error:
                problem = f"records differ in the types of their fields ({str(error).splitlines()[0]})"
                raise DataError(problem, "write a .jsonl") from error
            if writer is None:
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(file, table.schema))
            writer.write_table(table)
            held.clear()

        def write(record: Mapping[str, Any]) -> None:
            held.append(record)
            if len(held) >= _PARQUET_ROWS:
                flush()

        yield write
        if held or writer is None:
            flush()
