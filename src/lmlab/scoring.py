"""How well a model predicts a text, in the same units for every model and every tokenizer.

Each document is read after `<bos>`, its `<eos>` is predicted, and the context is reset between documents. Every token
is scored once, given all that stands before it in its document (as far as the model can see). An unknown token costs
its prediction as `[UNK]` and its spelling, so that bits per byte compare a word model with a character model. Figures
are sums over tokens, taken in float64, and do not depend on batches.

Shapes: V the vocabulary, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmlab.errors import EmptyDataError, UsageError
from lmlab.models.base import LanguageModel
from lmlab.models.scorers import scorer_of
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import spelling_nats


@dataclass(frozen=True)
class Report:
    """A model's figures on a text.

    Attributes:
        documents: how many, each read on its own.
        tokens: predicted tokens, each document's `<eos>` included.
        total_nats: all that the text costs, the spelling of unknown tokens included.
        nats_per_token: total_nats / tokens.
        perplexity: exp(nats_per_token), per token.
        bits_per_char: total bits over the characters of the text as it stood before encoding.
        bits_per_byte: total bits over its UTF-8 bytes.
        unk_tokens: tokens outside the vocabulary.
        unk_spelling_nats: the cost of their spelling.
        perplexity_unk_as_class: perplexity per token where the spelling is not charged: the figure of papers with a
            closed vocabulary; not comparable between vocabularies.
        chars, bytes: of the text.
    """

    documents: int
    tokens: int
    total_nats: float
    nats_per_token: float
    perplexity: float
    bits_per_char: float
    bits_per_byte: float
    unk_tokens: int
    unk_spelling_nats: float
    perplexity_unk_as_class: float
    chars: int
    bytes: int


PROTOCOL = {
    "boundaries": "each document is read after <bos>, which is never predicted; its <eos> is predicted and counted",
    "context": "carried within a document, reset between documents; each token scored once",
    "unknown": "[UNK] is predicted, then spelled in UTF-8: (bytes + 1) * ln 257 nats each",
}
"""How every figure of a `Report` is taken."""
ADAPTED = "carried from document to document, in order; each token predicted before it is learned from"
"""What happens to what a model learns while it is scored."""


def evaluate(model: LanguageModel, store: TokenStore, progress: Callable[[int], None] | None = None) -> Report:
    """Score every document of a store.

    Args:
        model: any language model.
        store: the encoded documents.
        progress: called with the number of tokens scored so far.

    Raises:
        UsageError: the model's scores are not probabilities (stupid backoff).
        EmptyDataError: nothing to score.
    """
    scorer = scorer_of(model)
    if not scorer.normalised:
        raise UsageError(
            "this model's scores do not sum to one (stupid backoff), so it has no perplexity",
            "train with another smoothing, or use it to generate and rank",
        )
    if not len(store):
        raise EmptyDataError("there is no document to score", "give it a text that is not empty")
    nats, done = 0.0, 0
    for logp_N in scorer.token_logp(store.ids):
        nats -= float(logp_N.sum(dtype=np.float64))
        done += len(logp_N)
        if progress is not None:
            progress(done)
    return _report(nats, store)


def _report(model_nats: float, store: TokenStore) -> Report:
    spelling = spelling_nats(store.unknown_tokens, store.unknown_bytes)
    total = model_nats + spelling
    bits = total / math.log(2)
    return Report(
        documents=len(store),
        tokens=store.tokens,
        total_nats=total,
        nats_per_token=total / store.tokens,
        perplexity=_exp(total / store.tokens),
        bits_per_char=bits / max(1, store.text_chars),
        bits_per_byte=bits / max(1, store.text_bytes),
        unk_tokens=store.unknown_tokens,
        unk_spelling_nats=spelling,
        perplexity_unk_as_class=_exp(model_nats / store.tokens),
        chars=store.text_chars,
        bytes=store.text_bytes,
    )


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def token_logp(model: LanguageModel, store: TokenStore) -> np.ndarray:
    """logp_N of every predicted token of a store, in its order; spelling is not charged."""
    return np.concatenate([np.empty(0, np.float32), *scorer_of(model).token_logp(store.ids)])


@dataclass(frozen=True)
class TokenScore:
    """One token of a scored text: its log-probability (nats) and its rank among all tokens, 1 the likeliest."""

    id: int
    logp: float
    rank: int


def token_scores(model: LanguageModel, ids: Any) -> Iterator[TokenScore]:
    """Score a sequence token by token through `start` and `step`.

    Args:
        model: any language model.
        ids: the tokens after `<bos>`; give `<eos>` last to have the end scored.
    """
    import torch

    logp_BV, state = model.start([[]])
    for id in map(int, ids):
        logp_V = logp_BV[0]
        yield TokenScore(id, float(logp_V[id]), 1 + int((logp_V > logp_V[id]).sum()))
        logp_BV, state = model.step(state, torch.tensor([id]))
