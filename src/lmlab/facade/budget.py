"""What to train in a given time: the planner's rules, asked of this corpus and this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from lmlab import registry
from lmlab.facade.configure import settings_of
from lmlab.facade.prepare import Prepared, training_batches
from lmlab.progress import Reporter

if TYPE_CHECKING:
    from lmlab.training.planner import Size

_MEASURED_SHARE = 0.005  # of the budget, for each size measured


@dataclass(frozen=True)
class Clock:
    """When a command began, and how many tokens it is planned to learn from (None: nothing was planned)."""

    began: float
    tokens: float | None = None


def planned(
    whole: dict[str, Any], named: Mapping[str, Any], prepared: Prepared, reporter: Reporter, clock: Clock
) -> tuple[dict[str, Any], Clock]:
    """A configuration with the width, dropout and rate that suit its budget of minutes; what is named stands.

    Args:
        whole: the whole configuration, defaults filled in.
        named: what of it was named by the caller or a recipe.
        prepared: the corpus.
        reporter: is told what was chosen.
        clock: since when the budget runs.

    Returns:
        The configuration, and the clock with the tokens that are planned.
    """
    model_class = registry.resolve("model", whole["model"]["kind"])
    ladder = getattr(model_class, "ladder", ())
    given = {**named.get("model", {}), **named.get("train", {})}
    if not ladder or whole["train"]["minutes"] is None or whole["train"]["plan"]:
        return whole, clock
    from lmlab.training import planner

    known = {field.name for field in fields(model_class.Settings)}
    if set(given) >= {"lr", *ladder[0], *known & planner.DROPPED}:
        return whole, clock
    if set(ladder[0]) & set(given):
        ladder = [{name: given[name] for name in ladder[0] if name in given}]
    budget = 60 * whole["train"]["minutes"]
    left = max(budget / 2, budget - (time.perf_counter() - clock.began))
    tokens = prepared.stores["train"].tokens
    with reporter.stage("measuring this machine"):
        measure, rate = _measure(whole, prepared, left), model_class.training_defaults["lr"]
        choice = planner.choose(ladder, measure, tokens, left, _batch_tokens(whole["train"]), rate)
    model = {name: value for name, value in choice.model.items() if name in known and name not in given}
    train = {name: value for name, value in choice.train.items() if name not in given}
    reporter.say(f"planned for {left:.0f} s: {choice.sentence(model | train)}")
    whole = {**whole, "model": {**whole["model"], **model}, "train": {**whole["train"], **train}}
    return whole, replace(clock, tokens=choice.tokens)


def _measure(whole: Mapping[str, Any], prepared: Prepared, left: float) -> Callable[[Mapping[str, Any]], Size]:
    from lmlab.training.fit import Fit
    from lmlab.training.planner import Size

    settings = settings_of(whole, "train")
    batches = training_batches(prepared.stores["train"], settings, whole["seed"])
    model_class = registry.resolve("model", whole["model"]["kind"])

    def measure(size: Mapping[str, Any]) -> Size:
        model = model_class(settings_of({"model": {**whole["model"], **size}}, "model"), prepared.tokenizer.vocab_size)
        speed = Fit(model, batches, settings, whole["seed"]).pace(min(1.0, _MEASURED_SHARE * left))
        return Size(size, model.core_parameters, speed)

    return measure


def expect(results: dict[str, Any], clock: Clock | None, reporter: Reporter) -> None:
    """Say what loss is to be expected, from the n-gram's and the tokens planned."""
    if clock is None or clock.tokens is None or "ngram" not in results["baselines"]:
        return
    from lmlab.training.planner import expected

    nats = expected(results["baselines"]["ngram"]["nats_per_token"], clock.tokens)
    results["expected_nats_per_token"] = nats
    reporter.say(f"to be expected on the validation split: about {nats:.2f} nats/token, give or take a tenth of it")


def _batch_tokens(train: Mapping[str, Any]) -> int:
    return (train["batch_tokens"] or train["batch_size"] * train["length"]) * train["accumulate"]
