"""How sharp a trained model's distribution should be: one number, fitted to held-out text when training is done.

A model that has read its text several times is surer of itself on other text than it should be. Logits multiplied by a
number below 1 mend that and change no ranking (Guo et al. 2017, temperature scaling; the number is 1/T). A text's nats
are convex in it, so three values and a parabola find it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lmlab.batches import Batch
from lmlab.models.neural.base import NeuralModel

ENOUGH = 50_000
"""Tokens that are read, at most."""
READINGS = 4
"""How often."""
_TRIED = (0.8, 1.0, 1.2)


@torch.no_grad()
def calibrate(model: NeuralModel, held_out: Sequence[Batch]) -> tuple[float, float]:
    """Give a model the sharpness that suits a text best.

    Args:
        model: in evaluation mode; changed in place where another sharpness is better.
        held_out: batches of the text, in order.

    Returns:
        Nats/token before and after, on the beginning of the text.
    """
    nats = [_nats(model, held_out, sharpness) for sharpness in _TRIED]
    before = nats[_TRIED.index(1.0)]
    bend, slope, _ = np.polyfit(_TRIED, nats, 2)
    best = float(np.clip(-slope / (2 * bend), *_TRIED[::2])) if bend > 0 else _TRIED[int(np.argmin(nats))]
    after = _nats(model, held_out, best)
    if not after < before:
        model.sharpness = 1.0
    return before, min(before, after)


def _nats(model: NeuralModel, held_out: Sequence[Batch], sharpness: float) -> float:
    model.sharpness = sharpness
    nats, tokens, state = 0.0, 0, None
    for batch in held_out:
        loss, after = model.loss(batch.ids_BT, batch.targets_BT, state if batch.carry else None)
        nats, tokens, state = nats + loss.item(), tokens + batch.tokens, after
        if tokens >= ENOUGH:
            break
    return nats / max(1, tokens)
