"""Token stores made by hand, for tests."""

from collections.abc import Sequence

import numpy as np

from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, EOS, UNK


def of_documents(documents: Sequence[Sequence[int]], vocab_size: int = 60_000, unknown_bytes: int = 0) -> TokenStore:
    """A store of these documents, given without `<bos>` and `<eos>`."""
    laid = [np.array([BOS, *document, EOS], dtype=np.uint16) for document in documents]
    ids_N = np.concatenate(laid) if laid else np.empty(0, dtype=np.uint16)
    ids_N.setflags(write=False)
    offsets = np.cumsum([0, *map(len, laid)]).astype(np.int64)
    size = len(ids_N) - len(laid)
    unknown = int((ids_N == UNK).sum())
    return TokenStore(ids_N, offsets, vocab_size, len(laid), size, 2 * size, size, unknown, unknown_bytes, "")


def numbered(lengths: Sequence[int]) -> TokenStore:
    """Documents of these lengths in which every token but `<bos>` and `<eos>` is another id."""
    starts = 10 + np.cumsum([0, *lengths])
    return of_documents([range(start, start + n) for start, n in zip(starts, lengths, strict=False)])


def random_stream(length: int, vocab_size: int, documents: int = 1, seed: int = 0) -> TokenStore:
    """Random tokens, in documents of like lengths."""
    ids_N = np.random.default_rng(seed).integers(4, vocab_size, length)
    return of_documents([part.tolist() for part in np.array_split(ids_N, documents)], vocab_size)
