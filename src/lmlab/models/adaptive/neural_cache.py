"""The continuous neural cache: what followed when the network was in a like state (Grave et al. 2017, section 3).

The features before each of the last tokens are kept, each with the token that followed, and compared with the present
features by their inner product:

    p(w) = (1 - lam) p_model(w) + lam p_cache(w),   p_cache(w) ~ sum over kept i with token w of exp(theta h_now . h_i)

Nothing is trained. The kept positions are carried from document to document, the network's state is not. The model
inside is a `Dynamic`, which gives logits and features, whether it learns or (with a learning rate of 0) does not.

    model = NeuralCache(Dynamic(lstm, Dynamic.Settings(lr=0)), NeuralCache.Settings(theta=0.4, lam=0.1))

Shapes: B texts, T positions, V the vocabulary, H features, C kept positions, N ids of a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lmlab import config
from lmlab.config import setting
from lmlab.errors import UsageError
from lmlab.models.adaptive.dynamic import Dynamic, Reading, Rows
from lmlab.models.base import Scorer
from lmlab.models.scorers import Stream

_PIECE = 256  # positions scored together


@dataclass(frozen=True)
class Window:
    """The kept tokens ids_C, and the features keys_CH before each."""

    keys_CH: Tensor
    ids_C: Tensor

    def grown(self, keys_TH: Tensor, ids_T: Tensor, size: int) -> Window:
        """A window with these appended, of which the last `size` are kept."""
        keys_CH, ids_C = torch.cat([self.keys_CH, keys_TH]), torch.cat([self.ids_C, ids_T])
        return Window(keys_CH[-size:], ids_C[-size:])


@dataclass(frozen=True)
class Recall:
    """Where one text stands: the model's reading, the window, and the features before the token to come."""

    reading: Reading
    window: Window
    last_H: Tensor


class NeuralCache:
    """A model and a cache of its own features.

    Args:
        model: gives logits and features.
        settings: the window and the weights.
    """

    @dataclass(frozen=True)
    class Settings(config.Settings):
        """How many positions are kept, and how they are weighed."""

        window: int = setting(2000, "how many of the last tokens are kept", ge=1)
        theta: float = setting(0.4, "factor on the inner product of features; high: few kept positions count", ge=0)
        lam: float = setting(0.1, "weight of the cache beside the model", ge=0, lt=1)

    family: ClassVar[str] = "composed"

    def __init__(self, model: Dynamic, settings: NeuralCache.Settings) -> None:
        self.model, self.settings = model, settings
        self.vocab_size, self.bos, self.eos, self.nbytes = model.vocab_size, model.bos, model.eos, model.nbytes
        share = torch.tensor(settings.lam)
        self._log_shares = (-share).log1p(), share.log()

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Rows[Recall]]:
        """logp_BV of what follows `<bos>` and each prompt, and where the texts stand."""
        if not prompts:
            raise UsageError("start was given no prompts", "an empty prompt is [[]]")
        logits, recalls = zip(*(self._begun([self.bos, *prompt]) for prompt in prompts), strict=True)
        return self._mixed(torch.stack(logits), recalls), Rows(recalls)

    def _begun(self, ids: Sequence[int]) -> tuple[Tensor, Recall]:
        """A text from its start: logits_V of what follows."""
        pieces = [*self.model.read(ids, self.model.fresh())]
        logits_TV, features_TH, reading = pieces[-1]
        before_TH = torch.cat([features_TH for _, features_TH, _ in pieces])[:-1]
        window = _EMPTY.grown(before_TH, torch.tensor(ids[1:], dtype=torch.int64), self.settings.window)
        return logits_TV[-1], Recall(reading, window, features_TH[-1])

    def step(self, state: Rows[Recall], tokens_B: Tensor) -> tuple[Tensor, Rows[Recall]]:
        """logp_BV one token further, and where the texts then stand."""
        logits_BV, features_BH, readings = self.model.advance([row.reading for row in state.rows], tokens_B.tolist())
        windows = [
            row.window.grown(row.last_H[None], token_1, self.settings.window)
            for row, token_1 in zip(state.rows, tokens_B[:, None], strict=True)
        ]
        recalls = tuple(map(Recall, readings, windows, features_BH))
        return self._mixed(logits_BV, recalls), Rows(recalls)

    def _mixed(self, logits_BV: Tensor, recalls: Sequence[Recall]) -> Tensor:
        """logp_BV of model and cache; of the model alone where the cache is empty."""
        logp_BV = logits_BV.float().log_softmax(-1)
        for logp_V, recall in zip(logp_BV, recalls, strict=True):
            if len(recall.window.ids_C):
                weight_C = (self.settings.theta * recall.window.keys_CH @ recall.last_H).softmax(0)
                cached_V = torch.zeros_like(logp_V).index_add_(0, recall.window.ids_C, weight_C).log()
                logp_V.copy_(self._both(logp_V, cached_V))
        return logp_BV

    def _both(self, model_X: Tensor, cache_X: Tensor) -> Tensor:
        return torch.logaddexp(model_X + self._log_shares[0], cache_X + self._log_shares[1])

    def scorer(self) -> Scorer:
        """Scores documents in order, the kept positions carried on."""
        return Stream(self.logp_stream, self.rows_stream)

    def logp_stream(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The log-probabilities of all tokens of documents (ids_N, `<bos>` first) but `<bos>`, piece by piece."""
        return self.rescored(self.model.observe(documents))

    def rows_stream(self, documents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The log-probabilities of all tokens where `logp_stream` gives that of one: rows_TV, piece by piece."""
        window = _EMPTY
        for logits_TV, features_TH, ids_T in self.model.observe_logits(documents):
            pieces = zip(logits_TV.split(_PIECE), features_TH.split(_PIECE), ids_T.split(_PIECE), strict=True)
            for logits_PV, features_PH, ids_P in pieces:
                logp_PV = logits_PV.float().log_softmax(-1)
                share_PC, ids_C, seen_P = self._shares(window, features_PH, ids_P)
                cached_PV = torch.zeros_like(logp_PV).index_add_(1, ids_C, share_PC).log()
                yield torch.where(seen_P[:, None], self._both(logp_PV, cached_PV), logp_PV).numpy()
                window = window.grown(features_PH, ids_P, self.settings.window)

    def rescored(self, observed: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[np.ndarray]:
        """Log-probabilities with the cache, in order, from what `Dynamic.observe` gives or gave earlier."""
        window = _EMPTY
        for logp_T, features_TH, ids_T in observed:
            pieces = zip(logp_T.split(_PIECE), features_TH.split(_PIECE), ids_T.split(_PIECE), strict=True)
            for logp_P, features_PH, ids_P in pieces:
                share_PC, ids_C, seen_P = self._shares(window, features_PH, ids_P)
                cached_P = (share_PC * (ids_C == ids_P[:, None])).sum(-1).log()
                yield torch.where(seen_P, self._both(logp_P, cached_P), logp_P).numpy()
                window = window.grown(features_PH, ids_P, self.settings.window)

    def _shares(self, window: Window, features_TH: Tensor, ids_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At each position: the share of every kept one, their ids_C, and whether the cache holds any yet."""
        before = len(window.ids_C)
        with_these = window.grown(features_TH, ids_T, before + len(ids_T))
        age_TC = torch.arange(before, before + len(ids_T))[:, None] - torch.arange(before + len(ids_T))
        seen_TC = (age_TC > 0) & (age_TC <= self.settings.window)
        score_TC = (self.settings.theta * features_TH @ with_these.keys_CH.T).masked_fill_(~seen_TC, -torch.inf)
        seen_T = seen_TC.any(-1)
        return score_TC.softmax(-1).where(seen_T[:, None], 0.0), with_these.ids_C, seen_T


_EMPTY = Window(torch.zeros(0), torch.zeros(0, dtype=torch.int64))
