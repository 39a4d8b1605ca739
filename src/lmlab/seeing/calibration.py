"""Whether the token that is predicted with probability p is the right one in a share p of all places."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np

from lmlab.errors import check_integer
from lmlab.models.scorers import beside, documents, rows_of, top_of
from lmlab.scoring import check_normalised
from lmlab.seeing.picture import Picture, Seen, encoded, names
from lmlab.seeing.style import COLOURS, DASHES, GREY, bare

_Z = 1.96  # of a 95 % interval


def calibration(lm: Seen, *others: Seen, on: Any = None, bins: int = 10, chars: int = 20_000) -> Picture:
    """A reliability diagram of the likeliest next token, and the expected calibration error (Guo et al. 2017).

    At each place of a text the likeliest token is compared with the true one. Below the diagonal a model is too sure.

    Args:
        lm: the model whose held-out text is read.
        others: more of them.
        on: another text, such as a file.
        bins: of equal width, from 0 to 1.
        chars: of the text, at most.

    Raises:
        SettingError: bins or chars below 1.
        UsageError: a model's scores are not probabilities.
    """
    check_integer("bins", bins)
    check_integer("chars", chars)
    text, texts = lm.texts(on, chars=chars)
    lms, rows, curves = (lm, *others), [], []
    for name, each in zip(names(lms), lms, strict=True):
        check_normalised(each.model)
        sure_N, right_N = _predicted(each, encoded(each, texts).ids)
        bin_N = np.minimum((sure_N * bins).astype(int), bins - 1)
        tokens_K = np.bincount(bin_N, minlength=bins)
        filled_K = tokens_K > 0
        sure_K = np.bincount(bin_N, sure_N, bins)[filled_K] / tokens_K[filled_K]
        right_K = np.bincount(bin_N, right_N, bins)[filled_K] / tokens_K[filled_K]
        share_K = tokens_K[filled_K] / len(sure_N)
        error = float(share_K @ abs(sure_K - right_K))
        low_K, high_K = _wilson(right_K, tokens_K[filled_K])
        edges_K = np.flatnonzero(filled_K) / bins
        for low_edge, tokens, *shares in zip(edges_K, tokens_K[filled_K], sure_K, right_K, low_K, high_K, strict=True):
            named = zip(("mean p", "right", "low", "high"), map(float, shares), strict=True)
            row = {"run": name, "from": float(low_edge), "to": float(low_edge) + 1 / bins, "tokens": int(tokens)}
            rows.append({**row, **dict(named), "ECE of the run": error})
        label = f"{name}: ECE {error:.3f}, {100 * right_N.mean():.0f} % right"
        curves.append((label, sure_K, right_K, right_K - low_K, high_K - right_K, tokens_K / len(sure_N)))

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        edges = np.arange(bins + 1) / bins
        for (label, x, y, down, up, share_K), colour, dash in zip(curves, cycle(COLOURS), cycle(DASHES), strict=False):
            above.errorbar(
                x, y, (down, up), color=colour, linestyle=dash, marker="o", markersize=4, capsize=2, label=label
            )
            below.stairs(100 * share_K, edges, color=colour, linestyle=dash, linewidth=1.5)
        bare(above, "", "share that is right", "diagonal: perfectly calibrated; bars: 95 % Wilson intervals")
        above.set(xlim=(0, 1), ylim=(0, 1))
        above.legend(frameon=False, loc="upper left")
        bare(below, "probability of the likeliest next token", "% of tokens")

    title = f"Calibration of the next token · {text}, its first {sum(map(len, texts)):,} characters"
    return Picture(title, rows, draw, (6.5, 6), "ECE: mean distance of the two, weighed by tokens; [UNK] as a class")


def _predicted(lm: Seen, ids_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability of the likeliest token at each place, and whether it is the true one."""
    sure, right = [], []
    for true_M, logp_MV in beside(documents(ids_N), rows_of(lm.model, ids_N)):
        best_M, logp_M = (array_M1[:, 0] for array_M1 in top_of(logp_MV, 1))
        sure.append(np.exp(logp_M.astype(np.float64)))
        right.append(best_M == true_M)
    return np.minimum(np.concatenate(sure), 1.0), np.concatenate(right)


def _wilson(share_K: np.ndarray, tokens_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of a share (Wilson 1927)."""
    middle_K = (share_K + _Z**2 / (2 * tokens_K)) / (1 + _Z**2 / tokens_K)
    half_K = _Z * np.sqrt(share_K * (1 - share_K) / tokens_K + (_Z / (2 * tokens_K)) ** 2) / (1 + _Z**2 / tokens_K)
    return np.minimum(middle_K - half_K, share_K), np.maximum(middle_K + half_K, share_K)
