"""A model as a binary file that KenLM reads, byte for byte what its build_binary writes: hash tables, or a trie.

A trie holds n-grams from their last word to their first, the nodes of one length in that order, so that the children
of a node lie side by side; words are numbered by their hashes. Its numbers may be quantised to the means of bins of
equally many values (Federico and Bertoldi 2006), and the upper bits of its pointers be left to an array of the places
where they change (Bhiksha; Raj and Whittaker 2003).

Shapes: G n-grams of one length, V words, C bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lmlab import disk
from lmlab.errors import SettingError, UsageError
from lmlab.kernels.ngram.kenlm_files import hash_of, place_keys
from lmlab.kernels.ngram.kenlm_layout import Column, Head, Kind, buckets_of, header, trie_layout
from lmlab.models.ngram.listing import Grams, Listing, completed, keys

_ROWS = 1 << 15  # packed at once, a multiple of 8


def write_probing(path: Path, listing: Listing, multiplier: float = 1.5, *, spelled: bool = True) -> None:
    """Write a model as hash tables.

    Args:
        path: where; what stood there is replaced when all is written.
        listing: the model.
        multiplier: buckets an entry, above 1.
        spelled: whether the file has its words.

    Raises:
        SettingError: no such multiplier.
        UsageError: there is no room for the n-grams that the listing leaves out.
        StorageError: the disk refuses.
    """
    if not 1 < multiplier < 1e6:
        raise SettingError("the probing multiplier", multiplier, "a number above 1 and below 1,000,000")
    words, ratio = listing.words, np.float32(multiplier)
    counts = [len(grams.logp_M) for grams in listing.levels]
    counts[0] -= not listing.listed_unknown
    full = completed(listing)
    values_V2 = np.zeros((counts[0] + 1, 2), np.float32)  # one more than there are, as KenLM has it
    values_V2[: len(words)] = np.stack([full.levels[0].logp_M, full.levels[0].backoff_M], axis=1)
    if not listing.listed_unknown:
        values_V2[0] = listing.levels[0].logp_M[0], 0.0
    with disk.replacing(path) as file:
        file.write(header(Kind.PROBING, counts, multiplier, spelled=spelled))
        file.write(np.array([0, len(words)], "<u4").tobytes())
        ids_V = np.arange(1, len(words), dtype=np.uint32)
        file.write(_buckets(hashes(words[1:]), buckets_of(counts[0], ratio), {"word": ids_V}))
        file.write(values_V2.tobytes())
        for k, (grams, count) in enumerate(zip(full.levels[1:], counts[1:], strict=True), 2):
            if len(grams.logp_M) > count and len(grams.logp_M) >= buckets_of(count, ratio):
                said = f"{len(grams.logp_M) - count:,} {k}-grams that longer ones end with are missing"
                raise UsageError(f"{said}, and {count:,} at {multiplier:g} leave no room for them", "raise -p")
            values = {"logp": grams.logp_M} | ({"backoff": grams.backoff_M} if k < len(counts) else {})
            file.write(_buckets(keys(grams.ids_MK), buckets_of(count, ratio), values))
        if spelled:
            file.write(b"".join(word + b"\0" for word in words))


def hashes(words: list[bytes]) -> np.ndarray:
    """KenLM's hashes of words."""
    return np.array([hash_of(np.frombuffer(word, np.uint8), 0, len(word)) for word in words], np.uint64)


def _buckets(key_G: np.ndarray, buckets: int, values: Mapping[str, np.ndarray]) -> bytes:
    """A hash table of keys and their values, as bytes."""
    slot_G = np.empty(len(key_G), np.int64)
    place_keys(key_G, buckets, slot_G)
    table = np.zeros(buckets, np.dtype([("key", "<u8"), *((name, value.dtype) for name, value in values.items())]))
    for name, value in {"key": key_G, **values}.items():
        table[name][slot_G] = value
    return table.tobytes()


def write_trie(
    path: Path,
    listing: Listing,
    quantise: tuple[int, int] | None = None,
    pointer_bits: int | None = None,
    *,
    multiplier: float = 1.5,
    spelled: bool = True,
) -> None:
    """Write a model as a trie.

    Args:
        path: where; what stood there is replaced when all is written.
        listing: the model.
        quantise: bits of log10 p and of a backoff; None keeps the numbers as they are.
        pointer_bits: how many bits of pointers an array may hold at most; None is for no array.
        multiplier: what the header says of hash tables, of which the file has none.
        spelled: whether the file has its words.

    Raises:
        SettingError: bits out of bounds.
        StorageError: the disk refuses.
    """
    if quantise and not (1 <= quantise[0] <= 25 and 2 <= quantise[1] <= 25):  # two backoffs have codes of their own
        raise SettingError("the bits of log10 p and backoffs", quantise, "1 to 25, and 2 to 25")
    if pointer_bits is not None and not 0 <= pointer_bits <= 255:
        raise SettingError("the bits of pointers in an array", pointer_bits, "0 to 255")
    kind = Kind.TRIE + (quantise is not None) + 2 * (pointer_bits is not None)
    hash_V = hashes(listing.words[1:])
    order_V = np.append(0, 1 + np.argsort(hash_V, kind="stable"))
    new_V = np.empty(len(order_V), np.uint32)
    new_V[order_V] = np.arange(len(order_V))
    pairs = zip(completed(listing).levels, listing.levels, strict=True)
    levels = [_in_order(grams, len(listed.logp_M), new_V) for grams, listed in pairs]
    counts = [len(grams.logp_M) for grams in levels]
    start = header(Kind(kind), counts, multiplier, spelled=spelled)
    bits = (*(quantise or (31, 32)), pointer_bits or 0)
    head, columns_LF, end = trie_layout(Kind(kind), counts, len(start), len(hash_V), bits)
    file_C = np.zeros(end, np.uint8)
    _put(file_C, 0, np.frombuffer(start, np.uint8))
    _put(file_C, len(start), np.append(np.uint64(len(hash_V)), np.sort(hash_V)))
    unigrams = np.zeros(counts[0] + 1, np.dtype([("logp", "<f4"), ("backoff", "<f4"), ("next", "<u8")]))
    unigrams["logp"][:-1], unigrams["backoff"][:-1] = listing.levels[0].logp_M[order_V], levels[0].backoff_M
    unigrams["next"] = _children(levels[0], levels[1])
    _put(file_C, int(head[Head.UNIGRAMS]), unigrams)
    if quantise:
        _put(file_C, len(start) + 8 + 8 * counts[0], np.array([2, *quantise], np.uint8))
    for place, level_F in enumerate(columns_LF, 1):
        _put_level(file_C, level_F, levels[place], levels[place + 1 :], pointer_bits or 0)
    with disk.replacing(path) as file:
        file.write(file_C.data)
        if spelled:
            file.write(b"".join(listing.words[id] + b"\0" for id in order_V))


def _in_order(grams: Grams, listed: int, new_V: np.ndarray) -> Grams:
    """The nodes of one length: n-grams of new ids, ordered from their last word to their first.

    KenLM does not see that anything begins with those that were not listed and come after the last that was.
    """
    ids_GK = new_V[grams.ids_MK]
    order_G = np.lexsort(ids_GK.T)
    backoff_G = grams.backoff_M[order_G]
    backoff_G[np.flatnonzero(order_G < listed)[-1] + 1 :] = -0.0
    return Grams(ids_GK[order_G], -np.abs(grams.logp_M[order_G]), backoff_G)


def _children(grams: Grams, longer: Grams) -> np.ndarray:
    """Where the children of each node begin, and the end of all."""
    key_G, order_G = keys(grams.ids_MK), np.argsort(keys(grams.ids_MK), kind="stable")
    node_M = order_G[np.searchsorted(key_G, keys(longer.ids_MK[:, 1:]), sorter=order_G)]
    return np.append(0, np.cumsum(np.bincount(node_M, minlength=len(key_G))))


def _put_level(file_C: np.ndarray, level_F: np.ndarray, grams: Grams, longer: Sequence[Grams], allowed: int) -> None:
    """Write the nodes of one length: word, backoff and log10 p, pointer."""
    fields = [(grams.ids_MK[:, 0], int(level_F[Column.WORD_BITS]))]
    if level_F[Column.PROBS]:
        prob_bits, backoff_bits = int(level_F[Column.PROB_BITS]), int(level_F[Column.BACKOFF_BITS])
        if longer:
            nonzero_M = grams.backoff_M != 0
            means = _means(grams.backoff_M[nonzero_M], 2**backoff_bits - 2)
            table = np.append(np.array([-0.0, 0.0], np.float32), means)
            _put(file_C, int(level_F[Column.BACKOFFS]), table)
            code_M = 2 + _nearest(means, grams.backoff_M)
            fields.append((np.where(nonzero_M, code_M, ~np.signbit(grams.backoff_M)), backoff_bits))
        table = _means(grams.logp_M, 2**prob_bits)
        _put(file_C, int(level_F[Column.PROBS]), table)
        fields.append((_nearest(table, grams.logp_M), prob_bits))
    else:
        fields.append((grams.logp_M.view(np.uint32), 31))
        if longer:
            fields.append((grams.backoff_M.view(np.uint32), 32))
    fields = [(np.append(value_M, value_M.dtype.type(0)), width) for value_M, width in fields]
    if longer:
        next_M, next_bits = _children(grams, longer[0]), int(level_F[Column.NEXT_BITS])
        fields.append((next_M, next_bits))
        if level_F[Column.OFFSETS]:
            places = np.searchsorted(next_M >> next_bits, np.arange(level_F[Column.OFFSET_COUNT]))
            offsets = int(level_F[Column.OFFSETS])
            _put(file_C, offsets, places.astype("<u8"))
            begin = int(level_F[Column.AT]) - 8 * (1 + len(places)) - 7
            _put(file_C, begin, np.array([0, allowed], np.uint8))
    _put(file_C, int(level_F[Column.AT]), _packed(fields))


def _means(values_M: np.ndarray, bins: int) -> np.ndarray:
    """The means of bins of equally many values; an empty one has that of the bin before, or -inf."""
    sorted_M, means = np.sort(values_M).astype(np.float64), np.full(max(bins, 0), -np.inf, np.float32)
    ends = np.arange(bins + 1) * len(sorted_M) // max(bins, 1)
    for bin in range(bins):
        start, end = ends[bin], ends[bin + 1]
        if end > start:  # summed one by one
            means[bin] = np.cumsum(sorted_M[start:end])[-1] / (end - start)
        elif bin:
            means[bin] = means[bin - 1]
    return means


def _nearest(table: np.ndarray, values_M: np.ndarray) -> np.ndarray:
    """The place of each value's nearest number in an ascending table; of two as near the upper."""
    above_M = np.searchsorted(table, values_M)
    inside_M = np.clip(above_M, 1, max(len(table) - 1, 1))
    lower = values_M - table[inside_M - 1] < table[np.minimum(inside_M, len(table) - 1)] - values_M
    return np.where(above_M == 0, 0, np.where(above_M == len(table), len(table) - 1, inside_M - lower))


def _packed(fields: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Numbers of so many bits each, one row after the other."""
    parts = []
    for start in range(0, len(fields[0][0]), _ROWS):
        rows = [value_M[start : start + _ROWS].astype("<u8").view(np.uint8).reshape(-1, 8) for value_M, _ in fields]
        bits = [np.unpackbits(row, axis=1, bitorder="little") for row in rows]
        cut = [each[:, :width] for each, (_, width) in zip(bits, fields, strict=True)]
        parts.append(np.packbits(np.concatenate(cut, axis=1), bitorder="little"))
    return np.concatenate(parts)


def _put(file_C: np.ndarray, at: int, values: np.ndarray) -> None:
    bytes_C = np.ascontiguousarray(values).view(np.uint8)
    file_C[at : at + len(bytes_C)] = bytes_C


def sizes(counts: Sequence[int], multiplier: float, quantise: tuple[int, int], pointer_bits: int) -> dict[str, int]:
    """Bytes of a model of so many n-grams of each length in each kind of file, its words not counted."""
    at, ratio = len(header(Kind.PROBING, counts, multiplier)), np.float32(multiplier)
    tables = [8 + 12 * buckets_of(counts[0], ratio), 8 * (counts[0] + 1), 12 * buckets_of(counts[-1], ratio)]
    told = {f"probing -p {multiplier:g}": at + sum(tables) + sum(16 * buckets_of(each, ratio) for each in counts[1:-1])}
    for kind in list(Kind)[Kind.TRIE :]:
        bits = (*(quantise if kind.quantised else (31, 32)), pointer_bits)
        flags = f" -q {bits[0]} -b {bits[1]}" * kind.quantised + f" -a {pointer_bits}" * kind.compressed
        told[f"trie{flags}"] = trie_layout(kind, counts, at, counts[0] - 1, bits)[2]
    return told
