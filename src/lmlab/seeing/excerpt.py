"""The text that a picture reads: one that was given, or the run's own held-out text."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmlab.errors import SettingError, UsageError
from lmlab.seeing.picture import Seen
from lmlab.vocabulary import BOS

_CHARS_A_TOKEN = 16  # more than a token has, so that enough text is encoded
_REMEDY = "give a text, with --text"


def documents(lm: Seen, text: str, tokens: int) -> list[np.ndarray]:
    """The ids of a text, `<bos>` first; without one those of the run's held-out documents; so many tokens at most.

    Raises:
        SettingError: the text is no string.
        UsageError: there is neither a text nor a held-out split, or the text has what the vocabulary lacks.
    """
    if not isinstance(text, str):
        raise SettingError("text", text, "a string")
    if text:
        return [np.array([BOS, *lm.ids(text)])[: tokens + 1]]
    for split in ("valid", "test"):
        store: Any = lm.held_out(split, chars=_CHARS_A_TOKEN * tokens)
        if store is not None and len(store.ids):
            ids_N = np.asarray(store.ids[:tokens], np.int64)
            return np.split(ids_N, np.flatnonzero(ids_N == BOS)[1:])
    raise UsageError("this run keeps no held-out text", _REMEDY)


def excerpt(lm: Seen, text: str, tokens: int) -> np.ndarray:
    """The ids of a text, or of the beginning of the longest held-out document; at most so many tokens and `<bos>`."""
    return max(documents(lm, text, 4 * tokens), key=len)[: tokens + 1]


def windows(lm: Seen, text: str, length: int, count: int) -> np.ndarray:
    """Pieces of a text or of the run's held-out documents, (B, length), B <= count, evenly spread.

    Raises:
        UsageError: no document is that long.
    """
    found = documents(lm, text, 4 * length * count)
    starts = [(ids_N, at) for ids_N in found for at in range(0, len(ids_N) - length + 1, max(1, length // 4))]
    if not starts:
        most = max(map(len, found))
        remedy = f"lower --lags by {length - most}, or give a longer text, with --text"
        raise UsageError(f"the longest document read has {most} tokens, but {length} are needed", remedy)
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).astype(int))
    return np.stack([starts[which][0][starts[which][1] :][:length] for which in chosen])
