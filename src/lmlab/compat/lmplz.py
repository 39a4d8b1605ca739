"""What KenLM's lmplz does: a text, read once, to an ARPA file of modified Kneser-Ney, with its own error and all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lmlab.corpora.raw import Origin
from lmlab.facade.counting import Texts, count
from lmlab.kernels.ngram.layout import Counts, high
from lmlab.models.ngram import Ngram, arpa
from lmlab.models.ngram.smoothing import Lmplz, Smoothed, smooth
from lmlab.models.ngram.trie import Trie
from lmlab.progress import Reporter
from lmlab.tokens.scan import scanner
from lmlab.vocabulary import BOS, EOS, SPECIALS


class Estimated(NamedTuple):
    """A model to be written.

    Attributes:
        trie: its n-grams.
        words: the spellings of the ids from 4 on.
        dropped: ids that are not to be written.
        tokens: how many words the text has.
        notes: what was done otherwise than asked.
    """

    trie: Trie
    words: list[bytes]
    dropped: np.ndarray
    tokens: int
    notes: Sequence[str]

    def write(self, file: Any) -> None:
        """Write the ARPA file into an open one."""
        arpa.write_to(file, self.trie, self.words, self.dropped.tolist())


def estimate(
    text: Origin,
    settings: Ngram.Settings,
    wishes: Lmplz,
    reporter: Reporter,
    *,
    prune: Sequence[int] = (),
    allowed: set[bytes] | None = None,
    skip_symbols: bool = False,
    collapse: bool = False,
    errors: str = "strict",
) -> Estimated:
    """Estimate a model.

    Args:
        text: a line is a sentence, words stand between white space.
        settings: order and memory.
        wishes: lmplz's own; which words are allowed is filled in here.
        reporter: shows progress.
        prune: of each length, from 1 on, the count up to which n-grams are dropped; the last holds for all longer.
        allowed: the words that n-grams may have; None allows all.
        skip_symbols: whether `<s>`, `</s>` and `<unk>` in the text are white space; else they are refused.
        collapse: make one number of probability and backoff, so that whole sentences score the same.
        errors: "replace" reads bytes that are no UTF-8 as U+FFFD; "strict" refuses them.
    """
    texts = Texts([text], reporter, errors=errors, ended=False, skip_symbols=skip_symbols)
    scanned = scanner(texts.text_size, (), learn=True)
    levels = count(texts, settings, scanned, reporter)
    words = [word.encode() for word in scanned.words()]
    if allowed is not None:
        wishes = wishes._replace(allowed_V=np.array([True] * len(SPECIALS) + [word in allowed for word in words]))
    count_V = levels[0].count_G
    tokens = int(count_V.sum(dtype=np.int64)) - int(count_V[BOS]) - int(count_V[EOS])
    with reporter.stage("smoothing"):
        smoothed = smooth(levels, "kneser-ney", prune=prune, lmplz=wishes, on_disk=bool(settings.memory))
        bos_logp = _collapse(levels, smoothed) if collapse else 0.0
        dropped = np.flatnonzero(smoothed.pruned[0]) if smoothed.pruned[0] is not None else np.empty(0, np.int64)
        trie = Trie.join(levels, smoothed._replace(pruned=(None, *smoothed.pruned[1:])))
    return Estimated(replace(trie, bos_logp=bos_logp), words, dropped, tokens, smoothed.notes)


def _collapse(levels: Sequence[Counts], smoothed: Smoothed) -> float:
    """Make log q of log p (Heafield, Koehn, Lavie 2012, section 3.2), and all backoffs 1; returns that of `<s>`.

    Each n-gram gets its own backoff, and gives back those of its context and of all its suffixes' contexts.
    """
    if len(levels) == 1:
        return 0.0
    gain_F = smoothed.backoff[0].copy()
    smoothed.logp[0][:] += gain_F
    bos_logp = float(gain_F[BOS])
    for level, logp_G, backoff_G, backoff_F in zip(
        levels[1:], smoothed.logp[1:], smoothed.backoff[1:], smoothed.backoff, strict=False
    ):
        gain_G = gain_F[level.suffix_G] - backoff_F[high(level.key_G)]
        if len(backoff_G):
            gain_G += backoff_G
        logp_G += gain_G
        gain_F = gain_G
    for backoff_F in smoothed.backoff:
        backoff_F[:] = 0
    return bos_logp
