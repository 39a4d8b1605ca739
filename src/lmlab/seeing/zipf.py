"""Rank and frequency of a corpus' tokens, and how much of the text how many of them cover."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmlab.errors import UsageError
from lmlab.seeing.picture import Picture, Seen
from lmlab.seeing.style import BLUE, GREY, RED, bare
from lmlab.vocabulary import SPECIALS

_MOST = 20_000_000  # characters
_FITTED = (10, 1_000)  # ranks


def zipf(lm: Seen) -> Picture:
    """Rank against frequency of the tokens of a run's training text, and how many types cover how much of a text.

    Args:
        lm: a run whose text is kept.

    Raises:
        UsageError: its text is not kept.
        DataError: its text has changed.
    """
    if (train := lm.held_out("train", chars=_MOST)) is None:
        raise UsageError("this run's training text is not kept as documents", "name a run that was trained on a file")
    count_V = np.bincount(train.ids, minlength=train.vocab_size)
    order_V = len(SPECIALS) + np.argsort(-count_V[len(SPECIALS) :], kind="stable")
    order_R = order_V[count_V[order_V] > 0]
    splits = {split: store for split in ("valid", "test") if (store := lm.held_out(split, chars=_MOST)) is not None}
    covered = {"training": _covered(count_V, order_R)}
    for split, store in list(splits.items())[:1]:
        covered[f"{split} split"] = _covered(np.bincount(store.ids, minlength=store.vocab_size), order_R)
    count_R, rank_R = count_V[order_R], np.arange(1, len(order_R) + 1)
    low, high = (min(rank, len(order_R)) for rank in _FITTED)
    some = slice(low - 1, high)
    slope, level = np.polyfit(np.log(rank_R[some]), np.log(count_R[some]), 1) if high > low else (0, 0)
    ranks = sorted({int(rank) for rank in np.geomspace(1, len(order_R), 16).round()})
    rows = [
        {"rank": rank, "token": lm.tokenizer.token_text(int(order_R[rank - 1])), "count": int(count_R[rank - 1])}
        | {f"covers of {text}": float(share_R[rank - 1]) for text, share_R in covered.items()}
        for rank in ranks
    ]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        left.loglog(rank_R, count_R, ".", color=BLUE, markersize=4)
        if high > low:
            left.loglog(
                rank_R[some], np.exp(level) * rank_R[some] ** slope, "--", color=RED, label=f"slope {slope:.2f}"
            )
            left.legend(frameon=False)
        bare(left, "rank", "occurrences in training", f"{len(order_R):,} types, {int(count_R.sum()):,} tokens")
        for (text, share_R), style, colour in zip(covered.items(), ("-", "--"), (BLUE, RED), strict=False):
            right.semilogx(rank_R, 100 * share_R, style, color=colour, label=text)
        right.axhline(100, color=GREY, linewidth=0.8)
        bare(right, "most frequent types", "% of all tokens", "covered by a vocabulary of so many")
        right.set_ylim(0, 104)
        right.legend(frameon=False, loc="lower right")

    title = f"Rank and frequency · {lm.manifest['data']['name']}, {lm.config.tokenizer.kind} tokens"
    note = f"slope: least squares of logarithms, ranks {low:,} to {high:,}; specials are no types, [UNK] is not covered"
    return Picture(title, rows, draw, (9, 4), note)


def _covered(count_V: np.ndarray, order_R: np.ndarray) -> np.ndarray:
    """The share of a text's tokens, [UNK] among them, that the first types cover."""
    of_text = count_V.sum() - count_V[[0, 2, 3]].sum()
    return np.asarray(count_V[order_R].cumsum() / max(1, of_text))
