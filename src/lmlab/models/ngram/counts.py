"""Counting: token ids to one sorted level of distinct k-grams per length k (`kernels/ngram/layout.py` draws them).

Rank chaining numbers the k-grams: the one that ends at position i is the pair (node of the (k-1)-gram that ends at
i - 1, word at i), so sorting those pairs at level k numbers the k-grams, and the numbers serve level k + 1. What is
sorted is (context node, word, place) in one 64-bit integer: NumPy sorts plain integers many times faster than it
argsorts them.

n-grams never cross documents: a position joins level k only when its document reaches k - 1 tokens back.

Large corpora are counted by `kernels/ngram/counter.py`, in one streaming pass, to the same levels.

Shapes: N tokens of all documents, M places where a k-gram ends, G distinct k-grams of one level.
"""

from __future__ import annotations

import numpy as np

from lmlab.errors import DataError, EmptyDataError
from lmlab.kernels.ngram import twin
from lmlab.kernels.ngram.layout import Counts
from lmlab.vocabulary import BOS, PAD

_BITS = 62  # of a context, a word and a place in one number


def count_ngrams(
    ids_N: np.ndarray,
    order: int,
    vocab_size: int,
    memory: int | None = None,
) -> list[Counts]:
    """Count every k-gram of every length k <= order.

    Args:
        ids_N: documents laid end to end, each `<bos> d1 .. dk <eos>`; any unsigned integer type, memory-mapped or not.
        order: the greatest length, any number >= 1.
        vocab_size: V; level 1 has all V words as nodes, seen or not.
        memory: bytes that the process may take; beyond, counting goes on on disk.

    Returns:
        One `Counts` for each length, the shortest first.

    Raises:
        EmptyDataError: nothing in the data is predicted.
        DataError: ids outside the vocabulary, padding among them, or no leading `<bos>`.
    """
    words = _count_words(ids_N, vocab_size)
    bits = len(ids_N).bit_length(), vocab_size.bit_length()
    if memory is not None or sum(bits) + max(bits) >= _BITS:
        from lmlab.kernels.ngram.counter import count_sorted as count
    else:
        count = twin(count_sorted, len(ids_N) * order)
    return count(ids_N, words, order, memory)


def count_sorted(ids_N: np.ndarray, words: Counts, order: int, memory: int | None = None) -> list[Counts]:
    """Count by sorting; the arguments are those of `count_ngrams`, with level 1 counted already."""
    bits = len(ids_N).bit_length(), len(words).bit_length()
    work_3N = np.empty((3, len(ids_N)), dtype=np.int64)  # for all levels: memory is slower to get than to sort
    word_N, opens_N, _ = work_3N
    word_N[:], opens_N[:] = ids_N, ids_N == BOS
    word_N <<= bits[0]
    word_N |= np.arange(len(ids_N), dtype=np.uint32)
    opens_N <<= _BITS
    word_N |= opens_N
    node_N = np.array(ids_N, dtype=np.uint32)
    levels = [words]
    levels += [_extend(work_3N, node_N, *bits, longest=k == order) for k in range(2, order + 1)]
    return levels


def _count_words(ids_N: np.ndarray, vocab_size: int) -> Counts:
    """Level 1, after checking that the ids can be counted at all."""
    if not len(ids_N):
        raise EmptyDataError("there are no tokens to count", "give some text")
    if ids_N[0] != BOS:
        raise DataError(f"the data begin with id {ids_N[0]}, not {BOS} (<bos>)", "encode it as documents")
    if len(ids_N) >= 2**32:
        raise DataError(f"{len(ids_N):,} tokens are more than the 2^32 - 1 that fit", "count a part of the data")
    count_V = np.zeros(vocab_size, dtype=np.int64)
    size = max(1 << 16, vocab_size)
    for start in range(0, len(ids_N), size):
        counted = np.bincount(ids_N[start : start + size], minlength=vocab_size)
        if len(counted) > vocab_size:
            raise DataError(
                f"token id {len(counted) - 1} is outside 0..{vocab_size - 1}", "use the data's own tokenizer"
            )
        count_V += counted
    if count_V[PAD]:
        raise DataError(f"{count_V[PAD]:,} padding tokens lie among the data", "leave padding out")
    if count_V[BOS] == len(ids_N):
        raise EmptyDataError("the documents hold no token to predict", "give some text")
    words_V = np.arange(vocab_size, dtype=np.uint64)
    return Counts(
        key_G=words_V,
        suffix_G=np.zeros(vocab_size, dtype=np.uint32),
        count_G=count_V.astype(np.uint32),
    )


def _extend(work_3N: np.ndarray, node_N: np.ndarray, place_bits: int, word_bits: int, *, longest: bool) -> Counts:
    """Level k from the nodes one level down.

    Args:
        work_3N: of each place its word and itself, past all others where it is `<bos>`; and room.
        node_N: of the (k-1)-gram that ends at each place; becomes that of the k-gram, but for the longest.
        place_bits: what a place takes, and no node takes more than the greater of both.
        word_bits: what a word takes.
        longest: whether no level follows.
    """
    word_N, key_N, rank_N = work_3N
    none = 1 << max(place_bits, word_bits)  # in place of a node: the document does not reach so far back
    key_N[0], key_N[1:] = none, node_N[:-1]
    key_N <<= word_bits + place_bits
    key_N |= word_N
    key_N.sort()
    inside = np.searchsorted(key_N, none << (word_bits + place_bits))
    key_M, rank_M = key_N[:inside], rank_N[:inside]
    np.bitwise_xor(key_M[1:], key_M[:-1], out=rank_M[1:])
    new_M1 = np.ones(inside + 1, dtype=bool)  # and the end
    np.greater_equal(rank_M[1:], 1 << place_bits, out=new_M1[1:-1])
    start_G1 = np.flatnonzero(new_M1)
    key_G = key_M.take(start_G1[:-1])
    room_G = rank_N[: len(key_G)]
    count_G = np.subtract(start_G1[1:], start_G1[:-1], out=room_G).astype(np.uint32)
    suffix_G = node_N.take(np.bitwise_and(key_G, (1 << place_bits) - 1, out=room_G))
    key_G >>= place_bits
    np.right_shift(key_G, word_bits, out=room_G)
    room_G *= (1 << 32) - (1 << word_bits)
    key_G += room_G  # the context moves to the high half
    if not longest:
        rank_M[:] = new_M1[:-1]
        np.cumsum(rank_M, out=rank_M)
        rank_M -= 1
        rank_N[inside:] = none
        node_N[np.bitwise_and(key_N, (1 << place_bits) - 1, out=key_N)] = rank_N
    return Counts(key_G.view(np.uint64), suffix_G, count_G)
