"""A run of training: what is decided before its first step, and the loop.

    outcome = Fit(model, batches, settings, seed=0, run=folder).go()

Everything that a later step depends on (weights, optimiser, place in the data, carried state, plan) is in a checkpoint,
and the masks of dropout hang on seed and step alone, so a resumed run ends with the same weights, bit for bit. What a
clock decided (steps, precision, threads, row blocks, tokens of an evaluation) is in it too. Several processes run this
same loop, each on its rows of every batch (`ranks.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lmlab.models.neural.base import NeuralModel
from lmlab.tokens.batches import Batch, Batches
from lmlab.train_settings import TrainSettings
from lmlab.training import machine
from lmlab.training.checkpoint import Checkpoint, Keeper, Progress
from lmlab.training.events import Listener
from lmlab.training.loop import Loop, Outcome
from lmlab.training.pace import Way, fastest, ways
from lmlab.training.plan import Plan, Replanner, named_plan, training_seconds
from lmlab.training.ranks import Ranks
from lmlab.training.stepper import Stepper
from lmlab.training.validation import Validation, affordable_tokens

_TRIAL_SHARE, _TRIAL_SECONDS = 0.003, 2.0  # of a timed run's budget, and at most, for each way to use the cores
_TRIED_FROM = 100  # steps of a run whose number of threads is worth a trial
_TRIAL_STEPS = 0.01  # of such a run's steps, for each number of threads


@dataclass
class Fit:
    """One run of training.

    Attributes:
        model: trained in place; holds the best weights at the end.
        batches: the training split.
        settings: budget, batches, optimiser, evaluation.
        seed: of dropout and batches.
        run: the run's directory, for checkpoints and weights; None keeps nothing.
        validation: batches of the validation split, scored in order; None if there is none.
        resume: go on from here.
        listeners: receive every event.
        sample: writes a text with the model given.
        ranks: the processes that train together; those but the first keep nothing on disk.
        spent: seconds of a timed run's budget that went by before; half of it is left for training at least.
        afterwards: tokens that are scored when training is done, within the budget.
        clock: tells seconds from any origin.
    """

    model: NeuralModel
    batches: Batches
    settings: TrainSettings
    seed: int = 0
    run: Path | None = None
    validation: Sequence[Batch] | None = None
    resume: Checkpoint | None = None
    listeners: Sequence[Listener] = ()
    sample: Callable[[NeuralModel], str] | None = None
    ranks: Ranks = field(default_factory=Ranks)
    spent: float = 0.0
    afterwards: int = 0
    clock: Callable[[], float] = time.perf_counter

    def go(self) -> Outcome:
        """Train to the end of the budget, early stopping, or an interruption.

        Raises:
            NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
        """
        before = Progress.of(self.resume.counters).seconds if self.resume else 0.0
        began = self.clock() - before

        def seconds() -> float:
            return self.clock() - began

        with torch.random.fork_rng(devices=[]), machine.torch_borrowed(), machine.Interrupt() as interrupt:
            try:
                self._to_device()
                progress, budget = self._resumed() if self.resume else self._begun(seconds)
                with self._stepper(progress) as stepper:
                    if self.resume:
                        stepper.restore(self.resume)
                    return self._loop(stepper, budget, seconds).run(interrupt)
            finally:
                self.model.to("cpu")

    def pace(self, seconds: float) -> float:
        """Tokens learned from in a second, from some steps in the fastest way; they leave the weights as they were."""
        with machine.torch_borrowed():
            self._to_device()
            open_ways = self._ways(blocks=True)
            found = fastest(open_ways, self._trial(self._precision()), seconds / len(open_ways), self.ranks, self.clock)
            return found.tokens_a_step / found.seconds_a_step

    # -- what is decided before the first step ------------------------------------------------------------------------

    def _resumed(self) -> tuple[Progress, float | None]:
        """Where the run stands, and the budget that is left to replan if it is timed."""
        assert self.resume is not None
        progress = Progress.of(self.resume.counters)
        if self.ranks.count > 1:  # it may have been alone
            progress.threads, progress.row_blocks = min(progress.threads, self.ranks.cores), 1
        timed = named_plan(self.settings, self.batches) is None
        return progress, training_seconds(self.settings, self.spent) if timed else None

    def _begun(self, seconds: Callable[[], float]) -> tuple[Progress, float | None]:
        """The plan of a new run, and its seconds for training if it is timed; what is left open is measured."""
        settings, precision = self.settings, self._precision()
        plan = named_plan(settings, self.batches)
        if plan is None:
            return self._timed(precision, seconds)
        open_ways = self._ways(blocks=False)
        way = open_ways[0]  # of a short run, one thread
        if len(open_ways) > 1 and plan.total >= _TRIED_FROM:
            most = int(_TRIAL_STEPS * plan.total)
            way = fastest(open_ways, self._trial(precision), _TRIAL_SECONDS, self.ranks, self.clock, most).way
        return _start(plan, precision, way, settings.validation_tokens), None

    def _timed(self, precision: str, seconds: Callable[[], float]) -> tuple[Progress, float]:
        """As many steps as fit into the budget, in the fastest way, beside evaluations that take a small share."""
        settings, ranks = self.settings, self.ranks
        budget = training_seconds(settings, self.spent)
        trial = min(_TRIAL_SECONDS, _TRIAL_SHARE * budget)
        pace = fastest(self._ways(blocks=True), self._trial(precision), trial, ranks, self.clock)
        torch.set_num_threads(pace.way.threads)
        tokens, evaluations = settings.validation_tokens, 0.0
        if self.validation is not None:
            validation = Validation(self.model, self.validation, precision, ranks)
            afterwards = self.afterwards * validation.seconds_a_token(self.clock, precise=True)
            a_token = validation.seconds_a_token(self.clock)
            tokens = int(ranks.agree(affordable_tokens(settings, a_token, budget)))
            evaluations = settings.evaluations * tokens * a_token
            budget = training_seconds(settings, self.spent + afterwards)
        steps = int(ranks.agree((budget - seconds() - evaluations) / pace.seconds_a_step))
        plan = Plan(((0, max(settings.evaluations, 1, steps)),))
        return _start(plan, precision, pace.way, tokens), budget

    def _to_device(self) -> None:
        self.model.to(machine.choose_device(self.settings.device, self.ranks.local))

    def _precision(self) -> str:
        found = machine.choose_precision(self.settings.precision, self.model.device)
        return "bf16" if self.ranks.agree(found == "bf16") else "fp32"

    def _ways(self, *, blocks: bool) -> list[Way]:
        return ways(self.settings, self.ranks, on_cpu=self.model.device.type == "cpu", blocks=blocks)

    def _trial(self, precision: str) -> Callable[[Way], Stepper]:
        return lambda way: self._stepper(Progress(precision=precision, **way._asdict()))

    # -- what the loop is made of -------------------------------------------------------------------------------------

    def _stepper(self, progress: Progress) -> Stepper:
        saved = self.run is not None
        return Stepper(self.model, self.batches, self.settings, progress, self.seed, self.ranks, saved=saved)

    def _loop(self, stepper: Stepper, budget: float | None, seconds: Callable[[], float]) -> Loop:
        progress, ranks = stepper.progress, self.ranks
        return Loop(
            self.model,
            self.settings,
            stepper,
            Plan.parse(progress.plan),
            Keeper(self.model, self.run, ranks, seconds),
            None if self.validation is None else Validation(self.model, self.validation, progress.precision, ranks),
            None if budget is None else Replanner(budget, progress.step, seconds, ranks),
            self.sample if ranks.first and self.settings.samples else None,
            self.listeners,
            ranks,
            seconds,
        )


def _start(plan: Plan, precision: str, way: Way, validation_tokens: int) -> Progress:
    return Progress(plan=str(plan), precision=precision, validation_tokens=validation_tokens, **way._asdict())
