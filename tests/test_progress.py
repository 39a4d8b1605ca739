"""The display of a notebook, without one: what it is shown, how often, and that no text becomes markup."""

import builtins

import pytest

from lmlab import progress
from lmlab.progress import Console, Notebook, default_reporter
from lmlab.training.events import Began, Ended, Evaluated, Sampled, Stepped


class Front:
    """Keeps what it is shown."""

    def __init__(self):
        self.html, self.text, self.firsts = [], [], []

    def __call__(self, html, text, first):
        self.html.append(html)
        self.text.append(text)
        self.firsts.append(first)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def stepped(step, seconds):
    return Stepped(step, 1_000, 3.0, 0.1, 0.5, 100 * step, 12_345.0, seconds, 9.0)


def test_one_display_is_redrawn_twice_a_second_at_most(clock):
    front = Front()
    reporter = Notebook(front)
    reporter.event(Began(0, 1_000, 500, "fp32", 1, 0.0))
    for step in range(1, 1_001):
        clock[0] += 0.01  # ten seconds in all
        reporter.event(stepped(step, step / 100))
    assert 15 <= len(front.html) <= 25
    assert front.firsts == [True] + [False] * (len(front.html) - 1)
    reporter.event(Ended(1_000, "done", 2.0, 900, 100_000, 10.0))
    assert "trained: 1,000 steps" in front.text[-1]


def test_it_tells_rate_time_to_go_level_and_sample_and_escapes_them(clock):
    front = Front()
    reporter = Notebook(front)
    reporter.level("<5>-gram", 2.5)
    for event in (
        Began(0, 1_000, 500, "fp32", 1, 0.0),
        stepped(10, 1.0),
        Evaluated(10, 2.9, True, 1.0),
        Sampled(10, "<script>&"),
    ):
        clock[0] += 1
        reporter.event(event)
    shown = front.html[-1]
    for told in ("12.3 k tokens/s", "9 s to go", "&lt;5&gt;-gram 2.500", "&lt;script&gt;&amp;", "width:1.0%"):
        assert told in shown, told
    assert "<script" not in shown
    assert "valid 2.9000 nats/token" in front.text[-1]


@pytest.mark.parametrize("total", [None, 0, 100])
def test_a_stage_of_any_size_is_shown_and_gone_afterwards(clock, total):
    front = Front()
    reporter = Notebook(front)
    with reporter.stage("reading", total, " tokens") as advance:
        for done in (0, 50, 100):
            clock[0] += 1
            advance(done)
        assert "reading" in front.text[-1]
    assert "reading" not in front.text[-1]
    reporter.say("well")
    assert front.text[-1] == "well"


def test_notes_are_few(clock):
    front = Front()
    reporter = Notebook(front)
    for number in range(50):
        reporter.say(f"note {number}")
    assert front.html[-1].count("<p") < 10
    assert "note 49" in front.html[-1]


def test_a_kernel_has_a_notebook_and_all_else_a_console(monkeypatch):
    assert isinstance(default_reporter(), Console)  # no terminal here: lines, not silence
    monkeypatch.setattr(builtins, "get_ipython", lambda: object(), raising=False)
    assert isinstance(default_reporter(), Console)  # IPython in a terminal
