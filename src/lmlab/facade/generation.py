"""Generated text: token by token, whole, and as it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lmlab.tokens.base import Tokenizer

if TYPE_CHECKING:
    from lmlab.decoding import Step


@dataclass(frozen=True)
class Written:
    """A generated token.

    Attributes:
        text: its text; a character that it holds a part of only is "\ufffd", and `<eos>` is empty.
        logp: the model's log-probability, in nats.
        chain_logp: the log-probability after the processors.
        alternatives: text, `logp` and `chain_logp` of the likeliest tokens here, where they were asked for.
        trace: of each processor its name, how many tokens it left, and their share of the mass it was given.
    """

    text: str
    logp: float
    chain_logp: float
    alternatives: tuple[tuple[str, float, float], ...] = ()
    trace: tuple[tuple[str, int, float], ...] = ()


@dataclass(frozen=True)
class Generation:
    """A generated text.

    Attributes:
        text: what follows the prompt.
        tokens: how many, `<eos>` not counted.
        logp: the model's log-probability of them all, in nats, `<eos>` included where it was drawn.
        end: why it ended: eos, stop, length or time.
        chain_logp: their log-probability after the processors.
        perplexity: of a token, `<eos>` included, under the model.
        written: token by token, where `alternatives` or `trace` was asked for.
    """

    prompt: str
    text: str
    tokens: int
    logp: float
    end: str
    chain_logp: float
    perplexity: float
    written: tuple[Written, ...] = ()


class Generations(list[Generation]):
    """Generated texts, as a notebook shows them: the prompt, and what follows it."""

    def __repr__(self) -> str:
        return "\n".join(f"[{number}] {each.prompt}|{each.text}" for number, each in enumerate(self, 1))

    def _repr_html_(self) -> str:
        from lmlab.report.html import escape, fragment

        texts = (
            f'<pre title="{each.tokens} tokens, {-each.logp / math.log(2):.1f} bits, ended by {escape(each.end)}">'
            f'<span style="opacity:.6">{escape(each.prompt)}</span>{escape(each.text)}</pre>'
            for each in self
        )
        return fragment(*texts)


class TextStep:
    """One step of a generation, in text.

    Attributes:
        step: the step below, in ids.
        new: text that the first result gained and that is now certain: what a beam may still replace is no part of it.
    """

    def __init__(self, step: Step, tokenizer: Tokenizer, prompt_ids: Sequence[int], new: str) -> None:
        self.step = step
        self.new = new
        self._tokenizer, self._prompt_ids = tokenizer, prompt_ids

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The results as they stand: the best first for beams, in row order for samples."""
        return tuple(continuation(self._tokenizer, self._prompt_ids, branch.ids()) for branch in self.step.best)


def certain_until(text: str, stop: Sequence[str], *, ended: bool) -> int:
    """How much of a text will stand: up to the first stop string, or what may yet become one.

    >>> certain_until("to be. Or", [". And"], ended=False), certain_until("to be. A", [". And"], ended=False)
    (9, 5)
    """
    cuts = [text.find(mark) for mark in stop if mark in text]
    if cuts:
        return min(cuts)
    if ended:
        return len(text)
    held = (size for mark in stop for size in range(1, len(mark)) if text.endswith(mark[:size]))
    return len(text) - max(held, default=0)


def continuation(tokenizer: Tokenizer, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
    """The text of `ids` as it stands after the prompt: a word tokenizer puts the space between them."""
    before = tokenizer.decode(prompt_ids)
    whole = tokenizer.decode([*prompt_ids, *ids])
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids)
