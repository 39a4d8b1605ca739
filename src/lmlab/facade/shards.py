"""Counting by shards: parts of a text are counted apart and merged, by any `concurrent.futures.Executor`.

    count   a task a shard, with word ids of its own, into a folder; one that holds its counts, whole, is left as it is
    check   a task a shard: every number is looked at, and its k-grams are brought into the order of the common ids
    merge   for each length k > 1, a task a range of contexts

Between the first two, the word lists of all shards are merged here in the order of the shards: a word's id tells when
it appears first, as in one process. So the text is read once, and a shard need not know of the others.

Each task is a function of a few paths and numbers, may run twice, and writes a folder whole or not at all; where it
runs, and what becomes of it when a worker dies, is the executor's business. Workers must see the same files.

Shapes: V words, P parts, which are shards with common word ids.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmlab import disk
from lmlab.corpora import raw
from lmlab.corpora.reading import whole_words
from lmlab.errors import (
    ArtifactError,
    DataError,
    EmptyDataError,
    RunExistsError,
    UsageError,
)
from lmlab.facade.counting import Counted, Texts, commonest, count, described_text
from lmlab.facade.sharding import all_done, checked, in_order, stamps
from lmlab.kernels.ngram.layout import NONE, Counts
from lmlab.kernels.ngram.merge import cut_level, merge_level, renamed
from lmlab.memory import forget, room
from lmlab.models.ngram.count_files import (
    ABOUT,
    CountFiles,
    level_arrays,
    open_level,
    read_arrays,
    save_counts,
    verified,
    write_arrays,
)
from lmlab.progress import Reporter, Silent
from lmlab.tokens.scan import scanner
from lmlab.vocabulary import SPECIALS, UNK

_MOST = (1 << 32) - 1  # that a count can be
_RANGE = 1 << 21  # k-grams of all parts, or thereabouts, that a task merges


@dataclass(frozen=True)
class Shard:
    """The lines of some texts that are counted together.

    Attributes:
        texts: files, as they were named.
        here: the folder that their names start from.
        number: which shard it is, from 1 on.
        of: how many there are.
        settings: of the model; its order, memory and compat matter.
        errors: as for `lmlab.estimate`.
        skip_symbols: as for `lmlab.estimate`.
    """

    texts: tuple[str, ...]
    here: str
    number: int
    of: int
    settings: Any
    errors: str = "strict"
    skip_symbols: bool = False

    @classmethod
    def all_of(cls, sources: Sequence[Any], of: int | None, *rest: Any) -> list[Shard]:
        """The shards of some files.

        Raises:
            SettingError: there cannot be so many.
            UsageError: a source is no file.
        """
        of = checked(of)
        if odd := [source for source in sources if not isinstance(source, str | Path) or str(source) == "-"]:
            what = "standard input" if odd[0] == "-" else f"a {type(odd[0]).__name__}"
            raise UsageError(f"{what} cannot be cut into shards", "write it to a file, and name that")
        texts = tuple(map(str, sources))
        shards = [cls(texts, os.getcwd(), number, of, *rest) for number in range(1, of + 1)]
        shards[0].read(Silent())  # what cannot be read is told before work begins
        return shards

    def read(self, reporter: Reporter) -> Texts:
        """Its lines."""
        origins = raw.shard(self.texts, Path(self.here), self.number, self.of)
        ended = self.settings.compat == "none"
        return Texts(origins, reporter, errors=self.errors, ended=ended, skip_symbols=self.skip_symbols)

    def about(self) -> dict[str, Any]:
        """What its counts hang on, to be kept with them."""
        return {
            "shard": [self.number, self.of],
            **stamps(self.texts, Path(self.here)),
            "settings": {
                "order": self.settings.order,
                "compat": self.settings.compat,
                "errors": self.errors,
                "skip_symbols": self.skip_symbols,
            },
        }


# ---- tasks


def count_shard(
    shard: Shard,
    folder: Path,
    threads: int | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> bool:
    """Count a shard into a folder, unless its counts lie there already, whole; returns whether it had to be counted.

    Args:
        shard: what to count.
        folder: where its counts go.
        threads: how many to use; None is one a core.
        overwrite: whether other counts there are replaced.
        reporter: shows progress.

    Raises:
        RunExistsError: there is something else.
    """
    texts = shard.read(reporter or Silent())
    about = shard.about()
    if _holds(folder, about):
        return False
    if disk.exists(folder) and not (overwrite and (folder / ABOUT).is_file()):
        raise RunExistsError(folder)
    words = scanner(texts.text_size)
    try:
        levels = count(texts, shard.settings, words, reporter or Silent(), threads)
    except EmptyDataError:  # of more shards than lines, some are empty
        levels = [_level_1(np.zeros(many, dtype=np.uint32)) for many in (len(words), *[0] * (shard.settings.order - 1))]
    data = texts.describe()
    about |= {"sha256_of_text": data["sha256"], "bytes": data["splits"]["train"]["bytes"]}
    save_counts(folder, levels, " ".join(words.words()).encode(), about)
    return True


def _level_1(count_V: np.ndarray) -> Counts:
    return Counts(np.arange(len(count_V), dtype=np.uint64), np.zeros(len(count_V), dtype=np.uint32), count_V)


def _holds(folder: Path, about: dict[str, Any]) -> bool:
    """Whether a folder holds these counts, whole."""
    try:
        counts = CountFiles.open(folder)
        return about.items() <= counts.about.items() and bool(verified(counts))
    except ArtifactError:
        return False


def check_shard(counts: CountFiles, word_V: np.ndarray | None, out: Path) -> Path:
    """Look at every number of a shard's counts; returns where they lie in the order of the common word ids.

    Args:
        counts: the shard's.
        word_V: uint32, the common id of each of its words; None where they are its own.
        out: the folder to write where they differ.
    """
    levels = verified(counts)
    if word_V is None:
        return counts.folder
    ordered = enumerate(renamed(levels[1:], word_V), 2)  # one at a time
    write_arrays(out, (pair for k, level in ordered for pair in level_arrays(level, k).items()), {}, lasting=False)
    return out


class Below(NamedTuple):
    """What merging a level needs of the one below: the merged node of each node of each part.

    Attributes:
        sizes: how many nodes each part has.
        maps: the folder that holds them, uint32, part after part; None where each has the same, its words.
    """

    sizes: list[int]
    maps: Path | None = None

    def open(self) -> list[np.ndarray]:
        """The merged nodes, memory-mapped."""
        if self.maps is None:
            return [np.arange(self.sizes[0], dtype=np.uint32)] * len(self.sizes)
        (maps,) = read_arrays(self.maps, "maps")
        return np.split(maps, np.cumsum(self.sizes[:-1], dtype=int))


def merge_range(
    parts: Sequence[Path], k: int, start_P: list[int], stop_P: list[int], below: Below, on_disk: bool, out: Path
) -> None:
    """Merge a range of a level, and write it, and the merged nodes, counted from its own start, of the parts' nodes.

    Args:
        parts: the folders of counts.
        k: the length.
        start_P: where the range begins in each part.
        stop_P: where it ends.
        below: the merged nodes of the level below.
        on_disk: keep in memory no more than a few pieces.
        out: the folder to write.
    """
    ranges = map(slice, start_P, stop_P)
    pieces = [
        Counts(*(array[piece] for array in vars(open_level(part, k)).values()))
        for part, piece in zip(parts, ranges, strict=True)
    ]
    level, nodes = merge_level(pieces, below.open(), on_disk=on_disk)
    arrays = level_arrays(level, k) | {"nodes": np.concatenate(nodes)}
    write_arrays(out, arrays.items(), {}, lasting=False)


# ---- the process that asks


def count_shards(
    shards: Sequence[Shard],
    work: Path,
    executor: Executor,
    reporter: Reporter,
) -> list[CountFiles]:
    """Count all shards of a text, into folders within another."""
    folders = [work / f"counts-{shard.number}" for shard in shards]
    calls = ((shard, folder, 1, True) for shard, folder in zip(shards, folders, strict=True))
    done = all_done(executor, reporter, "counting", count_shard, calls)
    if kept := done.count(False):
        reporter.say(f"{kept} of {len(shards)} shards were counted before")
    return in_order([CountFiles.open(folder) for folder in folders])


def merge_counts(
    counts: Sequence[CountFiles],
    work: Path,
    executor: Executor,
    reporter: Reporter,
    vocab_size: int | None = None,
    min_count: int = 1,
    on_disk: bool = False,
) -> Counted:
    """The counts of some shards together: number for number those of one process that counts all of their text.

    Args:
        counts: what `in_order` returned.
        work: a folder that the workers see too.
        executor: where the work is done.
        reporter: shows progress.
        vocab_size: as for `lmlab.estimate`.
        min_count: as for `lmlab.estimate`.
        on_disk: keep what is large in files.

    Raises:
        ArtifactError: counts are damaged.
        DataError: there is more than a model can hold.
        EmptyDataError: there is nothing.
    """
    disk.discard(work := work / "merging")
    words, maps = _common_words([(one.words, one.count_V) for one in counts], vocab_size, min_count)
    levels = [_level_1(_summed([one.count_V for one in counts], maps, len(SPECIALS) + len(words)))]
    same = [np.array_equal(word_V, np.arange(len(word_V))) for word_V in maps]
    calls = [
        (one, None if kept else word_V, work / f"part-{i}")
        for i, (one, word_V, kept) in enumerate(zip(counts, maps, same, strict=True))
    ]
    parts = all_done(executor, reporter, "checking counts", check_shard, calls)
    below = Below([len(levels[0])] * len(parts))
    for k in range(2, counts[0].order + 1):
        level, below = _merge_level(parts, k, below, on_disk, work, executor, reporter)
        reporter.say(f"{k}-grams: {len(level):,} distinct")
        levels.append(level)
    disk.discard(work)
    names = ", ".join(dict.fromkeys(one.text for one in counts))
    return Counted(levels, words, described_text(names, None, sum(one.about["bytes"] for one in counts)))


def _merge_level(
    parts: Sequence[Path], k: int, below: Below, on_disk: bool, work: Path, executor: Executor, reporter: Reporter
) -> tuple[Counts, Below]:
    """A level, merged range by range, and what the level above needs of it."""
    found = [open_level(part, k) for part in parts]
    sizes = [len(level) for level in found]
    stops = cut_level(found, below.open(), 1 + sum(sizes) // _RANGE)
    starts = [[0] * len(parts), *stops[:-1]]
    outs = [work / f"{k}-{i}" for i in range(len(stops))]
    calls = [(parts, k, *ends, below, on_disk, out) for *ends, out in zip(starts, stops, outs, strict=True)]
    all_done(executor, reporter, f"merging {k}-grams", merge_range, calls)
    pieces = [open_level(out, k, whole=True) for out in outs]
    first = np.cumsum([0, *map(len, pieces)])
    if first[-1] >= NONE:
        problem = f"there are {first[-1]:,} different {k}-grams, but a model holds {NONE - 1:,} of one length"
        raise DataError(problem, "use a smaller order, a smaller vocabulary or less text")
    arrays = zip(*(vars(piece).values() for piece in pieces), strict=True)
    level = Counts(*(_joined(array, on_disk) for array in arrays))
    maps = room((sum(sizes),), np.uint32, on_disk=on_disk)
    of_part = np.split(maps, np.cumsum(sizes[:-1], dtype=int))
    for out, begin, start_P, stop_P in zip(outs, first, starts, stops, strict=False):
        (node_M,) = read_arrays(out, "nodes", whole=True)
        for map_G, start, stop in zip(of_part, start_P, stop_P, strict=True):
            map_G[start:stop], node_M = node_M[: stop - start], node_M[stop - start :]
            map_G[start:stop] += np.uint32(begin)
        forget(maps)
        disk.discard(out)
    write_arrays(work / f"maps-{k}", [("maps", maps)], {}, lasting=False)
    return level, Below(sizes, work / f"maps-{k}")


def _common_words(
    lists: Sequence[tuple[bytes, np.ndarray]], vocab_size: int | None, min_count: int
) -> tuple[list[str], list[np.ndarray]]:
    """The words of all lists in order of appearance or, where some go, of frequency; and of each list their ids."""
    words, maps = scanner(sum(len(spelled) for spelled, _ in lists)), []
    specials = np.arange(len(SPECIALS), dtype=np.uint32)
    for spelled, _ in lists:
        ids = [specials[:0], *(words.feed(piece) for piece in whole_words([spelled], "the vocabulary"))]
        maps.append(np.concatenate([specials, np.concatenate(ids)[1:]]))  # without <bos>
        words.close()
    found = words.words()
    if vocab_size is None and min_count == 1:
        return found, maps
    kept = commonest(_summed([count_V for _, count_V in lists], maps, len(words)), vocab_size, min_count)
    new_V = np.full(len(words), UNK, dtype=np.uint32)
    new_V[specials], new_V[kept] = specials, np.arange(len(kept)) + len(SPECIALS)
    return [found[i - len(SPECIALS)] for i in kept], [new_V[word_V] for word_V in maps]


def _summed(counts: Sequence[np.ndarray], maps: Sequence[np.ndarray], words: int) -> np.ndarray:
    """How often each common word occurs, uint32."""
    count_V = np.zeros(words, dtype=np.int64)
    for own_V, word_V in zip(counts, maps, strict=True):
        np.add.at(count_V, word_V, own_V)
    if (most := int(count_V.max())) > _MOST:
        raise DataError(f"a word occurs {most:,} times, but at most {_MOST:,} can be counted", "use less text")
    if not count_V.any():
        raise EmptyDataError("there are no tokens to count", "give some text")
    return count_V.astype(np.uint32)


def _joined(arrays: Sequence[np.ndarray], on_disk: bool) -> np.ndarray:
    whole, at = room((sum(map(len, arrays)),), arrays[0].dtype, on_disk=on_disk), 0
    for array in arrays:
        whole[at : at + len(array)] = array
        at += len(array)
        forget(array, whole)
    return whole
