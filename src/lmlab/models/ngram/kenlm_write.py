"""A model as a binary file that KenLM reads: n-grams in hash tables, its probing kind."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lmlab import disk
from lmlab.errors import SettingError, UsageError
from lmlab.kernels.ngram.kenlm_files import hash_of, place_keys
from lmlab.kernels.ngram.kenlm_layout import HASH, WORD, Kind, buckets_of, header
from lmlab.models.ngram import arpa
from lmlab.models.ngram.arpa_text import LOG10_E
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, UNK

_TEN = np.array([10**decimals for decimals in range(41)], np.float64)


def write_probing(path: Path, trie: Trie, words: Sequence[bytes], multiplier: float = 1.5) -> None:
    """Write a model as hash tables: the file that KenLM's build_binary makes of the model's ARPA file, byte for byte.

    Args:
        path: where; what stood there is replaced when all is written.
        trie: the model.
        words: the spellings of the ids from 4 on.
        multiplier: buckets an entry, above 1.

    Raises:
        UsageError: a model that KenLM cannot hold: of single words, without `<s>` or `</s>`, or with stupid backoff.
        StorageError: the disk refuses.
    """
    spelled = arpa.spellings(trie, words)[UNK:]
    if trie.lacks or trie.order < 2:
        lacking = "n-grams of one length alone" if trie.order < 2 else "no <s> or </s>"
        raise UsageError(f"the model has {lacking}, which KenLM does not read", "estimate one with order 2 or more")
    if not 1 < multiplier < 1e6:
        raise SettingError("the probing multiplier", multiplier, "a number above 1 and below 1,000,000")
    ratio, counts = np.float32(multiplier), [len(spelled), *trie.ngrams[1:]]
    hash_V = np.array([hash_of(np.frombuffer(word, np.uint8), 0, len(word)) for word in spelled[1:]], np.uint64)
    words_V = np.arange(1, len(spelled), dtype=np.uint32)
    with disk.replacing(path) as file:
        file.write(header(Kind.PROBING, counts, multiplier))
        file.write(np.array([0, len(spelled)], "<u4").tobytes())
        file.write(_buckets(hash_V, buckets_of(counts[0], ratio), {"word": words_V}))
        ngrams = [_Ngrams(trie, k) for k in range(1, trie.order + 1)]
        for shorter, longer in itertools.pairwise(ngrams):
            shorter.mark(longer)
        file.write(np.stack([ngrams[0].logp_G, ngrams[0].backoff_G], axis=1).tobytes())
        file.write(bytes(8))
        for each in ngrams[1:]:
            values = {"logp": each.logp_G} | ({"backoff": each.backoff_G} if each is not ngrams[-1] else {})
            file.write(_buckets(each.key_G, buckets_of(len(each.key_G), ratio), values))
        file.write(b"".join(word + b"\0" for word in spelled))


def _buckets(key_G: np.ndarray, buckets: int, values: Mapping[str, np.ndarray]) -> bytes:
    """A hash table of keys and their values, as bytes."""
    slot_G = np.empty(len(key_G), np.int64)
    place_keys(key_G, buckets, slot_G)
    table = np.zeros(buckets, np.dtype([("key", "<u8"), *((name, value.dtype) for name, value in values.items())]))
    for name, value in {"key": key_G, **values}.items():
        table[name][slot_G] = value
    return table.tobytes()


class _Ngrams:
    """The n-grams of one length, as hash tables keep them.

    Attributes:
        key_G: their keys; of words their ids.
        logp_G: log10 p; the sign is set where no longer n-gram ends so.
        backoff_G: log10 of the backoff; -0.0 where no longer n-gram begins so, and it would be 0.
    """

    def __init__(self, trie: Trie, k: int) -> None:
        parts = [tuple(map(np.copy, part)) for part in trie.pieces(k)]
        ids_MK, logp_M, backoff_M = (np.concatenate(column) for column in zip(*parts, strict=True))
        if k == 1:
            logp_M[BOS] = trie.bos_logp
            ids_MK, logp_M, backoff_M = ids_MK[UNK:], logp_M[UNK:], backoff_M[UNK:]
        words_KM = ids_MK.T.astype(np.uint64) - np.uint64(UNK)
        self._suffix_G, self._context_G = _keys(words_KM[1:]), _keys(words_KM[:-1])
        self.key_G = _keys(words_KM)
        self.logp_G, self.backoff_G = -np.abs(_log10(logp_M)), _log10(backoff_M)
        if k == 1:
            self.logp_G[self.logp_G == 0] = 0.0
        self.backoff_G[self.backoff_G == 0] = -0.0

    def mark(self, longer: _Ngrams) -> None:
        """Say of each n-gram whether a longer one ends or begins with it."""
        self.logp_G[np.isin(self.key_G, longer._suffix_G)] *= -1
        self.backoff_G[np.isin(self.key_G, longer._context_G) & (self.backoff_G == 0)] = 0.0


def _log10(log_M: np.ndarray) -> np.ndarray:
    """Natural logs to base 10 in float32, of as many decimals as the ARPA file gives them (`arpa_text.log10`)."""
    value_M = np.minimum(np.abs(log_M).astype(np.float64), 1e9)
    more_M = np.where(value_M > 0, -((np.frexp(value_M)[1] - 2) // 3), 0)  # a decimal each time float32 gets finer by 8
    unit_M = _TEN[7 + np.clip(more_M, 0, 33)]
    said_M = np.where(np.isneginf(log_M), 99.0, np.floor(value_M * LOG10_E * unit_M + 0.5) / unit_M)
    signed_M: np.ndarray = np.copysign(said_M, log_M)
    return signed_M.astype(np.float32)


def _keys(words_KM: np.ndarray) -> np.ndarray:
    """The keys of n-grams, a column each: made from the last word to the first."""
    if not len(words_KM):
        return np.empty(0, np.uint64)
    key_M = words_KM[-1]
    for word_M in words_KM[-2::-1]:
        key_M = (key_M * np.uint64(HASH)) ^ ((word_M + np.uint64(1)) * np.uint64(WORD))
    return np.asarray(key_M, np.uint64)
