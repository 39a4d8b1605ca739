"""The planner on machines of known speed."""

from __future__ import annotations

import pytest

from lmlab.training.planner import Size, choose

LADDER = [{"hidden": width} for width in (64, 128, 256, 512, 1024)]


class Machine:
    """Does a given number of products a second."""

    def __init__(self, products: float) -> None:
        self.products, self.measured = products, 0

    def __call__(self, settings):
        self.measured += 1
        parameters = 4 * settings["hidden"] ** 2
        return Size(settings, parameters, self.products / parameters)


def width(products, seconds, corpus=10**9):
    return choose(LADDER, Machine(products), corpus, seconds, 1024, 4e-3).model["hidden"]


def test_more_time_and_a_faster_machine_give_a_larger_model():
    widths = [width(1e11, seconds) for seconds in (1, 30, 300, 3000)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
    assert width(1e12, 30) > width(1e11, 30)


def test_a_slow_machine_still_gets_the_smallest_model():
    assert width(1, 1) == 64


def test_a_small_corpus_bounds_the_model():
    assert width(1e15, 60, corpus=50_000) == 128


def test_the_oftener_the_text_is_repeated_the_more_is_dropped():
    choices = [choose(LADDER, Machine(1e12), corpus, 60, 1024, 4e-3) for corpus in (10**9, 10**7, 10**6)]
    dropped = [choice.model["dropout"] for choice in choices]
    assert [choice.train["dropout_schedule"] for choice in (choices[0], choices[-1])] == ["constant", "falling"]
    assert dropped[0] == 0
    assert dropped == sorted(dropped)
    assert dropped[-1] > 0


def test_many_steps_take_a_smaller_rate():
    short, long = (choose(LADDER, Machine(1e11), 10**9, seconds, 1024, 4e-3).train["lr"] for seconds in (0.3, 3e5))
    assert short == 8e-3 > long == 2e-3


@pytest.mark.parametrize("seconds", [1, 100, 10_000])
def test_few_sizes_are_measured(seconds):
    machine = Machine(1e11)
    choose(LADDER, machine, 10**9, seconds, 1024, 4e-3)
    assert machine.measured <= 4
