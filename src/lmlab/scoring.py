"""The one ruler: how well a model predicts a text, in the same units for every model and every tokenizer.

Shapes: B documents, T positions, N ids or tokens, P parts of a mixture.

Each document is read after `<bos>`, its `<eos>` is predicted, and the context is reset between documents. Every token
is scored once, given all that stands before it in its document (as far as the model can see). An unknown token costs
its prediction as `[UNK]` and its spelling (`vocab.spelling_nats`), so that bits per byte compare a word model with a
character model. Figures are sums over tokens, taken in float64, and do not depend on batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmlab.errors import EmptyDataError, UsageError
from lmlab.models.base import ArrayScorer, Blend, LanguageModel, ParallelScorer, StreamScorer, is_unnormalised
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, PAD, spelling_nats

_BATCH_TOKENS = 1 << 14  # padded tokens scored at once
_ARRAY_IDS = 1 << 22  # ids scored at once by a counted model


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
        bits_per_byte: the same over its UTF-8 bytes.
        unk_tokens: tokens outside the vocabulary.
        unk_spelling_nats: what their spelling cost.
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
"""How a model that learns from what it reads uses what it learns."""


def evaluate(model: LanguageModel, store: TokenStore, progress: Callable[[int], None] | None = None) -> Report:
    """Score every document of a store.

    Args:
        model: any member of the waist.
        store: the encoded documents.
        progress: called with the number of tokens scored so far.

    Raises:
        UsageError: the model's scores are not probabilities (stupid backoff).
        EmptyDataError: nothing to score.
    """
    if is_unnormalised(model):
        raise UsageError(
            "this model's scores do not sum to one (stupid backoff), so it has no perplexity",
            "train with another smoothing, or use it to generate and rank",
        )
    if not len(store):
        raise EmptyDataError("there is no document to score", "give it a text that is not empty")
    model_nats = 0.0
    done = 0
    for logp in _scored(model, store):
        model_nats -= float(logp.sum(dtype=np.float64))
        done += len(logp)
        if progress is not None:
            progress(done)
    return _report(model_nats, store)


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
    return np.concatenate([np.empty(0, np.float32), *_in_order(model, store)])


def _scored(model: LanguageModel, store: TokenStore) -> Iterator[np.ndarray]:
    """The log-probabilities of all tokens, some documents at a time, in no particular order."""
    if isinstance(model, ParallelScorer) and not isinstance(model, ArrayScorer | Blend | StreamScorer):
        for _, logp_N in _parallel(model, store, 0, len(store)):
            yield logp_N
    else:
        yield from _in_order(model, store)


def _in_order(model: LanguageModel, store: TokenStore) -> Iterator[np.ndarray]:
    """The same in the order of the store, by the model's fastest power; a mixture's parts each by theirs."""
    if isinstance(model, Blend):
        yield from model.blend(_documents(store), _together([_in_order(part, store) for part in model.parts]))
    elif isinstance(model, StreamScorer):
        yield from model.logp_stream(_documents(store))
    elif isinstance(model, ArrayScorer):
        for first, last in _groups(store.offsets):
            ids_N = np.asarray(store.ids[store.offsets[first] : store.offsets[last]])
            yield model.logp_array(ids_N)[ids_N != BOS]
    elif isinstance(model, ParallelScorer):
        for first, last in _groups(store.offsets):
            scored = list(_parallel(model, store, first, last))
            places_N = np.concatenate([places for places, _ in scored])
            yield np.concatenate([logp_N for _, logp_N in scored])[places_N.argsort()]
    else:
        for number in range(len(store)):
            yield np.array([token.logp for token in token_scores(model, store.document(number)[1:])])


def _documents(store: TokenStore) -> Iterator[np.ndarray]:
    return map(store.document, range(len(store)))


def _together(streams: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """What several streams say of the same tokens, as soon as all have: logp_PN."""
    ready = [next(stream, _NONE) for stream in streams]
    while size := min(map(len, ready)):
        yield np.stack([logp_N[:size] for logp_N in ready])
        ready = [
            logp_N[size:] if len(logp_N) > size else next(stream, _NONE)
            for logp_N, stream in zip(ready, streams, strict=True)
        ]


_NONE = np.empty(0, np.float32)


def _parallel(
    model: ParallelScorer, store: TokenStore, first: int, last: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Where tokens of these documents stand in the store, and their log-probabilities, some documents at a time."""
    import torch

    for chosen, ids_BT in _padded(store, first, last):
        mask_BT = ids_BT != PAD
        logp_BT = model.logp(torch.from_numpy(ids_BT), torch.from_numpy(mask_BT)).numpy()
        places_BT = store.offsets[chosen][:, None] + np.arange(ids_BT.shape[1])
        yield places_BT[mask_BT], logp_BT[mask_BT]


def _groups(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of documents of about `_ARRAY_IDS` ids, at least one document each."""
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + _ARRAY_IDS, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def _padded(store: TokenStore, first: int, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents without `<bos>`, of like length together, padded at the right: their numbers, and int64 ids_BT."""
    predicted = store.lengths - 1
    order = first + np.argsort(predicted[first:last], kind="stable")
    at = 0
    while at < len(order):
        rows = 1
        while at + rows < len(order) and (rows + 1) * predicted[order[at + rows]] <= _BATCH_TOKENS:
            rows += 1
        chosen = order[at : at + rows]
        ids_BT = np.full((rows, int(predicted[chosen[-1]])), PAD, dtype=np.int64)
        for row, document in zip(ids_BT, chosen, strict=True):
            row[: predicted[document]] = store.document(document)[1:]
        yield chosen, ids_BT
        at += rows


@dataclass(frozen=True)
class TokenScore:
    """One token of a scored text: its log-probability (nats) and its rank among all tokens, 1 the likeliest."""

    id: int
    logp: float
    rank: int


def token_scores(model: LanguageModel, ids: Any) -> Iterator[TokenScore]:
    """Score a sequence token by token through `start` and `step`.

    Args:
        model: any member of the waist.
        ids: the tokens after `<bos>`; give `<eos>` last to have the end scored.
    """
    import torch

    logp_BV, state = model.start([[]])
    for id in map(int, ids):
        logp_V = logp_BV[0]
        yield TokenScore(id, float(logp_V[id]), 1 + int((logp_V > logp_V[id]).sum()))
        logp_BV, state = model.step(state, torch.tensor([id]))
