"""Baselines first: what an n-gram of the same tokens, and a compressor of the same bytes, make of the text.

A neural model that does not beat them is not yet worth its time, and the table says so.
"""

from __future__ import annotations

import lzma
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmlab import registry, scoring
from lmlab.scoring import Report
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS

ORDERS = {"char": 6, "byte": 6, "bpe": 4, "word": 4, "code": 5}
_MOST_IDS = 20_000_000  # the n-gram sees at most so many ids: seconds, not minutes
_CHEAP_IDS, _CHEAP_BYTES = 50_000, 1 << 17  # are always counted and compressed
_SLOWER = 2  # as long a byte as a short text takes xz with a long one
_XZ_WINDOW = 8 << 20  # xz's default preset looks back so far


@dataclass(frozen=True)
class Baseline:
    """An n-gram's figures: its order, how many tokens it was counted on, how long it took, its report.

    `logp_N` holds the log-probability of every token that was scored, so that any beginning has a report too.
    """

    order: int
    learned: int
    seconds: float
    report: Report
    logp_N: np.ndarray

    def figures(self, report: Report) -> dict[str, Any]:
        """For the manifest."""
        return {"order": self.order, "learned_tokens": self.learned, "seconds": self.seconds, **vars(report)}

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
    logp_N = scoring.token_logp(model, held_out)
    learned = int(np.count_nonzero(ids_N != BOS))
    return Baseline(settings.order, learned, time.perf_counter() - began, _report(logp_N, held_out), logp_N)


def _report(logp_N: np.ndarray, store: TokenStore) -> Report:
    return scoring.report_of(-float(logp_N[: store.tokens].sum(dtype=np.float64)), store)


def affordable(train_text: bytes, held_out_text: bytes, seconds: float) -> tuple[bytes, bytes]:
    """The end of a text and the beginning of another that xz gets through in so many seconds, about."""
    before, text = train_text[-_XZ_WINDOW:], held_out_text[: _XZ_WINDOW // 2]
    if seconds < math.inf:
        few, began = before[:_CHEAP_BYTES], time.perf_counter()
        lzma.compress(few)
        a_byte = (time.perf_counter() - began) / max(1, len(few))
        share = min(1.0, seconds / (_SLOWER * a_byte * (2 * len(before) + len(text)) or 1))
        before, text = (
            before[-max(_CHEAP_BYTES, int(share * len(before))) :],
            text[: max(_CHEAP_BYTES, int(share * len(text)))],
        )
    return before, text


def xz_bits_per_byte(train_text: bytes, held_out_text: bytes) -> float:
    """Bits a byte that xz needs for the held-out text after having seen the training text.

    >>> xz_bits_per_byte(b"to be or not to be " * 50, b"to be or not to be " * 50) < 0.5
    True
    """
    both, before = len(lzma.compress(train_text + held_out_text)), len(lzma.compress(train_text))
    return 8 * (both - before) / max(1, len(held_out_text))
