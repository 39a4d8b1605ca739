"""Which component of a mixture predicted each token of a text."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np

from lmlab.errors import DataError, UsageError
from lmlab.models.mixture import Components
from lmlab.models.scorers import account_of, documents, scorer_of
from lmlab.seeing.picture import Picture, Seen, encoded, shown_text
from lmlab.seeing.style import COLOURS, DARK, bare, token_label

_MOST = 400  # tokens
_LINE = 50  # tokens
_HATCHES = ("", "////", "....", "xxxx")  # for a grey printer


def mixture(lm: Seen, text: str = "", *, on: Any = None, mix: tuple[str, ...] = (), adapt: str = "") -> Picture:
    """Each component's share in the probability that a mixture gives each token of a text.

    A component's share is its weight times its own probability, over the sum of these. Where its share lies above its
    weight (the lines), the token spoke for it.

    Args:
        lm: a mixture, such as the last run of `lmlab compare -o`; or any run with `mix`.
        text: of at most 400 tokens; the beginning of the run's held-out text where none is named.
        on: a source in its place, such as a file or - for standard input.
        mix: other runs of the same vocabulary, each with its weight if wanted, as in runs/kn6:0.3.
        adapt: how they adapt as they read, as in dynamic+online.

    Raises:
        UsageError: the run is no mixture.
        DataError: the text is longer.
    """
    lm = lm.composed(adapt or None, mix)
    model: Any = lm.model
    if not isinstance(model, Components):
        kind = lm.config.model.kind
        remedy = "mix another in with --mix RUN, or name the mixture that lmlab compare -o writes"
        raise UsageError(f"this run is no mixture but one {kind}", remedy)
    name, texts = shown_text(lm, text, on, 40 * _MOST, 150)
    store = encoded(lm, texts)
    if store.tokens > _MOST:
        problem = f"{name} has {store.tokens:,} tokens, but this picture has room for {_MOST}"
        raise DataError(problem, "show less of it; lmlab plot surprisal has room for more")
    logp_MN = np.stack([np.concatenate([*scorer_of(each).token_logp(store.ids)]) for each in model.components])
    logp_N = np.concatenate([*scorer_of(lm.model).token_logp(store.ids)])
    weight_MN = np.concatenate([account_of(lm.model, ids_N)["weights"] for ids_N in documents(store.ids)]).T.clip(0)
    weight_MN /= weight_MN.sum(0)
    joint_MN = weight_MN * np.exp(logp_MN)
    share_MN = joint_MN / joint_MN.sum(0)
    runs = _named(lm, len(model.components))
    tokens = lm.score(texts).columns["text"]
    rows = [
        {"token": token, "bits": float(-logp / np.log(2)), "component": runs[int(share_M.argmax())]}
        | {f"share of {run}": float(share) for run, share in zip(runs, share_M, strict=True)}
        | {f"weight of {run}": float(weight) for run, weight in zip(runs, weight_M, strict=True)}
        for token, logp, share_M, weight_M in zip(tokens, logp_N, share_MN.T, weight_MN.T, strict=True)
    ]

    def draw(figure: Any) -> None:
        lines = range(0, len(tokens), _LINE)
        panels = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
        for axes, first in zip(panels, lines, strict=True):
            part = slice(first, first + _LINE)
            places, below = np.arange(len(tokens[part])), np.zeros(len(tokens[part]))
            edges = np.append(places, len(places)) - 0.5
            looks = zip(runs, share_MN[:, part], cycle(COLOURS), cycle(_HATCHES), strict=False)
            for run, share_N, colour, hatch in looks:
                look = {"width": 1, "edgecolor": "white", "linewidth": 0.3, "hatch": hatch}
                axes.bar(places, share_N, bottom=below, color=colour, label=run, **look)
                below = below + share_N
            for weight_N in weight_MN[:-1, part].cumsum(0):
                axes.stairs(weight_N, edges, baseline=None, color=DARK, linewidth=1)
            axes.set_xticks(places, [token_label(token, 9) for token in tokens[part]], fontsize=8)
            if max(map(len, tokens[part]), default=0) > 2 and any(len(token) > 2 for token in tokens[part][:-1]):
                axes.tick_params(axis="x", rotation=90)
            bare(axes, "", "share", grid=False)
            axes.set(xlim=(-0.5, _LINE - 0.5), ylim=(0, 1))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)

    total = -logp_N.sum() / np.log(2)
    title = f"Which component predicted {name} · {' + '.join(runs)}: {total:,.1f} bits; lines: their weights"
    height = 1.2 * -(-len(tokens) // _LINE) + 1.0
    return Picture(title, rows, draw, (11, height), "share: weight times own probability, over their sum")


def _named(lm: Seen, count: int) -> list[str]:
    """Short names of the components."""
    own = lm.folder.name if lm.folder else lm.config.model.kind
    mixed = [
        own if each["component"] == "this run" else each["component"] for each in lm.composition.get("mixture", ())
    ]
    short = [name.rpartition("/")[2] for name in mixed or lm.manifest["results"].get("weights", ())]
    return short if len(set(short)) == count else [f"component {number}" for number in range(1, count + 1)]
