"""The figures beside a trained model, each within the budget: baselines before training, calibration and scores after.

Where the time does not suffice for all of the validation split, figures are those of its beginning, and say so: they
hold how many tokens were scored (`tokens`) and how many there are (`of_tokens`). The n-gram's are of the same tokens.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab import scoring
from lmlab.facade.prepare import Prepared
from lmlab.progress import Reporter
from lmlab.run_config import RunConfig
from lmlab.training.budget import Budget

if TYPE_CHECKING:
    from lmlab.tokens.batches import Epoch
    from lmlab.tokens.id_store import TokenStore
    from lmlab.training.baseline import Baseline

CALIBRATION, SCORING, SAVING = "calibration", "scoring", "saving"
FEW_STEPS = 20
LEAST_SCORED = 1_000
"""Tokens, however little time is left; how long they take shows the speed."""
_BASELINE_SHARE = 0.04  # of a timed run's budget, for the n-gram
_WORTH = 0.4  # of the budget must be left for baselines
_SHARES = {CALIBRATION: 0.04, SCORING: 0.08, SAVING: 0.02}  # at most
_SAVING_SECONDS = 1.0  # besides
_GROWTH = 10  # times as many the next time, at most
_SAFE = 0.6  # of the time that is left is planned to be used, lest a machine that gets busier exceed it
_READINGS = {CALIBRATION: 4.0, SCORING: 2.0}  # what each takes a token, in forward passes of training's precision


def reserve(budget: Budget, prepared: Prepared, config: RunConfig) -> None:
    """Set time aside for the stages after training that this run has."""
    budget.reserve(SAVING, _SHARES[SAVING], _SAVING_SECONDS)
    if "valid" in prepared.stores:
        budget.reserve(SCORING, _SHARES[SCORING])
        if config.train.calibration_temperature is None:
            budget.reserve(CALIBRATION, _SHARES[CALIBRATION])


def afterwards(prepared: Prepared) -> dict[str, float]:
    """How many tokens each stage after training reads, in forward passes."""
    from lmlab.training.calibrate import ENOUGH

    tokens = prepared.scored_tokens("valid") if "valid" in prepared.stores else 0
    return {CALIBRATION: _READINGS[CALIBRATION] * min(ENOUGH, tokens), SCORING: _READINGS[SCORING] * tokens}


def baselines(prepared: Prepared, budget: Budget, reporter: Reporter) -> dict[str, Baseline]:
    """What an n-gram and, in timed runs that are long enough for it, context mixing make of the validation split."""
    from lmlab.training.baseline import MIXED_SHARE, cm_baseline, ngram_baseline

    if "valid" not in prepared.stores:
        return {}
    if budget.left < _WORTH * budget.seconds:
        reporter.say("no time is left for the baselines")
        return {}
    seconds, train, text = _BASELINE_SHARE * budget.seconds, prepared.stores["train"], prepared.head("valid")
    tokenizer = prepared.tokenizer
    with budget.stage("baselines"), reporter.stage("fitting the n-gram baseline"):
        found = {"ngram": ngram_baseline(train, text, tokenizer.kind, tokenizer.vocab_size, seconds)}
    with budget.stage("baselines"), reporter.stage("fitting the context-mixing baseline"):
        mixed = cm_baseline(train, text, tokenizer, MIXED_SHARE * budget.seconds)
        found |= {"cm": mixed} if mixed is not None else {}
    for name, each in found.items():
        called = f"{each.about['order']}-gram" if name == "ngram" else "context mixing"
        part = f" (of {each.learned:,} of {train.tokens:,} tokens)" if each.learned < train.tokens else ""
        reporter.say(
            f"baseline on the validation split: {called}{part} {each.report.nats_per_token:.4f} nats/token, "
            f"{each.report.bits_per_byte:.3f} bits/byte in {each.seconds:.1f} s"
        )
    return found


def calibrated(
    model: Any,
    temperature: float | None,
    validation: Epoch | None,
    out: Path | None,
    budget: Budget,
    reporter: Reporter,
) -> float:
    """The calibration temperature that is named, or suits the validation split, in the model and its weights' file."""
    from lmlab.training.calibrate import calibrate
    from lmlab.training.checkpoint import keep_weights

    with budget.stage(CALIBRATION):
        if temperature is not None:
            model.temperature = temperature
        elif validation is not None and budget.left > 0:
            before, after, tokens = calibrate(model, validation, _SAFE * budget.left)
            if model.temperature != 1:
                said = f"calibration temperature {model.temperature:.3f}"
                reporter.say(f"{said}: {before:.4f} -> {after:.4f} nats/token on {tokens:,} tokens held out")
        if model.temperature != 1 and out is not None:
            keep_weights(model, out)
    return float(model.temperature)


def held_out(
    model: Any, prepared: Prepared, split: str, budget: Budget, reporter: Reporter
) -> tuple[dict[str, Any], TokenStore]:
    """The figures on a split, or on as much of its beginning as time is left for, and those tokens.

    A beginning is scored to see the speed, then a longer one, until the next would take more time than is left.
    """
    whole = prepared.scored_tokens(split)
    tokens = min(LEAST_SCORED, whole) if budget.timed else whole
    with budget.stage(SCORING), reporter.stage(f"scoring the {split} split", whole, " tokens") as advance:
        while True:
            began, store = time.perf_counter(), prepared.head(split, tokens)
            report = scoring.evaluate(model, store, advance)
            affordable = _SAFE * budget.left / (time.perf_counter() - began) * tokens
            if tokens >= whole or affordable < 2 * tokens:
                return {**vars(report), "of_tokens": prepared.stores[split].tokens}, store
            tokens = int(min(affordable, _GROWTH * tokens, whole))


def account(results: dict[str, Any], planned_steps: int, budget: Budget, reporter: Reporter) -> None:
    """Compare what a timed run announced with what came, in the results and in a line; say where steps were too few."""
    steps, seconds = results["steps"], budget.spent
    took = {name: round(each, 2) for name, each in budget.took.items()}
    results["budget"] = {"seconds": budget.seconds, "spent": seconds, "steps_planned": planned_steps, "took": took}
    stages = ", ".join(f"{name} {each:.1f}" for name, each in took.items())
    hoped, came = results.get("expected_nats_per_token"), results.get("valid", {}).get("nats_per_token")
    loss = f", {hoped:.2f} nats/token expected and {came:.2f} reached" if hoped and came else ""
    reporter.say(
        f"{planned_steps:,} steps planned and {steps:,} made{loss}; {seconds:.0f} of {budget.seconds:.0f} s: {stages}"
    )
    if steps < FEW_STEPS:
        a_step = budget.took.get("training", 0.0) / max(1, steps)
        note = f"too few steps to learn from ({steps}, at {a_step:.2g} s each; {FEW_STEPS} are the least)"
        results["notes"] = [f"{note}: take a smaller model, vocabulary or batch, or more minutes"]
        reporter.say(results["notes"][0])
