"""What an ARPA file lists, as KenLM takes it in: every number as it stands there, every n-gram at its place.

KenLM's binaries depend on both: a word's id is its place among the words, and of n-grams whose hashes meet the first
in the file comes first. SRILM leaves out n-grams that longer ones end with; `completed` adds them as KenLM does.

Shapes: M n-grams of one length, K words in each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmlab.errors import ArtifactError, UsageError
from lmlab.kernels.ngram import twin
from lmlab.kernels.ngram.kenlm_layout import HASH, WORD
from lmlab.models.ngram import arpa
from lmlab.models.ngram.arpa_text import LOG10_E, Lines, opened, shown, unigrams
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, UNK

UNKNOWN = -100.0
"""Log10 p of the unknown word where a file has none."""
_TEN = np.array([10**decimals for decimals in range(41)], np.float64)


class Grams(NamedTuple):
    """The n-grams of one length.

    Attributes:
        ids_MK: uint32, their words.
        logp_M: float32 log10 p.
        backoff_M: float32 log10 of the backoff, -0.0 where it is 0 or there is none.
    """

    ids_MK: np.ndarray
    logp_M: np.ndarray
    backoff_M: np.ndarray


class Listing(NamedTuple):
    """All n-grams of a model.

    Attributes:
        words: the spellings of the ids, `<unk>` first.
        levels: the shortest n-grams first; those of length 1 in the order of their ids.
        listed_unknown: whether `<unk>` was listed.
    """

    words: list[bytes]
    levels: list[Grams]
    listed_unknown: bool = True


def read(path: Path, *, unknown: float = UNKNOWN, positive: str = "refuse", marks: bool = True) -> Listing:
    """Read an ARPA file, compressed or not.

    Args:
        path: the file.
        unknown: log10 p of the unknown word where the file has none.
        positive: "zero" takes log10 probabilities above 0 for 0; "refuse" refuses them.
        marks: whether a file without `<s>` or `</s>` is refused.

    Raises:
        ArtifactError: it cannot be read, or is no sound ARPA file of two lengths or more; the message names the line.
    """
    most = np.inf if positive == "zero" else 0.0
    with opened(path) as (chunks, about, room_for):
        lines = Lines(path, chunks)
        sizes = arpa.header(lines, room_for)
        if len(sizes) < 2:
            raise ArtifactError(f"{path} has single words alone, and KenLM takes no less than pairs", "use order 2")
        ids, listing = _words(lines, sizes[0], unknown, most)
        missing = [mark.decode() for mark in (b"<s>", b"</s>") if mark not in ids]
        if marks and missing:
            raise ArtifactError(f"{path} has no {' and no '.join(missing)}", "build_binary -s takes it all the same")
        loops = twin(arpa.Loops, about)(ids, most, 1.0)
        for k, size in enumerate(sizes[1:], 2):
            lines.expect(b"\\%d-grams:" % k)
            parts: list[Any] = [(np.empty((0, k), np.uint32), np.empty(0), np.empty(0))]
            parts += [tuple(map(np.copy, piece)) for piece in arpa.pieces(loops, lines, k, size)]
            listing.levels.append(_grams(*map(np.concatenate, zip(*parts, strict=True))))
        lines.expect(b"\\end\\")
    return listing


def _words(lines: Lines, size: int, unknown: float, most: float) -> tuple[dict[bytes, int], Listing]:
    ids, words = {b"<unk>": 0, b"<UNK>": 0}, [b"<unk>"]
    logps, backoffs, listed = [unknown], [0.0], False
    with lines.explained():
        for logp, word, backoff in unigrams(lines, size, most):
            id = ids.setdefault(word, len(words))
            if id == len(words):
                words.append(word)
                logps.append(logp)
                backoffs.append(backoff)
            elif id == 0 and not listed:
                logps[0], backoffs[0], listed = logp, backoff, True
            else:
                raise ValueError(f"the word {shown(word)} was there before")
    grams = _grams(np.arange(len(words), dtype=np.uint32)[:, None], np.array(logps), np.array(backoffs))
    if not listed:
        grams.backoff_M[0] = 0.0
    return ids, Listing(words, [grams], listed)


def _grams(ids_MK: np.ndarray, logp_M: np.ndarray, backoff_M: np.ndarray) -> Grams:
    backoff_M = backoff_M.astype(np.float32)
    backoff_M[backoff_M == 0] = -0.0
    return Grams(ids_MK, logp_M.astype(np.float32), backoff_M)


def of(trie: Trie, words: Sequence[bytes]) -> Listing:
    """What `arpa.write` lists of a model.

    Args:
        trie: the model.
        words: the spellings of the ids from 4 on.

    Raises:
        UsageError: a model that KenLM cannot hold: of single words, without `<s>` or `</s>`, or with stupid backoff.
    """
    spelled = arpa.spellings(trie, words)[UNK:]
    if trie.lacks or trie.order < 2:
        lacking = "n-grams of one length alone" if trie.order < 2 else "no <s> or </s>"
        raise UsageError(f"the model has {lacking}, which KenLM does not read", "estimate one with order 2 or more")
    levels = []
    for k in range(1, trie.order + 1):
        parts = [tuple(map(np.copy, part)) for part in trie.pieces(k)]
        ids_MK, logp_M, backoff_M = (np.concatenate(column) for column in zip(*parts, strict=True))
        if k == 1:
            logp_M[BOS] = trie.bos_logp
            ids_MK, logp_M, backoff_M = ids_MK[UNK:], logp_M[UNK:], backoff_M[UNK:]
        if k == trie.order:
            backoff_M = np.zeros(len(logp_M), np.float32)
        levels.append(_grams(ids_MK - np.uint32(UNK), _log10(logp_M), _log10(backoff_M)))
    return Listing(spelled, levels)


def _log10(log_M: np.ndarray) -> np.ndarray:
    """Natural logs to base 10 in float32, of as many decimals as the ARPA file gives them (`arpa_text.log10`)."""
    value_M = np.minimum(np.abs(log_M).astype(np.float64), 1e9)
    more_M = np.where(value_M > 0, -((np.frexp(value_M)[1] - 2) // 3), 0)  # a decimal each time float32 gets finer by 8
    unit_M = _TEN[7 + np.clip(more_M, 0, 33)]
    said_M = np.where(np.isneginf(log_M), 99.0, np.floor(value_M * LOG10_E * unit_M + 0.5) / unit_M)
    signed_M: np.ndarray = np.copysign(said_M, log_M)
    signed_M[signed_M == 0] = 0.0
    return signed_M.astype(np.float32)


def completed(listing: Listing) -> Listing:
    """A listing with every n-gram that a longer one ends with, those that were missing last; and what extends marked.

    What is added has the probability that backing off gives. As KenLM has it, the sign of log10 p says that no longer
    n-gram ends so (positive: one does), and a backoff of -0.0 that none begins so.

    Raises:
        ArtifactError: an n-gram begins with one that is missing.
    """
    levels = [Grams(*map(np.copy, listing.levels[0])), *listing.levels[1:]]
    for n in range(3, len(levels) + 1):
        rest_MK, added = levels[n - 1].ids_MK, dict[int, np.ndarray]()
        absent_M = ~np.isin(keys(rest_MK[:, :-1]), keys(levels[n - 2].ids_MK))
        for j in range(n - 1, 1, -1):
            rest_MK = rest_MK[:, 1:]
            key_M, known_G = keys(rest_MK), keys(levels[j - 1].ids_MK)
            _, first_M = np.unique(key_M, return_index=True)
            first_M.sort()
            rest_MK = rest_MK[first_M[~np.isin(key_M[first_M], known_G)]]
            if not len(rest_MK):
                break
            added[j] = rest_MK
        for j in sorted(added):
            below, ids_MK = levels[j - 2], added[j]
            logp_M = -np.abs(_looked_up(below, below.logp_M, ids_MK[:, 1:]))
            logp_M += _looked_up(below, below.backoff_M, ids_MK[:, :-1])
            more = Grams(ids_MK, logp_M, np.full(len(ids_MK), -0.0, np.float32))
            levels[j - 1] = Grams(*map(np.concatenate, zip(levels[j - 1], more, strict=True)))
        absent_M[absent_M] = ~np.isin(keys(levels[n - 1].ids_MK[absent_M, :-1]), keys(levels[n - 2].ids_MK))
        if absent_M.any():
            gram = b" ".join(listing.words[id] for id in levels[n - 1].ids_MK[absent_M.argmax()])
            raise ArtifactError(f"the {n}-gram {shown(gram)} begins with no {n - 1}-gram of the file", "write it again")
    levels[1:] = [Grams(ids_MK, -np.abs(logp_M), backoff_M.copy()) for ids_MK, logp_M, backoff_M in levels[1:]]
    for shorter, longer in itertools.pairwise(levels):
        key_M = keys(shorter.ids_MK)
        ends_M, begins_M = (np.isin(key_M, keys(part)) for part in (longer.ids_MK[:, 1:], longer.ids_MK[:, :-1]))
        shorter.logp_M[ends_M] = np.abs(shorter.logp_M[ends_M])
        shorter.backoff_M[begins_M & (shorter.backoff_M == 0)] = 0.0
    return listing._replace(levels=levels)


def _looked_up(grams: Grams, value_G: np.ndarray, ids_MK: np.ndarray) -> np.ndarray:
    """The values of some n-grams; 0 where they are not listed."""
    key_G, key_M = keys(grams.ids_MK), keys(ids_MK)
    order_G = np.argsort(key_G, kind="stable")
    place_M = order_G[np.minimum(np.searchsorted(key_G, key_M, sorter=order_G), len(key_G) - 1)]
    return np.where(key_G[place_M] == key_M, value_G[place_M], np.float32(0))


def keys(ids_MK: np.ndarray) -> np.ndarray:
    """KenLM's keys of n-grams: made from the last word to the first; those of words are their ids."""
    words_KM = ids_MK.T.astype(np.uint64)
    key_M = words_KM[-1]
    for word_M in words_KM[-2::-1]:
        key_M = (key_M * np.uint64(HASH)) ^ ((word_M + np.uint64(1)) * np.uint64(WORD))
    return np.asarray(key_M, np.uint64)
