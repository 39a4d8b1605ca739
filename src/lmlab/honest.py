r"""Whether a predictor's probabilities are honest, so that a file could be coded with them and made again: anybody's.

A predictor is a function: what was read so far, a tuple of symbols, to the probability of each symbol that may follow,
a mapping or an array that is indexed by symbols.

>>> def laplace(prefix):
...     return {symbol: (prefix.count(symbol) + 1) / (len(prefix) + 2) for symbol in "ab"}
>>> round(check_honest(laplace, ["abba", "aaaa"]).bits, 2)
7.23
>>> check_honest(lambda prefix: {"a": 0.7, "b": 0.7}, ["abba"])
Traceback (most recent call last):
AssertionError: after (): the probabilities sum to 1.4, not to one
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Symbols = tuple[Any, ...]
Predict = Callable[[Symbols], Any]
_LONGEST_SHOWN = 80


@dataclass(frozen=True)
class Honest:
    """What a checked predictor would compress to.

    Attributes:
        symbols: of all texts.
        bits: what they cost, the sum of -log2 of the probability of each.
    """

    symbols: int
    bits: float


def check_honest(
    predict: Predict,
    texts: Iterable[Sequence[Hashable]],
    *,
    score: Callable[[Symbols], Sequence[float]] | None = None,
    within: float = 1e-4,
) -> Honest:
    """Hold a predictor to what a decoder needs: rows that sum to one, made of what was read before and nothing else.

    Args:
        predict: what was read to the probabilities of what follows.
        texts: each a string or a sequence of symbols; every prefix is asked for, so short ones will do.
        score: a whole text to the natural log-probability of each of its symbols, where there is such a way too. Its
            scores must be those of the rows, and must not change with what comes later.
        within: the error allowed in sums, probabilities and scores.

    Raises:
        AssertionError: in one line, the first prefix for which something fails, and what.
    """
    asked: dict[Symbols, tuple[Any, np.ndarray]] = {}
    symbols, bits = 0, 0.0
    for text in map(tuple, texts):
        logp_N = np.zeros(len(text))
        for at, symbol in enumerate(text):
            row = predict(text[:at])
            asked[text[:at]] = row, _probabilities(row, text[:at], within)
            logp_N[at] = _logp(row, symbol, text[:at])
        symbols, bits = symbols + len(text), bits - float(logp_N.sum()) / math.log(2)
        if score is not None:
            _check_scores(score, text, logp_N, within)
    for prefix, (row, before_V) in reversed(asked.items()):
        again = predict(prefix)
        again_V = _probabilities(again, prefix, within)
        if _keys(again) != _keys(row) or len(again_V) != len(before_V) or np.abs(again_V - before_V).max() > within:
            raise AssertionError(f"{_after(prefix)}: asked again once other texts were read, it says something else")
    return Honest(symbols, bits)


def _check_scores(
    score: Callable[[Symbols], Sequence[float]], text: Symbols, logp_N: np.ndarray, within: float
) -> None:
    score_N = _floats(score(text))
    if len(score_N) != len(text):
        raise AssertionError(f"{len(score_N)} scores for the {len(text)} symbols of {_shown(text)}")
    for at in np.flatnonzero(_differ(score_N, logp_N, within)).tolist():
        what = f"the score of {text[at]!r} is {score_N[at]:.6g}, by the rows {logp_N[at]:.6g}"
        raise AssertionError(f"{_after(text[:at])}: {what}")
    for cut in range(1, len(text)):
        other_N = _floats(score(text[:cut] + text[:cut][::-1]))  # the same beginning, and another end
        for at in np.flatnonzero(_differ(other_N[:cut], score_N[:cut], within)).tolist():
            raise AssertionError(f"{_after(text[:at])}: the score looks ahead, it changes with what follows")


def _differ(one_N: np.ndarray, other_N: np.ndarray, within: float) -> np.ndarray:
    return np.asarray(~((one_N == other_N) | (np.abs(one_N - other_N) <= within)))


def _probabilities(row: Any, prefix: Symbols, within: float) -> np.ndarray:
    p_V = _floats(list(row.values()) if isinstance(row, Mapping) else row)
    wrong = p_V[~((p_V >= 0) & (p_V <= 1 + within))].tolist()
    if p_V.ndim != 1 or not len(p_V):
        problem = f"no row of probabilities, but shape {p_V.shape}"
    elif wrong:
        problem = f"{wrong[0]:.6g} is no probability (are these logits?)"
    elif abs(p_V.sum() - 1) > within:
        problem = f"the probabilities sum to {p_V.sum():.6g}, not to one"
    else:
        return p_V
    raise AssertionError(f"{_after(prefix)}: {problem}")


def _logp(row: Any, symbol: Any, prefix: Symbols) -> float:
    """Of a symbol that comes; what is no key of a row has no probability, and then there is no code for it."""
    try:
        p = float(row[symbol])
    except (KeyError, IndexError):
        p = 0.0
    if not p > 0:
        raise AssertionError(f"{_after(prefix)}: {symbol!r} comes, but has probability 0, so nothing could code it")
    return math.log(p)


def _keys(row: Any) -> list[Any] | None:
    return list(row) if isinstance(row, Mapping) else None


def _floats(numbers: Any) -> np.ndarray:
    return np.array(numbers, np.float64)


def _after(prefix: Symbols) -> str:
    return f"after {_shown(prefix)}"


def _shown(symbols: Symbols) -> str:
    text = repr("".join(symbols)) if symbols and all(isinstance(s, str) for s in symbols) else repr(symbols)
    return text if len(text) <= _LONGEST_SHOWN else f"…{text[-_LONGEST_SHOWN:]}"
