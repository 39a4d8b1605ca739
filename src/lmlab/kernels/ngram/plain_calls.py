"""Scoring one sentence or one word a call, as ordinary Python functions.

A context is one number: the level of its longest stored suffix, its whole length, and the place of that suffix. Where
callers see it, it is tidied: a suffix that begins no stored n-gram and has a backoff of 0 (then written -0.0) is
dropped, so that contexts which score alike are equal, as KenLM's states are.

`<s>` and `</s>` are words here, as in ARPA files, and unknown where the model does not have them. `<s>` is never
predicted; asked for all the same, it has the log-probability that the ARPA file says. Text is str or bytes, and ends
at its first NUL.
"""

from __future__ import annotations

import itertools
import math
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lmlab.kernels.ngram.layout import Level, high
from lmlab.vocabulary import BOS, EOS, SPECIALS, UNK

EMPTY = 0
"""The context without words."""
RECORD = "<fi?xxx"
"""What `full_scores` gives of each word, for `struct`: log10 p, the length of the n-gram found, unknown or not."""
LEVEL, LENGTH = 40, 32  # where these begin in a context's number
LOG_10 = math.log(10)


@dataclass(frozen=True)
class Calls:
    """The functions of one model; all logs are to base 10.

    Attributes:
        score: (sentence, bos, eos) to its log-probability.
        full_scores: (sentence, bos, eos) to bytes, a `RECORD` a word.
        step: (context, word) to the context then, log-probability, length of the n-gram found, whether it is unknown.
        kept: what must not go while the functions are in use.
    """

    score: Callable[[str | bytes, object, object], float]
    full_scores: Callable[[str | bytes, object, object], bytes]
    step: Callable[[int, str | bytes], tuple[int, float, int, bool]]
    kept: tuple[Any, ...] = ()


def spelled(text: object) -> bytes:
    """A text that a caller gave, in UTF-8, up to its first NUL."""
    if not isinstance(text, str | bytes):
        raise TypeError(f"text is str or bytes, not {type(text).__name__}")
    return (text.encode() if isinstance(text, str) else text).partition(b"\0")[0]


def begin(order: int) -> int:
    """The context that opens a sentence."""
    return 1 << LEVEL | 1 << LENGTH | BOS if order > 1 else EMPTY


def tidied(levels: Sequence[Level]) -> list[Level]:
    """The levels, with -0.0 as the backoff of what never matters as a context."""

    def tidy(level: Level, longer: Level) -> Level:
        dead_G = level.backoff_G == 0
        dead_G[high(longer.key_G)] = False
        return replace(level, backoff_G=np.where(dead_G, np.float32(-0.0), level.backoff_G))

    return [*itertools.starmap(tidy, itertools.pairwise(levels)), levels[-1]]


def marks(levels: Sequence[Level], bos_logp: float | None) -> dict[bytes, int]:
    """The ids of `<s>` and `</s>`, as far as a model has them."""
    bos = {} if bos_logp is None else {b"<s>": BOS}
    return bos if levels[0].logp_G[EOS] == -np.inf else bos | {b"</s>": EOS}


def bind(levels: Sequence[Level], absent: float, words: Sequence[bytes], bos_logp: float | None = 0.0) -> Calls:
    """The functions of a model.

    Args:
        levels: of the model.
        absent: ln of the backoff weight of a context that was never seen.
        words: the spellings of the ids from 4 on.
        bos_logp: ln p of `<s>` as a word; None where the model has none.
    """
    ids = marks(levels, bos_logp) | {word: id for id, word in enumerate(words, len(SPECIALS))}
    levels, order, record = tidied(levels), len(levels), struct.Struct(RECORD)
    keys = [level.key_G.data for level in levels]

    def child(level: int, node: int, word: int) -> int:
        if level == 0:
            return word
        key, wanted = keys[level], node << 32 | word
        place = bisect_left(key, wanted)
        return place if place < len(key) and key[place] == wanted else -1

    def follow(context: int, word: int) -> tuple[int, float, int]:
        """The context one word further, the natural log-probability of the word, the length of the n-gram found."""
        level, length, node = context >> LEVEL, context >> LENGTH & 0xFF, context & 0xFFFFFFFF
        logp = absent * (length - level)
        while (found := child(level, node, word)) < 0:
            logp += float(levels[level - 1].backoff_G[node])
            node, level = int(levels[level - 1].suffix_G[node]), level - 1
        reached = level + 1
        logp += float(levels[level].logp_G[found]) if reached > 1 or word != BOS else bos_logp or 0.0
        if reached < order:
            node, level = found, reached
        elif level:  # the longest are no contexts: without its first word it is
            node = max(0, child(level - 1, int(levels[level - 1].suffix_G[node]), word))
        if absent:
            return level << LEVEL | (1 if word == BOS else min(length + 1, order - 1)) << LENGTH | node, logp, reached
        while level and math.copysign(1, backoff := float(levels[level - 1].backoff_G[node])) < 0 and backoff == 0:
            node, level = int(levels[level - 1].suffix_G[node]), level - 1
        return level << LEVEL | level << LENGTH | (node if level else 0), logp, reached

    def walk(sentence: str | bytes, bos: object, eos: object) -> list[tuple[float, int, bool]]:
        told, context = [], begin(order) if bos else EMPTY
        for spelling in spelled(sentence).split() + [b"</s>"] * bool(eos):
            word = ids.get(spelling, UNK)
            context, logp, found = follow(context, word)
            told.append((logp, found, word == UNK))
        return told

    def score(sentence: str | bytes, bos: object, eos: object) -> float:
        return sum((logp for logp, _, _ in walk(sentence, bos, eos)), 0.0) / LOG_10

    def full_scores(sentence: str | bytes, bos: object, eos: object) -> bytes:
        return b"".join(record.pack(logp / LOG_10, found, oov) for logp, found, oov in walk(sentence, bos, eos))

    def step(context: int, spelling: str | bytes) -> tuple[int, float, int, bool]:
        word = ids.get(spelled(spelling), UNK)
        level = context >> LEVEL
        if not (0 <= level < order and context & 0xFFFFFFFF < len(keys[max(level - 1, 0)])):
            raise TypeError(f"{context} is a context of some other model")
        context, logp, found = follow(context, word)
        return context, logp / LOG_10, found, word == UNK

    return Calls(score, full_scores, step)
