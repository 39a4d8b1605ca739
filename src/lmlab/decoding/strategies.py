"""The strategies by name, and the functions that run them.

for step in decode(model, prompt_ids, Sample(temperature=0.8, top_p=0.95, seed=1), n=3, max_tokens=100):
    print(step.best[0].ids())
results = finish(decode(model, prompt_ids, Beam(width=5), n=5))
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmlab.decoding.alone import Contrastive, Exact, Lookup, Speculative
from lmlab.decoding.beams import Beam, BeamSample, Constrained, DiverseBeam, StochasticBeam
from lmlab.decoding.branch import Branch, Step
from lmlab.decoding.draws import MBR, Greedy, Sample
from lmlab.decoding.search import Batch, Limits, Strategy, integer
from lmlab.decoding.stop import Stop
from lmlab.errors import SettingError, UnknownNameError
from lmlab.models.base import LanguageModel

STRATEGIES: Mapping[str, type[Strategy]] = {
    "greedy": Greedy,
    "sample": Sample,
    "beam": Beam,
    "beam_sample": BeamSample,
    "diverse_beam": DiverseBeam,
    "stochastic_beam": StochasticBeam,
    "constrained": Constrained,
    "contrastive": Contrastive,
    "mbr": MBR,
    "exact": Exact,
    "speculative": Speculative,
    "lookup": Lookup,
}
"""Every strategy, by name."""


def strategy_of(told: str, *processors: Any, **named: Any) -> Strategy:
    """A strategy by its name, with settings if wanted: `"diverse_beam:width=6,groups=3"`.

    Raises:
        UnknownNameError: no strategy, setting or processor has that name.

    >>> strategy_of("beam:width=3", "top_k=5", length_penalty=0)
    Beam(top_k(top_k=5), width=3, length_penalty=0, early_stopping='optimal')
    """
    name, _, settings = told.partition(":")
    if name.strip() not in STRATEGIES:
        raise UnknownNameError("strategy", name.strip(), STRATEGIES)
    pairs = [part.partition("=") for part in settings.split(",") if part.strip()]
    if wrong := next((key for key, equals, _ in pairs if not equals), None):
        raise SettingError("strategy", told, "NAME or NAME:SETTING=VALUE,...", f"{wrong.strip()} has no value")
    values = {key.strip(): value.strip() for key, _, value in pairs}
    return STRATEGIES[name.strip()](*processors, **{**values, **named})


def check_strategy(given: object) -> None:
    """SettingError where it is no strategy: a class of them, or a word."""
    if isinstance(given, type) or not callable(getattr(given, "run", None)):
        raise SettingError("strategy", given, "a strategy", "for example Sample(temperature=0.8) or Beam(width=5)")


def decode(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    strategy: Strategy,
    *,
    n: int = 1,
    max_tokens: int = 200,
    max_seconds: float | None = None,
    stop: Stop | None = None,
    forbidden: Sequence[int] = (),
    alternatives: int = 0,
    trace: bool = False,
) -> Iterator[Step]:
    """Generate, a step at a time.

    Args:
        model: any language model; only `start`, `step` and its state's `select` are used.
        prompt_ids: the ids after `<bos>`; may be empty.
        strategy: `Greedy()`, `Sample(...)`, `Beam(...)` or another.
        n: how many results; a beam gives fewer only where fewer texts are possible.
        max_tokens: where a text is cut, `<eos>` counted.
        max_seconds: when all texts are cut, at least one token long; None is never.
        stop: asked about each new branch; yes ends it.
        forbidden: ids that are never chosen, unless no other can be.
        alternatives: how many of the likeliest tokens each branch tells beside its own.
        trace: whether each branch tells what every processor left.

    Raises:
        SettingError: an argument outside its bound, or no strategy (at once, before the first step).
        LmlabError: the model gave NaN, or no token a probability.
    """
    options = {"n": n, "max_tokens": max_tokens, "max_seconds": max_seconds, "stop": stop, "forbidden": forbidden}
    steps = decode_all(model, [prompt_ids], strategy, **options, alternatives=alternatives, trace=trace)  # type: ignore[arg-type]
    return (step for (step,) in steps if step is not None)


def decode_all(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    strategy: Strategy,
    *,
    n: int = 1,
    max_tokens: int = 200,
    max_seconds: float | None = None,
    stop: Stop | None = None,
    forbidden: Sequence[int] = (),
    alternatives: int = 0,
    trace: bool = False,
    batch: Batch | None = None,
) -> Iterator[list[Step | None]]:
    """Generate from many prompts in one batch: what `decode` gives each, None once it is done.

    A `batch` of the model is one that other calls share: their texts and these grow side by side.
    """
    check_strategy(strategy)
    integer("n", n, 1)
    integer("max_tokens", max_tokens, 1)
    integer("alternatives", alternatives, 0)
    if max_seconds is not None and not max_seconds >= 0:
        raise SettingError("max_seconds", max_seconds, "a number >= 0")
    for token in (token for prompt in prompts for token in prompt):
        if not 0 <= token < model.vocab_size:
            raise SettingError("prompt id", token, f"an id of the vocabulary, 0 to {model.vocab_size - 1}")
    deadline = float("inf") if max_seconds is None else time.monotonic() + max_seconds
    limits = Limits(max_tokens, deadline, stop, tuple(forbidden), alternatives, trace)
    return strategy.run(model, [list(prompt) for prompt in prompts], n, limits, batch) if prompts else iter(())


def finish(steps: Iterable[Step]) -> list[Branch]:
    """Drain a generation and return its results: best first for a beam, in row order for samples."""
    return list(deque(steps, maxlen=1).pop().best)


def finish_all(steps: Iterable[list[Step | None]]) -> list[list[Branch]]:
    """Drain a generation from many prompts and return the results of each."""
    last: dict[int, Step] = {}
    for several in steps:
        last.update((at, step) for at, step in enumerate(several) if step is not None)
    return [list(last[at].best) for at in sorted(last)]
