"""Bayes' rule over language models: the class under which a text, and the class itself, are likeliest.

log p(c | text) = log p(text | c) + log p(c) + constant. Every class has its own model, all share one vocabulary.

Shapes: N texts, M tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmlab import registry, scoring
from lmlab.classify.data import Task
from lmlab.corpora import DataSettings, open_objects
from lmlab.errors import EmptyDataError, UsageError, shown
from lmlab.facade.learn import learn
from lmlab.facade.prepare import Prepared
from lmlab.models.base import estimated
from lmlab.models.scorers import scorer_of
from lmlab.progress import Reporter, Silent
from lmlab.run_config import RunConfig
from lmlab.tokens.id_store import TokenStore
from lmlab.training.budget import Budget

MOST_MODELS = 1_000
"""Classes with a language model each."""
_LEAST = -1e9  # nats, where a model without smoothing finds a text impossible


class Bayes:
    """A language model a class, and the logarithms of the shares that the classes had in training."""

    def __init__(self, models: Sequence[Any], log_prior_C: np.ndarray) -> None:
        self.models, self.log_prior_C = list(models), log_prior_C

    @classmethod
    def fit(cls, task: Task) -> Bayes:
        """Train a model on the texts of each class; what is left of a budget of minutes is shared among them.

        Raises:
            UsageError: too many classes, or a model whose scores are not probabilities.
            EmptyDataError: a network is asked for, and a class has only empty texts.
        """
        if (classes := len(task.classes)) > MOST_MODELS:
            problem = f"{classes:,} classes would need as many language models; {MOST_MODELS:,} at most are made"
            raise UsageError(problem, "train one network: --model lstm, without --bayes")
        by_class: dict[Any, list[str]] = {label: [] for label in task.classes}
        for text, label in task.train:
            by_class[label].append(text)
        models: list[Any] = []
        with task.reporter.stage("training a model a class", classes, " classes") as advance:
            for label, texts in by_class.items():
                models.append(_model_of(task, label, texts, Budget(task.budget.left / (classes - len(models)))))
                advance(len(models))
        if not scorer_of(models[0]).normalised:
            raise UsageError("stupid backoff gives no probabilities, so no class has one", "choose another smoothing")
        return cls(models, np.log([len(texts) / len(task.train) for texts in by_class.values()]))

    def logits(self, tokens: TokenStore, reporter: Reporter) -> np.ndarray:
        """logits_NC: of each text, in nats, with the prior of each class."""
        logits_NC = np.empty((len(tokens), len(self.models)))
        starts_N = np.cumsum([0, *(tokens.lengths - 1)[:-1].tolist()])
        with reporter.stage("scoring by each class's model", len(self.models), " classes") as advance:
            for nth, model in enumerate(self.models):
                if len(tokens):
                    logp_M = scoring.token_logp(model, tokens).astype(np.float64)
                    logits_NC[:, nth] = np.maximum(np.add.reduceat(logp_M, starts_N), _LEAST)
                advance(nth + 1)
        logits_NC += self.log_prior_C
        return logits_NC

    def save(self, folder: Path) -> None:
        """Write every model into a folder of its own."""
        for nth, model in enumerate(self.models):
            (folder / f"class-{nth:03}").mkdir()
            model.save(folder / f"class-{nth:03}")

    @classmethod
    def load(cls, folder: Path, config: RunConfig, vocab_size: int, log_prior_C: np.ndarray) -> Bayes:
        """Read what `save` wrote; ArtifactError where a model is missing or damaged."""
        kind, settings = registry.resolve("model", config.model.kind), config.model.settings
        folders = (folder / f"class-{nth:03}" for nth in range(len(log_prior_C)))
        return cls([kind.load(each, settings, vocab_size) for each in folders], log_prior_C)

    def check(self) -> None:
        """ArtifactError where a weight is NaN or infinite."""
        for model in self.models:
            model.check()


def _model_of(task: Task, label: Any, texts: list[str], budget: Budget) -> Any:
    """A language model of the texts of a class."""
    config, store = task.config.with_train(baseline=False, samples=False), task.encoded(texts)
    kind = registry.resolve("model", config.model.kind)
    if kind.family == "counted":
        return estimated(kind, config.model.settings, task.tokenizer.spellings(), store.ids)
    if not any(texts):
        problem = f"the class {shown(label)} has only empty texts, from which no network learns"
        raise EmptyDataError(problem, "take n-grams, or one network without bayes")
    corpus = open_objects(texts, DataSettings(split="none"))
    return learn(Prepared(corpus, task.tokenizer, {"train": store}), config, None, Silent(), budget).model
