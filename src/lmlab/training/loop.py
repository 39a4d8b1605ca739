"""The loop of training: steps, and between them events, evaluations, checkpoints and changes of plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lmlab.models.neural.base import NeuralModel
from lmlab.models.neural.dropout import drop
from lmlab.train_settings import TrainSettings
from lmlab.training.checkpoint import Keeper, Progress
from lmlab.training.events import Began, Ended, Evaluated, Event, Listener, Sampled, Stepped
from lmlab.training.machine import Interrupt
from lmlab.training.optim import dropout_times, learning_rate
from lmlab.training.plan import Plan, Replanner
from lmlab.training.ranks import Ranks
from lmlab.training.stepper import Stepper, check_finite
from lmlab.training.validation import Validation

_LOGS = 200  # Stepped events of a whole run, about
_SAMPLES = 4  # Sampled events of a whole run, about
_ROUNDING = 1e-9  # of shares of a run


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `reason` is done, early or interrupted, by the signal of that number."""

    reason: str
    progress: Progress
    signal: int = 0


@dataclass
class Loop:
    """Trains a model from where its stepper stands to the end of the plan, and leaves its best weights in it.

    Attributes:
        model: trained in place, in evaluation mode at the end.
        settings: of rates, evaluations and patience.
        stepper: moves the weights and counts.
        plan: of steps.
        keeper: takes checkpoints and the best weights.
        validation: scores the validation split; None if there is none.
        replanner: changes the plan of a timed run; None where the plan stands.
        sample: writes texts with the model given; None writes none.
        listeners: receive every event.
        ranks: the processes that train together.
        seconds: tells the seconds spent so far.
    """

    model: NeuralModel
    settings: TrainSettings
    stepper: Stepper
    plan: Plan
    keeper: Keeper
    validation: Validation | None
    replanner: Replanner | None
    sample: Callable[[NeuralModel], Sequence[str]] | None
    listeners: Sequence[Listener]
    ranks: Ranks
    seconds: Callable[[], float]

    def run(self, interrupt: Interrupt) -> Outcome:
        """Train to the end of the plan, until validation stays worse (early), or until asked to stop (interrupted).

        Raises:
            NonFiniteError: a loss became NaN or infinite.
        """
        progress = self.stepper.progress
        if progress.step == 0:
            self._save()
        self._tell(
            Began(
                progress.step,
                self.plan.total,
                self.model.parameter_count,
                progress.precision,
                progress.threads,
                self.seconds(),
                progress.row_blocks,
                self.ranks.count,
                self.model.device.type,
            )
        )
        if progress.step == 0 and (self.settings.evaluate_every or not self.plan.total):
            self._evaluate(0)
        reason = self._steps(interrupt)
        if reason != "interrupted":
            self._save()
            if progress.best_nats is None:
                self.keeper.keep_best()
        self.keeper.restore_best()
        self.model.eval()
        self._tell(
            Ended(progress.step, reason, progress.best_nats, progress.best_step, progress.tokens, self.seconds())
        )
        return Outcome(reason, progress, interrupt.signal)

    def _steps(self, interrupt: Interrupt) -> str:
        settings, progress, keeper = self.settings, self.stepper.progress, self.keeper
        began = progress.step, progress.tokens, self.seconds()
        nats, tokens, share = 0.0, 0, self.plan.progress(progress.step)
        self.model.train()
        # patience is asked before a step, so that a run resumed after it ran out makes none
        while settings.patience is None or progress.worse < settings.patience:
            if progress.step >= self.plan.total:
                return "done"
            before, share = share, self.plan.progress(progress.step + 1)
            drop(self.model, dropout_times(settings, share))
            step_nats, step_tokens = self.stepper.step(learning_rate(settings, share))
            nats, tokens = nats + step_nats, tokens + step_tokens
            if self.replanner is not None and self.ranks.agree(self.replanner.due):
                self.plan = self.replanner.replanned(self.plan, progress.step)
                progress.plan = str(self.plan)
            if self._due(_LOGS, before, share):
                self._tell(self._stepped(nats / max(1, tokens), *began))
                nats, tokens = 0.0, 0
            if self._evaluation_due(before, share):
                self._evaluate(_whole_parts(share, progress.evaluations))
            asked, save = self.ranks.total(interrupt.signal > 0, keeper.due)
            if asked or save:
                self._save()
            if asked:
                return "interrupted"
        return "early"

    def _due(self, times: int, before: float, share: float) -> bool:
        """Whether this step ends one of `times` equal parts of the run; the last step always does.

        Shares of the run, before the step and after it, never fall, so a plan that changes brings no part twice.
        """
        if not times:
            return False
        ended = self.stepper.progress.step >= self.plan.total
        return ended or _whole_parts(share, times) > _whole_parts(before, times)

    def _evaluation_due(self, before: float, share: float) -> bool:
        every, step = self.settings.evaluate_every, self.stepper.progress.step
        if every is None:
            return self._due(self.stepper.progress.evaluations, before, share)
        return step % every == 0 or step >= self.plan.total

    def _evaluate(self, nth: int) -> None:
        """Score the validation split, keep the weights if they are the best, write samples now and then."""
        progress = self.stepper.progress
        if self.validation is not None:
            nats = self.validation.nats(progress.validation_tokens)
            if self.replanner is not None:
                self.replanner.measured(self.validation.seconds_a_token)
            check_finite("validation loss", nats, progress.step, saved=self.stepper.saved)
            best = progress.best_nats is None or nats < progress.best_nats
            if best:
                progress.best_nats, progress.best_step, progress.worse = nats, progress.step, 0
                self.keeper.keep_best()
            else:
                progress.worse += 1
            self._tell(Evaluated(progress.step, nats, best, self.seconds()))
        each = self.settings.evaluate_every or not progress.evaluations
        if self.sample is not None and (each or nth % -(-progress.evaluations // _SAMPLES) == 0):
            with torch.random.fork_rng(devices=[]):
                texts = self.sample(copy.deepcopy(self.model).to("cpu").eval())
            for text in texts:
                self._tell(Sampled(progress.step, text))
        self._save()

    def _save(self) -> None:
        self.keeper.save(self.stepper.progress, self.stepper.tensors())

    def _stepped(self, nats: float, from_step: int, from_tokens: int, since: float) -> Stepped:
        progress, total, now = self.stepper.progress, self.plan.total, self.seconds()
        return Stepped(
            step=progress.step,
            total_steps=total,
            train_nats=nats,
            lr=learning_rate(self.settings, self.plan.progress(progress.step)),
            epoch=self.stepper.epochs,
            tokens=progress.tokens,
            tokens_per_second=(progress.tokens - from_tokens) / max(1e-9, now - since),
            seconds=now,
            remaining=(now - since) / (progress.step - from_step) * (total - progress.step),
        )

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def _whole_parts(share: float, times: int) -> int:
    return int(share * times + _ROUNDING)
