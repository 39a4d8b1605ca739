"""Who remembers for 200 positions? The adding problem by the LSTM and the plain RNN; and parity.

    python benchmarks/adding.py -o docs/pictures/adding.png

Two of 200 numbers are marked; the answer is their sum (Hochreiter and Schmidhuber 1997). All learn from the same 20,000
sequences in the same batches of 32, and are judged on 1,000 others. Guessing the mean costs the variance, 0.167.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import machine, table
from lmlab.classify import LSTMModel, RNNModel, adding, fit_numbers, parity
from lmlab.classify.many_to_one import ManyToOne
from lmlab.seeing.picture import Picture
from lmlab.seeing.style import COLOURS, DASHES, GREY, bare

LENGTH, STEPS, HIDDEN, BITS = 200, 1_000, 64, 10
SOLVED = 0.01  # squared error: a sixteenth of the variance
Made = Callable[[], ManyToOne]
MODELS: dict[str, tuple[Made, float]] = {
    f"LSTM, gates that remember {LENGTH} positions": (lambda: LSTMModel(2, HIDDEN, 1, 1).remember(LENGTH), 1e-2),
    "LSTM, small random biases": (lambda: LSTMModel(2, HIDDEN, 1, 1), 1e-2),
    "plain RNN, learning rate 0.01": (lambda: RNNModel(2, HIDDEN, 1, 1), 1e-2),
    "plain RNN, learning rate 0.001": (lambda: RNNModel(2, HIDDEN, 1, 1), 1e-3),
}


def add(name: str, steps: int) -> dict[str, Any]:
    """Learning curve, squared error on other sequences, seconds."""
    made, lr = MODELS[name]
    torch.manual_seed(0)
    model, began = made(), time.perf_counter()
    losses = fit_numbers(model, *adding(20_000, LENGTH), steps=steps, lr=lr)
    x_NTE, y_N = adding(1_000, LENGTH, seed=1)
    with torch.inference_mode():
        error = float((model(x_NTE)[:, 0] - y_N).square().mean())
    return {"model": name, "losses": losses, "error": error, "seconds": time.perf_counter() - began}


def odd(kind: type[ManyToOne], steps: int) -> float:
    """Accuracy on other rows of bits, after learning whether the number of ones is odd."""
    torch.manual_seed(0)
    model = kind(1, 32, 1, 2)
    fit_numbers(model, *parity(20_000, BITS), steps=steps, lr=1e-2)
    bits_NTE, odd_N = parity(1_000, BITS, seed=1)
    with torch.inference_mode():
        return float((model(bits_NTE).argmax(1) == odd_N).float().mean())


def picture(rows: list[dict[str, Any]], steps: int) -> Picture:
    """The squared error against the steps, on a logarithmic axis."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for row, colour, dash in zip(rows, COLOURS, DASHES, strict=False):
            at = [steps * (nth + 1) / len(row["losses"]) for nth in range(len(row["losses"]))]
            axes.semilogy(at, row["losses"], dash, color=colour, label=f"{row['model']}: {row['error']:.2g} at the end")
        axes.axhline(1 / 6, color=GREY, linewidth=1)
        axes.text(steps, 1 / 6 * 1.5, "guessing the mean", ha="right", va="bottom", color=GREY, fontsize=9)
        axes.legend(frameon=False, fontsize=9, loc="lower left")
        bare(axes, "steps of 32 sequences", "mean squared error")

    return Picture(f"The adding problem, {LENGTH} positions, {HIDDEN} hidden units", rows, draw)


def main() -> None:
    """Train all, draw, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/pictures/adding.png"), metavar="FILE")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each network")
    options = parser.parse_args()
    rows = []
    for name in MODELS:
        rows.append(add(name, options.steps))
        print(f"{name}: {rows[-1]['error']:.2g}", file=sys.stderr)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture(rows, options.steps).save(options.out)
    told = [
        [row["model"], f"{row['error']:.2g}", "yes" if row["error"] < SOLVED else "no", f"{row['seconds']:.0f}"]
        for row in rows
    ]
    print(table([f"adding, {LENGTH} positions", "squared error", "solved", "seconds"], told))
    kinds = {"LSTM": LSTMModel, "plain RNN": RNNModel}
    print()
    print(
        table([f"parity of {BITS} bits", "accuracy"], [[n, f"{odd(k, options.steps):.3f}"] for n, k in kinds.items()])
    )
    print(f"\n{machine()}; {options.steps:,} steps each\n{options.out}")


if __name__ == "__main__":
    main()
