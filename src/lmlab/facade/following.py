"""What may follow a prefix: probabilities of a model, and counts of the text that it learned from.

Shapes: V the vocabulary, N ids of a text, M places in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.errors import UsageError, check_integer
from lmlab.models.readers import reader_of
from lmlab.models.scorers import scorer_of
from lmlab.tokens.base import Tokenizer
from lmlab.vocabulary import NEVER_PREDICTED

_PIECE = 1 << 22  # ids looked through at once


def probabilities(model: Any, tokenizer: Tokenizer, ids: Sequence[int], k: int | None) -> dict[str, float]:
    """The k likeliest next tokens and their probabilities; all where k is None.

    Raises:
        SettingError: k is no integer >= 1.
        UsageError: the model's scores are not probabilities.
    """
    if k is not None:
        check_integer("k", k)
    if not scorer_of(model).normalised:
        raise UsageError("this model's scores do not sum to one (stupid backoff)", "train with another smoothing")
    logp_BV, _ = reader_of(model).start([ids])
    p_V = np.exp(logp_BV[0].astype(np.float64))
    order = [id for id in np.argsort(-p_V, kind="stable").tolist() if id not in NEVER_PREDICTED][:k]
    following: dict[str, float] = {}
    for id in order:  # tokens that are shown alike, parts of characters for example, are told together
        token = tokenizer.token_text(id)
        following[token] = following.get(token, 0.0) + float(p_V[id])
    return following


def counts_after(ids_N: np.ndarray, context: Sequence[int], tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that followed a context in encoded documents, the commonest first, and how often each did."""
    counts: Counter[int] = Counter()
    size, last = len(context), len(ids_N) - len(context)
    for start in range(0, last, _PIECE):
        piece_N = ids_N[start : start + _PIECE + size]
        at_M = np.arange(min(_PIECE, last - start))
        for place, id in enumerate(context):
            at_M = at_M[piece_N[at_M + place] == id]
        counts.update(piece_N[at_M + size].tolist())
    return {
        tokenizer.token_text(id): count
        for id, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if id not in NEVER_PREDICTED
    }
