"""Tiny functions that reshape the model's next-token distribution before a token is drawn.

    logp_BV = processor(ids, logp_BV)

`ids` holds the prompt and the generated ids of each row; most processors do not look at them. The result is a new
tensor whose rows sum to one; the caller's is never edited, and no row is ever left without a token. Processors run in
the order the caller lists them, and the order matters: cooling down before a nucleus keeps fewer tokens than after it.

Shapes: B rows, V the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmlab.config import Settings, described, setting

Processor = Callable[[Sequence[Sequence[int]], Tensor], Tensor]

# A mass that comes this close to a bound has reached it: 0.5 + 0.4 must count as 0.9 in float32 too.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Temperature(Settings):
    """Divides log-probabilities by the temperature; 0 puts all mass on the likeliest token (lowest id on ties)."""

    temperature: float = setting(1.0, "0 is greedy, below 1 sharper, above 1 flatter", ge=0, lt=math.inf)

    def __call__(self, ids: Sequence[Sequence[int]], logp_BV: Tensor) -> Tensor:
        """Sharpen or flatten every row."""
        if self.temperature == 0:
            return _keep(logp_BV, leading(logp_BV, 1))
        # From the top down: the likeliest stays at 0, so that no temperature, however small, sends a whole row to -inf.
        below_top_BV = logp_BV - logp_BV.amax(-1, keepdim=True)
        return (below_top_BV / self.temperature).log_softmax(-1)


@dataclass(frozen=True)
class TopK(Settings):
    """Keeps exactly the k likeliest tokens, the lower id first among equals (Fan et al. 2018, section 5)."""

    top_k: int = setting(40, "keep only the k likeliest tokens", ge=1)

    def __call__(self, ids: Sequence[Sequence[int]], logp_BV: Tensor) -> Tensor:
        """Keep k tokens of every row."""
        return _keep(logp_BV, leading(logp_BV, self.top_k))


@dataclass(frozen=True)
class TopP(Settings):
    """Keeps the nucleus: the likeliest tokens that together hold mass `top_p`.

    `keep="reach"` is the definition as published (Holtzman et al. 2020, section 3.1): the smallest set whose mass
    reaches `top_p`. `keep="below"` is the largest set whose mass stays below it. Both keep the likeliest token always,
    and everything at 1.
    """

    top_p: float = setting(0.9, "keep the likeliest tokens of this mass; 1 keeps all", gt=0, le=1)
    keep: str = setting("reach", "smallest set that reaches the mass, or largest below it", choices=("reach", "below"))

    def __call__(self, ids: Sequence[Sequence[int]], logp_BV: Tensor) -> Tensor:
        """Keep the nucleus of every row."""
        if self.top_p == 1:
            return logp_BV.log_softmax(-1)
        return _keep(logp_BV, _nucleus(logp_BV, -logp_BV, self.top_p, self.keep))


@dataclass(frozen=True)
class MinP(Settings):
    """Keeps the tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024, section 3)."""

    min_p: float = setting(0.05, "keep tokens at least this fraction as likely as the likeliest", ge=0, le=1)

    def __call__(self, ids: Sequence[Sequence[int]], logp_BV: Tensor) -> Tensor:
        """Keep the tokens of every row that come near its likeliest."""
        ratio_BV = (logp_BV - logp_BV.amax(-1, keepdim=True)).exp()
        return _keep(logp_BV, ratio_BV >= self.min_p * (1 - _TOLERANCE))


@dataclass(frozen=True)
class Typical(Settings):
    """Keeps the tokens whose surprisal is nearest the row's entropy, up to a mass (Meister et al. 2023, section 4)."""

    typical: float = setting(0.95, "keep the most typical tokens of this mass; 1 keeps all", gt=0, le=1)

    def __call__(self, ids: Sequence[Sequence[int]], logp_BV: Tensor) -> Tensor:
        """Keep the typical tokens of every row."""
        if self.typical == 1:
            return logp_BV.log_softmax(-1)
        normal_BV = logp_BV.log_softmax(-1)
        entropy_B1 = torch.special.entr(normal_BV.exp()).sum(-1, keepdim=True)
        return _keep(logp_BV, _nucleus(logp_BV, (normal_BV + entropy_B1).abs(), self.typical, "reach"))


@dataclass(frozen=True)
class RepetitionPenalty(Settings):
    """Makes tokens that came before less likely, prompt included.

    `rule="count"` divides a token's probability by the penalty once for each time it came, so that every loop ends.
    `rule="logits"` is the usual rule (Keskar et al. 2019, section 4.1): a logit above 0 is divided by the penalty, one
    below 0 multiplied, however often the token came. Log-probabilities are logits but for a constant, which a language
    model here does not hand out: it is taken such that the logits of a row have the mean 0.
    """

    repetition_penalty: float = setting(1.2, "above 1 shuns tokens seen before, 1 is none", gt=0, lt=math.inf)
    rule: str = setting("count", "for each time a token came, or the usual rule", choices=("count", "logits"))

    def __call__(self, ids: Sequence[Sequence[int]], logp_BV: Tensor) -> Tensor:
        """Penalise what each row has seen."""
        if self.rule == "count":
            count_BV = torch.zeros_like(logp_BV)
            for row, seen in enumerate(ids):
                came = torch.tensor(list(seen), dtype=torch.int64, device=logp_BV.device)
                count_BV[row].index_add_(0, came, torch.ones_like(came, dtype=logp_BV.dtype))
            return (logp_BV - count_BV * math.log(self.repetition_penalty)).log_softmax(-1)
        possible_BV = logp_BV.isfinite()
        sums_B1 = logp_BV.where(possible_BV, 0.0).sum(-1, keepdim=True)
        logits_BV = logp_BV - sums_B1 / possible_BV.sum(-1, keepdim=True)
        factor_BV = torch.where(logits_BV > 0, 1 / self.repetition_penalty, self.repetition_penalty)
        return torch.where(_marked(logp_BV, ids), logits_BV * factor_BV, logits_BV).log_softmax(-1)


@dataclass(frozen=True)
class NoRepeatNgram(Settings):
    """Forbids tokens that would repeat a run of n, prompt included, unless that leaves none (Paulus et al. 2018)."""

    no_repeat_ngram: int = setting(3, "no run of this many tokens comes twice", ge=1)

    def __call__(self, ids: Sequence[Sequence[int]], logp_BV: Tensor) -> Tensor:
        """Forbid in each row what would close a repeated run."""
        allowed_BV = ~_marked(logp_BV, [_closing(list(row), self.no_repeat_ngram) for row in ids])
        stuck_B1 = ~(allowed_BV & logp_BV.isfinite()).any(-1, keepdim=True)
        return _keep(logp_BV, allowed_BV | stuck_B1)


NAMED: Mapping[str, Callable[[Any], Processor]] = {
    described(kind)[0].name: kind for kind in (Temperature, TopK, TopP, MinP, Typical, RepetitionPenalty, NoRepeatNgram)
}
"""The processors by the name of their first setting."""


def leading(values_BV: Tensor, k: int) -> Tensor:
    """A mask of exactly the k largest values of each row (all of them where k is larger), lowest index on ties."""
    if k >= values_BV.shape[-1]:
        return torch.ones_like(values_BV, dtype=torch.bool)
    kth_B1 = values_BV.topk(k).values[..., -1:]
    above_BV, equal_BV = values_BV > kth_B1, values_BV == kth_B1
    room_B1 = k - above_BV.sum(-1, keepdim=True)
    return above_BV | (equal_BV & (equal_BV.cumsum(-1) <= room_B1))


def _keep(logp_BV: Tensor, mask_BV: Tensor) -> Tensor:
    return logp_BV.masked_fill(~mask_BV, -math.inf).log_softmax(-1)


def _nucleus(logp_BV: Tensor, cost_BV: Tensor, mass: float, keep: str) -> Tensor:
    """A mask of the tokens of lowest cost that hold the mass together."""
    order_BV = cost_BV.argsort(dim=-1, stable=True)
    p_BV = logp_BV.double().softmax(-1).gather(-1, order_BV)
    upto_BV = p_BV.cumsum(-1)
    kept_BV = (upto_BV - p_BV if keep == "reach" else upto_BV) < mass - _TOLERANCE
    kept_BV[..., 0] = True
    return torch.zeros_like(kept_BV).scatter(-1, order_BV, kept_BV)


def _marked(logp_BV: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
    mask_BV = torch.zeros_like(logp_BV, dtype=torch.bool)
    for row, marked in enumerate(ids):
        mask_BV[row, list(marked)] = True
    return mask_BV


def _closing(ids: list[int], n: int) -> list[int]:
    """The tokens that followed, earlier in the row, the n - 1 ids that it ends in."""
    opening = ids[len(ids) - n + 1 :] if n > 1 else []
    return [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == opening]
