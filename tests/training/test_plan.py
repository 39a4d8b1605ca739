import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.errors import SettingError
from lmlab.training.plan import Plan


@st.composite
def plans(draw):
    """A plan as timed runs make them: each change while steps remain."""
    plan = Plan(((0, draw(st.integers(1, 300))),))
    for _ in range(draw(st.integers(0, 4))):
        last = plan.changes[-1][0]
        if last + 1 >= plan.total:
            break
        step = draw(st.integers(last + 1, plan.total - 1))
        plan = plan.change(step, step + draw(st.integers(1, 300)))
    return plan


@given(plans())
def test_progress_starts_at_0_ends_at_1_and_always_rises(plan):
    shares = [plan.progress(step) for step in range(plan.total + 1)]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert all(before < after for before, after in itertools.pairwise(shares))


@given(plans(), st.data())
def test_a_change_of_plan_leaves_the_progress_made_as_it_was(plan, data):
    if plan.total < 2 or plan.changes[-1][0] + 1 >= plan.total:
        return
    step = data.draw(st.integers(plan.changes[-1][0] + 1, plan.total - 1))
    changed = plan.change(step, step + data.draw(st.integers(1, 500)))
    for before in range(step + 1):
        assert changed.progress(before) == pytest.approx(plan.progress(before))


@given(plans())
def test_progress_is_even_between_changes(plan):
    """Within a stretch each step makes the same progress: nothing jumps at a change."""
    ends = [start for start, _ in plan.changes[1:]] + [plan.total]
    for (start, total), end in zip(plan.changes, ends, strict=True):
        share = (1 - plan.progress(start)) / (total - start)
        for step in range(start, end):
            assert plan.progress(step + 1) - plan.progress(step) == pytest.approx(share, abs=1e-9)


@given(plans())
def test_a_plan_is_read_back_from_its_text(plan):
    assert Plan.parse(str(plan)) == plan


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "0:10;5:8",
        "a:b",
        "0:10:3",
        "1:10",
        "0:10,0:12",
        "0:10,5:4",
        "0:10,5:5,6:9",
        "0:-3",
        "0:9999999999999",
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(text):
    with pytest.raises(SettingError, match=r"^train\.plan is '") as caught:
        Plan.parse(text)
    assert "\n" not in str(caught.value)
