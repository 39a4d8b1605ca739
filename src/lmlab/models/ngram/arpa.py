r"""ARPA files, the format that all n-gram toolkits share: KenLM, SRILM and IRSTLM can load ours, and theirs are read.

    \data\
    ngram 1=4           how many n-grams of each length
    ngram 2=3

    \1-grams:
    -0.8    the -0.3    log10 p, the words, log10 b of the n-gram as a context (not for the longest, nor where it is 0)
    ...
    \end\

A file is read section by section, each in pieces of whole lines: a piece becomes ids and numbers (`parse`), and every
k-gram gets a number in order of appearance, and the numbers of its context and suffix among the (k-1)-grams
(`_Section`). At its end a section is brought into the order of all levels. `Loops` does the work on many lines at once;
it has a compiled twin for large files.

SRILM leaves out n-grams that longer ones begin or end with. Those are added, with the probability that backing off
gives and a backoff weight of 1, so that all scores are the file's; such a file is read twice.

What the format cannot say, or says in several ways: -99 is a probability of 0, as SRILM writes it; `<s>` has one of 0,
whatever stands there (lmplz writes 1); `<UNK>` is `<unk>`; where both are missing, log10 p of the unknown word is -100,
as in KenLM; `<s>` and `</s>` that are missing have a probability of 0. `[PAD]` is never written.

Shapes: M lines of a piece, K words in each, G k-grams of a section, F (k-1)-grams, V words.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmlab import disk
from lmlab.errors import UsageError
from lmlab.kernels.ngram import twin
from lmlab.kernels.ngram.layout import NONE, Counts, Level, high, low, pack
from lmlab.memory import room
from lmlab.models.ngram.arpa_text import Lines, columns, known, log10, natural, opened, shown
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

_SPELLED = {b"<unk>": UNK, b"<UNK>": UNK, b"<s>": BOS, b"</s>": EOS}
_UNKNOWN = -100.0  # log10 p
_LINE = 40  # bytes of a typical one
_LINES = 1 << 13  # written at once
_WORD = re.compile(rb"[^\0\t\n\r ]+")
_COUNT = re.compile(rb"ngram\s+(\d{1,9})\s*=\s*(\d{1,18})")

Piece = tuple[np.ndarray, np.ndarray, np.ndarray, int]
"""Lines as ids, ln p and ln b, and where in the text the next line begins."""


# ---- reading


def read(path: Path) -> tuple[Trie, list[bytes]]:
    """Read a file, compressed by gzip or not.

    Returns:
        The model, and the spellings of the ids from 4 on, in the order of the file.

    Raises:
        ArtifactError: it cannot be read, or is no sound ARPA file; the message names the line.
    """
    trie, words, missing = _read(path, {})
    if missing:
        trie, words, _ = _read(path, _parts_of(missing))
    return trie, words


def _read(path: Path, added: Mapping[int, np.ndarray]) -> tuple[Trie, list[bytes], list[np.ndarray]]:
    """Read a file, with k-grams to add; also returns those that lack a context or a suffix (the model is then void)."""
    with opened(path) as (file, about, most):
        lines = Lines(path, file)
        sizes = _header(lines, most)
        ids, level = _words(lines, sizes[0])
        loops = twin(Loops, about)(ids)
        place_F = np.arange(len(level.key_G), dtype=np.uint32)
        levels, missing = [level], []
        section = _Section(loops, len(place_F))
        section.enter(place_F[:, None], level.logp_G, level.backoff_G)
        for k, size in enumerate(sizes[1:], 2):
            lines.expect(b"\\%d-grams:" % k)
            more_MK = added.get(k, np.empty((0, k), dtype=np.uint32))
            section = _Section(loops, size + len(more_MK), section, longest=k == len(sizes))
            missing += _fill(section, lines, k, size)
            section.add(more_MK)
            if not missing:
                level, place_F = section.arrange(level, place_F)
                levels.append(level)
                if (again_G := np.flatnonzero(level.key_G[1:] == level.key_G[:-1])).size:
                    number = int(np.flatnonzero(place_F == again_G[0] + 1)[0])
                    raise lines.wrong(f"this {k}-gram was there before", number - size)
        lines.expect(b"\\end\\")
    nothing = np.empty(0, dtype=np.uint32)
    levels[-1] = replace(levels[-1], suffix_G=nothing, backoff_G=nothing.view(np.float32))
    return Trie(tuple(levels), 0.0), list(ids)[len(_SPELLED) :], missing


def _fill(section: _Section, lines: Lines, k: int, size: int) -> list[np.ndarray]:
    """Enter a section's n-grams; returns those that lack a context or a suffix."""
    missing, left = [], size
    while lines.more():
        ids_MK, logp_M, backoff_M, end = section.loops.parse(lines.text, lines.at, k)
        if len(ids_MK) > left:
            raise lines.wrong(f"the header promises {size:,} {k}-grams, and there are more", left)
        missing_MK = section.enter(ids_MK, logp_M, backoff_M)
        if len(missing_MK):  # an empty view would keep the whole piece
            missing.append(missing_MK)
        left -= len(ids_MK)
        lines.take(end, len(ids_MK))
        if end < len(lines.text):
            break
    if left:
        with lines.explained():
            known(columns(lines.peek(), k)[1], section.loops.ids)
        raise lines.wrong("it cannot be understood")
    return missing


def _parts_of(missing: list[np.ndarray]) -> dict[int, np.ndarray]:
    """Every shorter k-gram, k > 1, within those that lack one."""
    parts: dict[int, list[np.ndarray]] = {}
    for ids_MK in missing:
        width = ids_MK.shape[1]
        for k in range(2, width):
            parts.setdefault(k, []).extend(ids_MK[:, start : start + k] for start in range(width - k + 1))
    return {k: np.unique(np.concatenate(arrays), axis=0) for k, arrays in parts.items()}


class _Section:
    """The k-grams of one length, numbered in order of appearance.

    Args:
        loops: what does the work.
        most: how many there can be.
        below: the (k-1)-grams.
        longest: whether nobody will look for these.

    Attributes:
        size: how many there are.
        nodes_G2: uint64; of each the number of its context and its word, and its suffix's number and ln p.
        backoff_G: ln b; empty for the longest.
    """

    def __init__(self, loops: Loops, most: int, below: _Section | None = None, longest: bool = False) -> None:
        self.loops, self.size = loops, 0
        self.table = loops.table(0 if longest else most)
        self.nodes_G2 = room((most, 2), np.uint64)
        self.backoff_G = room((0 if longest else most,), np.float32)
        self._below = self.table if below is None else below.table

    def enter(self, ids_MK: np.ndarray, logp_M: np.ndarray, backoff_M: np.ndarray) -> np.ndarray:
        """Number k-grams; returns those that lack a context or a suffix."""
        new = slice(self.size, self.size + len(ids_MK))
        nodes_M2 = self.nodes_G2[new]
        lacking = self.loops.enter(ids_MK, logp_M, self._below, self.table, nodes_M2, self.size)
        if len(self.backoff_G):
            self.backoff_G[new] = backoff_M
        self.size = new.stop
        return ids_MK[(nodes_M2.view("<u4")[:, 1::2] == NONE).any(axis=1)] if lacking else ids_MK[:0]

    def add(self, ids_MK: np.ndarray) -> None:
        """Number k-grams that have no probability of their own, if they are not there already."""
        ids_MK = ids_MK[self.loops.unknown(ids_MK, self.table)]
        self.enter(ids_MK, np.full(len(ids_MK), np.nan, np.float32), np.zeros(len(ids_MK), np.float32))

    def arrange(self, below: Level, place_F: np.ndarray) -> tuple[Level, np.ndarray]:
        """All in the order of context and word, and the place of each there; this is of no more use.

        Args:
            below: the (k-1)-grams.
            place_F: uint32, the place of each.
        """
        self._below = None
        counts, place_G = self.loops.arrange(self.nodes_G2[: self.size], place_F)
        self.nodes_G2 = room((0, 2), np.uint64)
        key_G, logp_G = counts.key_G, counts.count_G.view(np.float32)
        logp_G[low(key_G) == BOS] = -np.inf
        backs_G = np.flatnonzero(np.isnan(logp_G))
        logp_G[backs_G] = below.backoff_G[high(key_G)[backs_G]] + below.logp_G[counts.suffix_G[backs_G]]
        backoff_G = room((min(self.size, len(self.backoff_G)),), np.float32)
        if len(backoff_G):
            backoff_G[place_G] = self.backoff_G[: self.size]
        return Level(key_G, counts.suffix_G, logp_G, backoff_G), place_G


def _header(lines: Lines, most: int) -> list[int]:
    """How many n-grams of each length are promised."""
    while (line := lines.next()) != b"\\data\\":
        if not line:
            raise lines.wrong("the file ends without \\data\\")
    sizes: list[int] = []
    while not (line := lines.next()).startswith(b"\\"):
        match = _COUNT.fullmatch(line)
        if not match or int(match[1]) != len(sizes) + 1:
            raise lines.wrong(f"{shown(line)} stands where 'ngram {len(sizes) + 1}=...' is due", -1)
        sizes.append(int(match[2]))
        if int(match[2]) >= NONE or sum(size * (2 * k + 2) for k, size in enumerate(sizes, 1)) > most:
            raise lines.wrong("it promises more n-grams than the file has room for", -1)
    if line != b"\\1-grams:" or not sizes:
        raise lines.wrong(f"{shown(line)} stands where \\1-grams: is due, after 'ngram 1=...'", -1)
    return sizes


def _words(lines: Lines, size: int) -> tuple[dict[bytes, int], Level]:
    """The ids of all words, and level 1."""
    ids, logps, backoffs = dict(_SPELLED), [np.nan] * len(SPECIALS), [0.0] * len(SPECIALS)
    with lines.explained():
        for _ in range(size):
            line = lines.peek()
            logp, (word,), backoff = columns(line, 1)
            id = ids.setdefault(word, len(logps))
            if id == len(logps):
                logps.append(logp)
                backoffs.append(backoff)
            elif id < len(SPECIALS) and np.isnan(logps[id]):
                logps[id], backoffs[id] = logp, backoff
            else:
                raise ValueError(f"the word {shown(word)} was there before")
            lines.take(lines.at + len(line) + 1, 1)
    if np.isnan(logps[UNK]):
        logps[UNK] = _UNKNOWN
    logps[BOS] = -np.inf
    logp_V, backoff_V = natural(logps), natural(backoffs)
    logp_V[np.isnan(logp_V)] = -np.inf
    key_V = np.arange(len(logp_V), dtype=np.uint64)
    return ids, Level(key_V, np.zeros(len(logp_V), dtype=np.uint32), logp_V, backoff_V)


# ---- writing


def write(path: Path, trie: Trie, words: Sequence[bytes]) -> None:
    """Write a model, compressed by gzip where the name ends in .gz; every log comes back as the same float32.

    Args:
        path: where; what stood there is replaced when all is written.
        trie: the model.
        words: the spellings of the ids from 4 on.

    Raises:
        UsageError: a word, or the model, cannot be said in this format.
        StorageError: the disk refuses.
    """
    spelled = _spellings(trie, words)
    spell = twin(Loops, _LINE * sum(trie.ngrams)).speller(spelled)
    zipped = path.suffix == ".gz"
    with disk.replacing(path) as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) if zipped else nullcontext(raw) as file:
        file.write(b"\\data\\\n")
        for k, many in enumerate(trie.ngrams, 1):
            file.write(b"ngram %d=%d\n" % (k, many - (k == 1)))
        for k in range(1, trie.order + 1):
            file.write(b"\n\\%d-grams:\n" % k)
            for ids_MK, logp_M, backoff_M in trie.pieces(k, _LINES):
                if k == 1:
                    logp_M[ids_MK[:, 0] == BOS] = 0  # as lmplz has it
                said_M = ids_MK[:, -1] != PAD
                file.write(spell(ids_MK[said_M], logp_M[said_M], backoff_M[said_M] if len(backoff_M) else backoff_M))
        file.write(b"\n\\end\\\n")


def _spellings(trie: Trie, words: Sequence[bytes]) -> list[bytes]:
    """The spelling of every id, when the format can say it all."""
    if trie.absent:
        raise UsageError(
            "a model with stupid backoff cannot be written as ARPA, where a context never seen has no price",
            "use another smoothing",
        )
    if len(words) + len(SPECIALS) != len(trie.levels[0].key_G):
        raise UsageError(f"{len(words):,} spellings are not those of {len(trie.levels[0].key_G):,} ids", "give all")
    for word in words:
        if word in _SPELLED or not _WORD.fullmatch(word):
            raise UsageError(f"the word {shown(word)} cannot be written as ARPA", "use a tokenizer without such words")
    if len(set(words)) < len(words):
        raise UsageError("two words are spelled the same and cannot be written as ARPA", "use another tokenizer")
    return [b"", b"<unk>", b"<s>", b"</s>", *words]


# ---- many lines at once


class Loops:
    """What works on many n-grams at once: words are keys of a dict, and so are k-grams, as tuples of ids.

    Args:
        ids: of all words.
    """

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        self.ids = ids

    def table(self, most: int) -> Any:
        """An empty table of k-grams; 0 is for those that nobody will look for."""
        return {}

    def parse(self, text: bytes, at: int, k: int) -> Piece:
        """Read lines as far as they are k-grams."""
        rows, logps, backoffs = [], [], []
        for line in text[at:].split(b"\n")[:-1]:
            try:
                logp, words, backoff = columns(line, k)
                rows.append(known(words, self.ids))
            except ValueError:
                break
            logps.append(logp)
            backoffs.append(backoff)
            at += len(line) + 1
        return np.array(rows, dtype=np.uint32).reshape(-1, k), natural(logps), natural(backoffs), at

    def enter(
        self, ids_MK: np.ndarray, logp_M: np.ndarray, below: Any, own: Any, nodes_M2: np.ndarray, size: int
    ) -> bool:
        """Number k-grams from `size` on, and find the numbers of their contexts and suffixes; whether any lacks one."""
        grams = [tuple(row) for row in ids_MK.tolist()]
        for number, gram in enumerate(grams, size):
            own.setdefault(gram, number)
        context_M, suffix_M = (
            np.array([below.get(gram[part], NONE) for gram in grams], dtype=np.uint32)
            for part in (slice(None, -1), slice(1, None))
        )
        nodes_M2[:, 0] = pack(context_M, ids_MK[:, -1])
        nodes_M2[:, 1] = pack(suffix_M, logp_M.view(np.uint32))
        return bool((np.maximum(context_M, suffix_M) == NONE).any())

    def unknown(self, ids_MK: np.ndarray, own: Any) -> np.ndarray:
        """Which k-grams are not in a table."""
        return np.array([tuple(row) not in own for row in ids_MK.tolist()], dtype=bool)

    def arrange(self, nodes_G2: np.ndarray, place_F: np.ndarray) -> tuple[Counts, np.ndarray]:
        """Order by context and word, with ln p in the place of counts; returns also the place of each."""
        word_G, context_G, bits_G, suffix_G = nodes_G2.view("<u4").T
        key_G = pack(place_F[context_G], word_G)
        order_G = np.argsort(key_G, kind="stable")
        place_G = np.empty(len(order_G), dtype=np.uint32)
        place_G[order_G] = np.arange(len(order_G), dtype=np.uint32)
        return Counts(key_G[order_G], place_F[suffix_G[order_G]], bits_G[order_G]), place_G

    @classmethod
    def speller(cls, spelled: Sequence[bytes]) -> Callable[[np.ndarray, np.ndarray, np.ndarray], bytes]:
        """What turns k-grams into lines."""

        def spell(ids_MK: np.ndarray, logp_M: np.ndarray, backoff_M: np.ndarray) -> bytes:
            columns = [
                map(log10, logp_M.tolist()),
                (b" ".join([spelled[id] for id in row]) for row in ids_MK.tolist()),
            ]
            if len(backoff_M):
                columns.append(map(log10, backoff_M.tolist()))
            return b"".join(b"\t".join(line) + b"\n" for line in zip(*columns, strict=True))

        return spell
