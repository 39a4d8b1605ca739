"""Tiny pure functions that reshape next-token distributions before tokens are chosen, in the caller's order.

A processor takes rows of log-probabilities and hands new ones out: it never edits the caller's, never leaves a row
without a token, and need not keep the sum at one: who draws or compares masses normalises first. The order matters:
cooling down before a nucleus keeps fewer tokens than after it.

Each is a function under `@processor(settings)`; from these and its signature follow the checks, the spelling in a chain
(`NAME=VALUE:SETTING=VALUE`), the flags of the command line and the table in docs/decoding.md. A function that looks at
the text takes `rows`; one with a memory takes `memory_B`, what it knows of each row. Anything else that is called
`(rows, logp_BV) -> logp_BV` is a processor too.

Shapes: B rows, V the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmlab.config import setting
from lmlab.decoding.branch import Rows
from lmlab.decoding.chain import normal, processor
from lmlab.decoding.chance import Floats, uniforms
from lmlab.decoding.watermark import green_list

Mask = NDArray[np.bool_]
Texts = Sequence[Sequence[int]]

# A mass that comes this close to a bound has reached it: 0.5 + 0.4 must count as 0.9 in float32 too.
_TOLERANCE = 1e-6
_MOST = 1e6  # of a penalty: no count of tokens takes a logit beyond floats

# -- all tokens stay, their probabilities change ----------------------------------------------------------------------


@processor(temperature=setting(1.0, "divide the logits: below 1 sharper, 0 greedy", ge=0, lt=math.inf))
def temperature(logp_BV: Floats, *, temperature: float) -> Floats:
    """Divides log-probabilities by the temperature; 0 leaves the likeliest token alone (lowest id on ties)."""
    if temperature == 0:
        return _keep(logp_BV, leading(logp_BV, 1))
    return _over(logp_BV, temperature)


@processor(
    low=setting(0.5, "temperature where the row is certain", ge=0.01, lt=math.inf),
    high=setting(1.5, "temperature where it is uniform", ge=0.01, lt=math.inf),
    exponent=setting(1.0, "power of the relative entropy between them", gt=0, lt=math.inf),
)
def dynamic_temperature(logp_BV: Floats, *, low: float, high: float, exponent: float) -> Floats:
    """Temperature by how uncertain the row is: entropy / log(tokens left), as in llama.cpp."""
    normal_BV = normal(logp_BV)
    most_B1 = np.log(np.maximum(np.isfinite(logp_BV).sum(-1, keepdims=True), 2))
    share_B1 = np.clip(_entropy(normal_BV) / most_B1, 0, 1)
    share_B1 **= exponent
    return _over(normal_BV, low * (1 - share_B1) + high * share_B1)


@processor(
    quadratic=setting(0.3, "strength of the smoothing", gt=0, lt=math.inf),
    curve=setting(1.0, "above 1 steeper for unlikely tokens", ge=1, le=3),
)
def quadratic(logp_BV: Floats, *, quadratic: float, curve: float) -> Floats:
    """Bends logits by their distance d below the top: -q ((3 - c) d^2 + (c - 1) d^3) / 2 (text-generation-webui)."""
    possible_BV = np.isfinite(logp_BV)
    below_BV = logp_BV.max(-1, keepdims=True) - np.where(possible_BV, logp_BV, 0)
    bent_BV = -quadratic * ((3 - curve) * below_BV**2 + (curve - 1) * below_BV**3) / 2
    return np.where(possible_BV, bent_BV, -np.inf)


# -- tokens are cut by their probabilities ----------------------------------------------------------------------------


@processor(top_k=setting(40, "keep only the k likeliest tokens", ge=1))
def top_k(logp_BV: Floats, *, top_k: int) -> Floats:
    """Keeps exactly the k likeliest tokens, the lower id first among equals (Fan et al. 2018, section 5)."""
    return _keep(logp_BV, leading(logp_BV, top_k))


@processor(
    top_p=setting(0.9, "keep the likeliest tokens of this mass; 1 keeps all", gt=0, le=1),
    keep=setting("reach", "smallest set that reaches the mass, or largest below it", choices=("reach", "below")),
)
def top_p(logp_BV: Floats, *, top_p: float, keep: str) -> Floats:
    """Keeps the nucleus (Holtzman et al. 2020, section 3.1), always with the likeliest token."""
    return logp_BV.copy() if top_p == 1 else _keep(logp_BV, _nucleus(logp_BV, -logp_BV, top_p, keep))


@processor(min_p=setting(0.05, "keep tokens at least this fraction as likely as the likeliest", ge=0, le=1))
def min_p(logp_BV: Floats, *, min_p: float) -> Floats:
    """Keeps the tokens that come near the likeliest (Nguyen et al. 2024, section 3)."""
    return _keep(logp_BV, np.exp(logp_BV - logp_BV.max(-1, keepdims=True)) >= min_p * (1 - _TOLERANCE))


@processor(typical=setting(0.95, "keep the most typical tokens of this mass; 1 keeps all", gt=0, le=1))
def typical(logp_BV: Floats, *, typical: float) -> Floats:
    """Keeps the tokens whose surprisal is nearest the row's entropy, up to a mass (Meister et al. 2023, section 4)."""
    if typical == 1:
        return logp_BV.copy()
    normal_BV = normal(logp_BV)
    return _keep(logp_BV, _nucleus(logp_BV, np.abs(normal_BV + _entropy(normal_BV)), typical, "reach"))


@processor(epsilon=setting(3e-4, "keep tokens at least this likely", ge=0, lt=1))
def epsilon(logp_BV: Floats, *, epsilon: float) -> Floats:
    """Keeps the tokens of at least this probability (Hewitt et al. 2022, section 4)."""
    return _keep(logp_BV, np.exp(normal(logp_BV)) >= epsilon * (1 - _TOLERANCE))


@processor(eta=setting(3e-4, "keep tokens of p >= min(eta, sqrt(eta) exp(-entropy))", ge=0, lt=1))
def eta(logp_BV: Floats, *, eta: float) -> Floats:
    """Keeps the tokens above a threshold that falls with the row's entropy (Hewitt et al. 2022, section 4)."""
    normal_BV = normal(logp_BV)
    least_B1 = np.minimum(eta, math.sqrt(eta) * np.exp(-_entropy(normal_BV)))
    return _keep(logp_BV, np.exp(normal_BV) >= least_B1 * (1 - _TOLERANCE))


@processor(top_a=setting(0.2, "keep tokens of p >= a times max p squared", ge=0, le=1))
def top_a(logp_BV: Floats, *, top_a: float) -> Floats:
    """Keeps the tokens of at least a * max(p)^2 (KoboldAI)."""
    p_BV = np.exp(normal(logp_BV))
    return _keep(logp_BV, p_BV >= top_a * p_BV.max(-1, keepdims=True) ** 2 * (1 - _TOLERANCE))


@processor(top_n_sigma=setting(1.0, "keep logits within n standard deviations of the top", gt=0, lt=math.inf))
def top_n_sigma(logp_BV: Floats, *, top_n_sigma: float) -> Floats:
    """Keeps the logits within n population standard deviations of the largest (Tang et al. 2024); -inf left out."""
    possible_BV = np.isfinite(logp_BV)
    sigma_B1 = np.where(possible_BV, logp_BV, 0).std(-1, keepdims=True, where=possible_BV)
    return _keep(logp_BV, logp_BV >= logp_BV.max(-1, keepdims=True) - top_n_sigma * sigma_B1 - _TOLERANCE)


@processor(top_h=setting(0.4, "keep the likeliest tokens of this share of the entropy", gt=0, le=1))
def top_h(logp_BV: Floats, *, top_h: float) -> Floats:
    """Keeps the likeliest tokens while their terms -p log p sum to no more than a share of the row's entropy."""
    normal_BV = normal(logp_BV)
    order_BV = np.argsort(-normal_BV, axis=-1, kind="stable")
    terms_BV = np.take_along_axis(_terms(normal_BV), order_BV, -1)
    return _keep(logp_BV, _first(order_BV, terms_BV.cumsum(-1) <= top_h * terms_BV.sum(-1, keepdims=True) + _TOLERANCE))


@processor(p_less=setting("plain", "or norm, whose threshold is lower", choices=("plain", "norm")))
def p_less(logp_BV: Floats, *, p_less: str) -> Floats:
    """Keeps the tokens at least as likely as the chance that two draws agree, the sum of p^2 (Tan et al. 2025).

    The variant `norm` takes the chance that two draws differ off it, shared by the pairs of V tokens.
    """
    p_BV = np.exp(normal(logp_BV))
    least_B1 = (p_BV**2).sum(-1, keepdims=True)
    if p_less == "norm":
        least_B1 = least_B1 - (1 - least_B1) / max(p_BV.shape[-1] - 1, 1)
    return _keep(logp_BV, p_BV >= least_B1 * (1 - _TOLERANCE))


@processor(tail_free=setting(0.95, "share of the curvature to keep; 1 keeps all", gt=0, le=1))
def tail_free(logp_BV: Floats, *, tail_free: float) -> Floats:
    """Cuts the tail where the curve of sorted probabilities has become straight (Phénix and Egan 2019)."""
    p_BV = np.exp(normal(logp_BV))
    order_BV = np.argsort(-p_BV, axis=-1, kind="stable")
    bend_BV = np.abs(np.diff(np.take_along_axis(p_BV, order_BV, -1), n=2, axis=-1))
    total_B1 = bend_BV.sum(-1, keepdims=True)
    if tail_free == 1 or not bend_BV.size:
        return logp_BV.copy()
    share_BV = np.where(total_B1 > _TOLERANCE, bend_BV / np.maximum(total_B1, _TOLERANCE), 1 / bend_BV.shape[-1])
    count_B1 = np.maximum((share_BV.cumsum(-1) <= tail_free).sum(-1, keepdims=True), 1)
    count_B1 = np.where(count_B1 == bend_BV.shape[-1], p_BV.shape[-1], count_B1)  # never beyond the mass: no tail
    return _keep(logp_BV, _first(order_BV, np.arange(p_BV.shape[-1]) < count_B1))


@processor(
    probability=setting(0.5, "how often it cuts at all", ge=0, le=1),
    threshold=setting(0.1, "tokens at least this likely are top choices", gt=0, le=1),
    exempt=setting((), "ids that are never cut", ge=0),
)
def xtc(logp_BV: Floats, rows: Rows, *, probability: float, threshold: float, exempt: tuple[int, ...]) -> Floats:
    """Exclude top choices: of several tokens above the threshold only the least likely stays (p-e-w 2024)."""
    cuts_B1 = uniforms(rows.seed, *rows.places(), 1)[:, None] < probability
    p_BV = np.exp(normal(logp_BV))
    top_BV = p_BV >= threshold
    least_B1 = np.where(top_BV, p_BV, np.inf).min(-1, keepdims=True)
    # Of equals the highest id is the least likely, as everywhere the lowest is the likeliest.
    last_BV = np.arange(p_BV.shape[-1]) == p_BV.shape[-1] - 1 - (p_BV == least_B1)[:, ::-1].argmax(-1)[:, None]
    return _keep(logp_BV, ~(cuts_B1 & top_BV & ~last_BV) | _marked(logp_BV, [exempt] * len(logp_BV)))


# -- with a memory ----------------------------------------------------------------------------------------------------


def _nearer(mu: float | None, before: float, after: float, *, tau: float, rate: float, surprise: str) -> float:
    bits = -(before if surprise == "all" else after) / math.log(2)
    return (2 * tau if mu is None else mu) - rate * (bits - tau)


_TAU = setting(5.0, "bits of surprise to hold", gt=0, lt=math.inf)
_RATE = setting(0.1, "how fast it learns", gt=0, le=1)
_SURPRISE = setting("all", "of a token among all or the kept tokens", choices=("all", "kept"))


@processor(_nearer, tau=_TAU, rate=_RATE, surprise=_SURPRISE)
def mirostat(logp_BV: Floats, memory_B: Sequence[Any], *, tau: float, rate: float, surprise: str) -> Floats:
    """Mirostat 2: keeps tokens of at most mu bits, and moves mu to hold tau bits a token (Basu et al. 2021)."""
    mu_B1 = _mu(memory_B, tau)
    bits_BV = -normal(logp_BV) / math.log(2)
    return _keep(logp_BV, (bits_BV <= mu_B1) | leading(logp_BV, 1))


@processor(_nearer, tau=_TAU, rate=_RATE, surprise=_SURPRISE)
def mirostat_1(logp_BV: Floats, memory_B: Sequence[Any], *, tau: float, rate: float, surprise: str) -> Floats:
    """Mirostat 1: top-k, the k by mu and the slope of the 100 likeliest tokens (Basu et al. 2021, algorithm 1)."""
    made_BV = np.empty_like(logp_BV)
    for row, (mu, logp_V) in enumerate(zip(_mu(memory_B, tau)[:, 0], normal(logp_BV), strict=True)):
        sorted_M = -np.sort(-logp_V)[:100]
        sorted_M = sorted_M[np.isfinite(sorted_M)]
        step_M = np.log((np.arange(len(sorted_M) - 1) + 2) / (np.arange(len(sorted_M) - 1) + 1))
        slope = float((step_M * -np.diff(sorted_M)).sum() / (step_M**2).sum()) if len(step_M) else 1.0
        power, size = slope - 1, len(logp_V)
        factor = 1 / math.log(size) if abs(power) < 1e-9 else power / (1 - float(size) ** -power)
        log_k = (math.log(factor) + mu * math.log(2)) / max(slope, 1e-6)
        k = round(math.exp(min(max(log_k, 0), math.log(size))))
        made_BV[row] = _keep(logp_BV[row : row + 1], leading(logp_BV[row : row + 1], k))[0]
    return made_BV


def _drift(memory: Any, before: float, after: float, *, target: float, decay: float) -> tuple[float, float]:
    weighted, weight = memory or (target / (1 - decay), 1 / (1 - decay))
    return math.exp(before) + decay * weighted, 1 + decay * weight


@processor(
    _drift,
    target=setting(0.5, "probability that chosen tokens shall have on average", ge=0, le=1),
    decay=setting(0.9, "how long past tokens count", ge=0, le=0.99),
)
def adaptive_p(logp_BV: Floats, memory_B: Sequence[Any], *, target: float, decay: float) -> Floats:
    """Prefers tokens near a probability that offsets what came so far (llama.cpp); it belongs last."""
    past = [memory or (target / (1 - decay), 1 / (1 - decay)) for memory in memory_B]
    aim_B1 = np.array([[min(max(2 * target - weighted / weight, 0), 1)] for weighted, weight in past])
    far_BV = np.abs(np.exp(normal(logp_BV)) - aim_B1) / 0.3
    return np.where(np.isfinite(logp_BV), 5 - 10 * far_BV**2 / (1 + far_BV), -np.inf)


# -- by what came before ----------------------------------------------------------------------------------------------

_WINDOW = setting(None, "look at so many last tokens only", ge=1)
_OVER = setting("all", "all tokens, or generated ones without the prompt", choices=("all", "generated"))
_RULE = setting("count", "how a token pays, see the guide", choices=("count", "logits", "logp"))


@processor(
    repetition_penalty=setting(1.2, "above 1 shuns tokens seen before, 1 is none", ge=1 / _MOST, le=_MOST),
    rule=_RULE,
    window=_WINDOW,
)
def repetition_penalty(
    logp_BV: Floats, rows: Texts, *, repetition_penalty: float, rule: str, window: int | None
) -> Floats:
    """Makes tokens that came before less likely, prompt included (Keskar et al. 2019, section 4.1).

    `count` divides a token's probability by the penalty once for each time it came, so that every loop ends. `logits`
    divides a logit above 0 and multiplies one below, however often it came; a model here gives log-probabilities, which
    are logits but for a constant: it is taken such that the mean of a row is 0. `logp` multiplies log-probabilities.
    """
    count_BV = _counts(logp_BV, rows, window)
    if rule == "count":
        return logp_BV - count_BV * math.log(repetition_penalty)
    logits_BV = normal(logp_BV)
    if rule == "logits":
        possible_BV = np.isfinite(logp_BV)
        sums_B1 = np.where(possible_BV, logits_BV, 0).sum(-1, keepdims=True)
        logits_BV = logits_BV - sums_B1 / possible_BV.sum(-1, keepdims=True)
    factor_BV = np.where(logits_BV > 0, 1 / repetition_penalty, repetition_penalty)
    return np.where(count_BV > 0, logits_BV * factor_BV, logits_BV)


@processor(
    presence_penalty=setting(0.5, "taken off the logit of tokens that came before", ge=-_MOST, le=_MOST),
    window=_WINDOW,
    over=_OVER,
)
def presence_penalty(logp_BV: Floats, rows: Texts, *, presence_penalty: float, window: int | None, over: str) -> Floats:
    """Takes a constant off the logits of tokens that came before."""
    return logp_BV - presence_penalty * (_counts(logp_BV, rows, window, over) > 0)


@processor(
    frequency_penalty=setting(0.5, "taken off a logit for each time it came", ge=-_MOST, le=_MOST),
    window=_WINDOW,
    over=_OVER,
)
def frequency_penalty(
    logp_BV: Floats, rows: Texts, *, frequency_penalty: float, window: int | None, over: str
) -> Floats:
    """Takes a constant off the logit of a token for each time it came before."""
    return logp_BV - frequency_penalty * _counts(logp_BV, rows, window, over)


@processor(
    repetition=setting(1.1, "the repetition penalty", ge=1 / _MOST, le=_MOST),
    presence=setting(0.0, "the presence penalty", ge=-_MOST, le=_MOST),
    frequency=setting(0.0, "the frequency penalty", ge=-_MOST, le=_MOST),
    window=setting(64, "look at so many last tokens only", ge=1),
    rule=_RULE,
)
def penalties(
    logp_BV: Floats, rows: Texts, *, repetition: float, presence: float, frequency: float, window: int | None, rule: str
) -> Floats:
    """The three penalties with one window, as llama.cpp groups them."""
    logp_BV = repetition_penalty.function(logp_BV, rows, repetition_penalty=repetition, rule=rule, window=window)
    count_BV = _counts(logp_BV, rows, window)
    return logp_BV - presence * (count_BV > 0) - frequency * count_BV


@processor(no_repeat_ngram=setting(3, "no run of this many tokens comes twice", ge=1), window=_WINDOW)
def no_repeat_ngram(logp_BV: Floats, rows: Texts, *, no_repeat_ngram: int, window: int | None) -> Floats:
    """Forbids tokens that would repeat a run of n, prompt included, unless that leaves none (Paulus et al. 2018)."""
    return _forbid(logp_BV, _marked(logp_BV, [_closing(row, no_repeat_ngram) for row in _recent(rows, window)]))


@processor(
    multiplier=setting(0.8, "what a repeat just longer than allowed costs", ge=0, lt=math.inf),
    base=setting(1.75, "factor for each further token of the repeat", ge=1, lt=100),
    allowed=setting(2, "repeats up to this many tokens are free", ge=0),
    window=_WINDOW,
    breakers=setting((), "ids that no repeat runs across", ge=0),
)
def dry(
    logp_BV: Floats,
    rows: Texts,
    *,
    multiplier: float,
    base: float,
    allowed: int,
    window: int | None,
    breakers: tuple[int, ...],
) -> Floats:
    """Takes multiplier * base^(n - allowed) off a token that would make a repeat of n tokens longer (p-e-w 2024)."""
    made_BV = logp_BV.copy()
    for row, seen in enumerate(_recent(rows, window)):
        for token, length in _repeats(seen, frozenset(breakers)).items():
            if length >= allowed:
                made_BV[row, token] -= multiplier * base ** min(length - allowed, 100)
    return made_BV


# -- by token ---------------------------------------------------------------------------------------------------------

_IDS = setting((), "ids, for example 7 8", ge=0)


@processor(ids=_IDS, bias=setting(-1.0, "added to their logits", gt=-math.inf, lt=math.inf))
def logit_bias(logp_BV: Floats, *, ids: tuple[int, ...], bias: float) -> Floats:
    """Adds a constant to the logits of these tokens."""
    return np.where(_marked(logp_BV, [ids] * len(logp_BV)), logp_BV + bias, logp_BV)


@processor(ids=_IDS)
def suppressed(logp_BV: Floats, *, ids: tuple[int, ...]) -> Floats:
    """Forbids each of these tokens, in a row that has others."""
    return _forbid(logp_BV, _marked(logp_BV, [ids] * len(logp_BV)))


@processor(ids=_IDS)
def banned(logp_BV: Floats, rows: Texts, *, ids: tuple[int, ...]) -> Floats:
    """Forbids this run of tokens, a word that takes several: its last one where the others have come."""
    opening = list(ids[:-1])
    ends = [ids[-1:] if not opening or list(row)[-len(opening) :] == opening else () for row in rows]
    return _forbid(logp_BV, _marked(logp_BV, ends))


@processor(ids=_IDS)
def forced(logp_BV: Floats, rows: Rows, *, ids: tuple[int, ...]) -> Floats:
    """Leaves only these tokens, the first at the first place and so on, where they are possible."""
    wanted = [ids[branch.length : branch.length + 1] for branch in rows.live]
    free_B1 = np.array([[not one] for one in wanted])
    return _forbid(logp_BV, ~(_marked(logp_BV, wanted) | free_B1))


@processor(min_new_tokens=setting(1, "no end before so many tokens", ge=0))
def min_new_tokens(logp_BV: Floats, rows: Rows, *, min_new_tokens: int) -> Floats:
    """Forbids the end of the text until so many tokens are generated."""
    early = [(rows.eos,) if branch.length < min_new_tokens else () for branch in rows.live]
    return _forbid(logp_BV, _marked(logp_BV, early))


@processor(
    watermark=setting(2.0, "added to the logits of green tokens", ge=0, lt=math.inf),
    share=setting(0.25, "of the vocabulary that is green", gt=0, lt=1),
    key=setting(15485863, "the secret that the detector needs", ge=0),
    context=setting(1, "how many tokens before choose the green list", ge=1),
)
def watermark(logp_BV: Floats, rows: Texts, *, watermark: float, share: float, key: int, context: int) -> Floats:
    """Makes the tokens of a secret, changing part of the vocabulary likelier (Kirchenbauer et al. 2023)."""
    green_BV = [green_list(list(row)[-context:], logp_BV.shape[-1], share, key) for row in rows]
    return logp_BV + watermark * np.array(green_BV)


# -- what they share --------------------------------------------------------------------------------------------------


def leading(values_BV: Floats, k: int) -> Mask:
    """A mask of exactly the k largest values of each row (all of them where k is larger), lowest index on ties."""
    if k >= values_BV.shape[-1]:
        return np.ones(values_BV.shape, dtype=bool)
    if k == 1:
        return np.asarray(np.arange(values_BV.shape[-1]) == values_BV.argmax(-1)[..., None])
    kth_B1 = np.partition(values_BV, -k, axis=-1)[..., -k, None]
    above_BV, equal_BV = values_BV > kth_B1, values_BV == kth_B1
    return np.asarray(above_BV | (equal_BV & (equal_BV.cumsum(-1) <= k - above_BV.sum(-1, keepdims=True))))


def _keep(logp_BV: Floats, mask_BV: Mask) -> Floats:
    """The tokens of the mask, and the likeliest one of a row where the mask has none."""
    none_B1 = ~(mask_BV & np.isfinite(logp_BV)).any(-1, keepdims=True)
    return np.where(mask_BV | (none_B1 & leading(logp_BV, 1)) if none_B1.any() else mask_BV, logp_BV, -np.inf)


def _forbid(logp_BV: Floats, mask_BV: Mask) -> Floats:
    """All but the tokens of the mask, in a row that has others."""
    stuck_B1 = ~(~mask_BV & np.isfinite(logp_BV)).any(-1, keepdims=True)
    return np.where(~mask_BV | stuck_B1, logp_BV, -np.inf)


def _over(logp_BV: Floats, temperature: Any) -> Floats:
    # From the top down: the likeliest stays at 0, so that no temperature, however small, sends a whole row to -inf.
    with np.errstate(over="ignore"):
        return np.asarray((logp_BV - logp_BV.max(-1, keepdims=True)) / temperature)


def _terms(normal_BV: Floats) -> Floats:
    """-p log p of each token."""
    p_BV = np.exp(normal_BV)
    return -np.multiply(p_BV, normal_BV, out=np.zeros_like(p_BV), where=p_BV > 0)


def _entropy(normal_BV: Floats) -> Floats:
    return np.asarray(_terms(normal_BV).sum(-1, keepdims=True))


def _first(order_BV: NDArray[np.intp], kept_BV: Mask) -> Mask:
    """A mask by rank as one by id; the first always stays."""
    kept_BV[..., 0] = True
    mask_BV = np.zeros(kept_BV.shape, dtype=bool)
    np.put_along_axis(mask_BV, order_BV, kept_BV, -1)
    return mask_BV


def _nucleus(logp_BV: Floats, cost_BV: Floats, mass: float, keep: str) -> Mask:
    """A mask of the tokens of lowest cost that hold the mass together."""
    order_BV = np.argsort(cost_BV, axis=-1, kind="stable")
    p_BV = np.take_along_axis(np.exp(normal(logp_BV)), order_BV, -1)
    upto_BV = p_BV.cumsum(-1)
    return _first(order_BV, (upto_BV - p_BV if keep == "reach" else upto_BV) < mass - _TOLERANCE)


def _mu(memory_B: Sequence[Any], tau: float) -> Floats:
    return np.array([[2 * tau if mu is None else mu] for mu in memory_B])


def _recent(rows: Texts, window: int | None) -> list[list[int]]:
    return [list(row)[-window:] if window else list(row) for row in rows]


def _counts(logp_BV: Floats, rows: Any, window: int | None, over: str = "all") -> Floats:
    """How often each token came in each row."""
    seen = rows if over == "all" else [branch.ids() for branch in rows.live]
    size = logp_BV.shape[-1]
    counts = [np.bincount(np.array(row, dtype=np.int64), minlength=size) for row in _recent(seen, window)]
    return np.array(counts, dtype=np.float64).reshape(len(logp_BV), size)


def _marked(logp_BV: Floats, ids: Sequence[Sequence[int]]) -> Mask:
    """A mask of these ids of each row; those beyond the vocabulary mean nothing."""
    mask_BV = np.zeros(logp_BV.shape, dtype=bool)
    for row, marked in enumerate(ids):
        mask_BV[row, [id for id in marked if id < logp_BV.shape[-1]]] = True
    return mask_BV


def _closing(ids: list[int], n: int) -> list[int]:
    """The tokens that followed, earlier in the row, the n - 1 ids that it ends in."""
    opening = ids[len(ids) - n + 1 :] if n > 1 else []
    return [ids[i + n - 1] for i in range(len(ids) - n + 1) if ids[i : i + n - 1] == opening]


def _repeats(ids: list[int], breakers: frozenset[int]) -> dict[int, int]:
    """Of each token that once followed what the row ends in: how many tokens agree before it, at most."""
    longest: dict[int, int] = {}
    for at in range(1, len(ids)):
        length = 0
        while length < at and ids[at - 1 - length] == ids[-1 - length] and ids[-1 - length] not in breakers:
            length += 1
        if length and ids[at] not in breakers:
            longest[ids[at]] = max(longest.get(ids[at], 0), length)
    return longest
