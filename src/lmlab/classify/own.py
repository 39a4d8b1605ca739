"""The records and texts of a classifier that was kept: its own again, or others read as its own were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmlab.classify.classifier import Classifier
from lmlab.classify.data import Labelled, read
from lmlab.corpora import DataSettings
from lmlab.corpora.raw import kind_of, named_origin
from lmlab.corpora.reading import decode, inflate, lines
from lmlab.corpora.records import document_of, read_records
from lmlab.corpora.settings import IN_HAND
from lmlab.errors import DataError, UsageError


def labelled_of(classifier: Classifier, on: str | None, data: Mapping[str, Any], label_field: str | None) -> Labelled:
    """Its own records again, by split; or those of a source, whole.

    Raises:
        UsageError: its own are not kept.
        DataError: they have changed.
    """
    fitted = classifier.fitted
    config, manifest = fitted.config, fitted.manifest
    label_field = label_field or manifest.get("label_field")
    if on is not None:
        return read(on, _settings(classifier, data), label_field)
    if config.source in (None, IN_HAND, "-"):
        raise UsageError("this classifier's records came from a program or a pipe, and are gone", "name some with --on")
    labelled = read(config.source, config.data, label_field)
    before = manifest["data"]["sha256"]
    if labelled.sha256 != before:
        problem = f"{labelled.name} is not what it was (sha256 {labelled.sha256[:12]}, trained on {before[:12]})"
        raise DataError(problem, "put the old records back, or name others with --on")
    return labelled


def texts_of(classifier: Classifier, source: str, data: Mapping[str, Any]) -> list[str]:
    """The lines of a text, or the texts of records."""
    origin, settings = named_origin(source), _settings(classifier, data)
    if kind_of(origin.name) == "text" and settings.unit != "record":
        return list(lines(decode(inflate(origin.read(), origin.name), origin.name, settings.errors), origin.name))
    records = read_records(origin, settings)
    return [document_of(where, record, settings).text[: settings.max_chars] for where, record in records]


def _settings(classifier: Classifier, data: Mapping[str, Any]) -> DataSettings:
    """As its own records were read, but whole, and as a caller says."""
    own = classifier.fitted.config.data.dump()
    return DataSettings.make({**own, "limit": None, "split": "none", "unit": "auto", **data}, "data")
