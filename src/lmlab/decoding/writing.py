"""Texts that do not look at one another, by a model that writes many tokens of each a call.

What comes out is what a `search.Batch` gives: the same branches and steps, of the same random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from lmlab.decoding import processors
from lmlab.decoding.branch import Branch, Step
from lmlab.decoding.chain import Processor
from lmlab.decoding.chance import uniforms
from lmlab.decoding.search import Limits, Prompts, Steps, Strategy, broken
from lmlab.kernels.writing.layout import MIN_P, TEMPERATURE, TOP_K, TOP_P, Rule
from lmlab.models.base import LanguageModel, Writer

_KNOWN = {
    processors.temperature: TEMPERATURE,
    processors.top_k: TOP_K,
    processors.top_p: TOP_P,
    processors.min_p: MIN_P,
}
_TOGETHER = 1 << 25  # bytes read for a token of each text, from which one batch, which reads them once, is quicker
_FIRST, _MOST = 8, 128  # tokens a call: few at first, so that a stream begins at once


def write(model: LanguageModel, prompts: Prompts, strategy: Strategy, n: int, limits: Limits) -> Steps | None:
    """Generate, greedily where the strategy has no seed; None where this is not the way to do it."""
    declared: Callable[[Sequence[int], int], Any] | None = getattr(model, "writer", None)
    chain = [known for process in strategy.processors if (known := _known(process)) is not None]
    plain = len(chain) < len(strategy.processors) or limits.alternatives or limits.trace or limits.grammar is not None
    if declared is None or plain:
        return None
    rows = len(prompts) * n
    tokens = rows * limits.max_tokens
    first = declared(prompts[0], tokens)
    if first is None or (rows > 1 and rows * first.nbytes > _TOGETHER):
        return None
    rule, seed = Rule.of(strategy.seed is None, model.eos, limits.forbidden, chain), strategy.seed or 0
    texts = [[_branches(declared(prompt, tokens), rule, seed, lane, limits) for lane in range(n)] for prompt in prompts]
    return (list(steps) for steps in zip_longest(*map(_steps, texts)))


def _known(process: Any) -> tuple[int, float] | None:
    """A processor as compiled loops know it."""
    code = _KNOWN.get(type(process)) if isinstance(process, Processor) else None
    if code is None or getattr(process, "keep", "reach") != "reach":
        return None
    return code, float(next(iter(vars(process).values())))


def _branches(writer: Writer, rule: Rule, seed: int, lane: int, limits: Limits) -> Iterator[Branch]:
    """The branches of one text, up to the one that ends it."""
    branch, size = Branch.root(lane), _FIRST
    while True:
        places = np.arange(branch.length, min(branch.length + size, limits.max_tokens))
        written = writer.write(rule, uniforms(seed, lane, places))
        size = min(2 * size, _MOST)
        for token, logp, drawn in zip(*(array_T.tolist() for array_T in written), strict=True):
            if token < 0:
                raise broken("the model gave", "its weights are damaged or its training diverged")
            total, drawn_total = branch.total + logp, branch.drawn_total + drawn
            branch = Branch(token, logp, drawn, total, drawn_total, drawn_total, branch.length + 1, lane, branch)
            branch.end = limits.end_of(branch, rule.eos)
            yield branch
            if branch.end is not None:
                return


def _steps(texts: Sequence[Iterator[Branch]]) -> Iterator[Step]:
    """The steps of one prompt's texts."""
    best, live = [Branch.root()] * len(texts), list(range(len(texts)))
    while live:
        for lane in live:
            best[lane] = next(texts[lane])
        grown = [best[lane] for lane in live]
        ended = tuple(branch for branch in grown if branch.end is not None)
        if ended:
            grown = [branch for branch in grown if branch.end is None]
            live = [branch.lane for branch in grown]
        yield Step(tuple(grown), ended, tuple(best), not live, (best[0],))
