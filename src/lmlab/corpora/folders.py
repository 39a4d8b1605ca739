"""A folder as a source: every readable text file below it, sorted."""

from __future__ import annotations

import os
from pathlib import Path

from lmlab.corpora.raw import Origin, file_origin, is_text
from lmlab.corpora.records import kind_of
from lmlab.errors import EmptyDataError

_LEFT_OUT = {"__pycache__"}


def folder_origins(folder: Path, unit: str) -> tuple[list[Origin], int]:
    """The text files of a folder, and how many files were skipped: binary, empty or unreadable ones.

    Hidden files and folders and `__pycache__` are passed over without counting. With unit "record", only files whose
    ending tells of records are taken.

    Raises:
        EmptyDataError: there is none.
    """
    origins: list[Origin] = []
    skipped = 0
    for path in _files(folder):
        origin = file_origin(path, name=str(Path(folder.name) / path.relative_to(folder)))
        wanted = kind_of(origin.name) != "text" if unit == "record" else True
        if os.access(path, os.R_OK) and wanted and (unit == "record" or is_text(origin)):
            origins.append(origin)
        else:
            skipped += 1
    if not origins:
        raise EmptyDataError(f"{folder} holds no text file ({skipped} skipped)", "give a folder with UTF-8 text in it")
    return origins, skipped


def _files(folder: Path) -> list[Path]:
    """Sorted by their path from the folder, in the same order on every machine."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT_OUT]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.relative_to(folder).as_posix())
