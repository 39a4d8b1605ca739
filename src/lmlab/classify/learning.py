"""Training many-to-one networks by the loop that trains language models; rates by depth, and thawing.

Initial weights, batches and dropout hang on the seed alone, so the same steps give the same weights; a budget of
minutes takes as many steps as the machine makes.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lmlab import registry
from lmlab.classify.batches import Numbers, Texts
from lmlab.classify.many_to_one import ManyToOne, TextNetwork
from lmlab.classify.settings import ClassifierSettings
from lmlab.errors import UsageError
from lmlab.progress import Advance, Reporter
from lmlab.run_config import RunConfig
from lmlab.train_settings import TrainSettings
from lmlab.training.budget import Budget
from lmlab.training.events import Began, Evaluated, Event, Listener, Stepped
from lmlab.training.fit import Fit
from lmlab.training.optim import make_optimizer

_OF_LANGUAGE_MODELS = {
    *("batching", "batch_tokens", "length", "bucket", "carry", "restart", "calibration_temperature"),
    *("samples", "sample_prompt", "sample_temperature", "sample_count", "baseline", "tensorboard"),
}


def new_network(config: RunConfig, vocab_size: int, classes: int, own: ClassifierSettings, encoder: Any) -> TextNetwork:
    """A network over an encoder, or over a fresh one (None) with the weights that the seed gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if encoder is None:
            model_class = registry.resolve("model", config.model.kind)
            model_class.check_room(config.model.settings, vocab_size)
            encoder = model_class(config.model.settings, vocab_size)
        dropout = getattr(config.model.settings, "dropout", 0.0)
        return TextNetwork(copy.deepcopy(encoder).train(), classes, own.pool, dropout, own.max_tokens)


def fit(
    network: TextNetwork,
    train: Texts,
    valid: Texts | None,
    config: RunConfig,
    own: ClassifierSettings,
    reporter: Reporter,
    budget: Budget,
    afterwards: Mapping[str, float],
) -> dict[str, Any]:
    """Train in place; the weights of the best evaluation on the validation texts stay, if there are any.

    Args:
        network: fresh, or over the encoder of a language model.
        train: what is learned from.
        valid: what is evaluated on; None where nothing is held out.
        config: of training, and the seed.
        own: of the classifier.
        reporter: is told.
        budget: of the whole command.
        afterwards: stages of the budget after training, and how many texts each reads.

    Returns:
        What the manifest says: status, steps, seconds, the evaluations on the way.

    Raises:
        UsageError: a setting of training is named that a classifier has no use for.
        NonFiniteError: the loss became NaN or infinite.
    """
    settings, history, optimizer = config.train, list[dict[str, float]](), make_optimizer
    if unused := sorted(config.names_in("train") & _OF_LANGUAGE_MODELS):
        raise UsageError(f"train.{unused[0]} does nothing for a classifier", "leave it out")
    with reporter.stage("training", 1000, " ‰") as advance:
        listeners: list[Listener] = [_told(reporter, advance, history)]
        if own.start:
            settings, groups = replace(settings, row_blocks=1), network.depth_groups()
            optimizer = partial(ByDepth, groups, own.decay)
            listeners.append(_thawing(groups, own.frozen))
        held_out = None if valid is None else valid.in_order()[1]
        outcome = Fit(
            network,  # type: ignore[arg-type]  # has the loss and the device that the loop asks for
            train, settings, config.seed, validation=held_out, listeners=listeners, budget=budget,
            afterwards=afterwards, optimizer=optimizer,
        ).go()  # fmt: skip
    progress = outcome.progress
    return {
        "status": outcome.reason,
        "signal": outcome.signal,
        "steps": progress.step,
        "precision": progress.precision,
        "train_seconds": progress.seconds,
        "history": history,
    }


class ByDepth:
    """An optimiser for each group of parameters, from the output down; each at the rate of the one above over `decay`.

    Source: Howard and Ruder 2018, section 3.2 (discriminative fine-tuning).
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], decay: float, model: nn.Module, settings: Any) -> None:
        self._optimizers = [make_optimizer(nn.ParameterList(group), settings) for group in groups]
        self._decay = decay
        self.memory = {
            f"{nth}/{name}": tensor for nth, each in enumerate(self._optimizers) for name, tensor in each.memory.items()
        }

    def step(self, lr: float) -> None:
        """Move the parameters that have a gradient."""
        for nth, optimizer in enumerate(self._optimizers):
            optimizer.step(lr / self._decay**nth)


def _thawing(groups: Sequence[Sequence[nn.Parameter]], frozen: float) -> Listener:
    """Thaws one group after the other over a share of the steps (Howard and Ruder 2018, section 3.3)."""

    def hear(event: Event) -> None:
        if isinstance(event, Began | Stepped):
            share = event.step / max(1, event.total_steps)
            for nth, group in enumerate(groups):
                for parameter in group:
                    parameter.requires_grad_(share >= frozen * nth / max(1, len(groups) - 1))

    return hear


def _told(reporter: Reporter, advance: Advance, history: list[dict[str, float]]) -> Listener:
    """Shows how training goes, and keeps the evaluations."""

    def hear(event: Event) -> None:
        if isinstance(event, Began | Stepped):
            advance(1000 * event.step // max(1, event.total_steps))
        elif isinstance(event, Evaluated):
            history.append({"step": event.step, "valid_nats": event.valid_nats})
            reporter.say(f"  step {event.step:,}: {event.valid_nats:.4f} nats/text{' (best)' * event.best}")

    return hear


def fit_numbers(
    model: ManyToOne, x_NTE: Tensor, y_N: Tensor, steps: int, lr: float = 1e-3, seed: int = 0, batch_size: int = 32
) -> list[float]:
    """Train on sequences of numbers: classes by cross-entropy, real targets by squared error.

    Returns:
        The mean loss of each of 200 parts of training, or of each step where there are fewer.

    Raises:
        DataError: the input is NaN, infinite or of another shape.
        NonFiniteError: the loss became so.
    """
    losses: list[float] = []
    settings = TrainSettings(steps=steps, lr=lr, threads=1, precision="fp32")

    def hear(event: Event) -> None:
        if isinstance(event, Stepped):
            losses.append(event.train_nats)

    batches = Numbers(x_NTE, y_N, batch_size, seed)
    outcome = Fit(model, batches, settings, seed, listeners=[hear]).go()  # type: ignore[arg-type]  # as above
    if outcome.signal:  # half a training must not look like a whole one
        signal.raise_signal(outcome.signal)
    return losses
