"""Texts, and beams, by a model that writes many tokens of each a call.

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
from lmlab.kernels.writing.layout import MIN_P, TEMPERATURE, TOP_K, TOP_P, Rule, Written
from lmlab.models.base import BatchWriter, BeamWriter, LanguageModel

_KNOWN = {
    processors.temperature: TEMPERATURE,
    processors.top_k: TOP_K,
    processors.top_p: TOP_P,
    processors.min_p: MIN_P,
}
_FIRST, _MOST = 8, 256  # tokens a call: few at first, so that a stream begins at once
_HELD = 2048  # tokens written ahead, of all texts
_WIDEST = 64  # beams whose candidates are kept in order one by one


def write(model: LanguageModel, prompts: Prompts, strategy: Strategy, n: int, limits: Limits) -> Steps | None:
    """Generate, greedily where the strategy has no seed; None where this is not the way to do it."""
    chain = [known for process in strategy.processors if (known := _known(process)) is not None]
    if len(chain) < len(strategy.processors) or _told(limits):
        return None
    writer = _writer_of(model, prompts, n, limits.max_tokens)
    if writer is None:
        return None
    rule, lanes = Rule.of(strategy.seed is None, model.eos, limits.forbidden, chain), [*range(n)] * len(prompts)
    columns = _Columns(writer, rule, strategy.seed or 0, lanes, limits)
    texts = [_branches(columns, row, lane, model.eos, limits) for row, lane in enumerate(lanes)]
    return _together([_steps(texts[start : start + n]) for start in range(0, len(texts), n)])


def write_beams(
    model: LanguageModel, prompts: Prompts, strategy: Strategy, width: int, searches: Sequence[Any], limits: Limits
) -> Steps | None:
    """Generate by beams, of each prompt its own; None where this is not the way to do it."""
    declared: Callable[[Sequence[int], int, int], BeamWriter | None] | None = getattr(model, "beam_writer", None)
    plain = strategy.processors or limits.stop is not None or width > _WIDEST or _told(limits)
    if declared is None or plain:
        return None
    tokens = len(prompts) * width * limits.max_tokens
    writers = [writer for prompt in prompts if (writer := declared(prompt, width, tokens)) is not None]
    if len(writers) < len(prompts):
        return None
    pairs = zip(writers, searches, strict=True)
    return _together([_beam(writer, search, model.eos, limits) for writer, search in pairs])


def _told(limits: Limits) -> bool:
    """Whether more is asked than compiled loops tell."""
    return bool(limits.alternatives or limits.trace or limits.grammar is not None)


def _together(steps: Sequence[Iterator[Step]]) -> Steps:
    """The steps of all prompts, side by side."""
    return ([step] for step in steps[0]) if len(steps) == 1 else (list(several) for several in zip_longest(*steps))


def _writer_of(model: LanguageModel, prompts: Prompts, n: int, max_tokens: int) -> BatchWriter | None:
    """What writes n texts after each prompt, if the model has it."""
    declared: Callable[[Prompts, int], BatchWriter | None] | None = getattr(model, "batch_writer", None)
    writer = None if declared is None else declared(prompts, len(prompts) * n * max_tokens)
    if writer is not None and n > 1:
        writer.select([row for row in range(len(prompts)) for _ in range(n)])
    return writer


class _Columns:
    """What a writer writes, some tokens of all texts ahead."""

    def __init__(self, writer: BatchWriter, rule: Rule, seed: int, lanes: Sequence[int], limits: Limits) -> None:
        self._writer, self._rule, self._seed, self._lanes, self._limits = writer, rule, seed, lanes, limits
        self._live, self._size, self._length = [*range(len(lanes))], _FIRST, 0
        self._ended: set[int] = set()
        self._made: dict[int, Written] = {}

    def next(self, row: int) -> Written:
        """The next tokens of a text; all texts are asked for theirs before one is asked again."""
        if row not in self._made:
            self._write()
        return self._made.pop(row)

    def end(self, row: int) -> None:
        """Write no more of a text."""
        self._ended.add(row)

    def _write(self) -> None:
        if self._ended:
            kept = [place for place, row in enumerate(self._live) if row not in self._ended]
            self._live = [self._live[place] for place in kept]
            self._writer.select(kept)
            self._ended.clear()
        size = max(min(self._size, _HELD // len(self._live)), 1)
        places = np.arange(self._length, min(self._length + size, self._limits.max_tokens))
        lanes = np.array([self._lanes[row] for row in self._live])
        written = self._writer.write(self._rule, uniforms(self._seed, lanes[:, None], places))
        self._made = dict(zip(self._live, written, strict=True))
        self._size, self._length = min(2 * self._size, _MOST), self._length + size


def _known(process: Any) -> tuple[int, float] | None:
    """A processor as compiled loops know it."""
    code = _KNOWN.get(type(process)) if isinstance(process, Processor) else None
    if code is None or getattr(process, "keep", "reach") != "reach":
        return None
    return code, float(next(iter(vars(process).values())))


def _branches(columns: _Columns, row: int, lane: int, eos: int, limits: Limits) -> Iterator[Branch]:
    """The branches of one text, up to the one that ends it."""
    branch = Branch.root(lane)
    length, total, drawn_total, most = 0, 0.0, 0.0, limits.max_tokens
    asked = limits.stop is not None or limits.max_seconds is not None
    while True:
        for token, logp, drawn in zip(*(array_T.tolist() for array_T in columns.next(row)), strict=True):
            if token < 0:
                raise broken("the model gave", "its weights are damaged or its training diverged")
            length, total, drawn_total = length + 1, total + logp, drawn_total + drawn
            branch = Branch(token, logp, drawn, total, drawn_total, drawn_total, length, lane, branch)
            if asked or token == eos or length == most:
                branch.end = limits.end_of(branch, eos)
                if branch.end is not None:
                    columns.end(row)
                    yield branch
                    return
            yield branch


def _steps(texts: Sequence[Iterator[Branch]]) -> Iterator[Step]:
    """The steps of one prompt's texts."""
    if len(texts) == 1:
        for branch in texts[0]:
            one = (branch,)
            yield Step(one, (), one, False, one) if branch.end is None else Step((), one, one, True, one)
        return
    best, live = [Branch.root()] * len(texts), [*range(len(texts))]
    while live:
        for grown in zip(*[texts[lane] for lane in live], strict=False):
            if len(live) == len(best):
                best = [*grown]
            else:
                for lane, branch in zip(live, grown, strict=True):
                    best[lane] = branch
            ended = tuple([branch for branch in grown if branch.end is not None])
            if ended:
                grown = tuple([branch for branch in grown if branch.end is None])
                live = [branch.lane for branch in grown]
            yield Step(grown, ended, tuple(best), not live, (best[0],))
            if ended:
                break


def _beam(writer: BeamWriter, search: Any, eos: int, limits: Limits) -> Iterator[Step]:
    """The steps of one beam."""
    live, length, size = [Branch.root()], 0, _FIRST
    while True:
        found = writer.extend(eos, limits.forbidden, min(size, limits.max_tokens - length))
        size = min(2 * size, _MOST)
        for *parts, count in zip(*(array_T.tolist() for array_T in found), strict=True):
            if count < 0:
                raise broken("the model gave", "its weights are damaged or its training diverged")
            length += 1
            children = []
            for score, row, token, logp, drawn in search.taken(live, [*zip(*parts, strict=True)][:count], eos):
                before = live[row]
                totals = before.total + logp, before.drawn_total + drawn
                child = Branch(token, logp, drawn, *totals, score, length, before.lane, before)
                if token == eos or length == limits.max_tokens or limits.max_seconds is not None:
                    child.end = limits.end_of(child, eos)
                children.append(child)
            search.settle(children)
            live = [child for child in children if child.end is None]
            done = not live or search.settled()
            ended = tuple([child for child in children if child.end is not None])
            yield Step(tuple(live), ended, search.best(), done, search.rivals(), search.pruned)
            if done:
                return
