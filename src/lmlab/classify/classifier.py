"""`Classifier`: from texts and labels to classes, with scikit-learn's interface and a directory to keep it in.

Shapes: N texts, C classes.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from lmlab import registry, store, tokens
from lmlab.classify.bayes import MOST_MODELS, Bayes
from lmlab.classify.data import Examples, Labelled, Task, checked_label, classes_of, split_of
from lmlab.classify.figures import calibration_temperature, figures, log_loss, probabilities
from lmlab.classify.settings import ClassifierSettings
from lmlab.config import Named
from lmlab.corpora.document import Document
from lmlab.corpora.records import clean
from lmlab.corpora.settings import IN_HAND
from lmlab.corpora.splits import FEW, SplitRule
from lmlab.disk import atomic_folder, write_json
from lmlab.errors import ArtifactError, DataError, UsageError, shown
from lmlab.integrity import read_json
from lmlab.models.base import whole
from lmlab.progress import Reporter, Silent
from lmlab.run_config import RunConfig, from_keywords, from_tables, merged
from lmlab.tokens import Tokenizer
from lmlab.tokens.id_store import TokenStore
from lmlab.training.budget import Budget

_FIGURES, _FIGURES_SHARE, _SAVING_SECONDS = "figures", 0.1, 1.0  # set aside of a budget for what follows training
_HELD_OUT = SplitRule((0.9, 0.1, 0.0))  # of the texts given to `fit`
_CLASSES = "classes.json"
_BAYES: Named = {"model.order": 2}
_NAIVE_BAYES: Named = {"model.kind": "ngram", "model.order": 1, "model.smoothing": "add-k", "model.k": 1.0}
_NETWORK: Named = {"train.epochs": 10, "train.lr": 5e-3, "train.batch_size": 32}


@dataclass
class _Fitted:
    """What learning left: `scorer` gives the logits of encoded texts."""

    config: RunConfig
    own: ClassifierSettings
    tokenizer: Tokenizer
    classes: list[Any]
    scorer: Any
    temperature: float
    manifest: dict[str, Any]


class Classifier:
    """Texts to classes; with no arguments, an n-gram model a class and Bayes' rule: seconds, and hard to beat.

    It has scikit-learn's interface and works in its pipelines and searches; scikit-learn need not be installed.

    Args:
        model: "ngram" where None; "lstm", "gru", "rnn", "cnn", "transformer" train one network.
        tokenizer: "word" in lower case where None; or "char", "byte", "code", "bpe".
        start: a run of lmlab whose network, weights and tokenizer are gone on with; model and tokenizer are then its.
        bayes: a language model a class also where the model is a network.
        pool: what a network answers from: "last", "mean", "max" or "concat", which is all three.
        frozen: share of the budget in which a started network's layers are thawed, from the output down.
        decay: the rate of each layer of a started network over that of the one below.
        max_tokens: a network reads the first so many tokens of a text.
        seed: of everything random.
        settings: any other setting by its name: `{"minutes": 1, "hidden": 256, "order": 4}`.

    Attributes:
        classes_: the labels, in the order of the columns of `predict_proba`.
    """

    def __init__(
        self,
        model: str | None = None,
        tokenizer: str | None = None,
        *,
        start: str | None = None,
        bayes: bool = False,
        pool: str = "mean",
        frozen: float = 0.3,
        decay: float = 2.6,
        max_tokens: int = 512,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.start, self.bayes, self.pool = model, tokenizer, start, bayes, pool
        self.frozen, self.decay, self.max_tokens, self.seed, self.settings = frozen, decay, max_tokens, seed, settings
        self._fitted: _Fitted | None = None

    # -- learning -------------------------------------------------------------------------------------------------

    def fit(self, X: Iterable[str], y: Iterable[Any], reporter: Reporter | None = None) -> Self:
        """Learn from texts and their labels.

        A tenth of the texts, by hash, is held out to choose weights and to calibrate, if it has 20 different ones.

        Raises:
            DataError: a text or label that is none, or fewer than two labels.
        """
        began, texts, labels = time.perf_counter(), _texts(X), _labels(y)
        if len(texts) != len(labels):
            raise DataError(f"there are {len(texts):,} texts, but {len(labels):,} labels", "give one label for each")
        whole = Examples(zip(texts, classes_of(labels)[0], strict=True))
        held = {pair for pair in whole if split_of(pair[0], _HELD_OUT) == "valid"}
        learned = {label for text, label in whole if (text, label) not in held}
        held = {(text, label) for text, label in held if label in learned}  # no class is held out whole
        if len({text for text, _ in held}) < FEW:
            held = set()
        train, valid = (Examples(pair for pair in whole if (pair in held) == out) for out in (False, True))
        parts, rule = (
            {"train": train, "valid": valid, "test": Examples()},
            f"a tenth by hash validates, from {FEW} texts on",
        )
        named = from_keywords({**(self.settings or {}), **self._kinds()}) | {"source": IN_HAND, "seed": self.seed}
        return self.learn(named, Labelled("texts", "", rule, parts), reporter or Silent(), began)

    def learn(self, named: Named, labelled: Labelled, reporter: Reporter, began: float | None = None) -> Self:
        """Learn from the training split of a labelled corpus, `named` as `lmlab.train_named` takes it.

        Minutes count from `began`, by `time.perf_counter`, or from now, and leave time to evaluate the other splits.
        """
        began = time.perf_counter() if began is None else began
        names = ("start", "bayes", "pool", "frozen", "decay", "max_tokens")
        own = ClassifierSettings.make({name: getattr(self, name) for name in names}, "classify")
        train, valid, encoder, tokenizer = labelled.of("train"), labelled.splits["valid"], None, None
        classes, named = classes_of(train.labels)[1], from_keywords(self._kinds()) | named
        if own.start is not None:
            if own.bayes or self.model or self.tokenizer:
                raise UsageError("model, tokenizer and bayes stand beside a start", "its model and tokenizer are used")
            encoder, tokenizer, of_start = _started(own.start)
            named = {path: v for path, v in named.items() if not path.startswith(("model.", "tokenizer."))} | of_start
        elif self.tokenizer is None:
            named = {"tokenizer.lower": True, **named}
        kind, family = named["model.kind"], registry.resolve("model", named["model.kind"]).family
        if family not in ("counted", "neural"):
            raise UsageError(f"a {kind} is not trained from text", "`lmlab train --help` lists the models that are")
        bayes = own.bayes or family == "counted"
        config = RunConfig.build(merged(_BAYES if kind == "ngram" else {} if bayes else _NETWORK, named))
        budget, later = Budget.of(config.train, began), len(valid) + len(labelled.splits["test"])
        budget.reserve(_FIGURES, _FIGURES_SHARE, _SAVING_SECONDS)
        if tokenizer is None:
            with reporter.stage("building the vocabulary"):
                wanted = config.tokenizer
                tokenizer = tokens.build_tokenizer(wanted.kind, wanted.settings.dump(), map(Document, train.texts))
        known = set(classes)
        valid = Examples(pair for pair in valid if pair[1] in known)
        task = Task(config, own, tokenizer, classes, train, valid, reporter, budget, {_FIGURES: len(valid) + later})
        scorer: Any
        results: dict[str, Any] = {"status": "done"}
        if bayes:
            scorer = Bayes.fit(task)
        else:
            from lmlab.classify.network import TextNetwork

            scorer, results = TextNetwork.fit(task, encoder)
        temperature, logits_NC = 1.0, scorer.logits(task.encoded(valid.texts), reporter)
        if len(set(valid.texts)) >= FEW:
            temperature = calibration_temperature(logits_NC, task.numbers(valid))
            results["log_loss_before_calibration"] = log_loss(logits_NC, task.numbers(valid))
        manifest = store.new_manifest(config, labelled.describe())
        manifest |= {"kind": store.CLASSIFIER, "classifier": own.dump(), "status": results.pop("status")}
        manifest["results"] = results | {"classes": len(classes)}
        self._fitted = _Fitted(config, own, tokenizer, classes, scorer, temperature, manifest)
        return self

    def _kinds(self) -> dict[str, Any]:
        return {"model": self.model or "ngram", "tokenizer": self.tokenizer or "word"}

    # -- asking ---------------------------------------------------------------------------------------------------

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The likeliest label of each text."""
        best: np.ndarray = self.classes_[self.predict_proba(X).argmax(1)]
        return best

    def predict_proba(self, X: Iterable[str], reporter: Reporter | None = None) -> np.ndarray:
        """p_NC: the calibrated probability of each class."""
        fitted = self.fitted
        encoded = TokenStore.from_documents(fitted.tokenizer, map(Document, _texts(X)))
        return probabilities(fitted.scorer.logits(encoded, reporter or Silent()), fitted.temperature)

    def score(self, X: Iterable[str], y: Iterable[Any]) -> float:
        """Accuracy."""
        accuracy: float = self.evaluate(X, y)["accuracy"]
        return accuracy

    def evaluate(self, X: Iterable[str], y: Iterable[Any], reporter: Reporter | None = None) -> dict[str, Any]:
        """Accuracy, macro F1, log loss, calibration error, each label's row and the confusions: ready for JSON.

        Raises:
            DataError: no text, or a label that is none.
        """
        labels = [checked_label(label, f"label {number}") for number, label in enumerate(_labels(y))]
        p_NC = self.predict_proba(X, reporter)
        if len(labels) != len(p_NC) or not labels:
            raise DataError(f"there are {len(p_NC):,} texts and {len(labels):,} labels", "give a label for each text")
        return figures(p_NC, self.fitted.classes, labels)

    def baselines(self, train: Examples, part: Examples) -> dict[str, dict[str, Any]]:
        """The figures of the commonest class, and of naive Bayes on the same tokens, which are not calibrated."""
        fitted, quiet = self.fitted, Silent()
        config, own = RunConfig.build(_NAIVE_BAYES), fitted.own
        task = Task(config, own, fitted.tokenizer, fitted.classes, train, part, quiet, Budget(), {})
        shares_C = np.bincount(task.numbers(train), minlength=len(task.classes)) / len(train)
        found = {"majority class": np.tile(shares_C, (len(part), 1))}
        if len(task.classes) <= MOST_MODELS:
            found["naive Bayes"] = probabilities(Bayes.fit(task).logits(task.encoded(part.texts), quiet))
        return {name: figures(p_NC, task.classes, part.labels) for name, p_NC in found.items()}

    @property
    def fitted(self) -> _Fitted:
        """What learning left; UsageError where nothing was learned yet."""
        if self._fitted is None:
            raise UsageError("this classifier has not learned yet", "call fit first, or load one")
        return self._fitted

    @property
    def classes_(self) -> np.ndarray:
        """The labels, in the order of the columns of `predict_proba`."""
        classes = self.fitted.classes
        return np.array(classes, dtype=object if isinstance(classes[0], str) else None)

    # -- keeping --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a directory; RunExistsError where something is there."""
        fitted, path = self.fitted, Path(path)
        prior = getattr(fitted.scorer, "log_prior_C", np.empty(0))
        with atomic_folder(path) as folder:
            fitted.scorer.save(folder)
            known = {"classes": fitted.classes, "temperature": fitted.temperature, "log_prior": prior.tolist()}
            write_json(folder / _CLASSES, known)
            store.write_description(folder, fitted.tokenizer, fitted.config, fitted.manifest)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a directory that `save` wrote; ArtifactError where it is none, or damaged."""
        path = Path(path)
        tokenizer, config, manifest, verified = store.read_description(path, classifier=True)
        own = ClassifierSettings.make(manifest.get("classifier", {}), "classify")
        known = read_json(path / _CLASSES, "train it again")
        try:
            classes, temperature, prior = list(known["classes"]), float(known["temperature"]), list(known["log_prior"])
            sound = len(classes) > 1 and temperature > 0 and len(prior) in (0, len(classes))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise ArtifactError(f"{path / _CLASSES} is damaged", "train it again")
        if prior:
            scorer: Any = Bayes.load(path, config, tokenizer.vocab_size, np.array(prior))
        else:
            from lmlab.classify.network import TextNetwork

            scorer = TextNetwork.new(config, own, tokenizer.vocab_size, len(classes), None).read(path)
        if not verified.remembered:
            scorer.check()
            verified.remember()
        made = cls(config.model.kind, config.tokenizer.kind, **{**own.dump(), "start": None}, seed=config.seed)
        made._fitted = _Fitted(config, own, tokenizer, classes, scorer, temperature, manifest)
        return made

    # -- as scikit-learn asks --------------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What the constructor was given."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self)).parameters)}

    def set_params(self, **params: Any) -> Self:
        """Change what the constructor was given; ValueError where it takes no such thing."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"Classifier takes no {name!r}: there are {', '.join(self.get_params())}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = {name: one.default for name, one in inspect.signature(type(self)).parameters.items()}
        given = (f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name])
        return f"Classifier({', '.join(given)})"

    def __sklearn_is_fitted__(self) -> bool:
        return self._fitted is not None

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        reads = InputTags(string=True, two_d_array=False, one_d_array=True)
        return Tags("classifier", TargetTags(required=True), None, ClassifierTags(), input_tags=reads)


def _texts(X: Iterable[str]) -> list[str]:
    """Texts as a corpus takes them, an empty one too; DataError where one is no text."""
    if isinstance(X, str | bytes) or not hasattr(X, "__iter__"):
        raise DataError(f"{shown(X)} stands in place of texts", "give several in a list")
    texts = list(X)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"text {number} is {shown(text)}, which is no text", "give strings; leave others out")
    return [clean(text, f"text {number}", "strict") for number, text in enumerate(texts)]


def _labels(y: Any) -> list[Any]:
    """Labels, whatever holds them; DataError where nothing does."""
    y = np.asarray(y) if hasattr(y, "__array__") else y
    if isinstance(y, str | bytes) or not hasattr(y, "__iter__"):
        problem = f"a classifier requires y to be passed, but the target y is {shown(y)}"
        raise DataError(problem, "give a label for each text")
    return list(y)


def _started(run: str) -> tuple[Any, Tokenizer, Named]:
    """The network of a run, its tokenizer, and how they are configured; UsageError where it is no network."""
    stored = store.load(Path(run))
    model, config = whole(stored.model), stored.config
    if model.family != "neural":
        raise UsageError(f"{run} is {config.model.kind}, which has no weights to start from", "start from a network")
    groups = {"model": config.model.dump(), "tokenizer": config.tokenizer.dump()}
    return model, stored.tokenizer, from_tables(groups)
