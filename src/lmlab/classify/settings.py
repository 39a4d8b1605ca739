"""The settings of a classifier that a language model has not."""

from __future__ import annotations

from dataclasses import dataclass

from lmlab import config
from lmlab.config import setting

POOLS = ("last", "mean", "max", "concat")
"""The last real state, the mean or maximum over real states, or all three side by side (Howard and Ruder 2018)."""


@dataclass(frozen=True)
class ClassifierSettings(config.Settings):
    """How classes are told apart."""

    start: str | None = setting(None, "a run of lmlab train whose weights and tokenizer the network starts from")
    bayes: bool = setting(
        False, "one language model a class and Bayes' rule, in place of one network; n-grams know no other way"
    )
    pool: str = setting("mean", "what a network answers from: its last real state, or a pool of all", choices=POOLS)
    frozen: float = setting(
        0.3, "share of the budget in which a started network's layers are thawed, from the output down", ge=0, lt=1
    )
    decay: float = setting(
        2.6, "the rate of each layer of a started network over that of the one below (Howard and Ruder 2018)", ge=1
    )
    max_tokens: int = setting(512, "a network reads the first so many tokens of a text", ge=1, le=100_000)
