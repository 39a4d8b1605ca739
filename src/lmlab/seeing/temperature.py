"""The next token under several temperatures, and what a chain of processors leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmlab.decoding import Branch, Rows, chain_of
from lmlab.decoding.chain import normal, run
from lmlab.errors import MissingExtraError, SettingError, check_integer
from lmlab.models.readers import reader_of
from lmlab.seeing.picture import Picture, Seen, subject
from lmlab.seeing.style import BLUE, GREY, bare, token_label
from lmlab.vocabulary import NEVER_PREDICTED


@dataclass(frozen=True, eq=False, repr=False)
class Temperatures(Picture):
    """The picture, and in a notebook a slider."""

    at: Callable[[float], Picture] | None = None

    def slider(self, highest: float = 2.0) -> Any:
        """One panel that follows a slider from temperature 0 (greedy) up, as a widget of ipywidgets.

        Raises:
            MissingExtraError: ipywidgets is not installed.
        """
        try:
            from ipywidgets import FloatSlider, Image, VBox
        except ImportError as error:
            raise MissingExtraError("a slider", "notebook") from error
        assert self.at is not None
        slider = FloatSlider(1.0, min=0.0, max=highest, step=0.05, description="temperature", continuous_update=False)
        image, at = Image(value=self.at(1.0)._repr_png_(), format="png"), self.at

        def redraw(change: Any) -> None:
            image.value = at(change["new"])._repr_png_()

        slider.observe(redraw, "value")
        return VBox([slider, image])


def temperature(
    lm: Seen,
    prompt: str = "",
    *,
    temperatures: tuple[float, ...] = (0.5, 0.8, 1.0, 1.5),
    chain: str = "",
    k: int = 12,
) -> Temperatures:
    """The likeliest next tokens after a prompt, under several temperatures.

    In a notebook `lm.plot.temperature("to be").slider()` moves the temperature.

    Args:
        lm: the model.
        prompt: text from the beginning of a document on; may be empty.
        temperatures: what logits are divided by, a panel each.
        chain: processors that follow the temperature, as `top_k=40,top_p=0.9`: what they cut is shown faint.
        k: how many tokens.

    Raises:
        SettingError: a negative temperature, or none, or k below 1.
        UsageError: the prompt has what the vocabulary lacks.
    """
    check_integer("k", k)
    if not temperatures:
        raise SettingError("temperatures", temperatures, "at least one number >= 0")
    ids = lm.ids(prompt)
    logp_V = reader_of(lm.model).start([ids])[0][0].astype(np.float64)
    order = [id for id in np.argsort(-logp_V, kind="stable").tolist() if id not in NEVER_PREDICTED][:k]
    heated = [_heated(lm, ids, logp_V, f"temperature={value:g}") for value in temperatures]
    left = [_heated(lm, ids, logp_V, f"temperature={value:g},{chain}") for value in temperatures]
    tokens = [lm.tokenizer.token_text(id) for id in order]
    rows = [
        {"token": token, "p": float(np.exp(logp_V[id]))}
        | {f"p at {value:g}": float(p_V[id]) for value, p_V in zip(temperatures, left, strict=True)}
        for token, id in zip(tokens, order, strict=True)
    ]
    kept = [int(np.count_nonzero(p_V)) for p_V in left]

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(temperatures), sharey=True, squeeze=False)[0]
        places = range(len(order))
        for axes, value, before_V, after_V, count in zip(panels, temperatures, heated, left, kept, strict=True):
            axes.barh(places, before_V[order], color=GREY, alpha=0.5, height=0.75)
            axes.barh(places, after_V[order], color=BLUE, height=0.45)
            for place, id in enumerate(order):
                axes.text(max(before_V[id], after_V[id]), place, f" {after_V[id]:.3f}", va="center", fontsize=8)
            bare(axes, "probability", note=f"temperature {value:g}: {count:,} tokens")
            axes.set_xlim(0, 1.25 * max(before_V.max(), after_V.max()))
        panels[0].set_yticks(places, [token_label(token) for token in tokens])
        panels[0].invert_yaxis()

    after = f" after {chain}" if chain else ""
    title = f"What follows {prompt!r}{after} · {subject(lm)}"
    size = (2.9 * len(temperatures) + 1, 0.3 * len(order) + 1.4)
    note = "wide and grey: the temperature alone; blue: after the chain"
    return Temperatures(
        title, rows, draw, size, note, at=lambda value: temperature(lm, prompt, temperatures=(value,), chain=chain, k=k)
    )


def _heated(lm: Seen, ids: list[int], logp_V: Any, chain: str) -> Any:
    """Probabilities after a chain."""
    rows = Rows([ids], [Branch.root()], lm.model.eos)
    *_, (_, _, last_BV) = run(chain_of(chain), rows, logp_V[None])
    return np.exp(normal(last_BV)[0])
