"""A run of training: what is decided before its first step, and the loop.

    outcome = Fit(model, batches, settings, seed=0, run=folder).go()

Everything that a later step depends on (weights, optimiser, place in the data, carried state, plan) is in a checkpoint,
and the masks of dropout hang on seed and step alone, so a resumed run ends with the same weights, bit for bit. What a
clock decided (steps, precision, threads, row blocks, evaluations and their tokens) is in it too. Several processes run
this same loop, each on its rows of every batch (`ranks.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from lmlab.models.neural.base import NeuralModel
from lmlab.tokens.batches import Batch, Batches
from lmlab.train_settings import TrainSettings
from lmlab.training import machine
from lmlab.training.budget import Budget
from lmlab.training.checkpoint import Checkpoint, Keeper, Progress
from lmlab.training.events import Listener
from lmlab.training.loop import Loop, Outcome
from lmlab.training.optim import Optimizer, make_optimizer
from lmlab.training.pace import Way, fastest, ways
from lmlab.training.plan import Plan, Replanner, named_plan
from lmlab.training.ranks import Ranks
from lmlab.training.stepper import Stepper
from lmlab.training.validation import Validation, affordable

_TRIAL_SHARE, _TRIAL_SECONDS = 0.003, 2.0  # of a timed run's budget, and at most, for each way to use the cores
_TRIALS_SHARE = 0.04  # of a timed run's budget, for all ways together
_FORWARD = 0.5  # of what learning a token takes goes to scoring one, at most
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
        sample: writes texts with the model given.
        ranks: the processes that train together; those but the first keep nothing on disk.
        budget: of the whole command; None is that of the settings, from now on.
        afterwards: stages of the budget that come after training, and how many tokens each reads.
        optimizer: makes one over the model's parameters.
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
    sample: Callable[[NeuralModel], Sequence[str]] | None = None
    ranks: Ranks = field(default_factory=Ranks)
    budget: Budget | None = None
    afterwards: Mapping[str, float] = field(default_factory=dict)
    optimizer: Callable[[nn.Module, TrainSettings], Optimizer] = make_optimizer
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
                progress, budget = self._resumed() if self.resume else self._begun()
                with self._stepper(progress) as stepper:
                    if self.resume:
                        stepper.restore(self.resume)
                    replanner = Replanner(budget, self.afterwards, progress.step, self.ranks) if budget.timed else None
                    return self._loop(stepper, replanner, seconds).run(interrupt)
            finally:
                self.model.to("cpu")

    def pace(self, seconds: float, limit: float = math.inf) -> float:
        """Tokens learned from in a second, from some steps in the fastest way; they leave the weights as they were.

        Args:
            seconds: for measuring.
            limit: seconds within which slow steps are broken off.
        """
        with machine.torch_borrowed():
            self._to_device()
            open_ways = self._ways(blocks=True)
            each = seconds / len(open_ways)
            found = fastest(open_ways, self._trial(self._precision()), each, self.ranks, self.clock, limit=limit)
            return found.tokens_a_step / found.seconds_a_step

    # -- what is decided before the first step ------------------------------------------------------------------------

    def _resumed(self) -> tuple[Progress, Budget]:
        """Where the run stands, and the budget of what is left."""
        assert self.resume is not None
        progress = Progress.of(self.resume.counters)
        if self.ranks.count > 1:  # it may have been alone
            progress.threads, progress.row_blocks = min(progress.threads, self.ranks.cores), 1
        return progress, self.budget or Budget.of(self.settings, self.clock() - progress.seconds, self.clock)

    def _begun(self) -> tuple[Progress, Budget]:
        """The plan of a new run and its budget; what is left open is measured."""
        settings, precision = self.settings, self._precision()
        plan = named_plan(settings, self.batches)
        if plan is None:
            return self._timed(precision)
        open_ways = self._ways(blocks=False)
        way = open_ways[0]  # of a short run, one thread
        if len(open_ways) > 1 and plan.total >= _TRIED_FROM:
            most = int(_TRIAL_STEPS * plan.total)
            way = fastest(open_ways, self._trial(precision), _TRIAL_SECONDS, self.ranks, self.clock, most).way
        return _start(plan, precision, way, settings.evaluations, settings.validation_tokens), Budget(clock=self.clock)

    def _timed(self, precision: str) -> tuple[Progress, Budget]:
        """As many steps as fit into the budget, in the fastest way, beside evaluations that take a small share."""
        settings, ranks = self.settings, self.ranks
        budget = self.budget or Budget.of(settings, clock=self.clock)
        with budget.stage("trials"):
            trial = min(_TRIAL_SECONDS, _TRIAL_SHARE * budget.seconds)
            ways, limit = self._ways(blocks=True), _TRIALS_SHARE * budget.seconds
            pace = fastest(ways, self._trial(precision), trial, ranks, self.clock, limit=limit)
        torch.set_num_threads(pace.way.threads)
        a_token = ranks.agree(_FORWARD * pace.seconds_a_step / pace.tokens_a_step)
        Replanner(budget, self.afterwards, 0, ranks).measured(a_token)
        evaluations, tokens = affordable(settings, a_token, budget.seconds)
        an_evaluation = tokens * a_token if self.validation is not None else 0.0
        if settings.evaluate_every:
            steps = int(ranks.agree(budget.left / (pace.seconds_a_step + an_evaluation / settings.evaluate_every)))
        else:
            steps = int(ranks.agree((budget.left - evaluations * an_evaluation) / pace.seconds_a_step))
        return _start(Plan(((0, max(1, steps)),)), precision, pace.way, evaluations, tokens), budget

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
        saved, settings, ranks = self.run is not None, self.settings, self.ranks
        made = (self.model, self.batches, settings, progress, self.seed, ranks)
        return Stepper(*made, saved=saved, optimizer=self.optimizer)

    def _loop(self, stepper: Stepper, replanner: Replanner | None, seconds: Callable[[], float]) -> Loop:
        progress, ranks = stepper.progress, self.ranks
        return Loop(
            self.model,
            self.settings,
            stepper,
            Plan.parse(progress.plan),
            Keeper(self.model, self.run, ranks, seconds),
            None if self.validation is None else Validation(self.model, self.validation, progress.precision, ranks),
            replanner,
            self.sample if ranks.first and self.settings.samples else None,
            self.listeners,
            ranks,
            seconds,
        )


def _start(plan: Plan, precision: str, way: Way, evaluations: int, tokens: int) -> Progress:
    return Progress(
        plan=str(plan), precision=precision, evaluations=evaluations, validation_tokens=tokens, **way._asdict()
    )
