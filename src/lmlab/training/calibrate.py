"""Temperature scaling (Guo et al. 2017): one number, fitted to held-out text when training is done.

A model that has read its text several times is overconfident on other text. Logits divided by a temperature above 1
mend that and change no ranking. A text's nats are convex in the inverse of the temperature, so three values of it and
a parabola find the best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch

from lmlab.models.neural.base import NeuralModel
from lmlab.tokens.batches import Batch

ENOUGH = 20_000
"""Tokens that are read, at most."""
_TRIED = (0.8, 1.0, 1.2)  # inverse temperatures


@torch.no_grad()
def calibrate(model: NeuralModel, held_out: Sequence[Batch], seconds: float = math.inf) -> tuple[float, float, int]:
    """Give a model the calibration temperature that suits a text best.

    Args:
        model: in evaluation mode; changed in place where another temperature than 1 is better.
        held_out: batches of the text, in order.
        seconds: to take, about; one batch is read at least.

    Returns:
        Nats/token before and after, on so many tokens of the beginning of the text.
    """
    nats, tokens = _nats(model, held_out, _TRIED, ENOUGH, seconds / 2)
    before = nats[_TRIED.index(1.0)]
    bend, slope, _ = np.polyfit(_TRIED, nats, 2)
    best = float(np.clip(-slope / (2 * bend), *_TRIED[::2])) if bend > 0 else _TRIED[int(np.argmin(nats))]
    (after,), _ = _nats(model, held_out, (best,), tokens)
    model.temperature = 1 / best if after < before else 1.0
    return before, min(before, after), tokens


def _nats(
    model: NeuralModel, held_out: Sequence[Batch], tried: Sequence[float], enough: int, seconds: float = math.inf
) -> tuple[list[float], int]:
    """Nats/token with each inverse temperature, and of how many tokens, from one reading."""
    nats, tokens, state, began = np.zeros(len(tried)), 0, None, time.perf_counter()
    for batch in held_out:
        features_BTH, state = model.read(batch.ids_BT, state if batch.carry else None)
        features_NH, targets_N = features_BTH.flatten(0, 1), batch.targets_BT.flatten()
        for nth, inverse in enumerate(tried):
            model.temperature = 1 / inverse
            nats[nth] += model.output.nats(features_NH, targets_N).item()
        tokens += batch.tokens
        if tokens >= enough or time.perf_counter() - began > seconds:
            break
    return list(nats / max(1, tokens)), tokens
