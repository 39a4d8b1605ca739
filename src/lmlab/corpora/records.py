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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmlab.corpora.document import PIECE_CHARS, Document
from lmlab.corpora.raw import CHUNK, Origin, kind_of
from lmlab.corpora.reading import LONGEST, decode, inflate, lines, too_long
from lmlab.corpora.settings import DataSettings, parse_template
from lmlab.errors import DataError, MissingExtraError, shown
from lmlab.vocabulary import SPACES

Record = tuple[str, Mapping[str, Any]]
Row = tuple[int, Sequence[str]]
"""The line on which a row of a CSV begins, and its fields."""
TEXT_FIELDS = ("text", "code_tokens", "code", "content", "body", "document")
PARTITIONS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
_SPACE = re.compile(r"\s*")
_UNFIT = re.compile("[\0\ud800-\udfff]")


def read_documents(origin: Origin, settings: DataSettings, group_field: str = "") -> Iterator[Document]:
    """The documents of one stream, whose name tells the container; records of equal `group_field` stay in one split."""
    kind = kind_of(origin.name)
    if settings.unit in ("document", "line") or (kind == "text" and settings.unit != "record"):
        return text_documents(_texts(origin, settings), _place(origin), settings.unit, origin.partition)
    records = read_records(origin, settings)
    return (document_of(where, record, settings, origin.partition, group_field) for where, record in records)


def read_records(origin: Origin, settings: DataSettings) -> Iterator[Record]:
    """The records of one stream; a line of plain text is one whose only field is `text`, blank lines are skipped."""
    name, kind = _place(origin), kind_of(origin.name)
    if kind == "parquet" and settings.unit != "line":
        return _parquet(inflate(origin.read(), name), name)
    texts = _texts(origin, settings)
    if settings.unit == "line" or (kind == "text" and settings.unit != "record"):
        numbered = enumerate(lines(texts, name), start=1)
        return ((f"{name}:{number}", {"text": line}) for number, line in numbered if line.strip(SPACES))
    if kind in ("csv", "tsv"):
        return _delimited(texts, name, settings, tabbed=kind == "tsv")
    return (_json if kind == "json" else _json_lines)(texts, name)


def _texts(origin: Origin, settings: DataSettings) -> Iterator[str]:
    """The text of a stream; what begins within a text is neither compressed nor marked."""
    chunks = origin.read() if origin.start else inflate(origin.read(), origin.name)
    return decode(chunks, origin.name, settings.errors, origin.start)


def _place(origin: Origin) -> str:
    """What a line's number follows in messages: lines are counted from where the stream begins."""
    return f"{origin.name} from byte {origin.start:,} on" if origin.start else origin.name


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
            if begun or line.strip(SPACES):
                yield Document(line, f"{name}:{number}", partition=partition)
            number, begun = number + 1, False
        held += rest
        if len(held) > PIECE_CHARS:
            yield Document(held, f"{name}:{number}", partition=partition, last=False)
            held, begun = "", True
    if begun or held.strip(SPACES):
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


def document_of(
    where: str, record: Mapping[str, Any], settings: DataSettings, partition: str = "", group: str = ""
) -> Document:
    """The document of a record that stands in a place."""
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


def _json(texts: Iterable[str], name: str) -> Iterator[Record]:
    """The objects of a `.json` file: of a list, or one a line; the first character tells which."""
    texts, head = iter(texts), ""
    while not head.strip() and (text := next(texts, "")):
        head += text
    if head.lstrip().startswith("["):
        return _json_list(head, texts, name)
    return _json_lines(itertools.chain([head], texts), name)


def _json_lines(texts: Iterable[str], name: str) -> Iterator[Record]:
    decode_object = json.JSONDecoder(object_pairs_hook=_object_of).decode  # `loads` would make one a line
    for number, line in enumerate(lines(texts, name), start=1):
        where = f"{name}:{number}"
        if line and not line.isspace():
            try:
                value = decode_object(line)
            except (ValueError, RecursionError) as error:
                remedy = "one JSON object a line is expected; --unit line reads the file as plain lines"
                raise DataError(f"{where} is not JSON ({error})", remedy) from error
            yield where, _object(where, value)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a ValueError where a name stands twice, for one of the values would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"the field {twice([name for name, _ in pairs])} stands twice")
    return made


def twice(names: Sequence[str]) -> str:
    """The first name that stands twice, as a message shows it; empty where none does."""
    return next((shown(name) for at, name in enumerate(names) if name in names[:at]), "")


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where} is JSON, but not an object: {value!r:.60}", 'write records as {"text": "..."}')
    return value


def _json_list(held: str, texts: Iterator[str], name: str) -> Iterator[Record]:
    """The elements one after the other, holding one of them and a chunk."""
    decoder = json.JSONDecoder(object_pairs_hook=_object_of)
    at, number, want = held.index("[") + 1, 1, CHUNK
    while not held.startswith("]", at := _SPACE.match(held, at).end()):  # type: ignore[union-attr]  # it matches always
        where, mark = f"{name}, element {number}", ""
        try:
            value, end = decoder.raw_decode(held, at)
            end = _SPACE.match(held, end).end()  # type: ignore[union-attr]
            mark = held[end : end + 1]
        except json.JSONDecodeError:
            pass  # it goes on beyond what is held, or is no JSON
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON ({error})", "check the file with a JSON tool") from error
        if mark and mark not in ",]":
            raise DataError(f"{where} is followed by {mark!r}", "a JSON list has commas between its elements")
        if mark:
            yield where, _object(where, value)
            at, number, want = end + (mark == ","), number + 1, CHUNK
            continue
        more = [""]
        while sum(map(len, more)) < want and (text := next(texts, "")):
            more.append(text)
        if len(held) - at > LONGEST:
            raise too_long(where, "record", "write one JSON object a line")
        if len(more) == 1:
            raise DataError(f"{where} is not JSON, or the list has no end", "check the file with a JSON tool")
        held, at, want = held[at:] + "".join(more), 0, want * 2


def _delimited(texts: Iterable[str], name: str, settings: DataSettings, *, tabbed: bool) -> Iterator[Record]:
    """The rows of a CSV or TSV; a blank one is none. A row is named by the line it begins on."""
    delimiter, quote, escape = settings.dialect(tabbed)
    whole = lines(texts, name)
    rows = _quoted(whole, name, delimiter, quote, escape) if quote or escape else _plain(whole, delimiter)
    columns = settings.columns or next(rows, (1, ()))[1]
    if found := twice(columns):
        raise DataError(
            f"{name} has two columns called {found}", "name them apart, in its first row or by data.columns"
        )
    for number, row in rows:
        if len(row) != len(columns):
            named = ", ".join(column[:40] for column in columns)
            remedy = f"the columns are {named}; see data.columns, data.delimiter and data.quote"
            raise DataError(f"{name}:{number} has {len(row)} columns, but {len(columns)} are expected", remedy)
        yield f"{name}:{number}", dict(zip(columns, row, strict=True))


def _plain(whole: Iterable[str], delimiter: str) -> Iterator[Row]:
    return ((number, line.split(delimiter)) for number, line in enumerate(whole, start=1) if line)


def _quoted(whole: Iterable[str], name: str, delimiter: str, quote: str | None, escape: str | None) -> Iterator[Row]:
    core = _csv_core(LONGEST)
    quoting = core.QUOTE_MINIMAL if quote else core.QUOTE_NONE
    dialect = {"delimiter": delimiter, "quotechar": quote, "escapechar": escape, "quoting": quoting, "strict": True}
    rows = core.reader((line + "\n" for line in whole), **dialect)
    number = 1
    try:
        for row in rows:
            if row:
                yield number, row
            number = rows.line_num + 1
    except core.Error as error:
        what = f"is not CSV ({error})"
        if "unexpected end of data" in str(error):
            what = f"opens a {'quote that is never closed' if quote else 'row that never ends'}"
        remedy = "quote such fields and double the quotes in them, or read them as they stand with data.quote=none"
        raise DataError(f"{name}:{number} {what}", remedy) from error


@functools.cache
def _csv_core(longest: int) -> Any:
    """A copy of the C core of the csv module: its limit on a field's length is its own, not that of the process."""
    spec = importlib.util.find_spec("_csv")  # every Python has it
    core = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(core)  # type: ignore[union-attr]
    core.field_size_limit(longest)
    return core


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
            parquet = pyarrow.parquet.ParquetFile(file)
            if found := twice(parquet.schema_arrow.names):
                raise DataError(f"{name} has two columns called {found}", "name them apart")
            number = 1
            for batch in parquet.iter_batches(batch_size=256):
                yield from _rows(batch, name, number)
                number += len(batch)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name} is not a Parquet file ({str(error).splitlines()[0]})", "check the file") from error


def _rows(batch: Any, name: str, number: int) -> Iterator[Record]:
    """The rows of a batch, the first of which has this number; DataError names the field that Python cannot hold."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # bytes that are no UTF-8, times beyond Python's: one by one, to name it
        rows = ({field: _cell(batch, field, at, f"{name}:{number + at}") for field in batch.schema.names}
                for at in range(len(batch)))  # fmt: skip
    yield from ((f"{name}:{at}", row) for at, row in enumerate(rows, start=number))


def _cell(batch: Any, field: str, at: int, where: str) -> Any:
    try:
        return batch.column(field)[at].as_py()
    except (ValueError, OverflowError) as error:
        remedy = "write the file anew without it"
        raise DataError(f"{where}: the field {shown(field)} cannot be read ({error})", remedy) from error
