"""Baselines first: what an n-gram and context mixing make of the same tokens, and a compressor of the same bytes.

A neural model that does not beat them is not yet worth its time, and the table says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lmlab import registry, scoring
from lmlab.models.base import estimated
from lmlab.scoring import Report
from lmlab.tokens import Tokenizer
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS

ORDERS = {"char": 6, "byte": 6, "bpe": 4, "word": 4, "code": 5}
MIXED_SHARE = 0.06
"""Of a timed run's budget, for context mixing: ten seconds of three minutes, in which it reads a million characters."""
MOST_BYTES = 8 << 20
"""That PPMd reads, of the training split and of the held-out one."""
_MOST_IDS = 20_000_000  # the n-gram sees at most so many ids: seconds, not minutes
_CHEAP_IDS = 50_000  # are always counted
_MIXED_IDS = 1 << 20  # context mixing sees at most so many ids, and a half of them at least, or says nothing
_TRIED_IDS = 10_000  # of them show its speed
_SLOWER = 1.25  # as long a token takes where tables outgrow the processor's caches
_LOADING = 6.0  # seconds that its loops need where they are compiled, and may take from a run
_PPMD_SPEED = 500_000  # bytes a second, about
_PPMD = 6, 256 << 20  # order and bytes of memory


@dataclass(frozen=True)
class Baseline:
    """A counted model's figures: how many tokens it learned from, how long it took, its report, what else it is.

    `logp_N` holds the log-probability of every token that was scored, so that any beginning has a report too.
    """

    learned: int
    seconds: float
    report: Report
    logp_N: np.ndarray
    about: Mapping[str, Any]

    def figures(self, report: Report) -> dict[str, Any]:
        """For the manifest."""
        return {**self.about, "learned_tokens": self.learned, "seconds": self.seconds, **vars(report)}

    def on(self, beginning: TokenStore) -> dict[str, Any]:
        """The figures on a beginning of what was scored."""
        return self.figures(_report(self.logp_N, beginning))


def ngram_baseline(
    train: TokenStore, held_out: TokenStore, tokenizer_kind: str, vocab_size: int, seconds: float = math.inf
) -> Baseline:
    """Fit a Kneser-Ney model on the training split, or as much of it as there is time for, and score the held-out one.

    Args:
        train: the training split.
        held_out: what is scored.
        tokenizer_kind: chooses the order.
        vocab_size: of the tokenizer.
        seconds: for counting, about.
    """
    began = time.perf_counter()
    model_class = registry.resolve("model", "ngram")
    settings = model_class.Settings(order=ORDERS.get(tokenizer_kind, 4))
    ids_N = np.asarray(train.ids[:_MOST_IDS])
    if seconds < math.inf and len(ids_N) > _CHEAP_IDS:
        for few in (_CHEAP_IDS // 10, _CHEAP_IDS):  # the first pays for loading what counts
            start = time.perf_counter()
            model_class.estimate(settings, vocab_size, ids_N[:few])
        affordable = _CHEAP_IDS * seconds / (time.perf_counter() - start)
        ids_N = ids_N[: max(_CHEAP_IDS, int(min(len(ids_N), affordable)))]
    model = model_class.estimate(settings, vocab_size, ids_N)
    return _scored(model, ids_N, held_out, began, {"order": settings.order})


def cm_baseline(train: TokenStore, held_out: TokenStore, tokenizer: Tokenizer, seconds: float) -> Baseline | None:
    """Context mixing that learned from the training split in one pass and is then frozen, as all that is trained.

    None where the time does not suffice for half of that split, or of the first million tokens of a longer one; or
    where no clock says what there is, since it takes seconds.

    Args:
        train: the training split.
        held_out: what is scored.
        tokenizer: whose spellings it looks at.
        seconds: for learning and scoring, about.
    """
    began = time.perf_counter()
    ids_N = np.asarray(train.ids[:_MIXED_IDS])
    if not _LOADING <= seconds < math.inf or len(ids_N) < _TRIED_IDS:
        return None
    model_class = registry.resolve("model", "cm")
    learned = partial(estimated, model_class, model_class.Settings(), tokenizer.spellings())
    for _ in range(2):  # the first pays for loading the loops, and for memory that nobody has touched
        start = time.perf_counter()
        learned(ids_N[:_TRIED_IDS])
    a_token = _SLOWER * (time.perf_counter() - start) / _TRIED_IDS
    affordable = int((seconds - (time.perf_counter() - began)) / a_token) - len(held_out.ids)
    if 2 * affordable < len(ids_N):
        return None
    ids_N = ids_N[:affordable]
    return _scored(learned(ids_N), ids_N, held_out, began, {})


def _scored(model: Any, ids_N: np.ndarray, held_out: TokenStore, began: float, about: Mapping[str, Any]) -> Baseline:
    logp_N = scoring.token_logp(model, held_out)
    learned, seconds = int(np.count_nonzero(ids_N != BOS)), time.perf_counter() - began
    return Baseline(learned, seconds, _report(logp_N, held_out), logp_N, about)


def _report(logp_N: np.ndarray, store: TokenStore) -> Report:
    return scoring.report_of(-float(logp_N[: store.tokens].sum(dtype=np.float64)), store)


def ppmd_bits_per_byte(train_text: bytes, held_out_text: bytes, seconds: float = math.inf) -> float | None:
    """Bits a byte that PPMd (variant H, order 6) needs for the held-out text after the training text.

    Args:
        train_text: its end is read where the time does not suffice for all.
        held_out_text: of which the beginning is read then.
        seconds: in all, about.

    Returns:
        None where pyppmd is not installed.
    """
    try:
        import pyppmd
    except ImportError:
        return None
    most = int(min(MOST_BYTES, _PPMD_SPEED * seconds / 2))
    encoder = pyppmd.Ppmd7Encoder(*_PPMD)
    encoder.encode(train_text[-most:])
    text = held_out_text[:most]
    return 8 * len(encoder.encode(text) + encoder.flush()) / max(1, len(text))
