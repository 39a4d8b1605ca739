"""Labelled texts: records with a text and a label, each in its split; and what a classifier is to learn from them.

A record's text is read as that of a language model's corpus is, and split by the same rule: as its source names it,
else by the hash of its text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.classify.settings import ClassifierSettings
from lmlab.corpora import DataSettings, objects
from lmlab.corpora.document import Document
from lmlab.corpora.raw import folder_origins, kind_of, named_origin
from lmlab.corpora.reading import decode, inflate, lines
from lmlab.corpora.records import PARTITIONS, clean, document_of, read_records
from lmlab.corpora.settings import IN_HAND, SPLITS
from lmlab.corpora.splits import SplitRule, choose_rule, code_of, shares_in_words
from lmlab.errors import DataError, EmptyDataError, UnknownNameError, UsageError, shown
from lmlab.progress import Reporter
from lmlab.run_config import RunConfig
from lmlab.tokens import Tokenizer
from lmlab.tokens.id_store import TokenStore
from lmlab.training.budget import Budget

LABEL_FIELDS = ("label", "class", "category")
"""Where a record's label is looked for when no field is named."""


class Examples(list[tuple[str, Any]]):
    """Texts, each with its label."""

    @property
    def texts(self) -> list[str]:
        """The texts alone."""
        return [text for text, _ in self]

    @property
    def labels(self) -> list[Any]:
        """The label of each."""
        return [label for _, label in self]


@dataclass(frozen=True)
class Labelled:
    """A labelled corpus, by split; `rule` says in a sentence how it was split."""

    name: str
    sha256: str
    rule: str
    splits: Mapping[str, Examples]

    def describe(self) -> dict[str, Any]:
        """What the manifest says of the data."""
        parts = {split: part for split, part in self.splits.items() if part}
        sizes = {split: {"documents": len(part), "labels": len(set(part.labels))} for split, part in parts.items()}
        return {"name": self.name, "sha256": self.sha256, "split_rule": self.rule, "splits": sizes}

    def of(self, split: str) -> Examples:
        """A split, or "all" of them.

        Raises:
            UnknownNameError: no such split.
            EmptyDataError: it is empty.
        """
        if split not in (*SPLITS, "all"):
            raise UnknownNameError("split", split, (*SPLITS, "all"))
        found = Examples(pair for name in SPLITS if split in (name, "all") for pair in self.splits[name])
        if not found:
            problem = f"{self.name} leaves {split} empty ({self.rule})"
            raise EmptyDataError(problem, "name another split or other shares")
        return found


@dataclass(frozen=True)
class Task:
    """What a classifier learns from, and how; validation texts are of classes that training has."""

    config: RunConfig
    own: ClassifierSettings
    tokenizer: Tokenizer
    classes: list[Any]
    train: Examples
    valid: Examples
    reporter: Reporter
    budget: Budget
    afterwards: Mapping[str, float]  # stages of the budget after training, and how many texts each reads

    def encoded(self, texts: Iterable[str]) -> TokenStore:
        """The ids of texts."""
        return TokenStore.from_documents(self.tokenizer, map(Document, texts))

    def numbers(self, part: Examples) -> np.ndarray:
        """The place of each label among the classes."""
        at = {label: nth for nth, label in enumerate(self.classes)}
        return np.array([at[label] for label in part.labels], np.int64)


def read(source: Any, settings: DataSettings, label_field: str | None = None) -> Labelled:
    """Read the records of a source: a file, a folder, "-", or what a program holds.

    Raises:
        DataError: no such file, or a record without text or label; EmptyDataError where there is no record.
    """
    rule, placed, digest = choose_rule(settings, SplitRule()), False, hashlib.sha256()
    splits = {split: Examples() for split in SPLITS}
    for number, (where, record, partition) in enumerate(_records(source, settings)):
        if settings.limit is not None and number >= settings.limit:
            break
        document = document_of(where, record, settings, partition)
        text, label = document.text[: settings.max_chars], _label(where, record, label_field)
        named = document.partition if rule.named else ""
        splits[named or split_of(text, rule)].append((text, label))
        placed = placed or bool(named)
        digest.update(json.dumps([text, label]).encode())
    name = Path(source).name if isinstance(source, str | Path) else objects.NAME
    if not any(splits.values()):
        raise EmptyDataError(f"{name} holds no record", "give records with a text and a label")
    how = "as the source names it" if placed else f"by hash of each document's content: {shares_in_words(rule.shares)}"
    return Labelled(name, digest.hexdigest(), how, splits)


def labelled_of(
    config: RunConfig, manifest: Mapping[str, Any], on: str | None, data: Mapping[str, Any], label_field: str | None
) -> Labelled:
    """A kept classifier's own records again, by split; or those of a source, whole.

    Raises:
        UsageError: its own are not kept.
        DataError: they have changed.
    """
    label_field = label_field or manifest.get("label_field")
    if on is not None:
        return read(on, _settings(config, data), label_field)
    if config.source in (None, IN_HAND, "-"):
        raise UsageError("this classifier's records came from a program or a pipe, and are gone", "name some with --on")
    labelled, before = read(config.source, config.data, label_field), manifest["data"]["sha256"]
    if labelled.sha256 != before:
        problem = f"{labelled.name} is not what it was (sha256 {labelled.sha256[:12]}, trained on {before[:12]})"
        raise DataError(problem, "put the old records back, or name others with --on")
    return labelled


def texts_of(config: RunConfig, source: str, data: Mapping[str, Any]) -> list[str]:
    """The lines of a text, or the texts of records."""
    origin, settings = named_origin(source), _settings(config, data)
    if kind_of(origin.name) == "text" and settings.unit != "record":
        return list(lines(decode(inflate(origin.read(), origin.name), origin.name, settings.errors), origin.name))
    records = read_records(origin, settings)
    return [document_of(where, record, settings).text[: settings.max_chars] for where, record in records]


def _settings(config: RunConfig, data: Mapping[str, Any]) -> DataSettings:
    """As its own records were read, but whole, and as a caller says."""
    return DataSettings.make({**config.data.dump(), "limit": None, "split": "none", "unit": "auto", **data}, "data")


def split_of(text: str, rule: SplitRule) -> str:
    """The split of a text by the hash of its content."""
    return SPLITS[code_of(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), rule.shares)]


def _records(source: Any, settings: DataSettings) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every record, where it stands, and the split that its place names."""
    if isinstance(source, str | Path) and str(source).startswith(objects.HF) and "://" not in str(source):
        source = objects.load_hf(str(source))
    if isinstance(source, Mapping) and source and all(name in PARTITIONS for name in source):
        for name, part in source.items():
            yield from ((*record[:2], PARTITIONS[name]) for record in _records(part, settings))
    elif not isinstance(source, str | Path):
        yield from ((where, objects.record_of(where, item), "") for where, item in objects.items_of(source))
    else:
        folder = str(source) != "-" and Path(source).is_dir()
        for origin in folder_origins(Path(source), "record")[0] if folder else [named_origin(str(source))]:
            yield from ((where, record, origin.partition) for where, record in read_records(origin, settings))


def _label(where: str, record: Mapping[str, Any], label_field: str | None) -> str:
    """A record's label, as text: numbers by their digits."""
    name = label_field or next((name for name in LABEL_FIELDS if name in record), LABEL_FIELDS[0])
    if name not in record:
        fields = ", ".join(str(field)[:40] for field in record)
        raise DataError(f"{where} has no field {name!r}", f"name the label's with --label-field among {fields}")
    return str(checked_label(record[name], f"{where}: the field {name!r}"))


def checked_label(value: Any, what: str) -> Any:
    """A label as Python has it: text that is not empty, or a whole number; DataError where it is neither."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, str) and value:
        return clean(value, what, "strict")
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return value
    if isinstance(value, float) and math.isfinite(value):
        problem = f"{what} is {value}, of a continuous range, which is no label"
        raise DataError(problem, "round it, or name ranges by texts such as 'low'")
    raise DataError(f"{what} is {shown(value)}, which is no label", "label it by a text or a number, or leave it out")


def classes_of(labels: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """The labels as Python has them, and those that differ, in order.

    Raises:
        DataError: a label is none, or texts and numbers are mixed; fewer than two differ.
    """
    found = [checked_label(label, f"label {number}") for number, label in enumerate(labels)]
    classes = set(found)
    if len({isinstance(label, str) for label in classes}) > 1:
        raise DataError("some labels are texts, others numbers", "write all of them as texts")
    if len(classes) < 2:
        one = f"one class alone is there, {shown(found[0])}" if found else "there is no text"
        raise DataError(one, "a classifier needs texts of two labels or more")
    return found, sorted(classes)
