"""Bayes' rule over language models: the class under which a text, and the class itself, are likeliest.

log p(c | text) = log p(text | c) + log p(c) + constant. Every class has its own model, all share one vocabulary.

Shapes: N texts, M tokens, C classes, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmlab import registry, scoring
from lmlab.corpora import DataSettings, open_objects
from lmlab.corpora.document import Document
from lmlab.errors import EmptyDataError, UsageError, shown
from lmlab.facade.learn import learn
from lmlab.facade.prepare import Prepared
from lmlab.models.base import estimated
from lmlab.models.scorers import scorer_of
from lmlab.progress import Reporter, Silent
from lmlab.run_config import RunConfig
from lmlab.tokens import Tokenizer
from lmlab.tokens.id_store import TokenStore
from lmlab.training.budget import Budget

MOST_MODELS = 1_000
"""Classes with a language model each."""
_LEAST = -1e9  # nats, where a model without smoothing finds a text impossible
_MOST_COUNTS = 50_000_000  # of the naive Bayes baseline: classes times vocabulary


class Bayes:
    """A language model a class, and the logarithms of the shares that the classes had in training."""

    def __init__(self, models: Sequence[Any], log_prior_C: np.ndarray) -> None:
        self.models, self.log_prior_C = list(models), log_prior_C

    @classmethod
    def fit(
        cls,
        config: RunConfig,
        tokenizer: Tokenizer,
        by_class: Mapping[Any, list[str]],
        reporter: Reporter,
        budget: Budget,
    ) -> Bayes:
        """Train a model on the texts of each class; what is left of a budget of minutes is shared among them.

        Raises:
            UsageError: too many classes, or a model whose scores are not probabilities.
            EmptyDataError: a network is asked for, and a class has only empty texts.
        """
        if len(by_class) > MOST_MODELS:
            problem = f"{len(by_class):,} classes would need as many language models; {MOST_MODELS:,} at most are made"
            raise UsageError(problem, "train one network: --model lstm, without --bayes")
        config, models = config.with_train(baseline=False, samples=False), list[Any]()
        with reporter.stage("training a model a class", len(by_class), " classes") as advance:
            for label, texts in by_class.items():
                if registry.resolve("model", config.model.kind).family != "counted" and not any(texts):
                    problem = f"the class {shown(label)} has only empty texts, from which no network learns"
                    raise EmptyDataError(problem, "take n-grams, or one network without bayes")
                share = Budget(budget.left / (len(by_class) - len(models)))
                models.append(_model_of(config, tokenizer, texts, share))
                advance(len(models))
        if not scorer_of(models[0]).normalised:
            raise UsageError("stupid backoff gives no probabilities, so no class has one", "choose another smoothing")
        counts_C = np.array([len(texts) for texts in by_class.values()], np.float64)
        return cls(models, np.log(counts_C / counts_C.sum()))

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
        """Read what `save` wrote.

        Raises:
            ArtifactError: a model is missing or damaged.
        """
        kind, settings = registry.resolve("model", config.model.kind), config.model.settings
        folders = (folder / f"class-{nth:03}" for nth in range(len(log_prior_C)))
        return cls([kind.load(each, settings, vocab_size) for each in folders], log_prior_C)

    def check(self) -> None:
        """Look for weights that are NaN or infinite."""
        for model in self.models:
            model.check()


def _model_of(config: RunConfig, tokenizer: Tokenizer, texts: list[str], budget: Budget) -> Any:
    store = TokenStore.from_documents(tokenizer, map(Document, texts))
    kind = registry.resolve("model", config.model.kind)
    if kind.family == "counted":
        return estimated(kind, config.model.settings, tokenizer.spellings(), store.ids)
    corpus = open_objects(texts, DataSettings(split="none"))
    return learn(Prepared(corpus, tokenizer, {"train": store}), config, None, Silent(), budget).model


def naive_bayes(train: TokenStore, classes_N: np.ndarray, classes: int, tokens: TokenStore) -> np.ndarray | None:
    """logits_NC of multinomial naive Bayes with add-one smoothing, a baseline; None where its table is too large."""
    size = train.vocab_size
    if classes * size > _MOST_COUNTS:
        return None
    owner_M = np.repeat(classes_N, train.lengths)
    counts_CV = np.bincount(owner_M * size + train.ids, minlength=classes * size).reshape(classes, size) + 1.0
    logp_CV = np.log(counts_CV / counts_CV.sum(1, keepdims=True))
    prior_C = np.log(np.bincount(classes_N, minlength=classes) / len(classes_N))
    documents = (tokens.document(nth) for nth in range(len(tokens)))
    return np.array([logp_CV[:, ids].sum(1) + prior_C for ids in documents]).reshape(-1, classes)
