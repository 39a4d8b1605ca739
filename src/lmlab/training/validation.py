"""The validation split during training: its mean surprisal, and what it costs to measure."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from lmlab.models.neural.base import NeuralModel
from lmlab.tokens.batches import Batch
from lmlab.train_settings import TrainSettings
from lmlab.training.parallel import Loss
from lmlab.training.ranks import Ranks

_SHARE = 0.05  # of a timed run's budget goes to scoring the validation split, at most
_LEAST_TOKENS = 2048  # scored an evaluation, at least
_LEAST_EVALUATIONS = 2


class Validation:
    """Scores the validation split, in order from its start.

    Args:
        model: on the device where it is trained; in evaluation mode while it is scored.
        batches: of the whole split; each process scores its rows.
        precision: `bf16` or `fp32`.
        ranks: the processes that train together.

    Attributes:
        seconds_a_token: what scoring one took when it was last done.
    """

    def __init__(self, model: NeuralModel, batches: Sequence[Batch], precision: str, ranks: Ranks) -> None:
        self._model, self._batches, self._ranks = model, batches, ranks
        self._precision, self._loss = precision, Loss(model)
        self.seconds_a_token = 0.0

    def nats(self, tokens: int) -> float:
        """Mean nats/token of the first batches that hold so many tokens."""
        began = time.perf_counter()
        nats, scored = self.score(tokens)
        self.seconds_a_token = (time.perf_counter() - began) / max(1, scored)
        return nats / max(1, scored)

    def score(self, tokens: int) -> tuple[float, int]:
        """Summed nats of the first batches that hold so many tokens, and how many they hold."""
        device, half = self._model.device, self._precision == "bf16"
        nats, scored, state = 0.0, 0, None
        self._model.eval()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            for batch in self._batches:
                mine = batch.rows(self._ranks.rank, self._ranks.count).to(device)
                loss, state = self._loss(mine, state if batch.carry else None)
                nats, scored = nats + loss.item(), scored + batch.tokens
                if scored >= tokens:
                    break
        self._model.train()
        return self._ranks.total(nats)[0], scored


def affordable(settings: TrainSettings, seconds_a_token: float, budget: float) -> tuple[int, int]:
    """How many evaluations stay within their share of a budget together, and how many tokens each scores."""
    share, most = _SHARE * budget / seconds_a_token, settings.evaluations
    tokens = min(max(_LEAST_TOKENS, int(share / max(1, most))), settings.validation_tokens)
    return min(most, max(_LEAST_EVALUATIONS, int(share / tokens))), tokens
