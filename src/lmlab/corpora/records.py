"""From streams to documents: whole files, lines, or the records of JSON, CSV and Parquet.

`read_documents` is the entrance. A document larger than a chunk comes as several pieces, all but the final one with
`last=False`. A record is a mapping with the place it came from, `file:line`, for messages and ids.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lmlab.corpora.document import PIECE_CHARS, Document
from lmlab.corpora.raw import CHUNK, Origin, decode, inflate
from lmlab.corpora.settings import DataSettings, parse_template
from lmlab.errors import DataError, MissingExtraError

Record = tuple[str, Mapping[str, Any]]
TEXT_FIELDS = ("text", "code_tokens", "code", "content", "body", "document")
PARTITIONS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_LONGEST_FIELD = 1 << 26  # an unclosed quote must not swallow a whole file
_SPACE = re.compile(r"\s*")
_UNFIT = re.compile("[\0\ud800-\udfff]")


def kind_of(name: str) -> str:
    """What a name's endings tell: "jsonl", "json", "csv", "tsv", "parquet", else "text".

    >>> kind_of("papers.JSONL.gz"), kind_of("poem.txt")
    ('jsonl', 'text')
    """
    path = Path(name.lower())
    return _KINDS.get((path.with_suffix("") if path.suffix in (".gz", ".zst") else path).suffix, "text")


def read_documents(origin: Origin, settings: DataSettings, group_field: str = "") -> Iterator[Document]:
    """The documents of one stream.

    Args:
        origin: the stream; its name tells the container.
        settings: unit, fields, template, columns and what to do with damaged text.
        group_field: the field of a record whose equal values stay in one split, or empty.

    Raises:
        DataError: naming the file and the line or the byte.
    """
    kind = kind_of(origin.name)
    if settings.unit == "record" and kind == "text":
        kind = "jsonl"
    chunks = inflate(origin.read(), origin.name)
    if settings.unit in ("document", "line") or kind == "text":
        texts = decode(chunks, origin.name, settings.errors)
        return text_documents(texts, origin.name, settings.unit, origin.partition)
    if kind == "parquet":
        records = _parquet(chunks, origin.name)
    else:
        texts = decode(chunks, origin.name, settings.errors)
        if kind in ("csv", "tsv"):
            records = _csv(texts, origin.name, settings, "," if kind == "csv" else "\t")
        else:
            records = (_json if kind == "json" else _json_lines)(texts, origin.name)
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
    r"""Text in hand, held to the rules of text in a file: `\r\n` becomes `\n`; NUL and half surrogates are refused."""
    text = text.replace("\r\n", "\n")
    found = None if text.isascii() and "\0" not in text else _UNFIT.search(text)
    if found is None:
        return text
    if errors == "replace":
        return _UNFIT.sub("\ufffd", text)
    remedy = "--errors replace puts U+FFFD in its place"
    raise DataError(f"{where} holds U+{ord(found[0]):04X}, which is no text, at character {found.start()}", remedy)


def clip(documents: Iterable[Document], max_chars: int) -> Iterator[Document]:
    """Each document cut after `max_chars` characters; a list of tokens is cut before the token that goes beyond."""
    used, over = 0, False
    for document in documents:
        room = max_chars - used
        if not over and document.tokens is not None:
            yield _clip_tokens(document, max_chars)
        elif not over and len(document.text) <= room:
            yield document
            used += len(document.text)
        elif not over:
            yield dataclasses.replace(document, text=document.text[:room], last=True)
            over = True
        if document.last:
            used, over = 0, False


def _clip_tokens(document: Document, max_chars: int) -> Document:
    if len(document.text) <= max_chars or document.tokens is None:
        return document
    length, kept = -1, 0
    for token in document.tokens:
        length += 1 + len(token)
        if length > max_chars:
            break
        kept += 1
    tokens = document.tokens[:kept]
    return dataclasses.replace(document, text=" ".join(tokens), tokens=tokens)


def first(documents: Iterable[Document], limit: int) -> Iterator[Document]:
    """The first `limit` documents; nothing beyond them is read."""
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
    if settings.template is not None:
        parts = []
        for literal, field in parse_template(settings.template):
            value = None if field is None else _field(where, record, field)
            parts += [literal, "" if value is None else str(value)]
        return "".join(parts)
    name = settings.text_field or next((field for field in TEXT_FIELDS if field in record), "text")
    value = _field(where, record, name)
    if value is None:
        return ""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(token, str) for token in value)):
        return value
    raise DataError(
        f"{where}: field {name!r} holds neither text nor a list of tokens, but {value!r:.60}", _choose(record)
    )


def _field(where: str, record: Mapping[str, Any], name: str) -> Any:
    if name not in record:
        raise DataError(f"{where} has no field {name!r}", _choose(record))
    return record[name]


def _choose(record: Mapping[str, Any]) -> str:
    return f"choose with --text-field or --template among {', '.join(str(name)[:40] for name in record)}"


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
    texts = iter(texts)
    head = ""
    for text in texts:
        head += text
        if head.strip():
            break
    everything = itertools.chain([head], texts)
    return _json_list(everything, name) if head.lstrip().startswith("[") else _json_lines(everything, name)


def _json_lines(texts: Iterable[str], name: str) -> Iterator[Record]:
    for number, line in enumerate(_lines(texts), start=1):
        if line and not line.isspace():
            where = f"{name}:{number}"
            yield where, _object(where, _parse(where, line))


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "one JSON object a line is expected; --unit line reads the file as plain lines"
        raise DataError(f"{where} is not JSON ({error})", remedy) from error


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is JSON, but not an object: {value!r:.60}", 'write records as {"text": "..."}')
    return value


def _json_list(texts: Iterator[str], name: str) -> Iterator[Record]:
    """The elements one after the other, holding one of them and a chunk."""
    decoder = json.JSONDecoder()
    held, at, number, want = next(texts), 0, 1, CHUNK
    at = held.index("[") + 1
    while not held.startswith("]", at := _SPACE.match(held, at).end()):  # type: ignore[union-attr]  # it matches always
        where = f"{name}, element {number}"
        try:
            value, end = decoder.raw_decode(held, at)
            end = _SPACE.match(held, end).end()  # type: ignore[union-attr]
            complete = held[end : end + 1]
        except (ValueError, RecursionError):
            complete = ""
        if complete:
            if complete not in ",]":
                raise DataError(f"{where} is followed by {complete!r}", "a JSON list has commas between its elements")
            yield where, _object(where, value)
            at, number, want = end + (complete == ","), number + 1, CHUNK
            continue
        more, want = _take(texts, want), want * 2
        if not more:
            raise DataError(f"{where} is not JSON, or the list has no end", "check the file with a JSON tool")
        held, at = held[at:] + more, 0


def _take(texts: Iterator[str], want: int) -> str:
    """At least `want` further characters, or what is left."""
    taken: list[str] = []
    while want > 0 and (text := next(texts, "")):
        taken.append(text)
        want -= len(text)
    return "".join(taken)


def _csv(texts: Iterable[str], name: str, settings: DataSettings, delimiter: str) -> Iterator[Record]:
    rows = csv.reader((line + "\n" for line in _lines(texts)), delimiter=delimiter, strict=True)
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        columns = settings.columns or tuple(next(rows, ()))
        for row in rows:
            where = f"{name}:{rows.line_num}"
            if row and len(row) != len(columns):
                remedy = f"the columns are {', '.join(column[:40] for column in columns)}; set them with data.columns"
                raise DataError(f"{where} has {len(row)} columns, but {len(columns)} are expected", remedy)
            if row:
                yield where, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{name}:{rows.line_num} is not CSV ({error})", "quote fields and double the quotes in them"
        ) from error
    finally:
        csv.field_size_limit(before)


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
