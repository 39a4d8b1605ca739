"""The strategies by name, and the functions that run them.

for step in decode(model, prompt_ids, Sample(temperature=0.8, top_p=0.95, seed=1), n=3, max_tokens=100):
    print(step.best[0].ids())
results = finish(decode(model, prompt_ids, Beam(width=5), n=5))
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmlab.decoding.alone import Contrastive, Exact, Lookup, Speculative
from lmlab.decoding.beams import Beam, BeamSample, Constrained, DiverseBeam, StochasticBeam
from lmlab.decoding.branch import Branch, Step
from lmlab.decoding.draws import MBR, Greedy, Sample
from lmlab.decoding.search import Batch, Limits, Prompts, Steps, Strategy
from lmlab.errors import SettingError, UnknownNameError, check_integer
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
    model: LanguageModel, prompt_ids: Sequence[int], strategy: Strategy, *, n: int = 1, **limits: Any
) -> Iterator[Step]:
    """Generate, a step at a time.

    Args:
        model: any language model; only `start`, `step` and its state's `select` are used.
        prompt_ids: the ids after `<bos>`; may be empty.
        strategy: `Greedy()`, `Sample(...)`, `Beam(...)` or another.
        n: how many results; a beam gives fewer only where fewer texts are possible.
        **limits: `max_tokens`, `max_seconds`, `stop`, `forbidden`, `alternatives`, `trace`, `grammar`: `Limits` tells.

    Raises:
        SettingError: an argument outside its bound, or no strategy (at once, before the first step).
        LmlabError: the model gave NaN, or no token a probability; nothing goes on as the grammar wants.
    """
    return (step for (step,) in decode_all(model, [prompt_ids], strategy, n=n, **limits) if step is not None)


def decode_all(
    model: LanguageModel,
    prompts: Prompts,
    strategy: Strategy,
    *,
    n: int = 1,
    batch: Batch | None = None,
    **limits: Any,
) -> Steps:
    """Generate from many prompts in one batch: what `decode` gives each, None once it is done.

    A `batch` of the model is one that other calls share: their texts and these grow side by side.
    """
    check_strategy(strategy)
    check_integer("n", n, 1)
    bounds = Limits(**limits)
    for token in (token for prompt in prompts for token in prompt):
        if not 0 <= token < model.vocab_size:
            raise SettingError("prompt id", token, f"an id of the vocabulary, 0 to {model.vocab_size - 1}")
    if bounds.grammar is not None and bounds.grammar.vocab_size != model.vocab_size:
        shown = f"one of {bounds.grammar.vocab_size} tokens"
        raise SettingError("the grammar's tokenizer", shown, f"the model's, of {model.vocab_size}")
    return strategy.run(model, [list(prompt) for prompt in prompts], n, bounds, batch) if prompts else iter(())


def finish(steps: Iterable[Step]) -> list[Branch]:
    """Drain a generation and return its results: best first for a beam, in row order for samples."""
    return list(deque(steps, maxlen=1).pop().best)


def finish_all(steps: Iterable[list[Step | None]]) -> list[list[Branch]]:
    """Drain a generation from many prompts and return the results of each."""
    last: dict[int, Step] = {}
    for several in steps:
        for at, step in enumerate(several):
            if step is not None:
                last[at] = step
    return [list(last[at].best) for at in sorted(last)]
