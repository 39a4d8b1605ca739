"""Which functions score one sentence or one word a call.

`bind` gives functions of Python's C interface, which Numba compiled, where those are known to work: on the versions of
CPython that they were tested on, and when a small model answers the same both ways. Elsewhere it gives ordinary
functions, some twenty times slower, with the same answers.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
import sys
import sysconfig
from collections.abc import Sequence

import numpy as np

from lmlab.kernels.ngram import plain_calls
from lmlab.kernels.ngram.layout import Level, pack
from lmlab.kernels.ngram.plain_calls import RECORD, Calls, begin
from lmlab.vocabulary import BOS, EOS

TESTED = ((3, 11),)
"""The versions of CPython whose method tables `c_calls` was tested with."""


def bind(levels: Sequence[Level], absent: float, words: Sequence[bytes], bos_logp: float | None = 0.0) -> Calls:
    """The functions of a model, the quickest that work here.

    Args:
        levels: of the model.
        absent: ln of the backoff weight of a context that was never seen.
        words: the spellings of the ids from 4 on.
        bos_logp: ln p of `<s>` as a word; None where the model has none.
    """
    if not works():
        return plain_calls.bind(levels, absent, words, bos_logp)
    from lmlab.kernels.ngram import c_calls

    return c_calls.bind(levels, absent, words, bos_logp)


@functools.cache
def works() -> bool:
    """Whether the compiled functions work with this Python."""
    tested = sys.implementation.name == "cpython" and sys.version_info[:2] in TESTED
    if not tested or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    from lmlab.kernels.ngram import c_calls

    return agree(c_calls.bind(*_sample()), plain_calls.bind(*_sample()))


def agree(one: Calls, other: Calls) -> bool:
    """Whether two ways to call the small model of the self-check answer the same."""
    return all(
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)
        for a, b in itertools.zip_longest(_answers(one), _answers(other), fillvalue=math.nan)
    )


def _sample() -> tuple[list[Level], float, list[bytes], float]:
    """A trigram model of the words a and b."""
    nothing, word_V = np.empty(0, dtype=np.uint32), np.arange(6, dtype=np.uint64)
    logp_V = np.array([-np.inf, -3, -np.inf, -1, -1.5, -0.5], dtype=np.float32)
    backoff_V = np.array([0, 0, -0.25, 0, -0.5, -0.75], dtype=np.float32)
    pairs = pack(np.array([BOS, 4, 5]), np.array([4, 5, EOS]))
    triples = pack(np.array([0]), np.array([5]))
    levels = [
        Level(word_V, np.zeros(6, dtype=np.uint32), logp_V, backoff_V),
        Level(pairs, np.array([4, 5, EOS], dtype=np.uint32), logp_V[3:], np.array([-0.5, -0.25, 0], dtype=np.float32)),
        Level(triples, nothing, np.array([-0.125], dtype=np.float32), nothing.view(np.float32)),
    ]
    return levels, 0.0, [b"a", b"b"], -2.5


def _answers(calls: Calls) -> list[float]:
    answers: list[float] = []
    for sentence in ("a b", b"b  a\tz\n", "", "a <s> \u00e9 a b b", "b\0a"):
        for bos, eos in itertools.product((True, False), repeat=2):
            answers.append(calls.score(sentence, bos, eos))
            records = calls.full_scores(sentence, bos, eos)
            answers += itertools.chain.from_iterable(struct.iter_unpack(RECORD, records))
    context = begin(3)
    for word in ("a", b"b", "</s>", "z", "<s>", "a"):
        context, *told = calls.step(context, word)
        answers += told
    return answers
