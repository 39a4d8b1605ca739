"""What to train in a given time: the planner's rules, asked of this corpus and this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from lmlab import registry
from lmlab.facade.prepare import Prepared, training_batches
from lmlab.progress import Reporter

if TYPE_CHECKING:
    from lmlab.run_config import RunConfig
    from lmlab.train_settings import TrainSettings
    from lmlab.training.budget import Budget
    from lmlab.training.planner import Size

_MEASURED_SHARE = 0.005  # of the budget, for each size measured
_MEASURING_SHARE = 0.04  # of it for all, however slow


def planned(
    config: RunConfig, prepared: Prepared, reporter: Reporter, budget: Budget
) -> tuple[RunConfig, float | None]:
    """A configuration with the width, dropout and rate that suit its budget of minutes; what is named stands.

    Args:
        config: of the run.
        prepared: the corpus.
        reporter: shows what was chosen.
        budget: of the command.

    Returns:
        The configuration, and how many tokens it will learn from; None where nothing was planned.
    """
    model_class = registry.resolve("model", config.model.kind)
    ladder = getattr(model_class, "ladder", ())
    if not ladder or not budget.timed:
        return config, None
    from lmlab.training import planner

    known = {field.name for field in fields(model_class.Settings)}
    named_of_model, named_of_train = config.names_in("model"), config.names_in("train")
    if "lr" in named_of_train and named_of_model >= {*ladder[0], *known & planner.DROPPED}:
        return config, None
    if set(ladder[0]) & named_of_model:
        ladder = [{name: getattr(config.model.settings, name) for name in ladder[0] if name in named_of_model}]
    left = max(1.0, budget.left)
    tokens = prepared.stores["train"].tokens
    with budget.stage("trials"), reporter.stage("measuring this machine"):
        measure, rate = _measure(config, prepared, left), model_class.training_defaults["lr"]
        choice = planner.choose(ladder, measure, tokens, left, _batch_tokens(config.train), rate)
    model = {name: value for name, value in choice.model.items() if name in known and name not in named_of_model}
    train = {name: value for name, value in choice.train.items() if name not in named_of_train}
    reporter.say(f"planned for {left:.0f} s: {choice.sentence(model | train)}")
    return config.with_model(**model).with_train(**train), choice.tokens


def _measure(config: RunConfig, prepared: Prepared, left: float) -> Callable[[Mapping[str, Any]], Size]:
    from lmlab.training.fit import Fit
    from lmlab.training.planner import Size

    batches = training_batches(prepared.stores["train"], config.train, config.seed)
    model_class = registry.resolve("model", config.model.kind)

    sizes: list[Size] = []
    end = time.perf_counter() + _MEASURING_SHARE * left

    def measure(size: Mapping[str, Any]) -> Size:
        settings = replace(config.model.settings, **size)
        model_class.check_room(settings, prepared.tokenizer.vocab_size)
        model = model_class(settings, prepared.tokenizer.vocab_size)
        limit = end - time.perf_counter()
        if sizes and limit < 0:  # a smaller one is as fast at least
            speed = sizes[-1].speed * min(1.0, sizes[-1].parameters / model.core_parameters)
        else:
            seconds = min(1.0, _MEASURED_SHARE * left)
            speed = Fit(model, batches, config.train, config.seed).pace(seconds, limit)
        sizes.append(Size(size, model.core_parameters, speed))
        return sizes[-1]

    return measure


def expect(results: dict[str, Any], tokens: float | None, reporter: Reporter) -> None:
    """Say what loss is to be expected, from the n-gram's and the tokens planned."""
    if tokens is None or "ngram" not in results["baselines"]:
        return
    from lmlab.training.planner import expected

    nats = expected(results["baselines"]["ngram"]["nats_per_token"], tokens)
    results["expected_nats_per_token"] = nats
    reporter.say(f"to be expected on the validation split: about {nats:.2f} nats/token, give or take a tenth of it")


def _batch_tokens(train: TrainSettings) -> int:
    return (train.batch_tokens or train.batch_size * train.length) * train.accumulate
