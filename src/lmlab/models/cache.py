"""A cache: what a text has said lately, it says again (Kuhn and De Mori 1990, A Cache-Based Natural Language Model).

It predicts from the last words of the text alone, the later the more, and so is a part for a mixture with any other:

    p1(w) = (weight of w among the recent words                   + prior / predictable words) / (all weights + prior)
    p2(w) = (weight of w among the recent words after the last one  +          prior p1(w))    / (their weights + prior)

    model = mix(Mixture.Settings("linear", (0.9, 0.1)), [ngram, Cache(vocab_size)])

A word's weight is decay ** (how many words came after it), until it leaves the window. Nothing is learnt from a corpus.

Shapes: B contexts, T positions, V words, W recent words, W1 those and the one before them, X any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED, PAD

_PIECE = 256  # positions scored together


@dataclass(frozen=True)
class CacheState:
    """The last words of each context, the latest last, `[PAD]` where it is shorter."""

    recent_BW1: Tensor

    def select(self, rows_K: Tensor) -> CacheState:
        """The state of these rows."""
        return CacheState(self.recent_BW1[rows_K])


class Cache:
    """A cache of words, and of words after the last word.

    Args:
        vocab_size: V.
        settings: how far back, how fast forgotten, how far trusted.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """What a cache remembers."""

        order: int = setting(2, "1: recent words; 2: also which of them followed the last word", ge=1, le=2)
        window: int = setting(500, "how many words back it remembers", ge=1)
        decay: float = setting(0.995, "what each further word leaves of a word's weight", gt=0, le=1)
        prior: float = setting(1.0, "as how many words the shorter context's distribution counts", gt=0)

    family: ClassVar[str] = "counted"
    nbytes: ClassVar[int] = 0

    def __init__(self, vocab_size: int, settings: Cache.Settings | None = None) -> None:
        self.vocab_size, self.bos, self.eos = vocab_size, BOS, EOS
        self.settings = settings or Cache.Settings()
        self._weight_W = float(self.settings.decay) ** torch.arange(self.settings.window - 1, -1, -1)
        self._uniform_V = torch.full((vocab_size,), 1 / (vocab_size - len(NEVER_PREDICTED)))
        self._uniform_V[list(NEVER_PREDICTED)] = 0

    @classmethod
    def estimate(cls, settings: Cache.Settings, vocab_size: int, ids_N: np.ndarray) -> Self:
        """There is nothing to count."""
        return cls(vocab_size, settings)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, CacheState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        room = [PAD] * self.settings.window
        rows = [[*room, BOS, *prompt][-len(room) - 1 :] for prompt in prompts]
        return self._answer(torch.tensor(rows, dtype=torch.int64).view(len(rows), len(room) + 1))

    def step(self, state: CacheState, tokens_B: Tensor) -> tuple[Tensor, CacheState]:
        """logp_BV one token further, and the new state."""
        return self._answer(torch.cat([state.recent_BW1[:, 1:], tokens_B[:, None]], dim=1))

    def _answer(self, recent_BW1: Tensor) -> tuple[Tensor, CacheState]:
        def spread(weight_BW: Tensor) -> Tensor:
            return torch.zeros(len(recent_BW1), self.vocab_size).scatter_add(1, recent_BW1[:, 1:], weight_BW)

        return self._predict(recent_BW1, spread, self._uniform_V).log(), CacheState(recent_BW1)

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False."""
        window = self.settings.window
        ids_BT = torch.where(mask_BT, ids_BT, PAD)
        before = torch.nn.functional.pad(ids_BT[:, :-1], (1, 0), value=BOS)
        recent_BTW1 = torch.nn.functional.pad(before, (window, 0), value=PAD).unfold(1, window + 1, 1)
        pieces = []
        for start in range(0, ids_BT.shape[1], _PIECE):
            ids_BT1 = ids_BT[:, start : start + _PIECE, None]
            recent = recent_BTW1[:, start : start + _PIECE]
            again_BTW = recent[..., 1:] == ids_BT1

            def matching(weight_BTW: Tensor, again_BTW: Tensor = again_BTW) -> Tensor:
                return (weight_BTW * again_BTW).sum(-1, keepdim=True)

            pieces.append(self._predict(recent, matching, self._uniform_V[ids_BT1]).log()[..., 0])
        return torch.cat(pieces, dim=1).masked_fill(~mask_BT, 0.0) if pieces else torch.zeros(ids_BT.shape)

    def _predict(self, recent_XW1: Tensor, gather: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
        """Probabilities from the uniform ones, `p`, where `gather` sums the weights of equal words up."""
        words_XW, previous_XW = recent_XW1[..., 1:], recent_XW1[..., :-1]
        weight_XW = self._weight_W * torch.isin(words_XW, torch.tensor(NEVER_PREDICTED), invert=True)
        following_XW = weight_XW * (previous_XW == recent_XW1[..., -1:])
        for weights in (weight_XW, following_XW)[: self.settings.order]:
            total = weights.sum(-1, keepdim=True) + self.settings.prior
            p = (gather(weights) + self.settings.prior * p) / total
        return p

    def save(self, folder: Path) -> None:
        """There are no weights to write."""

    @classmethod
    def load(cls, folder: Path, settings: Cache.Settings, vocab_size: int) -> Self:
        """There are no weights to read."""
        return cls(vocab_size, settings)
