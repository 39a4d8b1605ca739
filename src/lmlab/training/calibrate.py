"""Temperature scaling (Guo et al. 2017): one number, fitted to held-out text when training is done.

A model that has read its text several times is overconfident on other text. Logits divided by a temperature above 1
mend that and change no ranking. A text's nats are convex in the inverse of the temperature, so three values of it and
a parabola find the best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lmlab.models.neural.base import NeuralModel
from lmlab.tokens.batches import Batch

ENOUGH = 20_000
"""Tokens that are read, at most."""
READINGS = 2
"""How often."""
_TRIED = (0.8, 1.0, 1.2)  # inverse temperatures


@torch.no_grad()
def calibrate(model: NeuralModel, held_out: Sequence[Batch]) -> tuple[float, float]:
    """Give a model the calibration temperature that suits a text best.

    Args:
        model: in evaluation mode; changed in place where another temperature than 1 is better.
        held_out: batches of the text, in order.

    Returns:
        Nats/token before and after, on the beginning of the text.
    """
    nats = _nats(model, held_out, _TRIED)
    before = nats[_TRIED.index(1.0)]
    bend, slope, _ = np.polyfit(_TRIED, nats, 2)
    best = float(np.clip(-slope / (2 * bend), *_TRIED[::2])) if bend > 0 else _TRIED[int(np.argmin(nats))]
    (after,) = _nats(model, held_out, (best,))
    model.temperature = 1 / best if after < before else 1.0
    return before, min(before, after)


def _nats(model: NeuralModel, held_out: Sequence[Batch], tried: Sequence[float]) -> list[float]:
    """Nats/token with each inverse temperature, from one reading."""
    nats, tokens, state = np.zeros(len(tried)), 0, None
    for batch in held_out:
        features_BTH, state = model.read(batch.ids_BT, state if batch.carry else None)
        features_NH, targets_N = features_BTH.flatten(0, 1), batch.targets_BT.flatten()
        for nth, inverse in enumerate(tried):
            model.temperature = 1 / inverse
            nats[nth] += model.output.nats(features_NH, targets_N).item()
        tokens += batch.tokens
        if tokens >= ENOUGH:
            break
    return list(nats / max(1, tokens))
