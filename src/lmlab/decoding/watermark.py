"""A watermark by green lists (Kirchenbauer et al. 2023), and its detector, which needs the key but no model.

The tokens before a token choose a share of the vocabulary at random, the green list; the processor `watermark` makes
its tokens likelier, and a text with more of them than chance gives it away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmlab.decoding.chance import uniforms
from lmlab.errors import EmptyDataError, SettingError


class Detection(NamedTuple):
    """What the detector found.

    Attributes:
        tokens: scored: each different run of `context` tokens and the one after it counts once.
        green: how many lie in the green list.
        z: standard deviations above what chance gives.
        p_value: the probability of as many by chance (normal approximation).
    """

    tokens: int
    green: int
    z: float
    p_value: float


def green_list(before: Sequence[int], vocab_size: int, share: float, key: int) -> NDArray[np.bool_]:
    """A mask of `share * vocab_size` tokens (rounded down, at least one), which follows from the tokens before."""
    lane = 0
    for token in before:
        lane = (lane * 1_000_003 + token + 1) % (1 << 53)
    chance_V = uniforms(key, lane, 0, np.arange(vocab_size))
    mask_V = np.zeros(vocab_size, dtype=bool)
    mask_V[np.argsort(chance_V, kind="stable")[: max(int(share * vocab_size), 1)]] = True
    return mask_V


def detect(
    ids: Sequence[int], vocab_size: int, share: float = 0.25, key: int = 15485863, context: int = 1
) -> Detection:
    """Look for a watermark.

    Args:
        ids: a text, without its prompt.
        vocab_size: V of the model that may have written it.
        share: the settings of the processor `watermark`.
        key: as there.
        context: as there.

    Raises:
        SettingError: an id outside the vocabulary, or a context below 1.
        EmptyDataError: no more ids than the context.
    """
    if context < 1:
        raise SettingError("context", context, "an integer >= 1")
    if (wrong := next((id for id in ids if not 0 <= id < vocab_size), None)) is not None:
        raise SettingError("id", wrong, f"an id of the vocabulary, 0 to {vocab_size - 1}")
    runs = {tuple(ids[at : at + context + 1]) for at in range(len(ids) - context)}
    if not runs:
        raise EmptyDataError(f"{len(ids)} tokens are too few to detect a watermark in", "give a longer text")
    lists: dict[tuple[int, ...], Any] = {}
    green = 0
    for *before, token in runs:
        if tuple(before) not in lists:
            lists[tuple(before)] = green_list(before, vocab_size, share, key)
        green += int(lists[tuple(before)][token])
    z = (green - share * len(runs)) / math.sqrt(len(runs) * share * (1 - share))
    return Detection(len(runs), green, z, 0.5 * math.erfc(z / math.sqrt(2)))
