"""A budget by a clock that a test sets."""

import math

import pytest

from lmlab.training import TrainSettings
from lmlab.training.budget import Budget


class Hands:
    """A clock set by hand."""

    now = 100.0

    def __call__(self):
        return self.now


def test_what_is_left_is_less_than_what_is_set_aside():
    clock = Hands()
    budget = Budget(60.0, 90.0, clock)
    assert (budget.spent, budget.left) == (10, 50)
    budget.reserve("scoring", 0.1, 1.0)
    assert budget.left == 43
    budget.expect("scoring", 2.0)
    assert budget.left == 48
    budget.expect("scoring", 1e9)
    assert budget.left == 43, "a stage takes no more than was reserved"
    budget.expect("unknown", 1e9)
    assert budget.left == 43
    clock.now = 110.0
    with budget.stage("scoring"):
        assert budget.left == 40
        clock.now += 3
    assert budget.took == {"scoring": 3}


def test_a_stage_within_another_is_counted_once():
    clock = Hands()
    budget = Budget(60.0, None, clock)
    with budget.stage("training"):
        clock.now += 1
        with budget.stage("trials"):
            clock.now += 5
        clock.now += 2
    assert budget.took == {"training": 3, "trials": 5}


@pytest.mark.parametrize(
    ("named", "seconds"),
    [
        ({"minutes": 2}, 120),
        ({}, 180),
        ({"steps": 5}, math.inf),
        ({"epochs": 1}, math.inf),
        ({"plan": "0:5", "minutes": 1}, math.inf),
    ],
)
def test_only_minutes_limit(named, seconds):
    budget = Budget.of(TrainSettings(**named))
    assert (budget.seconds, budget.timed) == (seconds, seconds < math.inf)
    budget.reserve("scoring", 0.1, 1.0)
    assert (budget.left == math.inf) != budget.timed
