"""The one training loop.

    outcome = Fit(model, batches, settings, seed=0, run=folder).go()

A step reads some batches, sums their gradients weighted by tokens, clips, and moves the weights. Everything that a
later step depends on (weights, optimiser, position in the data, carried state, plan) is in a checkpoint, and dropout
hangs on seed and step alone, so a resumed run ends with the same weights, bit for bit. The weights kept are those of
the best validation. Several processes run this same loop, each on its rows of every batch (`ranks.py`).
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmlab.errors import NonFiniteError, SettingError
from lmlab.models.neural.base import NeuralModel, TensorState
from lmlab.models.neural.dropout import drop
from lmlab.tokens.batches import Batch, Batches
from lmlab.train_settings import TrainSettings
from lmlab.training import checkpoint as checkpoints
from lmlab.training import machine
from lmlab.training.checkpoint import Checkpoint
from lmlab.training.events import Began, Ended, Evaluated, Event, Listener, Sampled, Stepped
from lmlab.training.optim import Plan, dropout_times, learning_rate, make_optimizer
from lmlab.training.parallel import Gradients, rows_of
from lmlab.training.ranks import Ranks

_LOGS = 200  # Stepped events of a whole run, about
_SAVE_SECONDS = 60.0  # between checkpoints, at most, besides one an evaluation
_SAMPLES = 4  # Sampled events of a whole run, about
_VALIDATION_SHARE = 0.05  # of a timed run's budget goes to scoring the validation split, at most
_LEAST_VALIDATION = 4096  # tokens scored an evaluation, at least
_TRIAL_SHARE = 0.003  # of a timed run's budget goes to trying each way to use the cores
_REPLANS = 40  # times that a timed run compares its pace with its budget; the pace is that of the last two of these
_ROUNDING = 1e-9  # of shares of a run
_DRIFT = 0.02  # a timed run plans again when it would miss its budget by this share


@dataclass
class Progress:
    """Where a run stands; what of a checkpoint is plain numbers."""

    step: int = 0
    epoch: int = 0
    index: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_nats: float | None = None
    best_step: int = 0
    worse: int = 0  # evaluations since the best
    plan: str = ""
    precision: str = ""
    threads: int = 0
    parts: int = 0
    validation_tokens: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `reason` is done, early or interrupted."""

    reason: str
    progress: Progress


@dataclass
class Fit:
    """One run of training.

    Attributes:
        model: trained in place; holds the best weights at the end.
        batches: the training split.
        settings: see `TrainSettings`.
        seed: of dropout and batches.
        run: the run's directory, for checkpoints and weights; None keeps nothing.
        validation: batches of the validation split, scored in order; None if there is none.
        resume: go on from here.
        listeners: receive every event.
        sample: writes a text with the model given.
        ranks: the processes that train together; those but the first keep nothing on disk.
        spent: seconds of a timed run's budget that went by before; half of it is left for training at least.
        afterwards: tokens that are scored when training is done, within the budget.
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
    progress: Progress = field(default_factory=Progress)
    _gradients: Gradients | None = field(default=None, init=False)
    _seconds_after: float = field(default=0.0, init=False)  # that scoring takes when training is done

    def go(self) -> Outcome:
        """Train to the end of the budget, early stopping, or an interruption.

        Raises:
            NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
        """
        machine.keep_freed_memory()
        with torch.random.fork_rng(devices=[]), _own_threads(), _Interrupt() as interrupt:
            try:
                self._prepare()
                reason = self._loop(interrupt)
                return self._finish(reason)
            finally:
                if self._gradients is not None:
                    self._gradients.close()
                self.model.to("cpu")

    def pace(self, seconds: float) -> float:
        """Tokens learned from in a second, from some steps in the fastest way; they leave the weights as they were."""
        machine.keep_freed_memory()
        with _own_threads():
            self._set_up()
            try:
                ways = self._ways()
                a_step = min(self._seconds_a_step(way, seconds / len(ways)) for way in ways)
                return self.progress.tokens / self.progress.step / a_step
            finally:
                self._worker.close()

    # -- before the first step ------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        self._state: TensorState | None = None
        self._began = time.perf_counter()
        self._device = self._choose_device()
        self.model.to(self._device)
        self._batches = self.batches.share(self.ranks.rank, self.ranks.count)
        resumed = self.resume.counters if self.resume else {}
        self.progress = Progress(**resumed)
        self.progress.precision = resumed.get("precision") or self._choose_precision()
        self.progress.validation_tokens = resumed.get("validation_tokens") or self.settings.validation_tokens
        threads = resumed.get("threads") or self.settings.threads or self.ranks.cores
        self._work_with(threads, resumed.get("parts") or self.settings.parts or 1)
        self.optimizer = make_optimizer(self.model, self.settings)

    def _prepare(self) -> None:
        self._set_up()
        if self.resume:
            self._restore(self.resume)
            self._began -= self.progress.seconds
        else:
            self.progress.plan = str(self._first_plan())
        self.plan = Plan.parse(self.progress.plan)
        self._last_save = time.perf_counter()
        if not self.resume:
            self._save()
        self._emit(
            Began(
                self.progress.step,
                self.plan.total,
                self.model.parameter_count,
                self.progress.precision,
                self.progress.threads,
                self._seconds(),
                self.progress.parts,
                self.ranks.count,
                self._device.type,
            )
        )

    def _choose_device(self) -> torch.device:
        wanted, there = self.settings.device, torch.cuda.is_available()
        if wanted == "cuda" and not there:
            raise SettingError("train.device", wanted, "cpu or auto on a machine without a GPU that torch can use")
        if wanted == "cpu" or not there:
            return torch.device("cpu")
        torch.cuda.set_device(self.ranks.local)
        return torch.device("cuda", self.ranks.local)

    def _choose_precision(self) -> str:
        wanted = self.settings.precision
        if self._device.type == "cuda" and wanted == "auto":
            wanted = "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        return "bf16" if self.ranks.agree(machine.choose_precision(wanted) == "bf16") else "fp32"

    def _work_with(self, threads: int, parts: int) -> None:
        """So many threads an operation, so many blocks a batch; a process of several has one block."""
        alone = self.ranks.count == 1
        self.progress.threads = threads if alone else min(threads, self.ranks.cores)
        self.progress.parts = parts if alone else 1
        torch.set_num_threads(self.progress.threads)
        if self._gradients is not None and self._gradients.parts != self.progress.parts:
            self._gradients.close()
            self._gradients = None
        if self._gradients is None:
            self._gradients = Gradients(self.model, self._autocast, self.progress.parts, self.ranks)

    def _first_plan(self) -> Plan:
        settings = self.settings
        if settings.plan:
            return Plan.parse(settings.plan)
        if settings.steps:
            return Plan(((0, settings.steps),))
        if settings.epochs:
            steps = len(self.batches.epoch(0)) * settings.epochs / settings.accumulate
            return Plan(((0, max(1, math.ceil(steps))),))
        return Plan(((0, self._steps_for(self._budget_seconds())),))

    def _budget_seconds(self) -> float:
        """What a timed run has for training."""
        whole = 60 * (self.settings.minutes or 3.0)
        return max(whole / 2, whole - self.spent - self._seconds_after)

    def _steps_for(self, budget: float) -> int:
        """How many steps fit, by trying some of rate 0 in every way to use the cores: nothing of them remains."""
        ways = self._ways()
        seconds = [self._seconds_a_step(way, min(2.0, _TRIAL_SHARE * budget)) for way in ways]
        fastest = int(self.ranks.agree(seconds.index(min(seconds))))
        self._work_with(*ways[fastest])
        evaluation, affordable = self._price_of_evaluation(budget)
        self.optimizer = make_optimizer(self.model, self.settings)
        self._state = None
        self.progress = Progress(
            precision=self.progress.precision,
            threads=self.progress.threads,
            parts=self.progress.parts,
            validation_tokens=int(self.ranks.agree(affordable)),
        )
        left = self._budget_seconds() - self._seconds() - self.settings.evaluations * evaluation
        return max(self.settings.evaluations, 1, int(self.ranks.agree(left / seconds[fastest])))

    def _ways(self) -> list[tuple[int, int]]:
        """Threads and parts to try: one thread, all in every operation, all with a block of rows each."""
        cores, threads, parts = self.ranks.cores, self.settings.threads, self.settings.parts
        ways = {(threads or 1, parts or 1), (threads or cores, parts or 1)}
        if not (threads or parts) and self.ranks.count == 1 and self._device.type == "cpu":
            ways.add((cores, cores))
        return sorted(ways)

    def _price_of_evaluation(self, budget: float) -> tuple[float, int]:
        """Seconds that an evaluation takes, and how many tokens it may score to stay within its share."""
        self.progress.validation_tokens = _LEAST_VALIDATION
        self._seconds_after = self.afterwards * self._seconds_a_scored_token(precise=True)
        a_token = self._seconds_a_scored_token()
        share = _VALIDATION_SHARE * budget / max(1, self.settings.evaluations)
        tokens = min(max(_LEAST_VALIDATION, int(share / a_token)), self.settings.validation_tokens)
        return tokens * a_token if self.validation is not None else 0.0, tokens

    def _seconds_a_scored_token(self, *, precise: bool = False) -> float:
        began, scored = time.perf_counter(), self._validate_tokens(precise=precise)[1]
        return (time.perf_counter() - began) / max(1, scored)

    def _seconds_a_step(self, way: tuple[int, int], seconds: float) -> float:
        self._work_with(*way)
        self.progress.epoch = self.progress.index = 0  # every way the same batches, which may differ in length
        self._one_step(0.0)  # first-time costs
        began, steps = time.perf_counter(), 0
        while steps < 2 or self.ranks.agree(time.perf_counter() - began) < seconds:
            self._one_step(0.0)
            steps += 1
        return (time.perf_counter() - began) / steps

    # -- the loop -------------------------------------------------------------------------------------------------

    def _loop(self, interrupt: _Interrupt) -> str:
        self.model.train()
        progress, nats, tokens = self.progress, 0.0, 0
        timed = not (self.settings.steps or self.settings.epochs or self.settings.plan)
        self._from = (progress.step, progress.tokens, self._seconds())  # what the rate is measured from
        self._paced = self._paced_next = (progress.step, self._seconds())  # what a timed run's pace is measured from
        share = self.plan.progress(progress.step)
        while not self._out_of_patience():
            if progress.step >= self.plan.total:
                return "done"
            before, share = share, self.plan.progress(progress.step + 1)
            drop(self.model, dropout_times(self.settings, share))
            step_nats, step_tokens = self._one_step(learning_rate(self.settings, share))
            nats, tokens = nats + step_nats, tokens + step_tokens
            if self._due(_LOGS, before, share):
                self._emit(self._stepped(nats / max(1, tokens)))
                nats, tokens = 0.0, 0
            if self._due(self.settings.evaluations, before, share):
                self._evaluate()
            if timed and self._due(_REPLANS, before, share):
                self._replan()
                self._paced = self._paced_next
                self._paced_next = (progress.step, self._seconds())
            due = time.perf_counter() - self._last_save > _SAVE_SECONDS
            asked, due_of_any = self.ranks.total(interrupt.asked, due)
            if asked or due_of_any:
                self._save()
            if asked:
                return "interrupted"
        return "early"

    def _out_of_patience(self) -> bool:
        """Whether validation has been worse for too long; asked before a step, so that a resumed run asks it too."""
        return self.settings.patience is not None and self.progress.worse >= self.settings.patience

    def _due(self, times: int, before: float, share: float) -> bool:
        """Whether this step ends one of `times` equal parts of the run; the last step always does.

        Shares of the run, before the step and after it, never fall, so a plan that changes brings no part twice.
        """
        if not times:
            return False
        step = self.progress.step
        total = self.plan.total_at(step)  # not the last total: a repeated run knows the changes of its plan beforehand
        return step >= total or _whole_parts(share, times) > _whole_parts(before, times)

    def _one_step(self, lr: float) -> tuple[float, int]:
        """Move the weights once; the step's summed nats and its tokens."""
        batches = [self._next_batch() for _ in range(self.settings.accumulate)]
        tokens = int(self.ranks.total(sum(batch.tokens for batch in batches))[0])
        nats = torch.zeros((), device=self._device)
        for nth, batch in enumerate(batches, 1):
            key, last = (self.seed, self.progress.step, nth), nth == len(batches)
            batch = batch.to(self._device)
            before = self._state_before(batch)
            of_batch, after = self._worker.add(batch, before, 1 / max(1, tokens), key, last=last)
            self._state = after if self.batches.carries and self.settings.carry else None
            nats += of_batch
        (step_nats,) = self.ranks.total(nats.item())
        self._clip_and_check(step_nats)
        self.optimizer.step(lr)
        self.model.zero_grad()
        self.progress.step += 1
        self.progress.tokens += tokens
        return step_nats, tokens

    @property
    def _worker(self) -> Gradients:
        assert self._gradients is not None
        return self._gradients

    def _state_before(self, batch: Batch) -> TensorState | None:
        return self._state if batch.carry else None

    def _next_batch(self) -> Batch:
        progress = self.progress
        if getattr(self, "_epoch_number", None) != progress.epoch:
            self._epoch, self._epoch_number = self._batches.epoch(progress.epoch), progress.epoch
        batch = self._epoch[progress.index]
        progress.index += 1
        if progress.index == len(self._epoch):
            progress.epoch, progress.index = progress.epoch + 1, 0
        return batch

    def _clip_and_check(self, nats: float) -> None:
        if self.settings.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.settings.clip_value)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm, most = nn.utils.get_total_norm(gradients), self.settings.clip_norm or math.inf
        self._check_finite("loss", nats)
        self._check_finite("norm of the gradient", float(norm))
        if norm > most:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), most, norm)

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            kept = "the weights of the last checkpoint are kept" if self.run else "the weights are lost"
            raise NonFiniteError(
                f"the {what} is {value} after step {self.progress.step}, but must be finite; {kept}",
                "lower train.lr or set train.clip_norm",
            )

    def _autocast(self) -> Any:
        enabled, shared = self.progress.precision == "bf16", self.progress.parts > 1
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled, cache_enabled=not shared)

    # -- evaluation, checkpoints ----------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Score the validation split, keep the weights if they are the best."""
        progress, nats = self.progress, self._validate()
        if nats is not None:
            self._check_finite("validation loss", nats)
            best = progress.best_nats is None or nats < progress.best_nats
            if best:
                progress.best_nats, progress.best_step, progress.worse = nats, progress.step, 0
                self._keep()
            else:
                progress.worse += 1
            self._emit(Evaluated(progress.step, nats, best, self._seconds()))
        nth = _whole_parts(self.plan.progress(progress.step), self.settings.evaluations)
        if (
            self.sample
            and self.ranks.first
            and self.settings.samples
            and nth % -(-self.settings.evaluations // _SAMPLES) == 0
        ):
            self._emit(Sampled(progress.step, self._write_sample(self.sample)))
        self._save()

    def _validate(self) -> float | None:
        """Mean nats/token over the validation batches, from their start to the wanted number of tokens."""
        if self.validation is None:
            return None
        nats, tokens = self._validate_tokens()
        return nats / max(1, tokens)

    def _validate_tokens(self, *, precise: bool = False) -> tuple[float, int]:
        self.model.eval()
        nats, tokens, state = 0.0, 0, None
        with torch.no_grad(), contextlib.nullcontext() if precise else self._autocast():
            for batch in self.validation or ():
                mine = batch.rows(self.ranks.rank, self.ranks.count).to(self._device)
                loss, state = self._worker.loss(mine, state if batch.carry else None)
                nats, tokens = nats + loss.item(), tokens + batch.tokens
                if tokens >= self.progress.validation_tokens:
                    break
        self.model.train()
        return self.ranks.total(nats)[0], tokens

    def _write_sample(self, sample: Callable[[NeuralModel], str]) -> str:
        with torch.random.fork_rng(devices=[]):
            return sample(copy.deepcopy(self.model).to("cpu").eval())

    def _replan(self) -> None:
        """A timed run that drifts from its budget changes its number of steps, while there is time to do so."""
        step, total, budget = self.progress.step, self.plan.total, self._budget_seconds()
        if not 0.05 < step / total < 0.99:
            return
        (from_step, since), now = self._paced, self._seconds()
        seconds_a_step = (now - since) / max(1, step - from_step)
        left = max(1, int((budget - now) / seconds_a_step))
        drifted = abs(step + left - total) * seconds_a_step > _DRIFT * budget
        new_total = int(self.ranks.agree(step + left if drifted else total))
        if new_total != total:
            self.plan = self.plan.change(step, new_total)
            self.progress.plan = str(self.plan)

    def _keep(self) -> None:
        if self.run is not None:
            checkpoints.keep_weights(self.model, self.run)
        elif self.ranks.first:
            self._best = copy.deepcopy(self.model.state_dict())

    def _save(self) -> None:
        self._last_save = time.perf_counter()
        self.progress.seconds = self._seconds()
        carried = [self.ranks.gather(tensor) for tensor in (self._state.tensors if self._state else ())]
        if self.run is None:
            return
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizer.memory.items()}
        tensors |= {f"carried/{at}": tensor for at, tensor in enumerate(carried)}
        checkpoints.write(self.run, Checkpoint(tensors, vars(self.progress)))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.group("model"))
        for name, tensor in checkpoint.group("optimizer").items():
            self.optimizer.memory[name].copy_(tensor)
        carried = checkpoint.group("carried")
        if carried:
            whole = TensorState(tuple(carried[str(at)].to(self._device) for at in range(len(carried))))
            self._state = rows_of(whole, self.ranks.rank, self.ranks.count)

    def _finish(self, reason: str) -> Outcome:
        progress = self.progress
        if reason != "interrupted":
            self._save()
            if progress.best_nats is None:
                self._keep()
        self._take_best()
        self.model.eval()
        self._emit(
            Ended(progress.step, reason, progress.best_nats, progress.best_step, progress.tokens, self._seconds())
        )
        return Outcome(reason, progress)

    def _take_best(self) -> None:
        """Leave the best weights in the model of every rank; those of the last step if none were scored."""
        if self.run is not None and (self.run / "model.safetensors").is_file():
            best = type(self.model).load(self.run, self.model.settings, self.model.vocab_size)
            self.model.load_state_dict(best.state_dict())
        elif self.run is None and self.progress.best_nats is not None and self.ranks.first:
            self.model.load_state_dict(self._best)
        self.ranks.spread(self.model.state_dict().values())

    # -- telling --------------------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return time.perf_counter() - self._began

    def _stepped(self, nats: float) -> Stepped:
        progress, seconds = self.progress, self._seconds()
        step, tokens, since = self._from
        return Stepped(
            step=progress.step,
            total_steps=self.plan.total,
            train_nats=nats,
            lr=learning_rate(self.settings, self.plan.progress(progress.step)),
            epoch=progress.epoch + progress.index / max(1, len(self._epoch)),
            tokens=progress.tokens,
            tokens_per_second=(progress.tokens - tokens) / max(1e-9, seconds - since),
            seconds=seconds,
            remaining=(seconds - since) / (progress.step - step) * (self.plan.total - progress.step),
        )

    def _emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def _whole_parts(share: float, times: int) -> int:
    return int(share * times + _ROUNDING)


class _Interrupt:
    """Turns the first Ctrl-C (or a polite kill) into a request to stop after the step; the second one acts at once."""

    def __enter__(self) -> _Interrupt:
        self.asked = False
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """Whatever number of threads the run sets, the caller's comes back."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
