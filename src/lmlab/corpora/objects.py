"""Texts that a program holds: a string, strings or lists of tokens, records, a frame, datasets.

    corpora.open_objects(["a text", "another"], DataSettings(split="none"))
    corpora.open_objects(frame, DataSettings(text_field="summary"))
    corpora.open_objects({"train": texts, "test": others})

What is called for is what these things share: a frame gives its columns by name, all others are iterated or indexed,
so that neither pandas, polars, datasets nor torch is imported.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmlab.corpora.document import Document
from lmlab.corpora.records import PARTITIONS, clean, document_of, text_documents, twice
from lmlab.corpora.settings import DataSettings
from lmlab.errors import DataError, DownloadError, MissingExtraError, SettingError, shown

NAME = "texts"
HF = "hf:"
"""Before the name of a data set of the Hugging Face hub, or a folder."""
_REMEDY = "give strings, lists of tokens or records: leave others out"
_MISSING = ("nan", "NaT", "<NA>")
Item = tuple[str, Any]
"""Where it stands, and a string, a list of tokens or a record."""


def items_of(source: Any) -> Iterator[Item]:
    """The items of an object; missing values of a frame are None.

    Raises:
        SettingError: nothing that holds texts.
        DataError: a frame with two columns of one name.
    """
    if isinstance(source, str):
        yield NAME, source
    elif hasattr(source, "to_batches"):  # a table of Arrow
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in source.to_batches())
        yield from ((f"row {number}", row) for number, row in enumerate(rows))
    elif (columns := getattr(source, "columns", None)) is not None:
        yield from _rows(source, [str(name) for name in columns])
    elif isinstance(source, bytes | bytearray | Mapping) or not _listable(source):
        raise SettingError("the text", source, "text, or an iterable of texts, lists of tokens or records")
    else:
        length = len(source) if hasattr(source, "__len__") else None
        items = source if length is None or hasattr(source, "__iter__") else map(source.__getitem__, range(length))
        yield from ((f"item {number}", item) for number, item in enumerate(items))


def _listable(source: Any) -> bool:
    return hasattr(source, "__iter__") or (hasattr(source, "__len__") and hasattr(source, "__getitem__"))


def _rows(frame: Any, names: Sequence[str]) -> Iterator[Item]:
    if found := twice(names):
        raise DataError(f"the frame has two columns called {found}", "name them apart")
    try:
        columns = [frame[name] for name in frame.columns]
    except TypeError as error:
        raise SettingError(
            "the text", frame, "a frame whose columns can be read by name", "collect it first"
        ) from error
    for number, row in enumerate(zip(*columns, strict=True)):
        yield f"row {number}", dict(zip(names, map(_plain, row), strict=True))


def _plain(value: Any) -> Any:
    """A cell as Python has it: an array becomes a list, what is missing None."""
    if isinstance(value, str):
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    return None if str(value) in _MISSING else value


def record_of(where: str, item: Any) -> Mapping[str, Any]:
    """An item as a record, whose text or tokens are in the field `text` where it came alone.

    Raises:
        DataError: it is none.
    """
    if isinstance(item, Mapping):
        return item
    if isinstance(item, str) or (isinstance(item, list | tuple) and all(isinstance(token, str) for token in item)):
        return {"text": item if isinstance(item, str) else list(item)}
    raise DataError(f"{where} is {shown(item)}, which is no text", _REMEDY)


def documents(source: Any, settings: DataSettings, partition: str = "") -> Iterator[Document]:
    """The documents of an object, or of several that are named after splits.

    Raises:
        SettingError: nothing that holds texts.
        DataError: an item that is no text.
    """
    if isinstance(source, Mapping) and source and all(name in PARTITIONS for name in source):
        for name, part in source.items():
            yield from documents(part, settings, PARTITIONS[name] if len(source) > 1 else "")
        return
    alone = dataclasses.replace(settings, text_field="text", template=None)
    for where, item in items_of(source):
        if isinstance(item, str):
            text = clean(item.removeprefix("\ufeff"), where, settings.errors)
            yield from text_documents([text], where, settings.unit, partition)
        else:
            how = settings if isinstance(item, Mapping) else alone
            yield document_of(where, record_of(where, item), how, partition)


def lines(source: Any, errors: str) -> Iterator[bytes]:
    """The lines of an object's texts, each with its newline; the words of a list of tokens are joined by spaces."""
    settings = DataSettings(errors=errors)
    for document in documents(source, settings):
        if document.tokens is not None and (odd := next((t for t in document.tokens if len(t.split()) != 1), None)):
            raise DataError(f"{document.id} has the token {shown(odd)}", "a word has no white space in it")
        if document.text:
            yield document.text.removesuffix("\n").encode() + b"\n"


def is_stream(source: Any) -> bool:
    """Whether an object can be read only once, as a generator."""
    return isinstance(source, Iterable) and iter(source) is source


def load_hf(source: str) -> Any:
    """A data set of the Hugging Face hub, of its cache where there is no network, or of a folder: `hf:NAME[:CONFIG]`.

    Raises:
        MissingExtraError: the library `datasets` is not installed.
        DownloadError: there is no such data set, or it cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"reading {source}", "datasets") from error
    name, _, config = source.removeprefix(HF).partition(":")
    try:
        return datasets.load_dataset(name, config or None)
    except Exception as error:  # the library raises whatever its parts raise
        remedy = "check the name; offline, only what its cache holds can be read"
        raise DownloadError(f"{source} cannot be had ({shown(str(error).splitlines()[0])})", remedy) from error
