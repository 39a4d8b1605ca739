"""Counts on disk: what a shard of a corpus was counted to, to be merged with those of others.

    about.json   what was counted; the length and the checksums of every array; its own SHA-256
    words.npy    uint8: the spelling of every word from id 4 on, a space between two
    count_1.npy  uint32: how often each word occurs, by its id
    key_K.npy suffix_K.npy count_K.npy   level K > 1, as `kernels/ngram/layout.py` draws it

A folder is written whole or not at all, by `write_arrays`, which also keeps what merging hands on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmlab.corpora.raw import MOST_SHARDS
from lmlab.disk import atomic_folder, write_json
from lmlab.errors import ArtifactError, shown
from lmlab.integrity import plain, read_json, signed, unsigned
from lmlab.kernels.ngram.layout import MAX_ORDER, Counts, Level, check_arrays
from lmlab.memory import check_array, map_array, map_npy, save_array
from lmlab.vocabulary import SPECIALS

FORMAT = 1
ABOUT = "about.json"
_OWN_SUM = "sha256"
_AGAIN = "count it again"
_DTYPES = {"key_G": "<u8", "suffix_G": "<u4", "count_G": "<u4"}


def write_arrays(
    folder: Path, arrays: Iterable[tuple[str, np.ndarray]], about: Mapping[str, Any], *, lasting: bool = True
) -> None:
    """Write a folder of named arrays of one dimension, and a description of them, in place of what is there."""
    with atomic_folder(folder, overwrite=True, lasting=lasting) as beside:
        written = {
            name: [array.dtype.str, len(array), save_array(beside / f"{name}.npy", array)] for name, array in arrays
        }
        write_json(beside / ABOUT, signed({**about, "format": FORMAT, "arrays": written}, _OWN_SUM))


def read_about(folder: Path) -> dict[str, Any]:
    """What `write_arrays` was told.

    Raises:
        ArtifactError: nothing is there, or it is of another format, or damaged.
    """
    if not (folder / ABOUT).is_file():
        raise ArtifactError(f"{folder} holds no counts", "make them by `lmlab ngram count`")
    about = read_json(folder / ABOUT, _AGAIN)
    if about.get("format") != FORMAT:
        problem = f"{folder} has format {shown(about.get('format'))} of counts, but this version reads {FORMAT}"
        raise ArtifactError(problem, "count it again, or install the version that wrote it")
    return unsigned(folder / ABOUT, about, _OWN_SUM, _AGAIN)


def read_arrays(folder: Path, *names: str, whole: bool = False) -> list[np.ndarray]:
    """Some of the arrays, memory-mapped; `whole` compares all of each with its checksums.

    Raises:
        ArtifactError: one is missing, or not as it was written.
    """
    about, found = read_about(folder) if whole else {}, []
    for name in names:
        path = plain(folder / f"{name}.npy")
        try:
            if whole:
                dtype, length, checksums = about["arrays"][name]
                found.append(map_array(path, dtype, length, checksums))
                check_array(found[-1], checksums)
            else:
                found.append(np.asarray(map_npy(path)))
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise ArtifactError(f"{path} is damaged ({error})", _AGAIN) from error
    return found


class CountFiles(NamedTuple):
    """The counts of a shard.

    Attributes:
        folder: where they lie.
        about: what was counted.
        words: the spelling of every word from id 4 on, a space between two.
        count_V: how often each word occurs.
    """

    folder: Path
    about: dict[str, Any]
    words: bytes
    count_V: np.ndarray

    @property
    def text(self) -> str:
        """The names of the files that it is a shard of."""
        return ", ".join(Path(name).name for name, _ in self.about["texts"])

    @property
    def order(self) -> int:
        """The longest n-grams that were counted."""
        return int(self.about["order"])

    @classmethod
    def open(cls, folder: Path) -> CountFiles:
        """Read what is small; the levels are checked where they are read.

        Raises:
            ArtifactError: it holds no counts, or they are damaged.
        """
        about = read_about(folder)
        match about:
            case {
                "order": int(order),
                "shard": [int(number), int(of)],
                "texts": list(texts),
                "bytes": int(),
                "settings": dict(),
            }:
                sound = 1 <= order <= MAX_ORDER and 1 <= number <= of <= MOST_SHARDS
                sound = sound and all(isinstance(text, list) and list(map(type, text)) == [str, int] for text in texts)
            case _:
                sound = False
        if not sound:
            raise ArtifactError(f"{folder} holds no counts of a shard", "make them by `lmlab ngram count`")
        words_B, count_V = read_arrays(folder, "words", "count_1", whole=True)
        words = words_B.tobytes()
        try:
            words.decode()
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{folder} is damaged (its words are no UTF-8)", _AGAIN) from error
        if words and (b"  " in b" %b " % words or len(words.translate(None, b"\0\t\n\r")) < len(words)):
            raise ArtifactError(f"{folder} is damaged (its words are not a space apart)", _AGAIN)
        kinds = words_B.dtype.str, count_V.dtype.str
        if kinds != ("|u1", "<u4") or len(count_V) != len(SPECIALS) + words.count(b" ") + bool(words):
            raise ArtifactError(f"{folder} is damaged (its words are not as many as their counts)", _AGAIN)
        return cls(folder, about, words, count_V)


def save_counts(folder: Path, levels: Sequence[Counts], words: bytes, about: Mapping[str, Any]) -> None:
    """Write counts, in place of those that are there."""
    arrays = {"words": np.frombuffer(words, dtype=np.uint8), "count_1": levels[0].count_G}
    for k, level in enumerate(levels[1:], 2):
        arrays |= level_arrays(level, k)
    write_arrays(folder, arrays.items(), {**about, "order": len(levels)})


def level_arrays(level: Counts, k: int) -> dict[str, np.ndarray]:
    """The arrays of a level by the names that they have on disk."""
    return {f"{name[:-2]}_{k}": array for name, array in vars(level).items()}


def open_level(folder: Path, k: int, *, whole: bool = False) -> Counts:
    """A level k > 1, memory-mapped.

    Raises:
        ArtifactError: it is missing, or not as it was written.
    """
    level = Counts(*read_arrays(folder, *(f"{name[:-2]}_{k}" for name in _DTYPES), whole=whole))
    arrays = vars(level)
    if {name: array.dtype.str for name, array in arrays.items()} != _DTYPES or len(set(map(len, arrays.values()))) > 1:
        raise ArtifactError(f"{folder} is damaged (level {k} has arrays of other kinds or lengths)", _AGAIN)
    return level


def verified(counts: CountFiles) -> list[Counts]:
    """All levels, every number of which was looked at, so that whoever merges them stays within their arrays.

    Raises:
        ArtifactError: they are not as they were written, or lead astray.
    """
    words, nothing = np.arange(len(counts.count_V), dtype=np.uint64), np.empty(0, dtype=np.float32)
    levels = [Counts(words, np.zeros(len(words), dtype=np.uint32), counts.count_V)]
    levels += [open_level(counts.folder, k, whole=True) for k in range(2, counts.order + 1)]
    try:
        check_arrays([Level(level.key_G, level.suffix_G, nothing, nothing) for level in levels])
    except ArtifactError as error:
        raise ArtifactError(f"{counts.folder} is damaged ({error})", _AGAIN) from error
    return levels
