"""What lies near what in a model's embedding of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from lmlab.errors import UsageError, check_integer
from lmlab.models.hf import HuggingFaceModel
from lmlab.models.neural.base import NeuralModel
from lmlab.seeing.picture import Picture, Seen, subject
from lmlab.seeing.style import BLUE, DARK, GREY, RED, bare, token_label
from lmlab.vocabulary import SPECIALS

_MOST_MAPPED, _GROUPS = 400, 6


def embedding_of(model: Any) -> np.ndarray:
    """The vector that each token enters as, (V, E).

    Raises:
        UsageError: tokens enter as no vectors that were learned.
    """
    if isinstance(model, HuggingFaceModel):
        return model.embedding_rows().float().cpu().numpy()
    table = getattr(model, "embedding", None) if isinstance(model, NeuralModel) else None
    if not isinstance(table, nn.Embedding):
        problem = f"an embedding is that of a network, and this {type(model).__name__} has none that was learned"
        raise UsageError(problem, "name a run of a network, not of --set model.input=one-hot")
    return table.weight.detach().float().cpu().numpy()


def cosines_of(table_VE: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """The cosine of the angle between the vectors of some ids and every other one, (A, V); 0 of a vector of zeros."""
    norm_V1 = np.linalg.norm(table_VE, axis=1, keepdims=True)
    unit_VE = np.divide(table_VE, norm_V1, out=np.zeros_like(table_VE), where=norm_V1 > 0)
    product: np.ndarray = unit_VE[[*ids]] @ unit_VE.T
    return product


def neighbours(lm: Seen, *, text: str = "", k: int = 6, most: int = 120) -> Picture:
    """The tokens nearest to those of a text, by the cosine of their embeddings, and a map of the commonest tokens.

    Args:
        lm: a network whose tokens enter as vectors.
        text: whose tokens are looked up; empty are the commonest of the training text.
        k: how many neighbours of each.
        most: how many of the commonest tokens are on the map, the two main axes of their vectors (PCA).

    Raises:
        UsageError: the model has no embedding, or the text has what its vocabulary lacks.
    """
    check_integer("most", most, 2, _MOST_MAPPED)
    table_VE = embedding_of(lm.model)
    check_integer("k", k, 1, len(table_VE) - len(SPECIALS) - 1)
    count_V = lm.tokenizer.count_V
    common = np.argsort(-count_V, kind="stable") if count_V is not None else np.arange(len(table_VE))
    common = common[common >= len(SPECIALS)][:most]
    asked = list(dict.fromkeys(lm.ids(text))) if text else common[:_GROUPS].tolist()
    near_AV = cosines_of(table_VE, asked)
    rows = []
    for id, near_V in zip(asked, near_AV, strict=True):
        near_V[[*range(len(SPECIALS)), id]] = -np.inf
        rows += [
            {
                "token": lm.tokenizer.token_text(id),
                "neighbour": lm.tokenizer.token_text(other),
                "cosine": float(near_V[other]),
            }
            for other in np.argsort(-near_V, kind="stable")[:k].tolist()
        ]
    place_MP, shares = principal_axes(table_VE[shown := np.union1d(common, asked)])
    chance = min(1.0, (2 * np.log(len(table_VE)) / table_VE.shape[1]) ** 0.5)  # the largest of V normal deviates
    labels = [token_label(lm.tokenizer.token_text(id), 12) for id in shown.tolist()]

    def draw(figure: Any) -> None:
        bars, chart = figure.subplots(1, 2, width_ratios=(1, 2.2))
        _draw_bars(bars, rows, chance)
        chart.scatter(*place_MP.T, s=0)
        for id, (x, y), label in zip(shown.tolist(), place_MP, labels, strict=True):
            colour = RED if id in asked[:_GROUPS] else DARK
            chart.text(x, y, label, fontsize=10, color=colour, ha="center", va="center")
        first, second = (f"principal axis {at} ({share:.0%} of the variance)" for at, share in enumerate(shares, 1))
        bare(chart, first, second, f"{len(shown)} tokens; red: those on the left")

    note = f"vectors of {table_VE.shape[1]} features; of as many random ones the nearest has a cosine of {chance:.2f}"
    return Picture(f"The embedding of {subject(lm)}", rows, draw, (13, 6.5), note)


def principal_axes(table_ME: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places on the two main axes of some vectors, (M, 2), and the shares of the variance that these explain."""
    u_MM, size_M, _ = np.linalg.svd(table_ME - table_ME.mean(0), full_matrices=False)
    total = float((size_M**2).sum()) or 1.0
    return (u_MM * size_M)[:, :2], size_M[:2] ** 2 / total


def _draw_bars(axes: Any, rows: Sequence[Mapping[str, Any]], chance: float) -> None:
    """The neighbours of the first tokens, a group each."""
    groups = dict.fromkeys(row["token"] for row in rows)
    shown = [(at, row) for at, row in enumerate(rows) if row["token"] in [*groups][:_GROUPS]]
    group = [[*groups].index(row["token"]) for _, row in shown]
    places = np.arange(len(shown)) + 0.8 * np.array(group)
    axes.barh(places, [row["cosine"] for _, row in shown], color=[(BLUE, GREY)[at % 2] for at in group], height=0.8)
    axes.set_yticks(places, [token_label(row["neighbour"], 12) for _, row in shown], fontsize=8)
    for token in [*groups][:_GROUPS]:
        at = [place for place, (_, row) in zip(places, shown, strict=True) if row["token"] == token]
        axes.text(1.0, (at[0] + at[-1]) / 2, token_label(token, 12), color=RED, va="center", ha="right", fontsize=12)
    axes.set_xlim(min(0.0, *(row["cosine"] for _, row in shown)), 1)
    axes.invert_yaxis()
    axes.axvline(chance, color=DARK, linestyle=":", linewidth=1.2)
    axes.set_axisbelow(True)
    bare(axes, "cosine", "neighbour", "of the token in red; dotted: chance")
