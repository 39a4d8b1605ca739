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

What the format cannot say, or says in several ways, is read as KenLM reads it: -99, which SRILM writes for a
probability of 0 and we do too, is a probability of 1e-99; `<UNK>` is `<unk>`; where both are missing, log10 p of the
unknown word is -100. No word is ever followed by `<s>`: what stands there (lmplz writes 0, SRILM -99) is kept as
`Trie.bos_logp`. `<s>` and `</s>` may be missing. `[PAD]` is never written.

Shapes: M lines of a piece, K words in each, G k-grams of a section, F (k-1)-grams, V words.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lmlab import disk
from lmlab.errors import SettingError, UsageError
from lmlab.kernels.ngram import twin
from lmlab.kernels.ngram.layout import MAX_ORDER, NONE, Counts, Level, high, pack
from lmlab.memory import room
from lmlab.models.ngram.arpa_text import LN_10, Lines, columns, known, log10, natural, opened, shown, unigrams
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

_SPELLED = {b"<unk>": UNK, b"<UNK>": UNK, b"<s>": BOS, b"</s>": EOS}
_UNKNOWN = -100.0  # log10 p
_LINE = 40  # bytes of a typical one
_LINES = 1 << 13  # written at once
_PRELUDE = 10_000  # lines before \\data\\ at most
_CONVERT = "convert it with iconv -t UTF-8"
_WORD = re.compile(rb"[^\0\t\n\r ]+")
_COUNT = re.compile(rb"ngram\s+(\d{1,9})\s*=\s*(\d{1,18})")

Piece = tuple[np.ndarray, np.ndarray, np.ndarray, int]
"""Lines as ids, logs of p and of b, and where in the text the next line begins."""


# ---- reading


def read(path: Path, *, errors: str = "strict", positive: str = "refuse") -> tuple[Trie, list[bytes]]:
    """Read a file, compressed or not.

    Args:
        path: the file.
        errors: "replace" puts U+FFFD in the place of bytes that are no UTF-8; "strict" refuses them.
        positive: "zero" takes log10 probabilities above 0 for 0; "refuse" refuses them.

    Returns:
        The model, and the spellings of the ids from 4 on, in the order of the file.

    Raises:
        ArtifactError: it cannot be read, or is no sound ARPA file; the message names the line.
        SettingError: there is no such way to treat errors or positive numbers.
    """
    for name, value, ways in (("errors", errors, ("strict", "replace")), ("positive", positive, ("refuse", "zero"))):
        if value not in ways:
            raise SettingError(name, value, " or ".join(ways))
    most = np.inf if positive == "zero" else 0.0
    trie, words, missing = _read(path, {}, errors, most)
    if missing:
        trie, words, _ = _read(path, _parts_of(missing), errors, most)
    return trie, words


def _read(
    path: Path, added: Mapping[int, np.ndarray], errors: str, most: float
) -> tuple[Trie, list[bytes], list[np.ndarray]]:
    """Read a file, with k-grams to add; also returns those that lack a context or a suffix (the model is then void)."""
    with opened(path) as (chunks, about, room_for):
        lines = Lines(path, chunks)
        sizes = header(lines, room_for)
        ids, words, level = _words(lines, sizes[0], errors, most)
        loops = twin(Loops, about)(ids, most)
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
                    gram = b" ".join(list(ids)[id] for id in _ids_of(levels, int(again_G[0])))
                    raise lines.wrong(f"the {k}-gram {shown(gram)} stands above it twice")
        lines.expect(b"\\end\\")
    bos_logp = float(levels[0].logp_G[BOS])
    levels[0].logp_G[BOS] = -np.inf
    nothing = np.empty(0, dtype=np.uint32)
    levels[-1] = replace(levels[-1], suffix_G=nothing, backoff_G=nothing.view(np.float32))
    return Trie(tuple(levels), 0.0, bos_logp=None if np.isnan(bos_logp) else bos_logp), words, missing


def _ids_of(levels: Sequence[Level], node: int) -> list[int]:
    """The words of a k-gram of the last of these levels."""
    ids = []
    for level in reversed(levels):
        key = int(level.key_G[node])
        ids.append(key & NONE)
        node = key >> 32
    return ids[::-1]


def _fill(section: _Section, lines: Lines, k: int, size: int) -> list[np.ndarray]:
    """Enter a section's n-grams; returns those that lack a context or a suffix."""
    missing = (section.enter(*piece) for piece in pieces(section.loops, lines, k, size))
    return [missing_MK for missing_MK in missing if len(missing_MK)]  # an empty view would keep the whole piece


def pieces(loops: Loops, lines: Lines, k: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The n-grams of a section of so many, in pieces: ids, logs of p and logs of the backoff."""
    left = size
    while lines.more():
        ids_MK, logp_M, backoff_M, end = loops.parse(lines.text, lines.at, k)
        if len(ids_MK) > left:
            raise lines.wrong(f"the header promises {size:,} {k}-grams, and there are more", ahead=left)
        yield ids_MK, logp_M, backoff_M
        left -= len(ids_MK)
        lines.at = end
        if end < len(lines.text):
            break
    if left:
        with lines.explained():
            known(columns(lines.peek(), k, loops.most)[1], loops.ids)
        raise lines.wrong("it cannot be understood")


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
        backs_G = np.flatnonzero(np.isnan(logp_G))
        logp_G[backs_G] = below.backoff_G[high(key_G)[backs_G]] + below.logp_G[counts.suffix_G[backs_G]]
        backoff_G = room((min(self.size, len(self.backoff_G)),), np.float32)
        if len(backoff_G):
            backoff_G[place_G] = self.backoff_G[: self.size]
        return Level(key_G, counts.suffix_G, logp_G, backoff_G), place_G


def header(lines: Lines, room_for: int) -> list[int]:
    """How many n-grams of each length are promised; no more than so many bytes can hold."""
    for _ in range(_PRELUDE):
        if not (line := lines.next()):
            raise lines.wrong("the file ends without \\data\\")
        if line == b"\\data\\":
            break
    else:
        raise lines.wrong(f"there is no \\data\\ among the first {_PRELUDE:,} lines")
    sizes: list[int] = []
    while not (line := lines.next()).startswith(b"\\"):
        match = _COUNT.fullmatch(line)
        if not match or int(match[1]) != len(sizes) + 1:
            raise lines.wrong(f"{shown(line)} stands where 'ngram {len(sizes) + 1}=...' is due", ahead=-1)
        sizes.append(int(match[2]))
        if len(sizes) > MAX_ORDER:
            raise lines.wrong(f"it promises n-grams of more than {MAX_ORDER} words", ahead=-1)
        if int(match[2]) >= NONE or sum(size * (2 * k + 2) for k, size in enumerate(sizes, 1)) > room_for:
            raise lines.wrong("it promises more n-grams than the file has room for", ahead=-1)
    if line != b"\\1-grams:" or not sizes:
        raise lines.wrong(f"{shown(line)} stands where \\1-grams: is due, after 'ngram 1=...'", ahead=-1)
    return sizes


def _words(lines: Lines, size: int, errors: str, most: float) -> tuple[dict[bytes, int], list[bytes], Level]:
    """The ids of all words as the file has them, the spellings from id 4 on, and level 1 (ln p NaN for no `<s>`)."""
    ids, spelled = dict(_SPELLED), list[bytes]()
    logps, backoffs = [np.nan] * len(SPECIALS), [0.0] * len(SPECIALS)
    with lines.explained():
        for logp, word, backoff in unigrams(lines, size, most):
            id = ids.setdefault(word, len(logps))
            if id == len(logps):
                logps.append(logp)
                backoffs.append(backoff)
                spelled.append(word if word.isascii() else _in_utf8(word, errors))
            elif id < len(SPECIALS) and np.isnan(logps[id]):
                logps[id], backoffs[id] = logp, backoff
            else:
                raise ValueError(f"the word {shown(word)} was there before")
    if len(set(spelled)) < len(spelled):
        raise lines.wrong("words above it differ only in bytes that are no UTF-8", _CONVERT)
    for id, missing in ((UNK, _UNKNOWN), (PAD, -np.inf), (EOS, -np.inf)):
        logps[id] = missing if np.isnan(logps[id]) else logps[id]
    logp_V, backoff_V = natural(logps), natural(backoffs)
    key_V = np.arange(len(logp_V), dtype=np.uint64)
    return ids, spelled, Level(key_V, np.zeros(len(logp_V), dtype=np.uint32), logp_V, backoff_V)


def _in_utf8(word: bytes, errors: str) -> bytes:
    try:
        return word.decode("utf-8", errors).encode()
    except UnicodeDecodeError:
        raise ValueError(f"the word {shown(word)} is not UTF-8", f"{_CONVERT}, or --errors replace") from None


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
    spellings(trie, words)  # before anything is written
    zipped = path.suffix == ".gz"
    with disk.replacing(path) as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) if zipped else nullcontext(raw) as file:
        write_to(file, trie, words)


def write_to(file: Any, trie: Trie, words: Sequence[bytes], unsaid: Sequence[int] = ()) -> None:
    """Write a model into an open file.

    Args:
        file: open for bytes.
        trie: the model.
        words: the spellings of the ids from 4 on.
        unsaid: ids to leave out, which no longer n-gram has.

    Raises:
        UsageError: a word, or the model, cannot be said in this format.
    """
    unsaid = [PAD, *trie.lacks, *unsaid]
    sizes = [many - len(unsaid) * (k == 1) for k, many in enumerate(trie.ngrams, 1)]
    write_sections(file, spellings(trie, words), sizes, (_section(trie, k, unsaid) for k in range(1, trie.order + 1)))


def _section(trie: Trie, k: int, unsaid: list[int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for ids_MK, logp_M, backoff_M in trie.pieces(k, _LINES):
        said_M = np.ones(len(ids_MK), dtype=bool)
        if k == 1:
            logp_M[ids_MK[:, 0] == BOS] = trie.bos_logp
            said_M = ~np.isin(ids_MK[:, 0], unsaid)
        yield ids_MK[said_M], logp_M[said_M], backoff_M[said_M] if len(backoff_M) else backoff_M


def write_sections(file: Any, spelled: Sequence[bytes], sizes: Sequence[int], sections: Iterable[Any]) -> None:
    """Write n-grams into an open file.

    Args:
        file: open for bytes.
        spelled: of every id.
        sizes: how many there are of each length.
        sections: those of each length, in pieces: their ids, ln p, ln of the backoff (empty where there is none).
    """
    spell = twin(Loops, _LINE * sum(sizes)).speller(spelled)
    file.write(b"\\data\\\n")
    for k, many in enumerate(sizes, 1):
        file.write(b"ngram %d=%d\n" % (k, many))
    for k, section in enumerate(sections, 1):
        file.write(b"\n\\%d-grams:\n" % k)
        for piece in section:
            file.write(spell(*piece))
    file.write(b"\n\\end\\\n")


def spellings(trie: Trie, words: Sequence[bytes]) -> list[bytes]:
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
        most: the greatest log10 p allowed; what lies above 0 is taken for 0.
        unit: what log10s are multiplied by: natural logs come out, or 1 for what stands there.
    """

    def __init__(self, ids: Mapping[bytes, int], most: float, unit: float = LN_10) -> None:
        self.ids, self.most, self.unit = ids, most, unit

    def table(self, most: int) -> Any:
        """An empty table of k-grams; 0 is for those that nobody will look for."""
        return {}

    def parse(self, text: bytes, at: int, k: int) -> Piece:
        """Read lines as far as they are k-grams."""
        rows, logps, backoffs = [], [], []
        for line in text[at:].split(b"\n")[:-1]:
            if line.strip(b"\0\t\r "):
                try:
                    logp, words, backoff = columns(line, k, self.most)
                    rows.append(known(words, self.ids))
                except ValueError:
                    break
                logps.append(logp)
                backoffs.append(backoff)
            at += len(line) + 1
        return (
            np.array(rows, dtype=np.uint32).reshape(-1, k),
            natural(logps, self.unit),
            natural(backoffs, self.unit),
            at,
        )

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
