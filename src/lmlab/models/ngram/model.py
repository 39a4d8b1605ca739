"""The n-gram model: what counting, smoothing and lookup add up to.

    model = Ngram.estimate(Ngram.Settings(order=5), vocab_size, ids_N)
    model.logp_array(held_out_N).mean()          # nats, without torch

Estimating and querying arrays never imports torch; only the methods of the waist do.

Shapes: N tokens of all documents, B contexts, T positions, V words, K selected rows.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, SettingError, UsageError, shown
from lmlab.kernels import engine
from lmlab.kernels.ngram.layout import MAX_ORDER, UNSEEN, Counts, Level, check_arrays
from lmlab.memory import check_array, map_array, parse_size, save_array
from lmlab.models.base import BatchWriter, BeamWriter, Reader, Scorer
from lmlab.models.ngram import prune
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.ranks import rank_array, rows
from lmlab.models.ngram.smoothing import IMPORTED, SMOOTHINGS, STUPID_BACKOFF, Lmplz, absent_of, rules_of, smooth
from lmlab.models.ngram.trie import Trie, TrieReader
from lmlab.models.scorers import Arrays
from lmlab.packed import pieces
from lmlab.vocabulary import BOS, EOS, PAD

if TYPE_CHECKING:
    from torch import Tensor

    from lmlab.kernels.ngram.compact_trie import CompactTrie
    from lmlab.kernels.ngram.rows import RowTables

_LEAST_MEMORY = 512 << 20  # libraries and words alone take half of it
_DTYPES = {"key_G": "<u8", "suffix_G": "<u4", "logp_G": "<f4", "backoff_G": "<f4"}
_LOADED = 500  # words from which loading the loops that write, half a second, pays
_SMALL = 64 << 20  # models up to this size may stay in the memory that they were made in


@dataclass(frozen=True)
class NgramState:
    """Contexts, one a row, as the model's layout holds them: int64, the batch last."""

    parts: tuple[Tensor, ...]

    def select(self, rows_K: Tensor) -> NgramState:
        """The state of these rows."""
        return NgramState(tuple(part[..., rows_K] for part in self.parts))

    def joined(self, other: NgramState) -> NgramState:
        """The state of these rows, then of the other's."""
        import torch

        return NgramState(tuple(torch.cat(parts, -1) for parts in zip(self.parts, other.parts, strict=True)))


class Ngram:
    """An n-gram model of any order.

    Attributes:
        settings: order and smoothing.
        trie: the n-grams, a `Trie`, or a `CompactTrie` where the layout is compact.
        notes: what estimation did otherwise than asked, in words.
        unnormalised: whether rows do not sum to one (stupid backoff alone).
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """What an n-gram model is made by."""

        order: int = setting(5, "the longest n-grams counted", ge=1, le=MAX_ORDER)
        smoothing: str = setting(
            "kneser-ney", "how unseen words get their probability", choices=(*SMOOTHINGS, IMPORTED)
        )
        k: float = setting(0.1, "what add-k adds to every count", gt=0)
        prune: tuple[int, ...] = setting(
            (), "of each length from 1 on, the count up to which n-grams are dropped; the last holds for all longer"
        )
        memory: str = setting("", "what counting may take, as in 2G; beyond, it goes on on disk; empty: all there is")
        prune_entropy: float = setting(
            0.0, "drop n-grams that change perplexity by a smaller share than this (Stolcke 1998)", ge=0
        )
        prune_to: int = setting(0, "drop n-grams, by entropy, until so many are left; 0: keep all", ge=0)
        layout: str = setting(
            "fast", "compact: a tenth of the size, the same scores, slower", choices=("fast", "compact")
        )
        compat: str = setting("none", "lmplz: repeat its error in the counts of counts", choices=("none", "lmplz"))

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.prune and (self.prune[0] != 0 or list(self.prune) != sorted(self.prune)):
                shown = ",".join(map(str, self.prune))
                raise SettingError("prune", shown, "0 and then numbers that never fall, as in 0,0,1")
            if self.memory and parse_size(self.memory) < _LEAST_MEMORY:
                raise SettingError("memory", self.memory, f"at least {_LEAST_MEMORY >> 20}M")
            if self.prune_entropy and self.prune_to:
                raise SettingError("prune_to", self.prune_to, "0 where prune_entropy is set", "prune one way")
            if self.layout == "compact" and (self.prune_entropy or self.prune_to):
                raise SettingError("layout", "compact", "fast", "what is pruned by entropy has no counts to be kept as")

    family: ClassVar[str] = "counted"
    one_file: ClassVar[bool] = True  # all that `load` reads may lie in one
    bos = BOS
    eos = EOS

    def __init__(
        self, settings: Ngram.Settings, trie: Any, notes: Sequence[str] = (), files: CompactTrie | _Files | None = None
    ) -> None:
        self.settings, self._files = settings, files
        self.notes = tuple(notes)
        self.unnormalised = settings.smoothing == STUPID_BACKOFF
        self.vocab_size: int = trie.ngrams[0]
        self.trie = trie

    @classmethod
    def estimate(cls, settings: Ngram.Settings, vocab_size: int, ids_N: np.ndarray) -> Ngram:
        """Count a corpus and smooth the counts.

        Args:
            settings: order and smoothing.
            vocab_size: V; words never seen get their share too.
            ids_N: documents laid end to end, each `<bos> d1 .. dk <eos>`, unsigned integers, memory-mapped or not.

        Raises:
            EmptyDataError: nothing in the data is predicted.
            DataError: ids outside the vocabulary, padding among them, or no leading `<bos>`.
        """
        memory = parse_size(settings.memory) if settings.memory else None
        return cls.from_counts(settings, count_ngrams(ids_N, settings.order, vocab_size, memory))

    @classmethod
    def from_counts(cls, settings: Ngram.Settings, levels: list[Counts]) -> Ngram:
        """Smooth and prune what was counted.

        Args:
            settings: of the order that was counted.
            levels: a level for each length, the shortest first; the counts are used up.
        """
        if settings.smoothing == IMPORTED:
            raise SettingError("smoothing", IMPORTED, f"one of {', '.join(SMOOTHINGS)}", "to estimate a model")
        lmplz = Lmplz() if settings.compat == "lmplz" else None
        if settings.layout == "compact":
            from lmlab.kernels.ngram.compact_trie import CompactTrie

            rules = rules_of(levels, settings.smoothing, settings.k, lmplz)
            packed = CompactTrie.of(levels, rules, settings.prune, absent_of(settings.smoothing))
            return cls(settings, packed, packed.notes)
        entropy = settings.prune_entropy or settings.prune_to
        histories = prune.histories(levels) if entropy and not settings.prune else None
        smoothed = smooth(
            levels, settings.smoothing, settings.k, settings.prune, lmplz=lmplz, on_disk=bool(settings.memory)
        )
        trie = Trie.join(levels, smoothed)
        if entropy:
            trie = prune.by_entropy(trie, settings.prune_entropy or None, settings.prune_to or None, histories)
        return cls(settings, trie, smoothed.notes)

    @property
    def fast_trie(self) -> Trie:
        """The n-grams in the fast layout.

        Raises:
            UsageError: they are in the compact one.
        """
        if not isinstance(self.trie, Trie):
            raise UsageError("the compact layout only scores and steps; this needs the fast one", "use layout fast")
        return self.trie

    @property
    def ngrams(self) -> tuple[int, ...]:
        """How many n-grams are stored of each length; of length 1, the whole vocabulary."""
        return tuple(self.trie.ngrams)

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        return int(self.trie.nbytes)

    def items(self, k: int) -> Iterator[tuple[tuple[int, ...], float, float]]:
        """Every k-gram of one length: its ids, ln of its probability, ln of its weight as a context (0 if it is none).

        Raises:
            SettingError: the model has none of that length.
        """
        if not 1 <= k <= self.settings.order:
            raise SettingError("k", k, f"1 to {self.settings.order}", "the model's order is the longest")
        for ids_MK, logp_M, backoff_M in self.fast_trie.pieces(k):
            weights = backoff_M.tolist() if len(backoff_M) else [0.0] * len(ids_MK)
            yield from zip(map(tuple, ids_MK.tolist()), logp_M.tolist(), weights, strict=True)

    # ---- scoring known text

    def scorer(self) -> Scorer:
        """Scores documents laid end to end, without torch."""
        ranks = partial(rank_array, self.trie) if isinstance(self.trie, Trie) else None
        return Arrays(self.logp_array, partial(rows, self.trie), ranks, normalised=not self.unnormalised)

    def account(self, ids_N: np.ndarray) -> dict[str, np.ndarray]:
        """The length of the n-gram found for each token of a document but `<bos>`."""
        return {"matched": self.fast_trie.matched(ids_N)[1:]}

    def logp_array(self, ids_N: np.ndarray) -> np.ndarray:
        """Natural log-probability of each id, float32; every `<bos>` opens a new document and itself scores 0."""
        logp_N: np.ndarray = self.trie.logp_array(ids_N)
        return logp_N

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False."""
        import torch

        ids_BT = torch.where(mask_BT, ids_BT, PAD)
        documents = torch.nn.functional.pad(ids_BT, (1, 0), value=BOS)
        logp_BT = torch.from_numpy(self.logp_array(documents.numpy().ravel())).view(documents.shape)[:, 1:]
        logp_BT = logp_BT.masked_fill(ids_BT == BOS, -torch.inf)
        return logp_BT.masked_fill(~mask_BT, 0.0)

    # ---- the waist

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, NgramState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        return self._answer(self.trie.begin([[BOS, *prompt] for prompt in prompts]))

    def step(self, state: NgramState, tokens_B: Tensor) -> tuple[Tensor, NgramState]:
        """logp_BV one token further, and the new state."""
        contexts = self.trie.contexts(*(part.numpy() for part in state.parts))
        return self._answer(self.trie.advance(contexts, tokens_B.numpy()))

    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy, in the fast layout."""
        return TrieReader(self.trie) if isinstance(self.trie, Trie) else None

    def batch_writer(self, prompts: Sequence[Sequence[int]], tokens: int) -> BatchWriter | None:
        """Writes texts in compiled loops, without torch: in the fast layout, where it is read in milliseconds."""
        tables = self._row_tables(tokens)
        if tables is None:
            return None
        from lmlab.kernels.ngram.writing import NgramWriter

        return NgramWriter(tables, [[BOS, *prompt] for prompt in prompts])

    def beam_writer(self, prompt: Sequence[int], width: int, tokens: int) -> BeamWriter | None:
        """Grows a beam in compiled loops, where `batch_writer` writes."""
        tables = self._row_tables(tokens)
        if tables is None:
            return None
        from lmlab.kernels.ngram.writing import NgramBeam

        return NgramBeam(tables, [BOS, *prompt], width)

    def _row_tables(self, tokens: int) -> RowTables | None:
        if not isinstance(self.trie, Trie) or self.nbytes > _SMALL or not engine.worthwhile(tokens, _LOADED):
            return None
        return self.trie.row_tables

    def _answer(self, contexts: Any) -> tuple[Tensor, NgramState]:
        import torch

        state = NgramState(tuple(torch.from_numpy(part) for part in self.trie.parts(contexts)))
        return torch.from_numpy(self.trie.rows(contexts)), state

    # ---- keeping

    def save(self, folder: Path) -> None:
        """Write every level's arrays, and `ngram.json` with their lengths and checksums, into an existing folder."""
        if not isinstance(self.trie, Trie):
            self.trie.save(folder)
            return
        checksums = {
            _file_name(name, k): save_array(folder / _file_name(name, k), getattr(level, name))
            for k, level in enumerate(self.trie.levels, 1)
            for name in _DTYPES
        }
        about = {"ngrams": self.ngrams, "absent": self.trie.absent, "bos": self.trie.bos_logp}
        about |= {"notes": self.notes, "crc32": checksums}
        content = {"model": about, "crc32": _crc32(about)}
        (folder / "ngram.json").write_text(json.dumps(content) + "\n", encoding="utf-8")

    def check(self) -> None:
        """Compare arrays that lie in files with their checksums, and look for what would lead compiled loops astray.

        100 MB take 0.1 s.

        Raises:
            ArtifactError: names the array, the value and the bound.
        """
        if self._files is not None:
            self._files.check()
        if isinstance(self.trie, Trie):
            check_arrays(self.trie.levels)

    def reopened(self, folder: Path) -> Ngram:
        """A large model as `save` wrote it there, so that the memory it was made in is free; a small one as it is."""
        return self if self.nbytes <= _SMALL else type(self).load(folder, self.settings, self.vocab_size)

    @classmethod
    def load(cls, folder: Path, settings: Ngram.Settings, vocab_size: int) -> Ngram:
        """Open what `save` wrote, memory-mapped.

        Every length and header is looked at. A flipped bit elsewhere could lead compiled loops out of their arrays:
        whoever does not know the files to be as they were written calls `check`.

        Raises:
            ArtifactError: a file is missing, truncated or altered, or does not fit the settings or the vocabulary.
        """
        if settings.layout == "compact":
            from lmlab.kernels.ngram.compact_trie import CompactTrie

            packed = CompactTrie.load(folder)
            _check_shape(folder, packed.ngrams, settings, vocab_size)
            return cls(settings, packed, packed.notes, packed)
        try:
            content = json.loads(b"".join(pieces(folder / "ngram.json")))
        except (OSError, ValueError, RecursionError) as error:
            raise _damaged(folder, f"ngram.json cannot be read ({error})") from error
        match content:
            case {"model": {"ngrams": list(), "absent": float(), "notes": list(), "crc32": dict()} as about}:
                if content.get("crc32") != _crc32(about):
                    raise _damaged(folder, "ngram.json is not as it was written")
            case _:
                raise _damaged(folder, "ngram.json lacks what belongs there")
        sizes, absent, bos_logp = about["ngrams"], about["absent"], about.get("bos", 0.0)
        _check_shape(folder, sizes, settings, vocab_size)
        if not -math.inf < absent <= 0 or not (bos_logp is None or (type(bos_logp) is float and bos_logp <= 0)):
            raise _damaged(folder, f"its logs {absent} and {bos_logp} are none up to 0")
        levels = tuple(_load_level(folder, k, sizes, about["crc32"]) for k in range(1, len(sizes) + 1))
        files = _Files(folder, levels, about["crc32"])
        return cls(settings, Trie(levels, absent, bos_logp), tuple(map(str, about["notes"])), files)


@dataclass(frozen=True)
class _Files:
    """The files of a trie, of which only the headers were looked at when it was opened."""

    folder: Path
    levels: tuple[Level, ...]
    checksums: Mapping[str, list[int]]

    def check(self) -> None:
        """Compare all of them with their checksums."""

        def check(item: tuple[int, str]) -> None:
            file_name = _file_name(item[1], item[0])
            try:
                check_array(getattr(self.levels[item[0] - 1], item[1]), self.checksums[file_name])
            except ValueError as error:
                raise _damaged(self.folder, f"{file_name}: {error}") from error

        engine.each(check, [(k, name) for k in range(1, len(self.levels) + 1) for name in _DTYPES])


def _check_shape(folder: Path, sizes: Sequence[int], settings: Ngram.Settings, vocab_size: int) -> None:
    if len(sizes) != settings.order or sizes[0] != vocab_size:
        wanted = f"order {settings.order} with {vocab_size} words"
        raise _damaged(folder, f"it holds order {len(sizes)} with {shown(sizes[:1])} words, not {wanted}")
    if any(type(size) is not int or not 0 <= size < UNSEEN for size in sizes):
        raise _damaged(folder, f"{shown(sizes)} are no numbers of n-grams up to {UNSEEN:,}")


def _crc32(about: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(about).encode())


def _file_name(name: str, k: int) -> str:
    return f"{name.removesuffix('_G')}_{k}.npy"


def _load_level(folder: Path, k: int, sizes: list[int], checksums: Mapping[str, list[int]]) -> Level:
    arrays: dict[str, Any] = {}
    for name, dtype in _DTYPES.items():
        file_name = _file_name(name, k)
        longest_only = name in ("suffix_G", "backoff_G") and k == len(sizes)
        length = 0 if longest_only else sizes[k - 1]
        try:
            arrays[name] = map_array(folder / file_name, dtype, length, checksums[file_name])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _damaged(folder, f"{file_name} cannot be read ({error})") from error
    return Level(**arrays)


def _damaged(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{folder} is no sound n-gram model: {what}", "train it again")
