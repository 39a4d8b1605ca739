"""Baselines first: what an n-gram of the same tokens, and a compressor of the same bytes, make of the text.

A neural model that does not beat them is not yet worth its time, and the table says so.
"""

from __future__ import annotations

import lzma
import time
from dataclasses import dataclass

import numpy as np

from lmlab import registry, scoring
from lmlab.scoring import Report
from lmlab.tokens.id_store import TokenStore

ORDERS = {"char": 6, "byte": 6, "bpe": 4, "word": 4, "code": 5}
_MOST_IDS = 20_000_000  # the n-gram sees at most so many ids: seconds, not minutes
_XZ_WINDOW = 8 << 20  # xz's default preset looks back so far


@dataclass(frozen=True)
class Baseline:
    """An n-gram's figures: its order, how long it took, its report."""

    order: int
    seconds: float
    report: Report


def ngram_baseline(train: TokenStore, held_out: TokenStore, tokenizer_kind: str, vocab_size: int) -> Baseline:
    """Fit a Kneser-Ney model on the training split and score the held-out one."""
    began = time.perf_counter()
    model_class = registry.resolve("model", "ngram")
    order = ORDERS.get(tokenizer_kind, 4)
    model = model_class.estimate(model_class.Settings(order=order), vocab_size, np.asarray(train.ids[:_MOST_IDS]))
    report = scoring.evaluate(model, held_out)
    return Baseline(order, time.perf_counter() - began, report)


def xz_bits_per_byte(train_text: bytes, held_out_text: bytes) -> float:
    """Bits a byte that xz needs for the held-out text after having seen the end of the training text.

    >>> xz_bits_per_byte(b"to be or not to be " * 50, b"to be or not to be " * 50) < 0.5
    True
    """
    before = train_text[-_XZ_WINDOW:]
    text = held_out_text[: _XZ_WINDOW // 2]
    return 8 * (len(lzma.compress(before + text)) - len(lzma.compress(before))) / max(1, len(text))
