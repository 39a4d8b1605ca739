"""Public fakes: full members of the waist, small enough to reason about by hand.

`Uniform` knows nothing, and is what every model must beat; `Scripted` says what its table says. Tests of anything that
takes a model use these. Neither is ever surprised into predicting `[PAD]` or `<bos>`.

Shapes: B contexts, T positions, V the vocabulary, R scripted rows, N ids.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, LmlabError, SettingError
from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED, SPECIALS


@dataclass(frozen=True)
class RowCount:
    """The state of a model that remembers nothing but how many contexts there are."""

    rows: int

    def select(self, rows_K: Tensor) -> RowCount:
        """So many rows."""
        return RowCount(len(rows_K))


class Uniform:
    """Every token but `[PAD]` and `<bos>` equally likely: log(V - 2) nats a token.

    Args:
        vocab_size: V, at least 4.
        settings: it has none.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """Nothing to set."""

    family: ClassVar[str] = "counted"
    nbytes: ClassVar[int] = 0

    def __init__(self, vocab_size: int, settings: Uniform.Settings | None = None) -> None:
        self.vocab_size, self.bos, self.eos = _vocabulary(vocab_size), BOS, EOS
        self.settings = settings or Uniform.Settings()
        self._row_V = torch.from_numpy(_log(_uniform(vocab_size)))

    @classmethod
    def estimate(cls, settings: Uniform.Settings, vocab_size: int, ids_N: np.ndarray) -> Self:
        """There is nothing to count."""
        return cls(vocab_size, settings)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, RowCount]:
        """logp_BV, and how many rows there are."""
        return self._row_V.repeat(len(prompts), 1), RowCount(len(prompts))

    def step(self, state: RowCount, tokens_B: Tensor) -> tuple[Tensor, RowCount]:
        """The same again."""
        return self._row_V.repeat(len(tokens_B), 1), state

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of known text; 0 where the mask is False."""
        return torch.where(mask_BT, self._row_V[ids_BT], 0.0)

    def save(self, folder: Path) -> None:
        """There are no weights to write."""

    @classmethod
    def load(cls, folder: Path, settings: Uniform.Settings, vocab_size: int) -> Self:
        """There are no weights to read."""
        return cls(vocab_size, settings)


@dataclass(frozen=True)
class Contexts:
    """The state of a model that looks everything up: all ids read so far, row by row."""

    ids: tuple[tuple[int, ...], ...]

    def select(self, rows_K: Tensor) -> Contexts:
        """These rows."""
        return Contexts(tuple(self.ids[row] for row in rows_K.tolist()))


class Scripted:
    """Looks its distribution up in a table by all the ids after `<bos>`, and falls back on a default row.

    Args:
        settings: how deep `estimate` reads.
        vocab_size: V, at least 4.
        table: ids to the V probabilities of what follows them.
        default: the probabilities after all other ids; None is uniform.

    Raises:
        SettingError: a row that is no distribution over V tokens, or that predicts `[PAD]` or `<bos>`.

    >>> model = Scripted.make({(): [0, 0, 0, 0.25, 0.75]})
    >>> model.start([[]])[0].exp().tolist()
    [[0.0, 0.0, 0.0, 0.25, 0.75]]
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """What a script takes from text."""

        depth: int = setting(8, "how many tokens of each document `estimate` learns by heart", ge=1)

    family: ClassVar[str] = "counted"

    def __init__(
        self,
        settings: Scripted.Settings,
        vocab_size: int,
        table: Mapping[tuple[int, ...], Sequence[float] | np.ndarray],
        default: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        self.settings = settings
        self.vocab_size, self.bos, self.eos = _vocabulary(vocab_size), BOS, EOS
        self._default_V = _distribution(_uniform(vocab_size) if default is None else default, vocab_size)
        rows = {tuple(ids): _distribution(row, vocab_size) for ids, row in table.items()}
        self._table: Mapping[tuple[int, ...], np.ndarray] = MappingProxyType(rows)

    @property
    def nbytes(self) -> int:
        """What its rows take, in bytes."""
        return sum(row_V.nbytes for row_V in self._table.values())

    @classmethod
    def make(cls, table: Mapping[tuple[int, ...], Sequence[float]], default: Sequence[float] | None = None) -> Scripted:
        """A script whose rows tell the size of the vocabulary."""
        rows = [*table.values(), *([] if default is None else [default])]
        if not rows:
            raise SettingError("table", dict(table), "a mapping with at least one row", "or use Uniform")
        return cls(cls.Settings(), len(rows[0]), table, default)

    @classmethod
    def estimate(cls, settings: Scripted.Settings, vocab_size: int, ids_N: np.ndarray) -> Self:
        """Learn by heart how documents begin: after each beginning, how often each token followed.

        Args:
            settings: how deep.
            vocab_size: V.
            ids_N: documents laid end to end, each opened by `<bos>`.
        """
        counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for document in np.split(ids_N, np.flatnonzero(ids_N == BOS))[1:]:
            ids = tuple(document[1 : settings.depth + 1].tolist())
            for length, token in enumerate(ids):
                counts[ids[:length]][token] += 1
        table = {}
        for ids, followers in counts.items():
            row_V = np.bincount(list(followers), weights=list(followers.values()), minlength=vocab_size)
            table[ids] = row_V / row_V.sum()
        return cls(settings, vocab_size, table)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Contexts]:
        """logp_BV after the prompts, and the prompts."""
        state = Contexts(tuple(tuple(int(token) for token in prompt) for prompt in prompts))
        return self._rows(state), state

    def step(self, state: Contexts, tokens_B: Tensor) -> tuple[Tensor, Contexts]:
        """logp_BV one token further, and all ids so far."""
        grown = Contexts(tuple((*ids, token) for ids, token in zip(state.ids, tokens_B.tolist(), strict=True)))
        return self._rows(grown), grown

    def save(self, folder: Path) -> None:
        """Write the contexts and their rows, the default row last."""
        (folder / "contexts.json").write_text(json.dumps([list(ids) for ids in self._table]), encoding="utf-8")
        np.save(folder / "rows.npy", np.stack([*self._table.values(), self._default_V]))

    @classmethod
    def load(cls, folder: Path, settings: Scripted.Settings, vocab_size: int) -> Self:
        """Build from what `save` wrote.

        Raises:
            ArtifactError: files are missing or damaged.
        """
        try:
            contexts = json.loads((folder / "contexts.json").read_text(encoding="utf-8"))
            *rows, default = np.load(folder / "rows.npy", allow_pickle=False)
            table = {tuple(map(int, ids)): row for ids, row in zip(contexts, rows, strict=True)}
            return cls(settings, vocab_size, table, default)
        except (OSError, EOFError, ValueError, LmlabError) as error:
            raise ArtifactError(f"{folder} holds no whole script ({error})", "save it again") from error

    def _rows(self, state: Contexts) -> Tensor:
        rows_BV = [self._table.get(ids, self._default_V) for ids in state.ids]
        return torch.from_numpy(_log(np.reshape(rows_BV, (len(rows_BV), self.vocab_size))))


def _vocabulary(vocab_size: int) -> int:
    if vocab_size < len(SPECIALS):
        raise SettingError("vocab_size", vocab_size, f"an integer >= {len(SPECIALS)}", "the special tokens need room")
    return vocab_size


def _uniform(vocab_size: int) -> np.ndarray:
    row_V = np.full(vocab_size, 1 / (vocab_size - len(NEVER_PREDICTED)))
    row_V[list(NEVER_PREDICTED)] = 0
    return row_V


def _distribution(row: Sequence[float] | np.ndarray, vocab_size: int) -> np.ndarray:
    """The row as a read-only copy, once it is a distribution."""
    row_V = np.array(row, dtype=np.float64)
    bound = f"{vocab_size} probabilities that sum to 1, 0 for [PAD] and <bos>"
    if row_V.shape != (vocab_size,) or not (row_V >= 0).all() or not math.isclose(row_V.sum(), 1, abs_tol=1e-6):
        raise SettingError("row", row_V.tolist(), bound)
    if row_V[list(NEVER_PREDICTED)].any():
        raise SettingError("row", row_V.tolist(), bound)
    row_V.flags.writeable = False
    return row_V


def _log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p)
