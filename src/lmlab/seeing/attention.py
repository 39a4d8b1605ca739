"""What each token of a Transformer attends to: a map for every head of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.errors import UsageError, check_integer
from lmlab.kernels.neural.attention import rotate
from lmlab.models.hf import HuggingFaceModel
from lmlab.models.neural.transformer import Transformer
from lmlab.seeing.excerpt import excerpt
from lmlab.seeing.picture import Picture, Seen, subject
from lmlab.seeing.recurrence import check_index
from lmlab.seeing.style import MAP, token_label

_MOST_TOKENS, _MOST_LABELS = 256, 48


@torch.inference_mode()
def attention_of(model: Any, ids: Sequence[int]) -> np.ndarray:
    """Attention weights while ids are read, `<bos>` being the first: (layers, heads, T, T); each row sums to 1.

    Raises:
        UsageError: the model has no attention, or does not give its weights.
    """
    if isinstance(model, HuggingFaceModel):
        return model.attention_weights(ids).cpu().numpy()
    if not isinstance(model, Transformer):
        problem = f"attention is that of a Transformer, and this model is a {type(model).__name__}"
        raise UsageError(problem, "name a run of --model transformer, or hf:PATH_OR_NAME")
    maps: list[Tensor] = []
    hooks = [
        block.project.register_forward_hook(  # type: ignore[union-attr]
            lambda _module, _given, projected, block=block: maps.append(_weights(projected[0], block))
        )
        for block in model.blocks
    ]
    try:
        model.features(torch.tensor(ids, device=model.device)[None], model.initial_state(1, model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps).cpu().numpy()


def _weights(projected_TD: Tensor, block: Any) -> Tensor:
    """The softmax of a block's scores, (heads, T, T), from what its queries, keys and values are projected to."""
    length = len(projected_TD)
    q, k, _ = projected_TD.view(length, 3, block.heads, -1).permute(1, 2, 0, 3)
    q, k = (rotate(F.rms_norm(x, x.shape[-1:])[None], 0)[0] for x in (q, k))
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    distance = torch.arange(length, device=q.device)[:, None] - torch.arange(length, device=q.device)
    weights: Tensor = scores.masked_fill((distance < 0) | (distance >= block.window), -torch.inf).softmax(-1)
    return weights


def attention(lm: Seen, *, text: str = "", layer: int | None = None, tokens: int = 32) -> Picture:
    """Maps of a Transformer's attention: a row a token that reads, a column a token that is read, a panel a head.

    Args:
        lm: a Transformer of ours, or one of Hugging Face that gives its weights.
        text: what is read, from the beginning of a document on; empty is held-out text of the run.
        layer: counted from 0; all of them where none is named.
        tokens: how many are read.

    Raises:
        SettingError: a layer that is not there.
        UsageError: the model has no attention, or there is no text.
    """
    check_integer("tokens", tokens, 1, _MOST_TOKENS)
    depth = len(attention_of(lm.model, [lm.model.bos]))  # a model without it needs no text to say so
    layers = range(depth) if layer is None else [check_index("layer", layer, depth)]
    ids = excerpt(lm, text, tokens).tolist()
    weights_LATT = attention_of(lm.model, ids)
    labels = ["<bos>", *(lm.tokenizer.token_text(id) for id in ids[1:])]
    distance_TT = np.subtract.outer(np.arange(len(ids)), np.arange(len(ids)))
    rows = [
        {"layer": at, "head": head}
        | {"mean distance": float((map_TT * distance_TT).sum(1).mean()), "on itself": float(map_TT.diagonal().mean())}
        | {"on the one before": float(map_TT.diagonal(-1).mean()), "on <bos>": float(map_TT[:, 0].mean())}
        | {"entropy, bits": float(-(map_TT * np.log2(np.maximum(map_TT, 1e-30))).sum(1).mean())}
        for at in layers
        for head, map_TT in enumerate(weights_LATT[at])
    ]
    heads = weights_LATT.shape[1]

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(layers), heads, squeeze=False)
        for line, at in zip(panels, layers, strict=True):
            for head, axes in enumerate(line):
                image = axes.imshow(
                    weights_LATT[at, head] ** 0.5, cmap=MAP, vmin=0, vmax=1, aspect="auto", rasterized=True
                )
                axes.set_title(f"layer {at}, head {head}", fontsize=10)
                axes.set_xticks([])
                axes.set_yticks([])
                if len(ids) <= _MOST_LABELS:
                    shown = [token_label(label, 8) for label in labels]
                    axes.set_xticks(range(len(ids)), shown, fontsize=7)
                    if head == 0:
                        axes.set_yticks(range(len(ids)), shown, fontsize=7)
            line[0].set_ylabel("token that reads")
        for axes in panels[-1]:
            axes.set_xlabel("token that is read")
        for axes in panels.flat:
            for label in axes.get_xticklabels():
                label.set_rotation(90 if len(label.get_text()) > 1 else 0)
        marks = (0, 0.04, 0.25, 1)
        bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=40, ticks=[mark**0.5 for mark in marks])
        bar.ax.set_yticklabels([f"{mark:g}" for mark in marks])
        bar.set_label("weight (scale of square roots)")

    title = f"What each token attends to · {subject(lm)}"
    return Picture(title, rows, draw, (3.2 * heads + 1.5, 3.6 * len(layers) + 0.8), "means over the tokens that read")
