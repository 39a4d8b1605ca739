"""Small instances of every registered model, by registry name and variant; each is imported when it is built.

Weights are random but large, lest a fault drown in rows that are all nearly uniform; counts come from random documents.
"""

import importlib
from functools import cache, partial

import numpy as np
import torch

from lmlab.models.base import LanguageModel
from lmlab.models.toy import Scripted, Uniform
from lmlab.vocabulary import BOS, EOS, SPECIALS, UNK

VOCAB = 8
SMOOTHINGS = ("mle", "add-k", "witten-bell", "stupid-backoff", "absolute", "kneser-ney")


@cache
def documents(count: int = 60) -> np.ndarray:
    """Random documents that prefer some words after others, laid end to end; a few are empty."""
    rng = np.random.default_rng(0)
    words = [UNK, *range(len(SPECIALS), VOCAB)]
    follow = rng.dirichlet(np.full(len(words), 0.5), size=len(words))
    ids: list[int] = []
    for _ in range(count):
        at = rng.integers(len(words))
        ids.append(BOS)
        for _ in range(rng.integers(0, 9)):
            at = rng.choice(len(words), p=follow[at])
            ids.append(words[at])
        ids.append(EOS)
    return np.array(ids, dtype=np.uint16)


def _ngram(order: int, smoothing: str, **settings) -> LanguageModel:
    from lmlab.models.ngram import Ngram

    return Ngram.estimate(Ngram.Settings(order=order, smoothing=smoothing, **settings), VOCAB, documents())


def _cache(**settings) -> LanguageModel:
    from lmlab.models.cache import Cache

    return Cache(VOCAB, Cache.Settings(**settings))


def _cm(**settings) -> LanguageModel:
    from lmlab.models.cm import CM

    spellings = [b""] * len(SPECIALS) + [b"a", b"B", b"\n", b":"]
    return CM.estimate_spelled(CM.Settings(window=64, memory="4M", **settings), spellings, documents())


def _adaptive_cm() -> LanguageModel:
    from lmlab.models.cm import Adaptive

    return Adaptive(_cm(contexts=("1", "match2"), selectors=()))


def _neural(path: str, **settings) -> LanguageModel:
    module, name = path.split(":")
    architecture = getattr(importlib.import_module(f"lmlab.models.neural.{module}"), name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = architecture(architecture.Settings(**settings), VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval()


def _mixture(kind: str, *components, weights=()) -> LanguageModel:
    from lmlab.models.mixture import Mixture

    return Mixture(Mixture.Settings(form=kind, weights=weights), [component() for component in components])


def _recurrent(name: str):
    build = partial(_neural, f"rnn:{name}")
    return {
        "plain": partial(build, hidden=8, embedding=6),
        "stacked": partial(build, hidden=8, embedding=6, layers=3),
        "tied": partial(build, hidden=8, embedding=8, input="tied"),
        "one-hot": partial(build, hidden=8, input="one-hot"),
    }


_bigram = partial(_ngram, 2, "witten-bell")
_lstm = partial(_neural, "rnn:LSTM", hidden=8, embedding=6)
_cnn = partial(_neural, "cnn:CNN", embedding=6, channels=8, layers=2, kernel=3)
_transformer = partial(_neural, "transformer:Transformer", width=8, layers=2, heads=2)


def _script() -> LanguageModel:
    return Scripted.estimate(Scripted.Settings(), VOCAB, documents())


ZOO = {
    "ngram": {
        **{f"{s}-{order}": partial(_ngram, order, s) for s in SMOOTHINGS for order in (1, 2, 3, 5)},
        **{f"compact-{order}": partial(_ngram, order, "kneser-ney", layout="compact") for order in (1, 2, 4)},
        "pruned": partial(_ngram, 4, "kneser-ney", prune=(0, 0, 1)),
        "pruned-by-entropy": partial(_ngram, 4, "witten-bell", prune_to=60),
    },
    "cache": {
        "plain": _cache,
        "unigram": partial(_cache, order=1, prior=0.3),
        "window-1": partial(_cache, window=1),
        "narrow-window": partial(_cache, window=3, decay=0.5),
    },
    "cm": {
        "spelled": partial(_cm, contexts=("0", "1", "word+1", "match2", "fresh:1"), selectors=("1",)),
        "one-context": partial(_cm, contexts=("1-2",), selectors=()),
    },
    "cnn": {
        "plain": _cnn,
        "one-layer": partial(_cnn, layers=1),
        "kernel-1": partial(_cnn, kernel=1),
        "dilated": partial(_cnn, layers=3, kernel=2, dilation=2),
        "gated": partial(_cnn, gated=True, residual=False),
    },
    "rnn": _recurrent("RNN"),
    "lstm": _recurrent("LSTM"),
    "gru": _recurrent("GRU"),
    "transformer": {
        "plain": partial(_transformer, window=64),
        "narrow-window": partial(_transformer, window=3),
        "window-1": partial(_transformer, window=1),
    },
    "uniform": {"plain": partial(Uniform, VOCAB)},
    "scripted": {"estimated": _script},
    "mixture": {
        "linear": partial(_mixture, "linear", _bigram, _lstm, _cnn, weights=(0.5, 0.3, 0.2)),
        "linear-cache": partial(_mixture, "linear", _bigram, _cache),
        "linear-stepwise": partial(_mixture, "linear", _bigram, _script),
        "log-linear": partial(_mixture, "log-linear", _bigram, _transformer, weights=(0.7, 0.6)),
        "nested": partial(_mixture, "linear", partial(_mixture, "log-linear", _lstm, _cnn), _bigram),
    },
}


def _dynamic(inner, **settings) -> LanguageModel:
    from lmlab.models.adaptive.dynamic import Dynamic, gradient_rms

    settings = Dynamic.Settings(**settings)
    ids = documents()
    held_out = np.split(ids, np.flatnonzero(ids == BOS)[1:])[:20]
    return Dynamic(inner(), settings, gradient_rms(inner(), held_out, settings.segment))


def _gated(*components) -> LanguageModel:
    from lmlab.models.adaptive.gate import Gate, Gated

    rng = np.random.default_rng(2)
    count = len(components)
    gate = Gate(rng.normal(0, 0.7, (1 + 3 * count, 4)), rng.normal(0, 0.7, (5, count)))
    return Gated([component() for component in components], gate)


def _online(*components, rate=0.05) -> LanguageModel:
    from lmlab.models.adaptive.online import Online

    return Online(Online.Settings(rate), [component() for component in components])


def _recount(inner, **settings) -> LanguageModel:
    from lmlab.models.adaptive.recount import Recount

    return Recount(inner(), Recount.Settings(**settings))


ADAPTED = {
    "adaptive-cm": {"one-context": _adaptive_cm},
    "gated": {"ngram-lstm": partial(_gated, _bigram, _lstm), "three": partial(_gated, _script, _cnn, _bigram)},
    "online": {
        "ngram-lstm": partial(_online, _bigram, _lstm),
        "three": partial(_online, _script, _adaptive_cm, _bigram),
    },
    "recount": {
        "uniform": partial(_recount, lambda: Uniform(VOCAB), shortest=0, longest=2),
        "mixture": partial(_recount, partial(_mixture, "linear", _bigram, _lstm), shortest=1, longest=2, weight=0.9),
        "gated": partial(_recount, partial(_gated, _bigram, _lstm), shortest=1, longest=4),
        "online": partial(_recount, partial(_online, _bigram, _lstm), shortest=1, longest=2),
    },
    "dynamic": {
        "lstm": partial(_dynamic, _lstm, lr=0.02, segment=3),
        "token-by-token": partial(_dynamic, _lstm, lr=0.01, segment=1),
        "sgd": partial(_dynamic, _cnn, rule="sgd", lr=0.3, segment=2, clip=0.5),
        "transformer": partial(_dynamic, _transformer, lr=0.01, segment=3),
        "tied": partial(_dynamic, partial(_neural, "rnn:GRU", hidden=8, embedding=8, input="tied"), lr=0.02, segment=2),
    },
}
"""Models around models that adapt to what they read: never trained as such, so not in the registry."""


@cache
def build(name: str, variant: str) -> LanguageModel:
    """One instance, made once."""
    return (ZOO | ADAPTED)[name][variant]()
