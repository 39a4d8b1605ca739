"""From streams to documents: whole files, lines, or the records of JSON, CSV and Parquet.

`read_documents` is the entrance. A document larger than a chunk comes as several pieces, all but the final one with
`last=False`. A record is a mapping with the place it came from, `file:line`, which messages and ids name.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lmlab.corpora.document import PIECE_CHARS, Document
from lmlab.corpora.raw import CHUNK, Origin, decode, inflate, kind_of
from lmlab.corpora.settings import DataSettings, parse_template
from lmlab.errors import DataError, MissingExtraError

Record = tuple[str, Mapping[str, Any]]
TEXT_FIELDS = ("text", "code_tokens", "code", "content", "body", "document")
PARTITIONS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
_LONGEST_FIELD = 1 << 26  # of a CSV, in characters: an unclosed quote must not swallow a whole file
_SPACE = re.compile(r"\s*")
_UNFIT = re.compile("[\0\ud800-\udfff]")


def read_documents(origin: Origin, settings: DataSettings, group_field: str = "") -> Iterator[Document]:
    """The documents of one stream, whose name tells the container; records of equal `group_field` stay in one split."""
    name, kind, chunks = origin.name, kind_of(origin.name), inflate(origin.read(), origin.name)
    if settings.unit in ("document", "line") or (kind == "text" and settings.unit != "record"):
        return text_documents(decode(chunks, name, settings.errors), name, settings.unit, origin.partition)
    if kind == "parquet":
        records = _parquet(chunks, name)
    elif kind in ("csv", "tsv"):
        delimiter = "," if kind == "csv" else "\t"
        records = _csv(decode(chunks, name, settings.errors), name, settings.columns, delimiter)
    else:
        records = (_json if kind == "json" else _json_lines)(decode(chunks, name, settings.errors), name)
    return (_document(where, record, settings, origin.partition, group_field) for where, record in records)


def text_documents(texts: Iterable[str], name: str, unit: str, partition: str = "") -> Iterator[Document]:
    """Plain text as one document, or as a document a line; lines of nothing but white space are skipped."""
    if unit != "line":
        for text in texts:
            yield Document(text, name, partition=partition, last=False)
        yield Document("", name, partition=partition)
        return
    held, number, begun = "", 1, False
    for text in texts:
        *whole, rest = text.split("\n")
        for line in whole:
            line, held = held + line, ""
            if begun or line.strip():
                yield Document(line, f"{name}:{number}", partition=partition)
            number, begun = number + 1, False
        held += rest
        if len(held) > PIECE_CHARS:
            yield Document(held, f"{name}:{number}", partition=partition, last=False)
            held, begun = "", True
    if begun or held.strip():
        yield Document(held, f"{name}:{number}", partition=partition)


def clean(text: str, where: str, errors: str) -> str:
    r"""Text in hand under the rules for text in a file: `\r\n` becomes `\n`; NUL and lone surrogates are refused."""
    text = text.replace("\r\n", "\n")
    found = None if text.isascii() and "\0" not in text else _UNFIT.search(text)
    if found is None:
        return text
    if errors == "replace":
        return _UNFIT.sub("\ufffd", text)
    remedy = "--errors replace puts U+FFFD in its place"
    raise DataError(f"{where} holds U+{ord(found[0]):04X}, which is no text, at character {found.start()}", remedy)


def clip(documents: Iterable[Document], max_chars: int) -> Iterator[Document]:
    """Cut each document after `max_chars` characters; a list of tokens before the token that goes beyond."""
    room = max_chars
    for document in documents:
        if document.tokens is not None:
            ends = itertools.accumulate(1 + len(token) for token in document.tokens)
            tokens = document.tokens[: sum(end - 1 <= max_chars for end in ends)]
            yield dataclasses.replace(document, text=" ".join(tokens), tokens=tokens)
        elif len(document.text) <= room:
            yield document
            room -= len(document.text)
        elif room >= 0:
            yield dataclasses.replace(document, text=document.text[:room], last=True)
            room = -1  # the rest of its pieces is dropped
        if document.last:
            room = max_chars


def first(documents: Iterable[Document], limit: int) -> Iterator[Document]:
    """The first `limit` documents; no more is read."""
    for document in documents:
        yield document
        limit -= document.last
        if not limit:
            return


def _document(where: str, record: Mapping[str, Any], settings: DataSettings, partition: str, group: str) -> Document:
    value = _value(where, record, settings)
    partition = partition or PARTITIONS.get(str(record.get("partition", "")), "")
    home = str(record.get(group, "")) if group else ""
    if isinstance(value, str):
        return Document(clean(value, where, settings.errors), where, group=home, partition=partition)
    tokens = tuple(clean(token, where, settings.errors) for token in value)
    return Document(" ".join(tokens), where, tokens, home, partition)


def _value(where: str, record: Mapping[str, Any], settings: DataSettings) -> str | list[str]:
    """The text or the tokens of a record."""

    def refusal(problem: str) -> DataError:
        fields = ", ".join(str(name)[:40] for name in record)
        return DataError(f"{where}{problem}", f"choose with --text-field or --template among {fields}")

    def field(name: str) -> Any:
        if name not in record:
            raise refusal(f" has no field {name!r}")
        return "" if record[name] is None else record[name]

    if settings.template is not None:
        literals = parse_template(settings.template)
        return "".join(literal + ("" if name is None else str(field(name))) for literal, name in literals)
    name = settings.text_field or next((name for name in TEXT_FIELDS if name in record), "text")
    value = field(name)
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(token, str) for token in value)):
        return value
    raise refusal(f": field {name!r} holds neither text nor a list of tokens, but {value!r:.60}")


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines without their ends; nothing but a newline ends one."""
    held: list[str] = []
    for text in texts:
        *whole, rest = text.split("\n")
        if whole:
            whole[0] = "".join([*held, whole[0]])
            held = []
        yield from whole
        held.append(rest)
    if any(held):
        yield "".join(held)


def _json(texts: Iterable[str], name: str) -> Iterator[Record]:
    """The objects of a `.json` file: of a list, or one a line; the first character tells which."""
    texts, head = iter(texts), ""
    while not head.strip() and (text := next(texts, "")):
        head += text
    if head.lstrip().startswith("["):
        return _json_list(head, texts, name)
    return _json_lines(itertools.chain([head], texts), name)


def _json_lines(texts: Iterable[str], name: str) -> Iterator[Record]:
    for number, line in enumerate(_lines(texts), start=1):
        where = f"{name}:{number}"
        if line and not line.isspace():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                remedy = "one JSON object a line is expected; --unit line reads the file as plain lines"
                raise DataError(f"{where} is not JSON ({error})", remedy) from error
            yield where, _object(where, value)


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is JSON, but not an object: {value!r:.60}", 'write records as {"text": "..."}')
    return value


def _json_list(held: str, texts: Iterator[str], name: str) -> Iterator[Record]:
    """The elements one after the other, holding one of them and a chunk."""
    decoder = json.JSONDecoder()
    at, number, want = held.index("[") + 1, 1, CHUNK
    while not held.startswith("]", at := _SPACE.match(held, at).end()):  # type: ignore[union-attr]  # it matches always
        where, mark = f"{name}, element {number}", ""
        try:
            value, end = decoder.raw_decode(held, at)
            end = _SPACE.match(held, end).end()  # type: ignore[union-attr]
            mark = held[end : end + 1]
        except (ValueError, RecursionError):
            pass  # it goes on beyond what is held, or is no JSON
        if mark and mark not in ",]":
            raise DataError(f"{where} is followed by {mark!r}", "a JSON list has commas between its elements")
        if mark:
            yield where, _object(where, value)
            at, number, want = end + (mark == ","), number + 1, CHUNK
            continue
        more = [""]
        while sum(map(len, more)) < want and (text := next(texts, "")):
            more.append(text)
        if len(more) == 1:
            raise DataError(f"{where} is not JSON, or the list has no end", "check the file with a JSON tool")
        held, at, want = held[at:] + "".join(more), 0, want * 2


@functools.cache
def _csv_core() -> Any:
    """A copy of the C core of the csv module: its limit on a field's length is its own, not that of the process."""
    spec = importlib.util.find_spec("_csv")  # every Python has it
    core = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(core)  # type: ignore[union-attr]
    core.field_size_limit(_LONGEST_FIELD)
    return core


def _csv(texts: Iterable[str], name: str, columns: tuple[str, ...], delimiter: str) -> Iterator[Record]:
    core = _csv_core()
    rows = core.reader((line + "\n" for line in _lines(texts)), delimiter=delimiter, strict=True)
    try:
        columns = columns or tuple(next(rows, ()))
        for row in rows:
            where = f"{name}:{rows.line_num}"
            if row and len(row) != len(columns):
                remedy = f"the columns are {', '.join(column[:40] for column in columns)}; set them with data.columns"
                raise DataError(f"{where} has {len(row)} columns, but {len(columns)} are expected", remedy)
            if row:
                yield where, dict(zip(columns, row, strict=True))
    except core.Error as error:
        remedy = "quote fields and double the quotes in them"
        raise DataError(f"{name}:{rows.line_num} is not CSV ({error})", remedy) from error


def _parquet(chunks: Iterable[bytes], name: str) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("reading parquet", "parquet") from error
    with tempfile.TemporaryFile() as file:  # the format is read from its end
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        try:
            batches = pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=256)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{name}:{number}", row
        except pyarrow.ArrowException as error:
            raise DataError(f"{name} is not a Parquet file ({str(error).splitlines()[0]})", "check the file") from error
