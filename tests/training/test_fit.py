import math
import signal

import pytest
import torch

from lmlab import registry
from lmlab.errors import NonFiniteError
from lmlab.tokens.batches import Batch, Columns, Lines
from lmlab.training import checkpoint as checkpoints
from lmlab.training import loop, stepper, validation
from lmlab.training.budget import Budget
from lmlab.training.events import Began, Ended, Evaluated, Sampled, Stepped
from lmlab.training.fit import Fit
from lmlab.training.plan import Plan
from lmlab.training.ranks import Ranks
from lmlab.training.validation import Validation
from lmlab.vocabulary import IGNORE
from tests.stores import of_documents
from tests.training.runs import MODELS, STREAM, Clock, V, cut, fit, resumed, same_end, settings, stop_at, weights

# -- it learns --------------------------------------------------------------------------------------------------------

PATTERN = of_documents([[4, 5, 6, 7, 5, 8, 4, 9] * 60], V)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("lstm", {"hidden": 24, "embedding": 8, "dropout": 0.0}),
        ("gru", {"hidden": 24, "embedding": 8, "dropout": 0.0}),
        ("cnn", {"channels": 24, "embedding": 8, "layers": 2, "kernel": 3, "dropout": 0.0}),
        ("transformer", {"width": 16, "heads": 2, "layers": 2, "window": 8}),
    ],
)
def test_a_repeating_pattern_is_learned(kind, shape):
    architecture = registry.resolve("model", kind)
    torch.manual_seed(0)
    model = architecture(architecture.Settings(**shape), V)
    validation = Columns(PATTERN, 4, 16, roll=False).epoch(0)
    train = settings(steps=150, lr=0.02, evaluations=1)
    outcome = Fit(model, Columns(PATTERN, 4, 16), train, validation=validation).go()
    assert outcome.reason == "done"
    assert outcome.progress.best_nats < 0.1
    assert not model.training


def test_a_carried_state_knows_what_a_row_does_not_show():
    """After 6 comes 8 or 9, mostly as it did before: what a row of three that begins with 6 cannot see."""
    modes = torch.randint(8, 10, (60,), generator=torch.Generator().manual_seed(0)).tolist()
    store = of_documents([[token for mode in modes for token in [6, mode] * 10]], V)
    architecture = registry.resolve("model", "lstm")
    found = {}
    for carry in (True, False):
        torch.manual_seed(0)
        model = architecture(architecture.Settings(hidden=16, embedding=8, dropout=0.0), V)
        Fit(model, Columns(store, 8, 3), settings(steps=150, lr=0.02, evaluations=0, carry=carry)).go()
        nats, count, state = 0.0, 0, None
        for batch in Columns(store, 1, 3, roll=False).epoch(0):
            first = torch.where(batch.ids_BT == 6, batch.targets_BT, IGNORE)
            first[:, 1:] = IGNORE
            with torch.no_grad():
                loss, state = model.loss(batch.ids_BT, first, state if carry else None)
            nats, count = nats + loss.item(), count + int((first != IGNORE).sum())
        found[carry] = nats / count
    assert found[True] < 0.4
    assert found[False] > 0.6  # ln 2 is 0.69: it can but guess


def test_a_row_that_begins_anew_carries_nothing(tmp_path):
    """Where all rows begin anew at every batch, carrying or not is the same; where none does, it is not."""
    ends = {}
    for restart in (0.0, 1.0):
        for carry in (True, False):
            run = fit(tmp_path / f"{restart} {carry}", carry=carry)
            run.batches = Columns(STREAM, 4, 8, restart=restart)
            run.go()
            ends[restart, carry] = weights(run.run)
    assert ends[1.0, True] == ends[1.0, False]
    assert ends[0.0, True] != ends[0.0, False]


# -- it repeats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["columns", "lines", "windows"])
def test_a_seed_repeats_bit_for_bit_and_another_differs(way, tmp_path):
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        fit(tmp_path / name, way=way, seed=seed).go()
    same_end(tmp_path / "one", tmp_path / "again")
    assert weights(tmp_path / "one") != weights(tmp_path / "other")


def test_the_seed_alone_decides_whatever_was_drawn_before(tmp_path):
    fit(tmp_path / "one").go()
    torch.rand(1000)
    fit(tmp_path / "other").go()
    assert weights(tmp_path / "one") == weights(tmp_path / "other")


def test_evaluations_and_samples_do_not_change_what_is_learned(tmp_path):
    """The last weights are the same however often the run looks at itself."""
    ends = []
    for number, evaluations in enumerate((1, 8)):
        run = fit(tmp_path / str(number), evaluations=evaluations, samples=evaluations > 1)
        run.sample = lambda model: [str(torch.rand(3))]
        run.go()
        ends.append(checkpoints.newest(tmp_path / str(number)).group("model"))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_callers_random_state_threads_and_signals_are_left_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    fit(tmp_path / "run", threads=2, precision="auto", steps=3).go()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_num_threads(), signal.getsignal(signal.SIGINT)) == before[1:]


def test_they_are_left_alone_by_a_failure_too():
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.get_num_threads()
    run = fit(threads=2)
    with torch.no_grad():
        run.model.output.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError):
        run.go()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


# -- it resumes -------------------------------------------------------------------------------------------------------

RUNS = {
    "columns, carried state, dropout": {"way": "columns"},
    "columns, accumulated": {"way": "columns", "accumulate": 3},
    "lines": {"way": "lines", "model": "gru"},
    "windows, SGD": {"way": "windows", "model": "cnn", "optimizer": "sgd", "lr": 0.5},
    "attention": {"way": "columns", "model": "transformer"},
    "dropout that falls": {"way": "columns", "dropout_schedule": "falling"},
    "bf16": {"way": "columns", "precision": "bf16"},
    "bf16, lines": {"way": "lines", "model": "gru", "precision": "bf16"},
    "bf16, two threads": {"way": "columns", "precision": "bf16", "threads": 2},
    "bf16, filters, two threads": {"way": "windows", "model": "cnn", "precision": "bf16", "threads": 2},
    "bf16, attention, two threads": {"way": "columns", "model": "transformer", "precision": "bf16", "threads": 2},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_stopped_again_and_again_ends_as_one_that_was_not(name, tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    fit(whole, **RUNS[name]).go()
    outcome = fit(pieces, **RUNS[name], listeners=[stop_at(1)]).go()
    assert (outcome.reason, outcome.progress.step) == ("interrupted", 1)
    for stop in (2, 5, 6, 17):  # 6, 12, 18 are evaluated; the others lie between
        outcome = resumed(pieces, **RUNS[name], listeners=[stop_at(stop)]).go()
        assert outcome.progress.step == stop
    assert resumed(pieces, **RUNS[name]).go().reason == "done"
    same_end(whole, pieces)


def test_the_stops_above_lie_within_epochs_and_across_them():
    steps = len(cut("columns").epoch(0))
    assert 6 < steps < 17 < 2 * steps


def test_a_resumed_run_ends_with_the_same_model_in_memory(tmp_path):
    whole = fit(tmp_path / "whole")
    whole.go()
    fit(tmp_path / "pieces", listeners=[stop_at(7)]).go()
    torch.rand(10)
    rest = resumed(tmp_path / "pieces")
    rest.go()
    for one, other in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_resuming_at_the_very_end_changes_nothing(tmp_path):
    fit(tmp_path / "run", listeners=[stop_at(24)]).go()
    before = weights(tmp_path / "run")
    assert resumed(tmp_path / "run").go().reason == "done"
    assert weights(tmp_path / "run") == before


def test_a_second_interruption_acts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", listeners=[stop_at(3), stop_at(3)]).go()
    assert checkpoints.newest(tmp_path / "run").counters["step"] == 0


def test_a_checkpoint_comes_also_between_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SAVE_SECONDS", -1.0)
    seen = []

    def listen(event):
        if isinstance(event, Stepped):
            seen.append(checkpoints.newest(tmp_path / "run").counters["step"])

    fit(tmp_path / "run", evaluations=1, steps=6, listeners=[listen]).go()
    assert seen == [0, 1, 2, 3, 4, 5]


# -- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.05])
def test_accumulated_batches_are_one_large_batch(clip):
    """Windows of one length and lines of unlike lengths: gradients are weighted by tokens."""
    store = of_documents([[4 + (n * i) % 7 for i in range(1 + n % 9)] for n in range(24)], V)
    ends = []
    for rows, accumulate in ((24, 1), (3, 8)):
        torch.manual_seed(0)
        model = registry.resolve("model", "gru")(
            registry.resolve("model", "gru").Settings(hidden=8, embedding=4, dropout=0.0), V
        )
        train = settings(steps=3, accumulate=accumulate, optimizer="sgd", lr=1.0, evaluations=0, clip_norm=clip)
        Fit(model, Lines(store, rows, 16, bucket=False), train).go()
        ends.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert (ends[0] - ends[1]).abs().max() < 1e-6


def moved(**named):
    run = fit(steps=1, optimizer="sgd", lr=1.0, schedule="constant", warmup=0.0, evaluations=0, **named)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.go()
    return [now.detach() - was for now, was in zip(run.model.parameters(), before, strict=True)]


def test_clipping_by_norm_bounds_the_whole_step_and_keeps_its_direction():
    free, bound = (torch.cat([m.flatten() for m in moved(clip_norm=c)]) for c in (None, 0.01))
    assert free.norm() > 0.02
    assert bound.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.allclose(bound / bound.norm(), free / free.norm(), atol=1e-5)


def test_clipping_by_value_bounds_each_number():
    free, bound = (torch.cat([m.flatten() for m in moved(clip_norm=None, clip_value=c)]) for c in (None, 0.003))
    assert free.abs().max() > 0.006
    assert torch.allclose(bound, free.clamp(-0.003, 0.003), atol=1e-6)


def test_the_rate_warms_up_and_falls():
    rates = []
    listen = lambda event: rates.append(event.lr) if isinstance(event, Stepped) else None  # noqa: E731
    fit(steps=20, warmup=0.25, floor=0.1, lr=0.01, listeners=[listen]).go()
    assert rates.index(max(rates)) == 4
    assert rates[0] == pytest.approx(0.002)
    assert rates[-1] == pytest.approx(0.001)


def test_dropout_stays_or_falls(monkeypatch):
    for schedule, first, last in (("constant", 1, 1), ("falling", 2 * 23 / 24, 0)):
        times = []
        monkeypatch.setattr(loop, "drop", lambda model, so_many, seen=times: seen.append(so_many))
        fit(dropout_schedule=schedule).go()
        assert (times[0], times[-1]) == pytest.approx((first, last))
        assert times == sorted(times, reverse=True)


def test_an_epoch_budget_reads_every_token_so_often():
    run = fit(way="lines", steps=None, epochs=2.0, evaluations=0)
    assert run.go().progress.tokens == 2 * sum(batch.tokens for batch in run.batches.epoch(0))


# -- evaluation -------------------------------------------------------------------------------------------------------


def heard(run):
    """The events of a run, and where it ended."""
    events = []
    run.listeners = [events.append]
    return events, run.go().progress


def valid_nats(run):
    """What the model as it is now makes of the validation split."""
    return Validation(run.model, run.validation, "fp32", Ranks()).nats(run.settings.validation_tokens)


def test_events_come_in_order_and_add_up(tmp_path):
    run = fit(tmp_path / "run")
    run.sample = lambda model: ["text"]
    run.settings = settings(samples=True)
    events, progress = heard(run)
    assert isinstance(events[0], Began)
    assert isinstance(events[-1], Ended)
    assert [event.step for event in events if isinstance(event, Evaluated)] == [6, 12, 18, 24]
    assert [event.text for event in events if isinstance(event, Sampled)] == ["text"] * 4
    steps = [event for event in events if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 25))
    assert steps[-1].tokens == events[-1].tokens == progress.tokens
    assert (steps[-1].remaining, events[-1].reason) == (0, "done")


def test_evaluations_come_every_so_many_steps_from_step_0_on(tmp_path):
    run = fit(tmp_path / "run", evaluate_every=10, samples=True)
    run.sample = lambda model: ["one", "two"]
    events, _ = heard(run)
    assert [event.step for event in events if isinstance(event, Evaluated)] == [0, 10, 20, 24]
    told = [(event.step, event.text) for event in events if isinstance(event, Sampled)]
    assert told == [(step, text) for step in (0, 10, 20, 24) for text in ("one", "two")]


def test_no_step_scores_and_samples_a_fresh_model(tmp_path):
    run = fit(tmp_path / "run", steps=0, samples=True)
    before = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    run.sample = lambda model: ["text"]
    events, progress = heard(run)
    assert [type(event) for event in events] == [Began, Evaluated, Sampled, Ended]
    assert progress.step == 0
    assert all(torch.equal(before[name], weight) for name, weight in run.model.state_dict().items())
    assert Plan.parse(progress.plan).total == 0


def test_the_weights_kept_are_those_of_the_best_validation(tmp_path):
    """A rate that ruins what was learned: the last weights are worse than the best."""
    run = fit(tmp_path / "run", steps=16, evaluations=16, lr=0.3, schedule="constant", clip_norm=None)
    events, progress = heard(run)
    events = [event for event in events if isinstance(event, Evaluated)]
    best = min(events, key=lambda event: event.valid_nats)
    assert best.step < 16, "this run was to get worse"
    assert (progress.best_step, progress.best_nats) == (best.step, best.valid_nats)
    assert [event.best for event in events] == [
        event.valid_nats < min([e.valid_nats for e in events[:n]], default=math.inf) for n, event in enumerate(events)
    ]
    assert valid_nats(run) == pytest.approx(best.valid_nats, rel=1e-6)
    loaded = type(run.model).load(tmp_path / "run", run.model.settings, V)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), run.model.parameters(), strict=True))


def test_in_memory_too():
    run = fit(steps=16, evaluations=16, lr=0.3, schedule="constant", clip_norm=None)
    progress = run.go().progress
    assert progress.best_step < 16
    assert valid_nats(run) == pytest.approx(progress.best_nats, rel=1e-6)


def test_without_validation_the_last_weights_are_kept(tmp_path):
    run = fit(tmp_path / "run")
    run.validation = None
    assert run.go().progress.best_nats is None
    found = checkpoints.newest(tmp_path / "run").group("model")
    loaded = type(run.model).load(tmp_path / "run", run.model.settings, V).state_dict()
    assert all(torch.equal(found[name], loaded[name]) for name in loaded)


def hopeless(run=None, **named):
    """A run that only gets worse from its first evaluation on."""
    return fit(run, steps=40, evaluations=40, lr=0.5, schedule="constant", clip_norm=None, patience=3, **named)


def test_training_stops_early_when_validation_stays_worse(tmp_path):
    run = hopeless(tmp_path / "run")
    events, progress = heard(run)
    worse = [not event.best for event in events if isinstance(event, Evaluated)]
    assert events[-1].reason == "early"
    assert worse[-3:] == [True] * 3
    assert progress.step < 40
    assert valid_nats(run) == pytest.approx(progress.best_nats, rel=1e-6)


def test_a_run_killed_after_its_patience_ran_out_does_not_go_on_when_resumed(tmp_path):
    hopeless(tmp_path / "run").go()
    step, kept = checkpoints.newest(tmp_path / "run").counters["step"], weights(tmp_path / "run")
    again = hopeless(tmp_path / "run", resume=checkpoints.newest(tmp_path / "run"))
    outcome = again.go()
    assert (outcome.reason, outcome.progress.step) == ("early", step)
    assert weights(tmp_path / "run") == kept


def test_validation_ends_at_the_wanted_number_of_tokens():
    run = fit()
    sizes = [batch.tokens for batch in run.validation]
    scored = Validation(run.model, run.validation, "fp32", Ranks()).score(20)[1]
    assert scored == next(sum(sizes[:n]) for n in range(9) if sum(sizes[:n]) >= 20) < sum(sizes)


# -- it fails well ----------------------------------------------------------------------------------------------------


def poison(run, at):
    """Make the weights NaN after a step."""

    def listen(event):
        if isinstance(event, Stepped) and event.step == at:
            with torch.no_grad():
                next(run.model.parameters()).fill_(math.nan)

    run.listeners = [listen]
    return run


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize(("at", "kept"), [(9, 6), (12, 6), (24, 18)])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path, at, kept, clip):
    run = poison(fit(tmp_path / "run", clip_norm=clip), at)
    with pytest.raises(NonFiniteError, match=r"is nan after step \d+.*checkpoint are kept.*lower train\.lr") as caught:
        run.go()
    assert "\n" not in str(caught.value)
    found = checkpoints.newest(tmp_path / "run")
    assert found.counters["step"] == kept
    assert all(tensor.isfinite().all() for name, tensor in found.group("model").items())
    loaded = type(run.model).load(tmp_path / "run", run.model.settings, V)
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())
    outcome = resumed(tmp_path / "run", clip_norm=clip).go()
    assert outcome.reason == "done"


@pytest.mark.parametrize("clip", [{"clip_norm": None}, {"clip_norm": None, "clip_value": 1.0}, {}])
def test_a_gradient_that_is_not_finite_moves_no_weight(monkeypatch, clip):
    """A finite loss with a NaN gradient."""
    run = fit(**clip)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.model.output.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteError, match=r"norm of the gradient is nan after step 0"):
        run.go()
    assert all(torch.equal(now, was) for now, was in zip(run.model.parameters(), before, strict=True))


# -- timed runs -------------------------------------------------------------------------------------------------------


def jump(progress):
    """A clock on which step 60 takes all the rest of the time."""
    return 0.5 if progress.step == 60 else 0.003


def test_a_run_that_ends_amid_its_plan_repeats_bit_for_bit_too(tmp_path, monkeypatch):
    timed = fit(tmp_path / "timed", steps=None, minutes=0.01, evaluations=3, clock=Clock(monkeypatch, jump, tick=1e-6))
    progress = timed.go().progress
    assert Plan.parse(progress.plan).changes[-1] == (61, 61)
    assert progress.best_step == 61, "its end was evaluated"
    names = ("plan", "precision", "threads", "evaluations", "validation_tokens")
    fit(tmp_path / "again", steps=None, **{name: getattr(progress, name) for name in names}).go()
    same_end(tmp_path / "timed", tmp_path / "again")


def test_a_timed_run_ends_as_planned_and_repeats_bit_for_bit_from_what_it_recorded(tmp_path, monkeypatch):
    """Planned anew whenever the machine turns out slower: all that the clock decided is recorded."""
    monkeypatch.setattr(validation, "_LEAST_TOKENS", 20)
    evaluated = []
    timed = fit(
        tmp_path / "timed",
        steps=None,
        minutes=0.01,
        precision="auto",
        evaluations=8,
        clock=Clock(monkeypatch, lambda progress: 0.003 + 2e-5 * progress.step, tick=1e-6),
        listeners=[lambda event: evaluated.append(event.step) if isinstance(event, Evaluated) else None],
    )
    outcome = timed.go()
    progress, plan = outcome.progress, Plan.parse(outcome.progress.plan)
    assert outcome.reason == "done"
    assert len(plan.changes) > 2, "it was to change its plan"
    assert plan.total < plan.changes[0][1], "there was time for fewer"
    assert progress.seconds == pytest.approx(0.6, rel=0.05)
    assert len(evaluated) == 8, "however often the plan changed"
    assert progress.step == plan.total
    assert (progress.precision in ("fp32", "bf16"), progress.threads) == (True, 1)
    recorded = {name: getattr(progress, name) for name in ("plan", "precision", "threads", "validation_tokens")}
    again = fit(tmp_path / "again", steps=None, evaluations=8, **recorded).go()
    assert again.reason == "done"
    assert again.progress.best_step == progress.best_step
    same_end(tmp_path / "timed", tmp_path / "again")


def test_a_run_in_step_with_its_budget_keeps_its_plan(monkeypatch):
    run = fit(steps=None, minutes=0.01, evaluations=0, clock=Clock(monkeypatch, tick=1e-6))
    outcome = run.go()
    assert len(Plan.parse(outcome.progress.plan).changes) == 1
    assert outcome.progress.seconds == pytest.approx(0.6, rel=0.01)


def within(monkeypatch, budget, seconds_a_step=lambda progress: 0.003, afterwards=None):
    """The steps that are made of 0.003 s each, or as said, within a budget that began 0 s by its clock."""
    clock = Clock(monkeypatch, seconds_a_step, tick=1e-7)
    run = fit(steps=None, minutes=0.01, evaluations=0, clock=clock)
    run.budget, run.afterwards = budget(clock), afterwards or {}
    outcome = run.go()
    monkeypatch.undo()
    return outcome.progress.step, clock.now


def test_what_went_by_before_and_what_comes_afterwards_leave_fewer_steps(monkeypatch):
    def reserved(clock):
        budget = Budget(0.6, 0.0, clock)
        budget.reserve("scoring", 0.25)
        return budget

    whole, _ = within(monkeypatch, lambda clock: Budget(0.6, 0.0, clock))
    late, _ = within(monkeypatch, lambda clock: Budget(0.6, -0.15, clock))
    scored, _ = within(monkeypatch, reserved, afterwards={"scoring": 10**9})
    little, _ = within(monkeypatch, reserved, afterwards={"scoring": 320})  # ten steps' tokens, half the time
    none, _ = within(monkeypatch, lambda clock: Budget(0.6, -9.0, clock))
    assert late == scored == pytest.approx(whole - 50, abs=1)
    assert little == pytest.approx(whole - 5, abs=1)
    assert none == 1


@pytest.mark.parametrize("times", [0.2, 5, 100])
@pytest.mark.parametrize("at", [1, 20, 100, 190])
def test_a_machine_that_gets_busier_or_free_in_the_middle_ends_a_run_in_time(monkeypatch, times, at):
    slow = lambda progress: 0.003 * (times if progress.step >= at else 1)  # noqa: E731
    _, now = within(monkeypatch, lambda clock: Budget(0.6, 0.0, clock), slow)
    assert now == pytest.approx(0.6, abs=0.03 + 1.01 * 0.003 * times)


def test_a_trial_of_slow_steps_is_broken_off(monkeypatch, two_cores):
    run = fit(steps=None, minutes=1, threads=None, evaluations=0)
    run.clock = clock = Clock(monkeypatch, lambda progress: 7.0)
    assert run.go().progress.step == 6
    assert clock.now == 56


@pytest.mark.parametrize("budget", [{"minutes": 0.003}, {"steps": 120}])
def test_the_trial_of_speed_leaves_nothing_behind(monkeypatch, two_cores, budget):
    """Weights and position in the data are as before: the first step is the first batch."""
    run = fit(**{"steps": None, "threads": None, "evaluations": 0, "clock": Clock(monkeypatch), **budget})
    run.validation = None
    tried, seen = [], []
    step = stepper.Stepper.step

    def listen(self, lr):
        tried.append(lr)
        if lr > 0 and not seen:
            seen.append((self.progress.epoch, self.progress.index, self.progress.step, self._state))
            seen.append([parameter.detach().clone() for parameter in run.model.parameters()])
        return step(self, lr)

    monkeypatch.setattr(stepper.Stepper, "step", listen)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.go()
    place, weights_then = seen
    assert tried.index(0.0) == 0
    assert place == (0, 0, 0, None)
    assert all(torch.equal(now, was) for now, was in zip(weights_then, before, strict=True))


def test_a_budget_too_small_for_anything_still_makes_steps():
    run = fit(steps=None, minutes=1e-9)
    assert run.go().progress.step >= 1


def test_every_model_has_a_small_shape_here():
    assert MODELS.keys() <= set(registry.names("model"))
    assert isinstance(cut("lines").epoch(0)[0], Batch)
