"""A cache model: words that a text used lately come again (Kuhn and De Mori 1990).

It predicts from the last words of the text alone, recent ones weighing more, and so suits a mixture with any other:

    p1(w) = (weight of w among the recent words                   + prior / predictable words) / (all weights + prior)
    p2(w) = (weight of w among the recent words after the last one  +          prior p1(w))    / (their weights + prior)

    model = Mixture(Mixture.Settings("linear", (0.9, 0.1)), [ngram, Cache(vocab_size)])

A word's weight is decay ** (how many words came after it), until it leaves the window. No corpus is counted.

Shapes: B contexts, T positions, V words, W recent words, W1 those and the one before them, X any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.models.base import Fixed, Scorer
from lmlab.models.scorers import Padded
from lmlab.vocabulary import BOS, NEVER_PREDICTED, PAD

_PIECE = 256  # positions scored together
_FLOATS = 1 << 22  # numbers of rows held at once


@dataclass(frozen=True)
class CacheState:
    """The last words of each context, the latest last, `[PAD]` where it is shorter."""

    recent_BW1: Tensor

    def select(self, rows_K: Tensor) -> CacheState:
        """The last words of these rows."""
        return CacheState(self.recent_BW1[rows_K])

    def joined(self, other: CacheState) -> CacheState:
        """The last words of these rows, then of the other's."""
        return CacheState(torch.cat([self.recent_BW1, other.recent_BW1]))


class Cache(Fixed):
    """A cache of words, and of words after the last word.

    Args:
        vocab_size: V.
        settings: the window, the decay and the prior.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """Which words count, and how much."""

        order: int = setting(2, "1: recent words; 2: also which of them followed the last word", ge=1, le=2)
        window: int = setting(500, "how many of the last words count", ge=1)
        decay: float = setting(0.995, "factor on a word's weight for each word after it", gt=0, le=1)
        prior: float = setting(1.0, "weight of the shorter context's distribution, in words", gt=0)

    def __init__(self, vocab_size: int, settings: Any = None) -> None:
        super().__init__(vocab_size, settings)
        self._weight_W = float(self.settings.decay) ** torch.arange(self.settings.window - 1, -1, -1)
        self._uniform_V = torch.full((vocab_size,), 1 / (vocab_size - len(NEVER_PREDICTED)))
        self._uniform_V[list(NEVER_PREDICTED)] = 0

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, CacheState]:
        """logp_BV of what follows `<bos>` and each prompt, and the state."""
        room = [PAD] * self.settings.window
        rows = [[*room, BOS, *prompt][-len(room) - 1 :] for prompt in prompts]
        return self._answer(torch.tensor(rows, dtype=torch.int64).view(len(rows), len(room) + 1))

    def step(self, state: CacheState, tokens_B: Tensor) -> tuple[Tensor, CacheState]:
        """logp_BV one token further, and the new state."""
        return self._answer(torch.cat([state.recent_BW1[:, 1:], tokens_B[:, None]], dim=1))

    def _answer(self, recent_BW1: Tensor) -> tuple[Tensor, CacheState]:
        return self._row(recent_BW1), CacheState(recent_BW1)

    def _row(self, recent_XW1: Tensor) -> Tensor:
        def spread(weight_XW: Tensor) -> Tensor:
            return torch.zeros(*weight_XW.shape[:-1], self.vocab_size).scatter_add(-1, recent_XW1[..., 1:], weight_XW)

        return self._predict(recent_XW1, spread, self._uniform_V).log()

    def scorer(self) -> Scorer:
        """Scores padded batches."""
        return Padded(self.logp, self.rows)

    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False."""
        ids_BT = torch.where(mask_BT, ids_BT, PAD)
        pieces = [torch.zeros(len(ids_BT), 0)]
        for ids_BP, recent_BPW1 in zip(ids_BT.split(_PIECE, 1), self._recent(ids_BT).split(_PIECE, 1), strict=False):
            again_BPW = recent_BPW1[..., 1:] == ids_BP[..., None]

            def matching(weight_BPW: Tensor, again_BPW: Tensor = again_BPW) -> Tensor:
                return (weight_BPW * again_BPW).sum(-1, keepdim=True)

            p_BP1 = self._predict(recent_BPW1, matching, self._uniform_V[ids_BP[..., None]])
            pieces.append(p_BP1.log()[..., 0])
        return torch.cat(pieces, dim=1).masked_fill(~mask_BT, 0.0)

    def rows(self, ids_BT: Tensor) -> Iterator[Tensor]:
        """The log-probabilities of all tokens where `logp` gives that of one: rows_BSV, segment by segment."""
        size = max(1, _FLOATS // (len(ids_BT) * max(self.vocab_size, self.settings.window)))
        return map(self._row, self._recent(ids_BT).split(size, 1))

    def _recent(self, ids_BT: Tensor) -> Tensor:
        """The last words before each position, and the one before them: a view, (B, T, W1)."""
        window = self.settings.window
        before_BT = torch.nn.functional.pad(ids_BT[:, :-1], (1, 0), value=BOS)
        return torch.nn.functional.pad(before_BT, (window, 0), value=PAD).unfold(1, window + 1, 1)

    def _predict(self, recent_XW1: Tensor, gather: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
        """Probabilities from the uniform ones, `p`, where `gather` sums the weights of equal words up."""
        words_XW, previous_XW = recent_XW1[..., 1:], recent_XW1[..., :-1]
        weight_XW = self._weight_W * torch.isin(words_XW, torch.tensor(NEVER_PREDICTED), invert=True)
        following_XW = weight_XW * (previous_XW == recent_XW1[..., -1:])
        for weights in (weight_XW, following_XW)[: self.settings.order]:
            total = weights.sum(-1, keepdim=True) + self.settings.prior
            p = (gather(weights) + self.settings.prior * p) / total
        return p
