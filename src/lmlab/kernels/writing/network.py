"""Texts that networks write in compiled loops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.kernels import engine
from lmlab.kernels.writing.layout import Rule, Written
from lmlab.vocabulary import PAD

_ROWS, _WORK = 6, 1 << 28  # of a thread, at least: texts, and bytes of weights that their tokens meet


class Network:
    """A network as the loops read it: its weights, and their panels.

    Attributes:
        weights: as given.
        parts: what the loops are given.
        nbytes: of its matrices.
    """

    def __init__(self, weights: Any) -> None:
        from lmlab.kernels.writing.panels import packed

        matrices = weights.matrices()
        self.weights, self._mark = weights, _mark_of(weights)
        self.parts: tuple[Any, Any] = tuple(weights), tuple(map(packed, matrices))
        self.nbytes = sum(matrix.nbytes for matrix in matrices)

    def same(self, weights: Any) -> bool:
        """Whether these are the weights: they are compared, for whoever trains alters them in place."""
        return weights is self.weights or self._mark == _mark_of(weights)


def _mark_of(weights: Any) -> int:
    from lmlab.kernels.writing.panels import mark_of

    return mark_of([part for part in weights if isinstance(part, np.ndarray)])


class Packing:
    """Packs a network once for all its texts, and anew when its weights have changed."""

    def __init__(self) -> None:
        self._network: Network | None = None

    def of(self, weights: Any) -> Network:
        """The network of these weights."""
        if self._network is None or not self._network.same(weights):
            self._network = Network(weights)
        return self._network


class NetworkWriter(ABC):
    """Writes a text after each of the ids given, in the loops of a kind of network."""

    def __init__(self, network: Network, texts: Sequence[Sequence[int]]) -> None:
        self._network, self._token_B = network, np.array([ids[-1] for ids in texts], np.int64)
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        length_B = np.array([len(texts[row]) - 1 for row in order])
        ids_RB = np.zeros((length_B[0], len(texts)), np.int64)
        for place, row in enumerate(order):
            ids_RB[: length_B[place], place] = texts[row][:-1]
        self._prepare(len(ids_RB))
        self._loops().read(*network.parts, self._state(slice(None), 0), ids_RB, length_B)
        if len(texts) > 1:
            self._select(np.argsort(order))

    def write(self, rule: Rule, uniform_BT: np.ndarray) -> list[Written]:
        """Of each text up to T tokens more, fewer where `<eos>` comes; the last is -1 where the model gives NaN.

        Texts are shared out among threads where there is work for several.
        """
        (texts, tokens), loops = uniform_BT.shape, self._loops()
        written, count_B = Written.room(texts, tokens), np.zeros(texts, np.int64)
        parts = min(engine.cores(), texts // _ROWS, texts * tokens * self._network.nbytes // _WORK) or 1
        self._prepare(tokens, parts)

        def work(part: int) -> None:
            rows = engine.block_of(texts, part, parts)
            given = self._state(rows, part), self._token_B[rows], tuple(rule), uniform_BT[rows]
            loops.write(*self._network.parts, *given, *(array_BT[rows] for array_BT in written), count_B[rows])

        engine.each(work, range(parts), engine.cores() if parts > 1 else 1)
        return [Written(*(array_BT[row, :count] for array_BT in written)) for row, count in enumerate(count_B)]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these texts alone, in this order; one may come several times."""
        at_K = np.array(rows, np.int64)
        self._token_B = self._token_B[at_K]
        self._select(at_K)

    @abstractmethod
    def _loops(self) -> Any:
        """The module that has `read` and `write`."""

    @abstractmethod
    def _prepare(self, tokens: int, parts: int = 1) -> None:
        """Make room for so many tokens more of all texts, written by so many threads."""

    @abstractmethod
    def _state(self, rows: slice, part: int) -> tuple[np.ndarray, ...]:
        """What one of the threads is given of these texts, to be altered."""

    @abstractmethod
    def _select(self, at_K: np.ndarray) -> None:
        """Keep the states of these texts."""


class ConvolutionWriter(NetworkWriter):
    """Writes by a stack of causal convolutions, one column a layer and token."""

    def __init__(self, network: Network, texts: Sequence[Sequence[int]]) -> None:
        weights = network.weights
        self._ring_BN = np.empty((len(texts), weights.kept), np.float32)
        self._place_B = np.full(len(texts), -1)
        super().__init__(network, [[PAD, *ids[-weights.field :]] for ids in texts])

    def _loops(self) -> Any:
        from lmlab.kernels.writing import convolution_loops

        return convolution_loops

    def _prepare(self, tokens: int, parts: int = 1) -> None:
        pass

    def _state(self, rows: slice, part: int) -> tuple[np.ndarray, ...]:
        return self._ring_BN[rows], self._place_B[rows]

    def _select(self, at_K: np.ndarray) -> None:
        self._ring_BN, self._place_B = self._ring_BN[at_K], self._place_B[at_K]


class TransformerWriter(NetworkWriter):
    """Writes by a Transformer; keys and values take no more places than there are tokens, to a power of two."""

    def __init__(self, network: Network, texts: Sequence[Sequence[int]]) -> None:
        layers, _, width = network.weights.norm_L2D.shape
        self._kept_SL2DW = np.zeros((len(texts), layers, 2, width, 0), np.float32)
        self._slot_B, self._place_B = np.arange(len(texts)), np.zeros(len(texts), np.int64)
        super().__init__(network, texts)

    def _loops(self) -> Any:
        from lmlab.kernels.writing import transformer_loops

        return transformer_loops

    def _prepare(self, tokens: int, parts: int = 1) -> None:
        places, window = self._kept_SL2DW.shape[-1], self._network.weights.window
        needed = min(int(self._place_B.max()) + tokens, window)
        if needed > places:
            kept = self._kept_SL2DW[self._slot_B]
            more = min(1 << (needed - 1).bit_length(), window)
            self._kept_SL2DW = np.zeros((*kept.shape[:-1], more), np.float32)
            self._kept_SL2DW[..., :places], self._slot_B = kept, np.arange(len(kept))

    def _state(self, rows: slice, part: int) -> tuple[np.ndarray, ...]:
        return self._kept_SL2DW, self._slot_B[rows], self._place_B[rows]

    def _select(self, at_K: np.ndarray) -> None:
        self._slot_B, self._place_B = self._slot_B[at_K], self._place_B[at_K]
        if len(np.unique(at_K)) < len(at_K):  # a text that comes twice has two futures
            self._kept_SL2DW, self._slot_B = self._kept_SL2DW[self._slot_B], np.arange(len(at_K))
