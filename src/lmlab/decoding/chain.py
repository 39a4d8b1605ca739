"""Chains of processors: how a function becomes one, how a chain is written, run and explained.

    chain = chain_of("penalties,top_k=40,temperature=0.8", top_p=0.95)
    logp_BV = chain[0](rows, logp_BV)

Shapes: B rows, V the vocabulary.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import numpy as np

from lmlab.config import Settings, described
from lmlab.decoding.branch import Cut, Rows
from lmlab.decoding.chance import Floats
from lmlab.errors import UnknownNameError, UsageError
from lmlab.models.readers import log_softmax

Process = Callable[[Any, Floats], Floats]
Chain = tuple[Process, ...]


@dataclass(frozen=True)
class Processor(Settings):
    """A processor's function with its settings; two of the same settings are equal."""

    function: ClassVar[Callable[..., Floats]]
    learned: ClassVar[Callable[..., Any] | None]
    wanted: ClassVar[set[str]]

    def __call__(self, rows: Sequence[Sequence[int]], logp_BV: Floats, memory_B: Sequence[Any] | None = None) -> Floats:
        """The rows it makes of these."""
        given = {"rows": rows, "memory_B": memory_B or [None] * len(logp_BV)}
        return type(self).function(logp_BV, **{name: given[name] for name in self.wanted}, **vars(self))

    def remember(self, memory: Any, before: float, after: float) -> Any:
        """What it knows of a row after a token of these log-probabilities, before and after the processor."""
        learned = type(self).learned
        return None if learned is None else learned(memory, before, after, **vars(self))


PROCESSORS: dict[str, type[Processor]] = {}
"""Every processor, by the name of its function."""


def processor(learned: Callable[..., Any] | None = None, **settings: Any) -> Callable[[Callable[..., Floats]], Any]:
    """Turn a function into a registered kind of processor.

    Args:
        learned: `learned(memory, before, after, **settings)` is what it knows one token later, where it has a memory.
        **settings: of each keyword-only parameter its default, help and bounds; its type is the function's.
    """

    def made(function: Callable[..., Floats]) -> type[Processor]:
        hints = typing.get_type_hints(function)
        members = {
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "function": staticmethod(function),
            "learned": staticmethod(learned) if learned else None,
            "wanted": hints.keys() - settings.keys() - {"logp_BV", "return"},
        }
        fields = [(name, hints[name], described) for name, described in settings.items()]
        name = function.__name__
        kind: type[Processor] = dataclasses.make_dataclass(
            name, fields, bases=(Processor,), namespace=members, frozen=True
        )
        PROCESSORS[name] = kind
        return kind

    return made


def chain_of(*given: Process | str, **named: Any) -> Chain:
    """The processors given, or told as text (`"penalties,top_k=40"`), then those named, in order; None is off.

    Raises:
        UnknownNameError: no processor has that name.
        SettingError: a value outside its bound.
        UsageError: something that is no processor.

    >>> chain_of("min_p=0.1,top_p=0.9:keep=below", temperature=0.5)
    (min_p(min_p=0.1), top_p(top_p=0.9, keep='below'), temperature(temperature=0.5))
    """
    made: list[Process] = []
    for each in given:
        if isinstance(each, str):
            made += [_told(part.strip()) for part in each.split(",") if part.strip()]
        elif callable(each) and not isinstance(each, type):
            made.append(each)
        else:
            raise UsageError(f"{each!r} is no processor", "name it, as in temperature=0.8 or top_k(40)")
    for name, value in named.items():
        if value is not None:
            first = described(_kind(name))[0]
            made.append(_kind(name)(**{first.name: first.convert(value)}))
    return tuple(made)


def _told(text: str) -> Processor:
    head, *rest = text.split(":")
    name, equals, value = head.partition("=")
    kind = _kind(name.strip())
    pairs = [part.partition("=") for part in rest]
    if equals:
        pairs.insert(0, (described(kind)[0].name, "=", value))
    if not all(equals and value.strip() for _, equals, value in pairs):
        raise UsageError(f"the chain has {text!r}", "write NAME, NAME=VALUE or NAME=VALUE:SETTING=VALUE")
    return kind.make({key.strip(): value.strip() for key, _, value in pairs}, "chain")


def _kind(name: str) -> type[Processor]:
    if name not in PROCESSORS:
        raise UnknownNameError("processor", name, PROCESSORS)
    return PROCESSORS[name]


def run(chain: Chain, rows: Rows, logp_BV: Floats) -> Iterator[tuple[Process, Floats, Floats]]:
    """Each processor in turn, with the rows it was given and those it made."""
    for index, process in enumerate(chain):
        with np.errstate(over="ignore"):  # a token bent beyond all floats is one that cannot come
            if isinstance(process, Processor):
                memories = [branch.memory[index] if branch.memory else None for branch in rows.live]
                made_BV = process(rows, logp_BV, memories)
            else:
                made_BV = np.asarray(process(rows, logp_BV), dtype=np.float64)
        yield process, logp_BV, made_BV
        logp_BV = made_BV


def cut(process: Process, before_V: Floats, after_V: Floats) -> Cut:
    """What a processor left of one row."""
    left_V = np.isfinite(after_V)
    return Cut(process, int(left_V.sum()), float(np.exp(normal(before_V))[left_V].sum()))


def learns(process: Process) -> TypeGuard[Processor]:
    """Whether a processor has a memory."""
    return isinstance(process, Processor) and type(process).learned is not None


def normal(logp_BV: Floats) -> Floats:
    """Log-probabilities of rows that sum to one."""
    return log_softmax(logp_BV.copy())
