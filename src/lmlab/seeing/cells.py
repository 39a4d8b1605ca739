"""Units of a recurrent network that follow a feature of the text, and a text coloured by one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lmlab.errors import DataError, check_integer
from lmlab.report.html import escape
from lmlab.seeing.excerpt import documents
from lmlab.seeing.features import FEATURES, feature_of
from lmlab.seeing.picture import Picture, Seen, subject
from lmlab.seeing.recurrence import check_index, recurrent, steps
from lmlab.seeing.style import BLUE, GREY, SIGNED_MAP, bare, plain
from lmlab.tokens.stream import TextStream

_COLUMNS, _MOST_LINES, _MOST_TOKENS, _BARS = 88, 24, 200_000, 10


@torch.inference_mode()
def cells_of(model: Any, ids: Sequence[int], layer: int = 0) -> np.ndarray:
    """What each unit of a layer remembers after each id, (T, H): tanh(c) of an LSTM, the hidden state of others.

    Raises:
        UsageError: the network has no recurrent layers.
        SettingError: it has not so many.
    """
    network = recurrent(model, "cells")
    check_index("layer", layer, network.recurrent.num_layers)
    read = (layers[layer] for layers in steps(network, torch.tensor(ids, device=network.device)[None]))
    held = [step["cell"].tanh() if "cell" in step else step["hidden"] for step in read]
    cells_TH: np.ndarray = torch.cat(held).cpu().numpy()
    return cells_TH


def correlations(cells_TH: np.ndarray, feature_T: np.ndarray) -> np.ndarray:
    """Pearson's correlation of every unit with a feature, (H,); 0 where either is constant."""
    x_TH, y_T = cells_TH - cells_TH.mean(0, dtype=np.float64), feature_T - feature_T.mean()
    norm_H = np.linalg.norm(x_TH, axis=0) * np.linalg.norm(y_T)
    r_H: np.ndarray = np.divide(y_T @ x_TH, norm_H, out=np.zeros(cells_TH.shape[1]), where=norm_H > 1e-9)
    return r_H


def cells(
    lm: Seen,
    *,
    feature: str = "line",
    text: str = "",
    layer: int = 0,
    unit: int | None = None,
    k: int = _BARS,
    tokens: int = 8_000,
) -> Picture:
    """Units ranked by how they follow a feature of the text, and a text coloured by one of them.

    Units are ranked by the correlation on the first half of what is read; that of the second half is told beside it,
    since the best of many is too good where it was chosen.

    Args:
        lm: the run.
        feature: quotes (1 inside double quotes), brackets (how many stand open), line (characters since the newline),
            indent (of the line), word (letters since it began) or capitals (1 in a run of them).
        text: what is read, from the beginning of a document on; empty is held-out text of the run.
        layer: counted from 0.
        unit: whose colours are shown, counted from 0; the first of the ranking where none is named.
        k: how many units are ranked.
        tokens: how many are read.

    Raises:
        SettingError: a layer or a unit that is not there.
        UsageError: the model has no cells, there is no text, or no such feature.
        DataError: the feature does not change in what is read.
    """
    check_integer("tokens", tokens, 4, _MOST_TOKENS)
    network = recurrent(lm.model, "cells").recurrent
    check_index("layer", layer, network.num_layers)
    check_integer("k", k, 1, network.hidden_size)
    if unit is not None:
        check_index("unit", unit, network.hidden_size)
    feature_of((), feature)
    read = documents(lm, text, tokens)
    texts = [_texts(lm, ids_N[1:].tolist()) for ids_N in read]
    feature_T = np.concatenate([feature_of(each, feature) for each in texts])
    cells_TH = np.concatenate([cells_of(lm.model, ids_N.tolist(), layer)[1:] for ids_N in read])
    half = len(feature_T) // 2
    for part, values in (("first", feature_T[:half]), ("second", feature_T[half:])):
        if not len(values) or values.min() == values.max():
            problem = f"{feature!r} never changes in the {part} half of the {len(feature_T):,} tokens read"
            raise DataError(problem, f"name another of {', '.join(FEATURES)}, more tokens, or a text that has it")
    chosen_H, held_H = (correlations(cells_TH[part], feature_T[part]) for part in (slice(half), slice(half, None)))
    best = np.argsort(-np.abs(chosen_H), kind="stable")[:k].tolist()
    shown = best[0] if unit is None else unit
    rows = [
        {"unit": at, "r, first half": float(chosen_H[at]), "r, second half": float(held_H[at])}
        for at in dict.fromkeys([*best, shown])
    ]
    pieces = [piece for each in texts for piece in each][half:] if not text else texts[0]
    value_T = cells_TH[half if not text else 0 :, shown]

    def draw(figure: Any) -> None:
        ranking, page = figure.subplots(1, 2, width_ratios=(1, 4.2))
        places = np.arange(len(best))
        ranking.barh(places, np.abs(chosen_H[best]), color=GREY, alpha=0.6, height=0.75)
        ranking.barh(places, np.abs(held_H[best]), color=BLUE, height=0.45)
        ranking.set_yticks(places, [f"{at} {'+' if held_H[at] >= 0 else '-'}" for at in best])
        ranking.invert_yaxis()
        ranking.set_xlim(0, 1)
        ranking.set_axisbelow(True)
        bare(ranking, f"|r| with {feature!r}", "unit, and its sign", "grey: chosen here; blue: unseen")
        _write(figure, page, pieces, value_T)
        what = "tanh of cell" if lm.config.model.kind == "lstm" else "hidden state of unit"
        page.set_title(f"{what} {shown} after each token", fontsize=10, loc="left")

    title = f"Units that follow {feature!r}, layer {layer} · {subject(lm)}"
    note = f"Pearson's r over {half:,} and {len(feature_T) - half:,} tokens, state carried within a document"
    lines = min(_MOST_LINES, sum(1 for _ in _laid_out(pieces)))
    return Picture(title, rows, draw, (13, max(3.4, 0.24 * lines + 0.9)), note, _html(title, pieces, value_T, shown))


def _texts(lm: Seen, ids: Sequence[int]) -> list[str]:
    """The text that each id adds, white space between words included."""
    stream = TextStream(lm.tokenizer)
    return [stream.push(id) for id in ids]


def _laid_out(pieces: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
    """The characters of each line: its column, the number of its token, and itself; long lines are broken."""
    line: list[tuple[int, int, str]] = []
    for number, piece in enumerate(pieces):
        for character in piece:
            if character == "\n":
                yield [*line, (len(line), number, "↵")]
                line = []
            else:
                line.append((len(line), number, character if character.isprintable() else "\ufffd"))
                if len(line) == _COLUMNS:
                    yield line
                    line = []
    if line:
        yield line


def _write(figure: Any, axes: Any, pieces: Sequence[str], value_T: np.ndarray) -> None:
    """A text, each character on the colour of its token's value."""
    lines = [line for line, _ in zip(_laid_out(pieces), range(_MOST_LINES), strict=False)]
    grid = np.full((len(lines), max(40, *map(len, lines))), np.nan)
    for row, line in enumerate(lines):
        for column, number, character in line:
            grid[row, column] = value_T[number]
            colour = "white" if abs(value_T[number]) > 0.7 else "#222222"
            faint = {"alpha": 0.35} if character == "↵" else {}
            axes.text(column, row, plain(character), ha="center", va="center", color=colour, fontsize=9,
                      family="monospace", **faint)  # fmt: skip
    image = axes.imshow(grid, aspect="auto", cmap=SIGNED_MAP, vmin=-1, vmax=1, interpolation="nearest", rasterized=True)
    figure.colorbar(image, ax=axes, pad=0.01, aspect=30, ticks=(-1, 0, 1))
    axes.axis("off")


def _html(title: str, pieces: Sequence[str], value_T: np.ndarray, unit: int) -> str:
    spans = []
    for piece, value in zip(pieces[:4_000], value_T.tolist(), strict=False):
        colour = ("rgba(209,96,61,{:.2f})" if value > 0 else "rgba(59,111,182,{:.2f})").format(abs(value))
        text = escape(piece).replace("\n", "↵\n")
        spans.append(f'<span style="background:{colour}" title="{value:+.3f}">{text}</span>')
    key = f"<p class='note'>Unit {unit}: red is positive, blue negative; the mouse shows the value.</p>"
    return f"<h2>{escape(title)}</h2>{key}<div class='tokens'>{''.join(spans)}</div>"
