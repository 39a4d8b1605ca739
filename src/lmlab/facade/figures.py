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
_BASELINE_SHARE = 0.03  # of a timed run's budget, for the n-gram and for xz
_SHARES = {CALIBRATION: 0.04, SCORING: 0.08, SAVING: 0.02}  # at most
_SAVING_SECONDS = 1.0  # besides
_PROBE = 1_000  # tokens whose scoring shows the speed
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

    tokens = prepared.validation_tokens
    return {CALIBRATION: _READINGS[CALIBRATION] * min(ENOUGH, tokens), SCORING: _READINGS[SCORING] * tokens}


def baselines(prepared: Prepared, budget: Budget, reporter: Reporter) -> tuple[dict[str, Any], Baseline | None]:
    """What an n-gram and xz make of the validation split: their figures, and the n-gram's token by token."""
    from lmlab.training.baseline import affordable, ngram_baseline, xz_bits_per_byte

    if "valid" not in prepared.stores:
        return {}, None
    seconds = _BASELINE_SHARE * budget.seconds
    train, kind = prepared.stores["train"], prepared.tokenizer.kind
    with budget.stage("baselines"), reporter.stage("fitting the n-gram baseline"):
        ngram = ngram_baseline(train, prepared.head("valid"), kind, prepared.tokenizer.vocab_size, seconds)
        texts = prepared.corpus.text("train", max_bytes=8 << 20), prepared.corpus.text("valid", max_bytes=4 << 20)
        before, text = affordable(*texts, seconds)
        xz = xz_bits_per_byte(before, text)
    part = f" (of {ngram.learned:,} of {train.tokens:,} tokens)" if ngram.learned < train.tokens else ""
    reporter.say(
        f"baseline on the validation split: {ngram.order}-gram{part} {ngram.report.nats_per_token:.4f} nats/token, "
        f"{ngram.report.bits_per_byte:.3f} bits/byte in {ngram.seconds:.1f} s; xz {xz:.3f} bits/byte"
    )
    return {"ngram": ngram.figures(ngram.report), "xz": {"bits_per_byte": xz, "bytes": len(text)}}, ngram


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
        elif validation is not None:
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
    """The figures on a split, or on as much of its beginning as time is left for, and those tokens."""
    with budget.stage(SCORING):
        store = prepared.head(split)
        if budget.timed:
            probe = prepared.head(split, _PROBE)
            began = time.perf_counter()
            scoring.evaluate(model, probe)
            seconds_a_token = (time.perf_counter() - began) / probe.tokens
            store = prepared.head(split, max(_PROBE, _SAFE * budget.left / seconds_a_token))
        with reporter.stage(f"scoring the {split} split", store.tokens, " tokens") as advance:
            report = scoring.evaluate(model, store, advance)
    return {**vars(report), "of_tokens": prepared.stores[split].tokens}, store


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
        note = f"{steps} steps are too few to learn from, at {a_step:.2g} s a step"
        results["notes"] = [f"{note}: take a smaller model, vocabulary or batch, or more minutes"]
        reporter.say(results["notes"][0])
