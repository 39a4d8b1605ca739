"""Texts of several calls in one batch: whenever they join and leave, each is what it is alone."""

from collections.abc import Iterator
from typing import Any

import pytest

from lmlab.decoding import Batch, Beam, DiverseBeam, Greedy, Sample, Strategy, decode_all, finish_all
from lmlab.errors import LmlabError
from lmlab.models.base import LanguageModel
from tests.contracts.zoo import build

CALLS: list[tuple[list[list[int]], Strategy, dict[str, Any]]] = [
    ([[4, 5], [], [6, 4, 5, 5]], Sample(temperature=0.7, seed=3), {"n": 2, "max_tokens": 9}),
    ([[7]], Beam(width=3), {"n": 2, "max_tokens": 6}),
    ([[5, 5, 5, 4, 6, 7, 4]], Greedy(), {"max_tokens": 12}),
    ([[4]], Sample("repetition_penalty=1.3,xtc", seed=3), {"n": 3, "max_tokens": 5, "alternatives": 2}),
    ([[4]], Sample("repetition_penalty=1.3,xtc", seed=4), {"n": 1, "max_tokens": 5}),
    ([[6, 6]], DiverseBeam(width=4, groups=2), {"max_tokens": 8}),
    ([[5]], Sample("mirostat", seed=8), {"n": 2, "max_tokens": 7}),
]


def ids(results: Any) -> list[Any]:
    return [[branch.ids() for branch in branches] for branches in results]


@pytest.mark.parametrize(("name", "variant"), [("ngram", "kneser-ney-3"), ("lstm", "plain"), ("transformer", "plain")])
@pytest.mark.parametrize("apart", [0, 1, 3])
def test_calls_that_share_a_batch_give_what_they_give_alone(name: str, variant: str, apart: int) -> None:
    model = build(name, variant)
    batch, waiting, found = Batch(model), list(enumerate(CALLS)), {}
    running: dict[int, tuple[Iterator[Any], list[Any]]] = {}
    turn = 0
    while waiting or running:
        if waiting and (not apart or turn % apart == 0):
            for at, (prompts, strategy, options) in waiting[: 1 if apart else None]:
                running[at] = decode_all(model, prompts, strategy, **options, batch=batch), []
            waiting = waiting[1:] if apart else []
        for at, (steps, seen) in list(running.items()):
            step = next(steps, None)
            if step is None:
                found[at] = finish_all(seen)
                del running[at]
            else:
                seen.append(step)
        turn += 1
    for at, (prompts, strategy, options) in enumerate(CALLS):
        assert ids(found[at]) == ids(finish_all(decode_all(model, prompts, strategy, **options))), strategy


def test_a_call_that_is_left_takes_no_more_steps() -> None:
    model, steps = _Counting(), 0
    batch = Batch(model)
    left = decode_all(model, [[4]], Greedy(), max_tokens=50, batch=batch)
    stays = decode_all(model, [[5]], Greedy(), max_tokens=4, batch=batch)
    next(left), next(stays)
    left.close()  # type: ignore[attr-defined]
    steps = len(model.widths)
    assert len(list(stays)) == 3
    assert set(model.widths[steps:]) == {1}


def test_what_is_wrong_with_one_call_is_raised_there_alone() -> None:
    def broken(rows: Any, logp_BV: Any) -> Any:
        return logp_BV * float("nan")

    model = build("lstm", "plain")
    batch = Batch(model)
    wrong = decode_all(model, [[4]], Sample(broken, seed=0), max_tokens=4, batch=batch)
    right = decode_all(model, [[4]], Greedy(), max_tokens=4, batch=batch)
    with pytest.raises(LmlabError, match="the processors left NaN"):
        next(wrong)
    assert ids(finish_all(right)) == ids(finish_all(decode_all(model, [[4]], Greedy(), max_tokens=4)))


class _Counting:
    """A model that notes how many rows each step has."""

    def __init__(self) -> None:
        self._inner: LanguageModel = build("uniform", "plain")
        self.vocab_size, self.bos, self.eos = self._inner.vocab_size, self._inner.bos, self._inner.eos
        self.widths: list[int] = []

    def start(self, prompts: Any) -> Any:
        return self._inner.start(prompts)

    def step(self, state: Any, tokens_B: Any) -> Any:
        self.widths.append(len(tokens_B))
        return self._inner.step(state, tokens_B)
