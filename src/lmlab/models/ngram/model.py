"""The n-gram model: what counting, smoothing and lookup add up to.

    model = Ngram.estimate(Ngram.Settings(order=5), vocab_size, ids_N)
    model.logp_array(held_out_N).mean()          # nats, without torch

Estimating and querying arrays never imports torch; only the methods of the waist do.

Shapes: N tokens of all documents, B contexts, T positions, V words, K selected rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, SettingError, UsageError
from lmlab.memory import parse_size, save_array
from lmlab.models.ngram.counts import Counts, count_ngrams, high
from lmlab.models.ngram.smoothing import IMPORTED, SMOOTHINGS, STUPID_BACKOFF, smooth
from lmlab.models.ngram.trie import Contexts, Level, Trie
from lmlab.vocab import BOS, EOS, PAD

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_MEMORY = 512 << 20  # libraries and words alone take half of it
_DTYPES = {"key_G": "<u8", "suffix_G": "<u4", "logp_G": "<f4", "backoff_G": "<f4"}


@dataclass(frozen=True)
class NgramState:
    """The longest stored context of each row (its level and node) and how long the context is; int64."""

    level_B: Tensor
    node_B: Tensor
    length_B: Tensor

    def select(self, rows_K: Tensor) -> NgramState:
        """The state of these rows."""
        return NgramState(self.level_B[rows_K], self.node_B[rows_K], self.length_B[rows_K])


class Ngram:
    """An n-gram model of any order.

    Attributes:
        settings: order and smoothing.
        notes: what estimation did otherwise than asked, in words.
        unnormalised: whether rows do not sum to one (stupid backoff alone).
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """What an n-gram model is made by."""

        order: int = setting(5, "the longest n-grams counted", ge=1)
        smoothing: str = setting("kneser-ney", "how unseen words get their probability", choices=(*SMOOTHINGS, IMPORTED))
        k: float = setting(0.1, "what add-k adds to every count", gt=0)
        prune: tuple[int, ...] = setting(
            (), "of each length from 1 on, the count up to which n-grams are dropped; the last holds for all longer"
        )
        memory: str = setting("", "what counting may take, as in 2G; beyond, it goes on on disk; empty: all there is")
        compat: str = setting("none", "lmplz: repeat its error in the counts of counts", choices=("none", "lmplz"))

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.prune and (self.prune[0] != 0 or list(self.prune) != sorted(self.prune)):
                shown = ",".join(map(str, self.prune))
                raise SettingError("prune", shown, "0 and then numbers that never fall, as in 0,0,1")
            if self.memory and parse_size(self.memory) < _LEAST_MEMORY:
                raise SettingError("memory", self.memory, f"at least {_LEAST_MEMORY >> 20}M")

    family: ClassVar[str] = "counted"
    bos = BOS
    eos = EOS

    def __init__(self, settings: Ngram.Settings, trie: Trie, notes: Sequence[str] = ()) -> None:
        self.settings = settings
        self.notes = tuple(notes)
        self.unnormalised = settings.smoothing == STUPID_BACKOFF
        self.vocab_size = len(trie.levels[0].key_G)
        self.trie = self._trie = trie

    @classmethod
    def estimate(
        cls,
        settings: Ngram.Settings,
        vocab_size: int,
        ids_N: np.ndarray,
        progress: Callable[[str], None] | None = None,
    ) -> Ngram:
        """Count a corpus and smooth the counts.

        Args:
            settings: order and smoothing.
            vocab_size: V; words never seen get their share too.
            ids_N: documents laid end to end, each `<bos> d1 .. dk <eos>`, unsigned integers, memory-mapped or not.
            progress: is told a line for each step.

        Raises:
            EmptyDataError: nothing in the data is predicted.
            DataError: ids outside the vocabulary, padding among them, or no leading `<bos>`.
        """
        memory = parse_size(settings.memory) if settings.memory else None
        model = cls.from_counts(settings, count_ngrams(ids_N, settings.order, vocab_size, progress, memory))
        if progress:
            for note in model.notes:
                progress(note)
        return model

    @classmethod
    def from_counts(cls, settings: Ngram.Settings, levels: list[Counts]) -> Ngram:
        """Smooth and prune what was counted.

        Args:
            settings: of the order that was counted.
            levels: a level for each length, see `count_ngrams`; the counts are used up.
        """
        if settings.smoothing == IMPORTED:
            raise SettingError("smoothing", IMPORTED, f"one of {', '.join(SMOOTHINGS)}", "to estimate a model")
        smoothed = smooth(
            levels,
            settings.smoothing,
            settings.k,
            settings.prune,
            lmplz=settings.compat == "lmplz",
            on_disk=bool(settings.memory),
        )
        return cls(settings, Trie.join(levels, smoothed), smoothed.notes)

    @property
    def ngrams(self) -> tuple[int, ...]:
        """How many n-grams are stored of each length; of length 1, the whole vocabulary."""
        return tuple(len(level.key_G) for level in self._trie.levels)

    @property
    def nbytes(self) -> int:
        """The size of all arrays, in bytes."""
        return sum(getattr(level, name).nbytes for level in self._trie.levels for name in _DTYPES)

    # ---- scoring known text

    def logp_array(self, ids_N: np.ndarray) -> np.ndarray:
        """Natural log-probability of each id, float32; every `<bos>` opens a new document and itself scores 0."""
        return self._trie.logp_array(ids_N)

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False."""
        import torch

        ids_BT = torch.where(mask_BT, ids_BT, PAD)
        documents = torch.nn.functional.pad(ids_BT, (1, 0), value=BOS)
        logp_BT = torch.from_numpy(self.logp_array(documents.numpy().ravel())).view(documents.shape)[:, 1:]
        logp_BT = logp_BT.masked_fill(ids_BT == BOS, -torch.inf)
        return logp_BT.masked_fill(~mask_BT, 0.0)

    # ---- next words, without a look at every word

    def top_k(self, prompts: Sequence[Sequence[int]], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids (int64) and log-probabilities (float32) of the k likeliest words after `<bos>` and each prompt: B, k.

        The likeliest come first; of equals, the lower id.
        """
        return self._trie.drawing.top_k(self._begin(prompts), k)

    def sample(self, prompts: Sequence[Sequence[int]], max_tokens: int, seed: int, first: int = 0) -> list[np.ndarray]:
        """Draw a text after `<bos>` and each prompt, at temperature 1; its ids, uint32, with the `<eos>` that ended it.

        Args:
            prompts: ids, ragged, possibly empty.
            max_tokens: the longest text.
            seed: the same one gives the same texts, 0 to 2^64 - 1.
            first: the number of the first text; text i is the same whatever others are drawn with it.

        Raises:
            UsageError: the model's rows do not sum to one.
        """
        if self.unnormalised:
            raise UsageError(f"rows of {STUPID_BACKOFF} are no probabilities to draw from", "use another smoothing")
        return self._trie.drawing.sample(self._begin(prompts), max_tokens, seed, first)

    def _begin(self, prompts: Sequence[Sequence[int]]) -> Contexts:
        return self._trie.begin([[BOS, *prompt] for prompt in prompts])

    # ---- the waist

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, NgramState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        return self._answer(self._begin(prompts))

    def step(self, state: NgramState, tokens_B: Tensor) -> tuple[Tensor, NgramState]:
        """logp_BV one token further, and the new state."""
        contexts = Contexts(state.level_B.numpy(), state.node_B.numpy(), state.length_B.numpy())
        return self._answer(self._trie.advance(contexts, tokens_B.numpy()))

    def _answer(self, contexts: Contexts) -> tuple[Tensor, NgramState]:
        import torch

        state = NgramState(
            *(torch.from_numpy(array) for array in (contexts.level_B, contexts.node_B, contexts.length_B))
        )
        return torch.from_numpy(self._trie.rows(contexts)), state

    # ---- keeping

    def save(self, folder: Path) -> None:
        """Write every level's arrays, and `ngram.json` with their lengths, into an existing folder."""
        for k, level in enumerate(self._trie.levels, 1):
            for name in _DTYPES:
                save_array(folder / _file_name(name, k), getattr(level, name))
        about = {"ngrams": self.ngrams, "absent": self._trie.absent, "notes": self.notes}
        (folder / "ngram.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, settings: Ngram.Settings, vocab_size: int) -> Ngram:
        """Open what `save` wrote, memory-mapped.

        Raises:
            ArtifactError: a file is missing, truncated, or does not fit the others, the settings or the vocabulary.
        """
        try:
            about = json.loads((folder / "ngram.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _damaged(folder, f"ngram.json cannot be read ({error})") from error
        match about:
            case {"ngrams": [int(), *_] as sizes, "absent": float(absent), "notes": [*notes]}:
                if len(sizes) != settings.order or sizes[0] != vocab_size:
                    found, wanted = f"order {len(sizes)}", f"order {settings.order} with {vocab_size} words"
                    raise _damaged(folder, f"it holds {found} with {sizes[0]} words, not {wanted}")
            case _:
                raise _damaged(folder, "ngram.json lacks ngrams, absent or notes")
        levels = tuple(_load_level(folder, k, sizes) for k in range(1, len(sizes) + 1))
        return cls(settings, Trie(levels, absent), notes)


def _file_name(name: str, k: int) -> str:
    return f"{name.removesuffix('_G')}_{k}.npy"


def _load_level(folder: Path, k: int, sizes: list[int]) -> Level:
    """One level, its arrays checked for type, length and ends: enough to notice files of different models."""
    arrays: dict[str, Any] = {}
    for name, dtype in _DTYPES.items():
        path = folder / _file_name(name, k)
        longest_only = name in ("suffix_G", "backoff_G") and k == len(sizes)
        length = 0 if longest_only else sizes[k - 1]
        try:
            array = np.asarray(np.load(path, mmap_mode="r" if length else None, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(folder, f"{path.name} cannot be read ({error})") from error
        if array.dtype != np.dtype(dtype) or array.shape != (length,):
            raise _damaged(folder, f"{path.name} holds {array.shape} of {array.dtype}, not ({length},) of {dtype}")
        arrays[name] = array
    key_G = arrays["key_G"]
    contexts = sizes[k - 2] if k > 1 else 1
    if len(key_G) and (high(key_G[-1:])[0] >= contexts or np.any(key_G[1:4096] <= key_G[: len(key_G[1:4096])])):
        raise _damaged(folder, f"{_file_name('key_G', k)} does not fit the level below it")
    return Level(**arrays)


def _damaged(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{folder} is no sound n-gram model: {what}", "train it again")
