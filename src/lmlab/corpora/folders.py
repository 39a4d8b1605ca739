"""A folder as a source: every readable text file below it, sorted."""

from __future__ import annotations

import os
from pathlib import Path

from lmlab.corpora.raw import Origin, file_origin, is_text
from lmlab.corpora.records import kind_of
from lmlab.errors import EmptyDataError


def folder_origins(folder: Path, unit: str) -> tuple[list[Origin], int]:
    """The text files of a folder, and how many files were skipped: binary, empty or unreadable ones.

    Files are sorted by their path from the folder, the same on every machine. Hidden files and folders and
    `__pycache__` are passed over without counting. With unit "record", only files whose ending tells of records count.

    Raises:
        EmptyDataError: there is none.
    """
    paths: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        paths += [Path(root, name) for name in files if not name.startswith(".")]
    paths = sorted(filter(Path.is_file, paths), key=lambda path: path.relative_to(folder).as_posix())
    origins = []
    for path in paths:
        origin = file_origin(path, name=str(Path(folder.name) / path.relative_to(folder)))
        wanted = kind_of(origin.name) != "text" if unit == "record" else True
        if os.access(path, os.R_OK) and wanted and (unit == "record" or is_text(origin)):
            origins.append(origin)
    skipped = len(paths) - len(origins)
    if not origins:
        raise EmptyDataError(f"{folder} holds no text file ({skipped} skipped)", "give a folder with UTF-8 text in it")
    return origins, skipped
