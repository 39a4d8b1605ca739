"""What the gates of a recurrent network do while it reads: heat maps, a unit a row, and how saturated they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lmlab.errors import check_integer
from lmlab.seeing.excerpt import excerpt
from lmlab.seeing.picture import Picture, Seen, subject
from lmlab.seeing.recurrence import GATES, check_index, recurrent, steps
from lmlab.seeing.style import BLUE, GREY, MAP, SIGNED_MAP, bare, token_label

_SHUT, _OPEN = 0.1, 0.9  # Karpathy, Johnson and Li 2016, section 4.2
_MOST_LABELS, _MOST_TOKENS = 80, 2_000
_ORDER = ("input", "forget", "output", "reset", "update", "candidate", "cell", "hidden")


@dataclass(frozen=True, eq=False)
class Gates:
    """What one layer computed at every position.

    Attributes:
        kind: rnn, lstm or gru.
        values: each (T, H), by name: of an LSTM input, forget, output, candidate, cell, hidden; of a GRU reset, update
            (1 keeps the state), candidate, hidden; of an RNN hidden.
    """

    kind: str
    values: Mapping[str, np.ndarray]

    def saturation(self, name: str) -> tuple[float, float]:
        """The shares of a gate's values below 0.1 and above 0.9; of what lies between -1 and 1 beyond 0.9."""
        array_TH = self.values[name]
        low = _SHUT if name in GATES else -_OPEN
        return float((array_TH < low).mean()), float((array_TH > _OPEN).mean())


@torch.inference_mode()
def gates_of(model: Any, ids: Sequence[int], layer: int = 0) -> Gates:
    """What a layer of a recurrent network computes while it reads ids, `<bos>` being the first.

    Raises:
        UsageError: the network has no recurrent layers.
        SettingError: it has not so many.
    """
    network = recurrent(model, "gates")
    check_index("layer", layer, network.recurrent.num_layers)
    read = [layers[layer] for layers in steps(network, torch.tensor(ids, device=network.device)[None])]
    names = [name for name in _ORDER if name in read[0]]
    return Gates(network.cell, {name: torch.cat([step[name] for step in read]).cpu().numpy() for name in names})


def gates(lm: Seen, *, text: str = "", layer: int = 0, units: tuple[int, ...] = (), tokens: int = 60) -> Picture:
    """Gates, candidate and state of an LSTM, a GRU or an RNN at every token of a text, and histograms of all units.

    Args:
        lm: the run.
        text: what is read, from the beginning of a document on; empty is held-out text of the run.
        layer: counted from 0.
        units: the rows, counted from 0; empty are 24, evenly spread from those that keep longest to those that forget.
        tokens: how many are read.

    Raises:
        SettingError: a layer or a unit that is not there, or fewer than 2 tokens.
        UsageError: the model has no gates, or there is no text.
    """
    check_integer("tokens", tokens, 2, _MOST_TOKENS)
    network = recurrent(lm.model, "gates").recurrent
    check_index("layer", layer, network.num_layers)
    chosen = [check_index("unit", unit, network.hidden_size) for unit in units]
    ids = excerpt(lm, text, tokens)
    found = gates_of(lm.model, ids.tolist(), layer)
    chosen = chosen or _spread(found)
    labels = [lm.tokenizer.token_text(id) if at else "<bos>" for at, id in enumerate(ids.tolist())]
    rows = [
        {"position": at, "token": label, "unit": unit}
        | {name: float(array_TH[at, unit]) for name, array_TH in found.values.items()}
        for unit in chosen
        for at, label in enumerate(labels)
    ]

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(found.values), 2, squeeze=False, width_ratios=(6, 1))
        for (axes, beside), (name, array_TH) in zip(panels, found.values.items(), strict=True):
            last = name == [*found.values][-1]
            _draw_map(figure, axes, name, array_TH[:, chosen].T, chosen)
            axes.set_xticks(range(len(ids)) if last and len(ids) <= _MOST_LABELS else [])
            _draw_histogram(beside, name, array_TH, *found.saturation(name))
        if len(ids) <= _MOST_LABELS:
            panels[-1][0].set_xticklabels([token_label(label, 8) for label in labels], fontsize=8)
            for label in panels[-1][0].get_xticklabels():
                label.set_rotation(90 if len(label.get_text()) > 1 else 0)
        panels[-1][0].set_xlabel("token that was read")

    title = f"Inside layer {layer}: {subject(lm)}"
    note = f"{network.hidden_size} units; " + "; ".join(
        "{}: {:.0%} below {}, {:.0%} above 0.9".format(name, low, "0.1" if name in GATES else "-0.9", high)
        for name in found.values
        for low, high in [found.saturation(name)]
        if name != "cell"
    )
    height = max(1.2, 0.07 * len(chosen)) * len(found.values) + 1
    return Picture(title, rows, draw, (14, height), note)


def _spread(found: Gates) -> list[int]:
    """24 units, evenly spread from those that keep what they hold to those that do not."""
    hidden_TH = found.values["hidden"]
    keep_TH = found.values.get("forget", found.values.get("update", -np.abs(np.diff(hidden_TH, axis=0))))
    order = np.argsort(-keep_TH.mean(0), kind="stable")
    spread: list[int] = order[np.linspace(0, len(order) - 1, min(24, len(order))).astype(int)].tolist()
    return spread


def _draw_map(figure: Any, axes: Any, name: str, array_UT: np.ndarray, units: Sequence[int]) -> None:
    gate = name in GATES
    most = 1.0 if name != "cell" else float(np.abs(array_UT).max()) or 1.0
    image = axes.imshow(
        array_UT, aspect="auto", cmap=MAP if gate else SIGNED_MAP, vmin=0 if gate else -most, vmax=most, rasterized=True
    )
    figure.colorbar(image, ax=axes, pad=0.01, aspect=12, ticks=(0, 0.5, 1) if gate else (-most, 0, most), format="%.2g")
    if len(units) <= 8:
        axes.set_yticks(range(len(units)), units, fontsize=8)
    else:
        axes.set_yticks([])
    axes.set_ylabel(f"{name}{' gate' if gate else ''}\n{'unit' if len(units) <= 8 else f'{len(units)} units'}")


def _draw_histogram(axes: Any, name: str, array_TH: np.ndarray, low: float, high: float) -> None:
    gate = name in GATES
    least, most = (0.0, 1.0) if gate else (-1.0, 1.0) if name != "cell" else (array_TH.min(), array_TH.max())
    _, edges, bars = axes.hist(array_TH.ravel(), bins=20, range=(least, most), color=GREY)
    for left, bar in zip(edges, bars, strict=False):
        if name != "cell" and (left >= _OPEN - 1e-6 or left < (_SHUT if gate else -_OPEN) - 1e-6):
            bar.set_color(BLUE)
    note = "values of all units" if name == "cell" else f"{low:.0%} | {high:.0%} saturated"
    bare(axes, note=note, grid=False)
    axes.set_yticks([])
