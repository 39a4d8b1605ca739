"""A context-mixing language model, of the PAQ kind (Mahoney 2005): many contexts vote on each binary decision.

    model = CM.estimate(CM.Settings(), vocab_size, ids_N)       # one pass
    Adaptive(model).scorer()                                    # goes on learning from what it scores

A token is a path of decisions in a Huffman tree. At each node every context has a slot of two counts and a probability;
stretched, they are the inputs of logistic mixers, each with the weights that its selector names; a last layer joins the
mixers, and two adaptive probability maps refine the result. All of them learn from a token once it is known as a whole,
so the probabilities of all tokens sum to one.

Shapes: N ids, B texts, V tokens, F registers of a text, K contexts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lmlab import config
from lmlab.config import setting
from lmlab.errors import ArtifactError, DataError, EmptyDataError, SettingError
from lmlab.kernels import cm as kernels
from lmlab.kernels.cm import layout
from lmlab.kernels.cm.layout import Frame, Tables
from lmlab.memory import map_npy, parse_size, room
from lmlab.models.base import ArrayState, Reader, Scorer
from lmlab.models.cm import contexts
from lmlab.models.cm.tree import huffman
from lmlab.models.scorers import Arrays, Stream
from lmlab.vocabulary import BOS, EOS, PAD

if TYPE_CHECKING:
    from torch import Tensor

_EPOCH = 100_000  # tokens after which the contexts of the text at hand forget, while the corpus is read
_FRESH = 1 / 16  # of the slots, for these contexts
_CHUNK = 1 << 16  # tokens scored at once
_RECENT = 1 << 20  # places of the table of matches
_LINE = 8 * layout.LINE_SLOTS  # bytes
_LEAST_LINES = 256
_VERSION = 1  # of what tables mean: of the hash of contexts, and of the levels of a slot
_KEPT = ("count_V", "kind_V", "like_V", *Tables._fields)
_START = np.array([0, 1, 2, 3, 4, 5.5, 8, 12, 18.5, 29, 60])  # a count of each level


class CM:
    """A context-mixing model of frozen tables; `Adaptive` goes on learning.

    Attributes:
        settings: as given.
        names: the contexts, chosen or given.
        frame: the tree, the contexts and the kinds of tokens.
        tables: what was learned.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """What is looked at, and how fast it is learned."""

        contexts: tuple[str, ...] = setting((), "names of contexts, as in 1-3 or word+1; empty: by the tokenizer")
        selectors: tuple[str, ...] = setting(
            ("1", "2", "3", "first", "shape", "longest"),
            "what chooses a mixer's weights, beside order and node",
        )
        memory: str = setting("280M", "at most so much for all tables, as in 280M; short texts take less")
        window: int = setting(1 << 14, "last tokens of a text at hand that a match is looked for in", ge=64, le=1 << 24)
        mixer_rate: float = setting(0.02, "learning rate of the mixers at first", gt=0, le=1)
        mixer_rate_end: float = setting(0.0007, "the rate that it falls to", ge=0, le=1)
        mixer_decay: float = setting(3e-5, "how fast it falls: rate / (1 + decay * tokens)", ge=0, le=1)
        final_rate: float = setting(0.001, "learning rate of the last layer", ge=0, le=1)
        limit: float = setting(255.0, "observations after which a slot's probability learns no slower", ge=1, le=500)

        def __post_init__(self) -> None:
            super().__post_init__()
            parse_size(self.memory)
            contexts.parse(self.contexts or ("0",))
            contexts.selectors(self.selectors)

        @property
        def rates(self) -> np.ndarray:
            """As the loops take them."""
            rates = self.mixer_rate, self.mixer_rate_end, self.mixer_decay, self.final_rate, self.limit
            return np.array(rates, np.float64)

    family: ClassVar[str] = "counted"
    bos, eos = BOS, EOS

    def __init__(
        self, settings: CM.Settings, names: Sequence[str], known: Sequence[np.ndarray], tables: Tables | None = None
    ) -> None:
        count_V, kind_V, like_V = self._known = tuple(known)
        self._learned = int(count_V.sum())
        self.settings, self.names, self.vocab_size = settings, tuple(names), len(count_V)
        parsed = contexts.parse(names)
        tree = huffman(count_V)
        tables = tables or _tables(settings, parsed, tree.length_V, count_V)
        lines = len(tables.slots) // layout.LINE_SLOTS
        fresh = max(1, int(lines * _FRESH)) if parsed.fresh_K.any() else 0
        first_K = np.where(parsed.fresh_K, lines - fresh, 0)
        lines_K = np.where(parsed.fresh_K, fresh, lines - fresh)
        selector_S = contexts.selectors(settings.selectors)
        own = parsed.parts_KP, parsed.rank_K, first_K, lines_K, selector_S, parsed.least_M
        self.frame, self.tables = Frame(*tree, kind_V, like_V, *own), tables
        self._fresh_slots = tables.slots[(lines - fresh) * layout.LINE_SLOTS :]

    @classmethod
    def estimate(cls, settings: CM.Settings, vocab_size: int, ids_N: np.ndarray) -> Self:
        """Learn from documents laid end to end, each opened by `<bos>`, of tokens whose spelling nobody tells."""
        return cls.estimate_spelled(settings, [b""] * vocab_size, ids_N)

    @classmethod
    def estimate_spelled(cls, settings: CM.Settings, spellings: Sequence[bytes], ids_N: np.ndarray) -> Self:
        """Learn in one pass.

        Args:
            settings: contexts, mixers and memory.
            spellings: of every id, so that contexts can be of words and lines.
            ids_N: documents laid end to end, each `<bos> d1 .. dk <eos>`.

        Raises:
            EmptyDataError: nothing in the data is predicted.
            DataError: ids outside the vocabulary, padding among them, or no leading `<bos>`.
        """
        V, ids_N = len(spellings), np.asarray(ids_N)
        if not np.count_nonzero(ids_N != BOS):
            raise EmptyDataError("nothing in the data is predicted", "give more text")
        if ids_N[0] != BOS or ids_N.min() <= PAD or ids_N.max() >= V:
            raise DataError("ids are documents, each opened by <bos>, of the vocabulary", "encode the text again")
        known = np.bincount(ids_N, minlength=V), *contexts.kinds(spellings if any(spellings) else (), V)
        model = cls(settings, settings.contexts or contexts.chosen(spellings), known)
        state_F = model.begin(1)[0]
        for start in range(0, len(ids_N), _EPOCH):
            model.read(ids_N[start : start + _EPOCH], state_F, learning=True)
            model._fresh_slots[:] = 0
        return model

    def read(self, ids_N: np.ndarray, state_F: np.ndarray, *, learning: bool = False) -> np.ndarray:
        """Read a text on from its registers, which change: ln p of each token, 0 of `<bos>`."""
        if learning and (short := int(self.tables.clock[0]) + len(ids_N) - len(self.tables.history_H)) > 0:
            longer_H = np.pad(self.tables.history_H, (0, short + len(self.tables.history_H)))
            self.tables = self.tables._replace(history_H=longer_H)
        logp_N = np.zeros(len(ids_N))
        self._code(len(ids_N)).read(
            ids_N, state_F, tuple(self.frame), tuple(self.tables), self.settings.rates, learning, logp_N
        )
        return logp_N

    def begin(self, many: int) -> np.ndarray:
        """The registers of so many texts before `<bos>`, state_BF."""
        M = len(self.frame.least_M)
        return np.zeros((many, layout.MATCH + 3 * M + (1 + M) * self.settings.window), np.int32)

    def rows(self, state_BF: np.ndarray) -> np.ndarray:
        """Ln p of what follows each text, logp_BV (float32)."""
        logp_BV = np.empty((len(state_BF), self.vocab_size), np.float32)
        self._code(len(state_BF)).rows(state_BF, tuple(self.frame), tuple(self.tables), logp_BV)
        return logp_BV

    def stepped(self, state_BF: np.ndarray, tokens_B: np.ndarray) -> np.ndarray:
        """Take one token into each text, whose registers change: logp_BV of what follows."""
        logp_BV = np.empty((len(tokens_B), self.vocab_size), np.float32)
        self._code(len(tokens_B)).step(state_BF, tokens_B, tuple(self.frame), tuple(self.tables), logp_BV)
        return logp_BV

    def _code(self, tokens: int) -> Any:
        return kernels.code(tokens + self._learned)

    # ---- the waist

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, ArrayState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        return _in_torch(CMReader(self).start(prompts))

    def step(self, state: ArrayState, tokens_B: Tensor) -> tuple[Tensor, ArrayState]:
        """logp_BV one token further, and the new state."""
        return _in_torch(CMReader(self).step(state, tokens_B.tolist()))

    def reader(self, rows: int) -> Reader | None:
        """Steps in NumPy."""
        return CMReader(self)

    def scorer(self) -> Scorer:
        """Scores documents laid end to end, the tables as they are."""
        return Arrays(lambda ids_N: self.read(ids_N, self.begin(1)[0]), partial(rows_of, self, learning=False))

    def online(self) -> Adaptive:
        """The model as it goes on learning from what it reads."""
        return Adaptive(self)

    # ---- keeping

    @property
    def nbytes(self) -> int:
        """The size of all tables, in bytes."""
        return sum(table.nbytes for table in self.tables)

    def copy(self) -> CM:
        """A model whose tables are its own."""
        tables = Tables(*(_copy(table) for table in self.tables))
        return CM(self.settings, self.names, self._known, tables)

    def save(self, folder: Path) -> None:
        """Write every array, and `cm.json` with the contexts, into an existing folder."""
        for name, array in zip(_KEPT, (*self._known, *self.tables), strict=True):
            np.save(folder / f"{name}.npy", array)
        (folder / "cm.json").write_text(
            json.dumps({"version": _VERSION, "contexts": self.names}) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, folder: Path, settings: CM.Settings, vocab_size: int) -> Self:
        """Open what `save` wrote, memory-mapped; what is learned from then on stays in memory.

        Raises:
            ArtifactError: a file is missing or damaged, or does not fit the settings or the vocabulary.
        """
        try:
            names = _names(json.loads((folder / "cm.json").read_text(encoding="utf-8")))
            arrays = [map_npy(folder / f"{name}.npy", "c") for name in _KEPT]
            known, tables = arrays[:3], Tables(*arrays[3:])
            for name, array in zip(_KEPT, known, strict=False):
                _check_shape(name, array, (vocab_size,), np.int64)
            model = cls(settings, names, known, tables)
            model._check_shapes()
        except (OSError, ValueError, KeyError, TypeError, IndexError, SettingError) as error:
            raise ArtifactError(f"{folder} holds no whole context-mixing model ({error})", "train it again") from error
        return model

    def _check_shapes(self) -> None:
        K, S, N, t = len(self.names), len(self.settings.selectors) + 2, len(self.frame.group_N), self.tables
        orders = 8 * (int(self.frame.rank_K.max()) + 1)
        M, Q = max(1, len(self.frame.least_M)), 2 * layout.LEVELS**2
        shapes = (
            t.slots.shape[:1], (K, Q), (K, Q), (S, layout.SETS, 3 * K + 1), (N, S + 1), (orders, S + 1),
            t.apm.shape[:1], t.history_H.shape[:1], (M, *t.recent_MR.shape[1:2]), (2,),
        )  # fmt: skip
        for name, table, shape, kind in zip(Tables._fields, t, shapes, _DTYPES, strict=True):
            _check_shape(name, table, shape, kind)

    def check(self) -> None:
        """Look through all tables, which the loops are to stay within.

        Raises:
            ArtifactError: a number is beyond its bounds.
        """
        t, kinds = self.tables, self.frame.kind_V
        sound = {
            "map_KQ": bool(((t.map_KQ > 0) & (t.map_KQ < 1)).all()),
            "history_H": bool(0 <= t.clock[0] <= len(t.history_H) and (t.history_H >= 0).all()),
            "recent_MR": t.recent_MR.min() >= 0 and t.recent_MR.max() <= t.clock[0],
            "kind_V": kinds.min() >= 0,
            **{name: bool(np.isfinite(getattr(t, name)).all()) for name in ("mix_SCX", "node_NZ", "order_CZ", "apm")},
        }
        for name in (name for name, well in sound.items() if not well):
            raise ArtifactError(f"{name} of a context-mixing model is beyond its bounds", "train it again")


def _names(about: Mapping[str, Any]) -> list[str]:
    """The contexts that `cm.json` names."""
    if about["version"] != _VERSION:
        raise ValueError(f"its tables are of version {about['version']}, not {_VERSION}")
    return list(about["contexts"])


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], kind: type) -> None:
    if array.shape != shape or array.dtype != kind or not array.flags.c_contiguous:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, not {kind.__name__} of shape {shape}")


_DTYPES = (np.int64, *[np.float32] * 6, np.int32, np.int32, np.int64)


def _tables(settings: CM.Settings, parsed: contexts.Contexts, length_V: np.ndarray, count_V: np.ndarray) -> Tables:
    """Tables of a model that has learned nothing, as large as the corpus may need and the memory allows."""
    K, S, N = len(parsed.fresh_K), len(settings.selectors) + 2, int((length_V > 0).sum()) - 1
    tokens, M = int(count_V.sum()), max(1, len(parsed.least_M))
    start_Q = np.repeat((_START + 0.4) / (_START[:, None] + _START + 0.8), 2).astype(np.float32)
    mix_SCX = np.zeros((S, layout.SETS, 3 * K + 1), np.float32)
    mix_SCX[:, :, 0 : 3 * K : 3] = 0.2
    node_NZ, order_CZ = (
        np.zeros((rows, S + 1), np.float32) for rows in (N, 8 * (int(parsed.rank_K.max(initial=0)) + 1))
    )
    node_NZ[:, :S] = order_CZ[:, :S] = 1 / S
    steps = (np.arange(layout.APM_STEPS) - layout.APM_STEPS // 2) / 2
    apm = np.tile((1 / (1 + np.exp(-steps))).astype(np.float32), 2 * min(layout.APM_ROWS, 8 * tokens))
    recent_MR = np.zeros((M, min(_RECENT, 4 * tokens + 4)), np.int32)
    rest = (
        sum(each.nbytes for each in (mix_SCX, node_NZ, order_CZ, apm, recent_MR)) + 4 * tokens + 16 * K * start_Q.size
    )
    most = (parse_size(settings.memory) - rest) // _LINE
    if most < _LEAST_LINES:
        raise SettingError(
            "memory", settings.memory, f"at least {(rest + _LEAST_LINES * _LINE >> 20) + 1}M", "raise it"
        )
    wanted = math.ceil(2 * tokens * K * float((count_V * length_V).sum() / tokens) / layout.LINE_SLOTS)
    return Tables(
        room((min(most, max(_LEAST_LINES, wanted)) * layout.LINE_SLOTS,), np.int64),
        np.tile(start_Q.reshape(-1), (K, 1)), np.zeros((K, start_Q.size), np.float32), mix_SCX, node_NZ, order_CZ, apm,
        np.zeros(tokens, np.int32), recent_MR, np.zeros(2, np.int64),
    )  # fmt: skip


def _copy(table: np.ndarray) -> np.ndarray:
    fresh = room(table.shape, table.dtype)
    fresh[:] = table
    return fresh


def _in_torch(answer: tuple[np.ndarray, Any]) -> tuple[Tensor, Any]:
    import torch

    return torch.from_numpy(answer[0]), answer[1]


class CMReader:
    """A model's `start` and `step` in NumPy."""

    def __init__(self, model: CM) -> None:
        self._model = model

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        state_BF = self._model.begin(len(prompts))
        for state_F, prompt in zip(state_BF, prompts, strict=True):
            self._model.read(np.array([BOS, *prompt], np.int64), state_F)
        return self._model.rows(state_BF), ArrayState((state_BF,))

    def step(self, state: ArrayState, token_B: Sequence[int]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV one token further, and the new state."""
        state_BF = state.arrays[0].copy()
        return self._model.stepped(state_BF, np.asarray(token_B, np.int64)), ArrayState((state_BF,))


def rows_of(model: CM, ids_N: np.ndarray, *, learning: bool) -> Iterator[np.ndarray]:
    """The log-probabilities of all tokens at each position of documents but their `<bos>`, one by one."""
    state_F = model.begin(1)[0]
    for at in range(len(ids_N)):
        if ids_N[at] != BOS:
            yield model.rows(state_F[None])
        model.read(ids_N[at : at + 1], state_F, learning=learning)


@dataclass(frozen=True)
class Texts:
    """The state of an adaptive model: all ids of each text from `<bos>` on."""

    ids: tuple[tuple[int, ...], ...]

    def select(self, rows_K: Tensor) -> Texts:
        """The texts of these rows."""
        return Texts(tuple(self.ids[row] for row in rows_K.tolist()))

    def joined(self, other: Texts) -> Texts:
        """The texts of these rows, then of the other's."""
        return Texts(self.ids + other.ids)


class Adaptive:
    """A context-mixing model that goes on learning from what it reads: a text, or documents in order.

    One copy of the tables stands where some text ends. A text that begins with that one is read on, which costs a token
    a step; any other is read from its beginning, in tables that are copied anew.
    """

    family: ClassVar[str] = "composed"

    def __init__(self, model: CM) -> None:
        self._model, self._lock = model, Lock()
        self.vocab_size, self.bos, self.eos, self.nbytes = model.vocab_size, BOS, EOS, model.nbytes
        self._copy, self._state_F = model, model.begin(1)[0]
        self._read: tuple[int, ...] = (-1,)  # no text

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Texts]:
        """logp_BV of what follows `<bos>` and each prompt, learned from as it is read, and the state."""
        return self._answer(Texts(tuple((BOS, *map(int, prompt)) for prompt in prompts)))

    def step(self, state: Texts, tokens_B: Tensor) -> tuple[Tensor, Texts]:
        """logp_BV one token further, and the new state."""
        pairs = zip(state.ids, tokens_B.tolist(), strict=True)
        return self._answer(Texts(tuple((*ids, token) for ids, token in pairs)))

    def _answer(self, texts: Texts) -> tuple[Tensor, Texts]:
        with self._lock:
            logp_BV = np.concatenate([np.empty((0, self.vocab_size), np.float32), *map(self._after, texts.ids)])
        return _in_torch((logp_BV, texts))

    def _after(self, ids: tuple[int, ...]) -> np.ndarray:
        read = len(self._read)
        if ids[:read] != self._read:
            self._copy, self._state_F, read = self._model.copy(), self._model.begin(1)[0], 0
        self._read = (-1,)  # should this fail
        self._copy.read(np.array(ids[read:], np.int64), self._state_F, learning=True)
        self._read = ids
        return self._copy.rows(self._state_F[None])

    def follow(self) -> Followed:
        """One text, read in tables of its own."""
        return Followed(self._model.copy())

    def scorer(self) -> Scorer:
        """Scores documents in order, learning from each."""
        return Stream(self._logp_stream, self._rows_stream)

    def _logp_stream(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        model = self._model.copy()
        state_F = model.begin(1)[0]
        for ids_N in documents:
            for start in range(0, len(ids_N), _CHUNK):
                part_N = ids_N[start : start + _CHUNK]
                yield model.read(part_N, state_F, learning=True)[part_N != BOS]

    def _rows_stream(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        model = self._model.copy()
        for ids_N in documents:
            yield from rows_of(model, ids_N, learning=True)


class Followed:
    """A text that a model learns from as it grows; `logp_V` is of what comes next."""

    def __init__(self, model: CM) -> None:
        self._model, self._state_F = model, model.begin(1)[0]
        self.take(BOS)

    def take(self, token: int) -> None:
        """Read one token more, and learn from it."""
        self._model.read(np.array([token], np.int64), self._state_F, learning=True)
        self.logp_V = self._model.rows(self._state_F[None])[0]
