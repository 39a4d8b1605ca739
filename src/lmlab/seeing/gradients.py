"""How a gradient falls on its way back through time: RNN, LSTM and GRU, at initialisation and after training.

Backpropagation through time multiplies one Jacobian a step. Where these shrink vectors, the gradient vanishes, and
nothing is learned of what lies far back; where they stretch them, it explodes (Hochreiter 1991; Bengio, Simard and
Frasconi 1994; Pascanu, Mikolov and Bengio 2013). Clipping shortens the whole gradient, all lags alike: it bounds what
explodes and mends nothing that vanishes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lmlab.errors import SettingError, check_integer
from lmlab.seeing.excerpt import windows
from lmlab.seeing.picture import Picture, Seen, subject
from lmlab.seeing.recurrence import check_index, recurrent
from lmlab.seeing.style import BLUE, DARK, GREEN, RED, bare, plain
from lmlab.seeing.through_time import CELLS, Gradients, batch_norms, fresh, gradients_of

_COLOURS = {"rnn": RED, "lstm": BLUE, "gru": GREEN}
_DASHES = {"rnn": "-", "lstm": "-", "gru": "-."}  # beside the colour, for a printer
_TOLD = (1, 10, 20, 50, 100, 200)
_BEFORE, _MOST_LAGS, _BATCHES, _FLOOR = 32, 2_000, 16, 1e-30

_NORM = r"$\|\partial\,\mathrm{loss}_t\,/\,\partial h_{t-k}\|$ relative to $k = 0$"


def gradients(
    lm: Seen, *others: Seen, text: str = "", lags: int = 200, layer: int = 0, pieces: int = 32, scale: float = 1.0
) -> Picture:
    """The norm of d loss_t / d h_(t-k) for k = 0, 1, ...: of RNN, LSTM and GRU at initialisation, and of trained runs.

    Beside it the singular values of the recurrent matrices, and the norms that clipping compares. At initialisation the
    three cells have the settings of the first run, but for a cell that has a run of its own here.

    Args:
        lm: a run of an RNN, LSTM or GRU.
        *others: more of them.
        text: what is read, from the beginning of a document on; empty is each run's held-out text.
        lags: how far back.
        layer: counted from 0.
        pieces: how many pieces of the text are read; medians of these are drawn, and their quartiles.
        scale: what the fresh networks' recurrent matrices are multiplied by; 3 shows gradients that grow.

    Raises:
        SettingError: a layer that is not there, no lags, no pieces.
        UsageError: a model that is not recurrent, or a text too short for the lags.
    """
    for run in (lm, *others):
        check_index("layer", layer, recurrent(run.model, "gradients through time").recurrent.num_layers)
    check_integer("lags", lags, 1, _MOST_LAGS)
    check_integer("pieces", pieces, 1, 1_000)
    if not 0 < scale <= 1e3:
        raise SettingError("scale", scale, "a number above 0, at most 1000")
    runs = (lm, *others)
    of_kind = {run.model.cell: run for run in runs[::-1]}
    before = {kind: (fresh(of_kind.get(kind, lm), kind, scale), of_kind.get(kind, lm)) for kind in CELLS}
    after = {_name(run, runs): (run.model, run) for run in runs}
    found = {}
    for when, networks in (("fresh", before), ("trained", after)):
        for name, (network, run) in networks.items():
            train, ids_BT = run.config.train, windows(run, text, _BEFORE + lags + 2, pieces)
            batches = windows(run, text, min(train.length + 1, ids_BT.shape[1]), _BATCHES * train.batch_size)
            norm_N = batch_norms(network, batches, train.batch_size)
            found[name, when] = gradients_of(network, ids_BT, lags, layer), norm_N, network.cell
    clip = lm.config.train.clip_norm
    rows = [_row(name, when, *of, lags, clip) for (name, when), of in found.items()]

    def draw(figure: Any) -> None:
        (first, second), (third, fourth) = figure.subplots(2, 2)
        for axes, when in ((first, "fresh"), (second, "trained")):
            for (name, at), (gradients, _, cell) in found.items():
                if at == when:
                    _draw_fall(axes, name, gradients, cell)
            told = "at initialisation" + (f", recurrent matrices times {scale:g}" if scale != 1 else "")
            bare(axes, "lag $k$, in tokens", _NORM, told if when == "fresh" else "after training")
            axes.set_yscale("log")
            axes.legend(frameon=False, fontsize=9)
        low, high = zip(*(axes.get_ylim() for axes in (first, second)), strict=True)
        for axes in (first, second):
            axes.set_ylim(max(min(low), _FLOOR), max(high))
        for (name, when), (gradients, norm_N, cell) in found.items():
            style = {"color": _COLOURS[cell], "linestyle": ":" if when == "fresh" else _DASHES[cell]}
            label = plain(f"{name}, {when}")
            values = gradients.singular["candidate" if cell != "rnn" else "hidden"]
            third.plot(values, **style, label=label)
            fourth.plot(100 * (np.arange(len(norm_N)) + 0.5) / len(norm_N), np.sort(norm_N), **style, label=label)
        kind = "recurrent matrix; if gated, its candidate's block"
        bare(third, "number, from the largest", "singular value", kind)
        bare(fourth, "batches, %, from the smallest", "norm of the gradient of all weights", "batches as in training")
        third.set_yscale("log")
        fourth.set_yscale("log")
        low, high = fourth.get_ylim()
        fourth.set_ylim(min(low, 0.1), max(high, 10))
        if clip is not None:
            fourth.axhline(clip, color=DARK, linewidth=1)
            fourth.text(
                100, clip, f"clipping shortens to {clip:g} what lies above", ha="right", va="bottom", fontsize=9
            )
        third.legend(frameon=False, fontsize=9)

    title = f"Gradients through time, layer {layer} · {', '.join(after)} on {subject(lm).partition(' on ')[2]}"
    note = (
        f"medians of at most {pieces} pieces of {_BEFORE + lags + 2} tokens, relative to lag 0; gradient norms of "
        f"{_BATCHES} batches without dropout; clipping multiplies all lags by one number"
    )
    return Picture(title, rows, draw, (10.5, 7.5), note)


def _name(run: Seen, runs: tuple[Seen, ...]) -> str:
    kind: str = run.config.model.kind
    if sum(each.config.model.kind == kind for each in runs) == 1:
        return kind
    return run.folder.name if run.folder else f"{kind} {runs.index(run) + 1}"


def _row(
    name: str, when: str, gradients: Gradients, norm_N: np.ndarray, cell: str, lags: int, clip: float | None
) -> dict[str, Any]:
    """One network's figures: shares of the gradient that arrive, the recurrent matrix, clipping."""
    values = np.concatenate([*gradients.singular.values()])
    told = [lag for lag in _TOLD if lag <= lags]
    row = {"model": name, "when": when} | {f"log10, lag {lag}": _log10(gradients.share(lag)) for lag in told}
    row |= {"largest singular value": float(values.max()), "smallest": float(values.min())}
    row |= {"gradient norm": float(np.median(norm_N)), "largest norm": float(norm_N.max())}
    return row | ({} if clip is None else {"clipped": float((norm_N > clip).mean())})


def _log10(share: float) -> float:
    return math.log10(max(share, float(np.finfo(np.float64).tiny)))  # far back nothing is left, not even in float64


def _draw_fall(axes: Any, name: str, gradients: Gradients, cell: str) -> None:
    """The medians at each lag, of the hidden state between its quartiles."""
    colour, lags = _COLOURS[cell], np.arange(len(gradients.hidden_KB))
    low_K, middle_K, high_K = np.percentile(gradients.hidden_KB / gradients.hidden_KB[0], (25, 50, 75), axis=1)
    axes.plot(lags, middle_K, color=colour, linestyle=_DASHES[cell], linewidth=2, label=plain(name))
    axes.fill_between(lags, low_K, high_K, color=colour, alpha=0.15, linewidth=0)
    if gradients.cell_KB is not None:
        middle_K = np.median(gradients.cell_KB / gradients.cell_KB[0], axis=1)
        axes.plot(lags, middle_K, color=colour, linestyle="--", linewidth=1.2, label=plain(f"{name}, cell state"))
