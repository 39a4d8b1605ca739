"""Where named corpora lie: the folder `$LMLAB_DATA` of the user's own, then the cache, `$LMLAB_CACHE`."""

from __future__ import annotations

import os
from pathlib import Path

from lmlab.disk import cache_dir


def data_dir() -> Path | None:
    """The folder of what the user placed by hand: `$LMLAB_DATA`, None where unset."""
    named = os.environ.get("LMLAB_DATA")
    return Path(named) if named else None


def find(file: str) -> Path | None:
    """A file by name: in `$LMLAB_DATA`, else in the cache, else None."""
    places = [place for place in (data_dir(), cache_dir()) if place is not None]
    return next((place / file for place in places if (place / file).is_file()), None)
