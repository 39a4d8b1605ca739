"""The validation split during training: its mean surprisal, and what it costs to measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lmlab.models.neural.base import NeuralModel
from lmlab.tokens.batches import Batch
from lmlab.train_settings import TrainSettings
from lmlab.training.parallel import Loss
from lmlab.training.ranks import Ranks

_SHARE = 0.05  # of a timed run's budget goes to scoring the validation split, at most
_LEAST_TOKENS = 4096  # scored an evaluation, at least


class Validation:
    """Scores the validation split, in order from its start.

    Args:
        model: on the device where it is trained; in evaluation mode while it is scored.
        batches: of the whole split; each process scores its rows.
        precision: `bf16` or `fp32`.
        ranks: the processes that train together.
    """

    def __init__(self, model: NeuralModel, batches: Sequence[Batch], precision: str, ranks: Ranks) -> None:
        self._model, self._batches, self._ranks = model, batches, ranks
        self._precision, self._loss = precision, Loss(model)

    def nats(self, tokens: int) -> float:
        """Mean nats/token of the first batches that hold so many tokens."""
        nats, scored = self.score(tokens)
        return nats / max(1, scored)

    def score(self, tokens: int, *, precise: bool = False) -> tuple[float, int]:
        """Summed nats of the first batches that hold so many tokens, and how many they hold.

        Args:
            tokens: after which no further batch is scored.
            precise: compute in fp32 whatever the precision of training.
        """
        device, half = self._model.device, self._precision == "bf16" and not precise
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

    def seconds_a_token(self, clock: Callable[[], float], *, precise: bool = False) -> float:
        """What scoring a token takes, measured on a few thousand."""
        began, scored = clock(), self.score(_LEAST_TOKENS, precise=precise)[1]
        return (clock() - began) / max(1, scored)


def affordable_tokens(settings: TrainSettings, seconds_a_token: float, budget: float) -> int:
    """How many tokens an evaluation may score, so that all of them together stay within their share of a budget."""
    share = _SHARE * budget / max(1, settings.evaluations)
    return min(max(_LEAST_TOKENS, int(share / seconds_a_token)), settings.validation_tokens)
