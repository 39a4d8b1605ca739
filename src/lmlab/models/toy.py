"""Public fakes: whole language models, small enough to reason about by hand.

`Uniform` knows nothing, and is what every model must beat; `Scripted` answers from a table. Tests of anything that
takes a model use these. Neither ever predicts `[PAD]` or `<bos>`.

Shapes: B contexts, T positions, V the vocabulary, N ids.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, LmlabError, SettingError
from lmlab.models.base import Fixed, Scorer
from lmlab.models.scorers import Padded
from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED, SPECIALS


@dataclass(frozen=True)
class RowCount:
    """The state of a model without memory: how many contexts there are."""

    rows: int

    def select(self, rows_K: Tensor) -> RowCount:
        """As many rows as are selected."""
        return RowCount(len(rows_K))

    def joined(self, other: RowCount) -> RowCount:
        """As many rows as both have."""
        return RowCount(self.rows + other.rows)


class Uniform(Fixed):
    """Every token but `[PAD]` and `<bos>` equally likely: log(V - 2) nats a token.

    Args:
        vocab_size: V, at least 4.
        settings: it has none.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """Nothing to set."""

    def __init__(self, vocab_size: int, settings: Any = None) -> None:
        super().__init__(vocab_size, settings)
        self._row_V = torch.from_numpy(_log(_uniform(vocab_size)))

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, RowCount]:
        """The uniform row for each prompt, logp_BV, and their number."""
        return self._row_V.repeat(len(prompts), 1), RowCount(len(prompts))

    def step(self, state: RowCount, tokens_B: Tensor) -> tuple[Tensor, RowCount]:
        """The uniform row for each context, logp_BV, and their number."""
        return self._row_V.repeat(len(tokens_B), 1), state

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of known text; 0 where the mask is False."""
        return torch.where(mask_BT, self._row_V[ids_BT], 0.0)

    def rows(self, ids_BT: Tensor) -> Iterator[Tensor]:
        """The uniform row at each position, rows_BTV."""
        yield self._row_V.expand(*ids_BT.shape, self.vocab_size)

    def scorer(self) -> Scorer:
        """Scores padded batches."""
        return Padded(self.logp, self.rows)


@dataclass(frozen=True)
class Contexts:
    """The state of a model that looks whole contexts up: all ids read so far, row by row."""

    ids: tuple[tuple[int, ...], ...]

    def select(self, rows_K: Tensor) -> Contexts:
        """The ids of these rows."""
        return Contexts(tuple(self.ids[row] for row in rows_K.tolist()))

    def joined(self, other: Contexts) -> Contexts:
        """The ids of these rows, then of the other's."""
        return Contexts(self.ids + other.ids)


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
        """How much of a text `estimate` reads."""

        depth: int = setting(8, "how many tokens of each document `estimate` learns by heart", ge=1)

    family: ClassVar[str] = "counted"
    bos, eos = BOS, EOS

    def __init__(
        self,
        settings: Scripted.Settings,
        vocab_size: int,
        table: Mapping[tuple[int, ...], Sequence[float] | np.ndarray],
        default: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        self.settings, self.vocab_size = settings, vocab_size
        self._default_V = _distribution(_uniform(vocab_size) if default is None else default, vocab_size)
        rows = {tuple(ids): _distribution(row, vocab_size) for ids, row in table.items()}
        self._table: Mapping[tuple[int, ...], np.ndarray] = MappingProxyType(rows)

    @property
    def nbytes(self) -> int:
        """The size of its rows, in bytes."""
        return sum(row_V.nbytes for row_V in self._table.values())

    @classmethod
    def make(cls, table: Mapping[tuple[int, ...], Sequence[float]], default: Sequence[float] | None = None) -> Scripted:
        """A script with the vocabulary size of its rows."""
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
        """logp_BV of what follows `<bos>` and each prompt, and the prompts."""
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

    def check(self) -> None:
        """Nothing: each row was found to be a distribution."""

    def _rows(self, state: Contexts) -> Tensor:
        rows_BV = [self._table.get(ids, self._default_V) for ids in state.ids]
        return torch.from_numpy(_log(np.reshape(rows_BV, (len(rows_BV), self.vocab_size))))


def _uniform(vocab_size: int) -> np.ndarray:
    row_V = np.full(vocab_size, 1 / (vocab_size - len(NEVER_PREDICTED)))
    row_V[list(NEVER_PREDICTED)] = 0
    return row_V


def _distribution(row: Sequence[float] | np.ndarray, vocab_size: int) -> np.ndarray:
    """The row as a read-only copy, once it is a distribution."""
    row_V = np.array(row, dtype=np.float64)
    whole = row_V.shape == (vocab_size,) and vocab_size >= len(SPECIALS)
    sums_to_one = (row_V >= 0).all() and math.isclose(row_V.sum(), 1, abs_tol=1e-6)
    if not whole or not sums_to_one or row_V[list(NEVER_PREDICTED)].any():
        raise SettingError("row", row_V.tolist(), f"{vocab_size} probabilities that sum to 1, 0 for [PAD] and <bos>")
    row_V.flags.writeable = False
    return row_V


def _log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p))
