"""How well a model predicts a text, in the same units for every model and every tokenizer.

Each document is read after `<bos>`, its `<eos>` is predicted, and the context is reset between documents. Every token
is scored once, given all that stands before it in its document (as far as the model can see). An unknown token costs
its prediction as `[UNK]` and its spelling, so that bits per byte compare a word model with a character model. Figures
are sums over tokens, taken in float64, and do not depend on batches.

Shapes: V the vocabulary, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lmlab.errors import EmptyDataError, LmlabError, UsageError
from lmlab.models.base import LanguageModel
from lmlab.models.scorers import ranks_of, rows_of, scorer_of, top_of
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, spelling_nats


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
UNSPELLED = "[UNK] is predicted as a class, its spelling is free: not comparable between vocabularies"
"""What the protocol says of unknown tokens where their spelling is not charged."""
ADAPTED = "carried from document to document, in order; each token predicted before it is learned from"
"""What happens to what a model learns while it is scored."""

Progress = Callable[[int], None] | None


def evaluate(model: LanguageModel, store: TokenStore, progress: Progress = None, *, spelling: bool = True) -> Report:
    """Score every document of a store.

    Args:
        model: any language model.
        store: the encoded documents.
        progress: called with the number of tokens scored so far.
        spelling: whether the spelling of unknown tokens is charged.

    Raises:
        UsageError: the model's scores are not probabilities (stupid backoff).
        EmptyDataError: nothing to score.
        LmlabError: a log-probability is NaN or +inf.
    """
    _check(model, store)
    nats, done = 0.0, 0
    for logp_N in scorer_of(model).token_logp(store.ids):
        nats -= _sum(logp_N)
        done += len(logp_N)
        if progress is not None:
            progress(done)
    return report_of(nats, store, spelling=spelling)


def score_tokens(
    model: LanguageModel, store: TokenStore, progress: Progress = None, *, ranks: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """The log-probability of every token of a store, logp_N in float64, and its rank among all tokens, rank_N.

    Rank 1 is the likeliest; equals share the better rank; None where no ranks are asked for. Spelling is not charged.
    Other arguments and errors are those of `evaluate`.
    """
    _check(model, store)
    pieces: Iterable[tuple[np.ndarray, np.ndarray | None]] = (
        ranks_of(model, store.ids) if ranks else ((piece_M, None) for piece_M in scorer_of(model).token_logp(store.ids))
    )
    logp_N, rank_N, done = np.empty(store.tokens), np.empty(store.tokens, np.int64) if ranks else None, 0
    for logp_M, rank_M in pieces:
        _sum(logp_M)
        logp_N[done : done + len(logp_M)] = logp_M
        if rank_N is not None and rank_M is not None:
            rank_N[done : done + len(logp_M)] = rank_M
        done += len(logp_M)
        if progress is not None:
            progress(done)
    return logp_N, rank_N


def likeliest(model: LanguageModel, store: TokenStore, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k likeliest tokens where each token of a store stands, ids_NK, and their log-probabilities, logp_NK.

    The likeliest first; of equals the lower id. Errors are those of `evaluate`.
    """
    _check(model, store)
    ids, logp = zip(*(top_of(rows_NV, k) for rows_NV in rows_of(model, store.ids)), strict=True)
    return np.concatenate(ids), np.concatenate(logp)


def document_nats(model: LanguageModel, ids_N: np.ndarray) -> np.ndarray:
    """The nats of each of some documents laid end to end, `<bos>` first, in float64; spelling is not charged.

    Raises:
        LmlabError: a log-probability is NaN or +inf.
    """
    logp_N = np.concatenate([np.empty(0), *scorer_of(model).token_logp(ids_N)])
    _sum(logp_N)
    begins_D = np.flatnonzero(ids_N == BOS)
    return -np.add.reduceat(logp_N, begins_D - np.arange(len(begins_D))) if len(begins_D) else np.empty(0)


def check_normalised(model: LanguageModel) -> None:
    """UsageError where a model's scores are not probabilities."""
    if not scorer_of(model).normalised:
        raise UsageError(
            "this model's scores do not sum to one (stupid backoff), so it has no perplexity",
            "train with another smoothing, or use it to generate and rank",
        )


def _check(model: LanguageModel, store: TokenStore) -> None:
    check_normalised(model)
    if not len(store):
        raise EmptyDataError("there is no document to score", "give it a text that is not empty")


def _sum(logp_N: np.ndarray) -> float:
    total = float(logp_N.sum(dtype=np.float64))
    if math.isnan(total) or total == math.inf:
        raise LmlabError(f"the model gives a log-probability of {total}", "its weights are damaged; train it again")
    return total


def report_of(nats: float, store: TokenStore, *, spelling: bool = True) -> Report:
    """The figures of a store of which the model's own share, in nats, is known."""
    spelled = spelling_nats(store.unknown_tokens, store.unknown_bytes)
    total = nats + spelled if spelling else nats
    bits = total / math.log(2)
    return Report(
        documents=len(store),
        tokens=store.tokens,
        total_nats=total,
        nats_per_token=total / store.tokens,
        perplexity=perplexity(total / store.tokens),
        bits_per_char=bits / max(1, store.text_chars),
        bits_per_byte=bits / max(1, store.text_bytes),
        unk_tokens=store.unknown_tokens,
        unk_spelling_nats=spelled if spelling else 0.0,
        perplexity_unk_as_class=perplexity(nats / store.tokens),
        chars=store.text_chars,
        bytes=store.text_bytes,
    )


def perplexity(nats_per_token: float) -> float:
    """Its exponential; infinite where no float is as large."""
    return math.exp(nats_per_token) if nats_per_token < 700 else math.inf


def token_logp(model: LanguageModel, store: TokenStore, progress: Progress = None) -> np.ndarray:
    """logp_N of every predicted token of a store, in its order; spelling is not charged. As `evaluate` otherwise."""
    return score_tokens(model, store, progress, ranks=False)[0]
