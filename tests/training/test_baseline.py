"""Baselines of the same tokens, and of the same bytes."""

import math
import sys

import pytest

import lmlab
from lmlab.corpora import open_objects
from lmlab.facade import figures
from lmlab.facade.prepare import prepare
from lmlab.progress import Silent
from lmlab.run_config import RunConfig
from lmlab.training import baseline
from lmlab.training.budget import Budget
from tests.texts import PPMD, some_text

LONG = some_text(600)
PLENTY = 1e6  # seconds


@pytest.fixture(scope="module")
def prepared():
    config = RunConfig.build({"source": "x", "tokenizer.kind": "char"})
    return prepare(open_objects(LONG, config.data), config.tokenizer, Silent())


def beside(prepared, seconds):
    return baseline.cm_baseline(prepared.stores["train"], prepared.stores["valid"], prepared.tokenizer, seconds)


def test_context_mixing_has_the_figures_that_it_has_as_a_model(prepared):
    found = beside(prepared, PLENTY)
    model = lmlab.train(text=LONG, tokenizer="char", model="cm")
    told = model.manifest["results"]["valid"]
    assert found.report.tokens == told["tokens"]
    assert found.report.nats_per_token == pytest.approx(told["nats_per_token"])
    assert found.figures(found.report)["learned_tokens"] == prepared.stores["train"].tokens
    first = prepared.head("valid", 100)
    assert found.on(first)["nats_per_token"] == pytest.approx(-found.logp_N[: first.tokens].mean())


@pytest.mark.parametrize("seconds", [0.0, 1.0, math.inf])
def test_context_mixing_takes_no_seconds_from_a_short_run_nor_from_one_that_no_clock_ends(prepared, seconds):
    assert beside(prepared, seconds) is None


def test_context_mixing_says_how_much_it_learned_from(prepared, monkeypatch):
    monkeypatch.setattr(baseline, "_MIXED_IDS", 12_000)
    assert beside(prepared, PLENTY).learned == 12_000 - 1  # without <bos>


def test_context_mixing_that_would_see_too_little_says_nothing(prepared, monkeypatch):
    monkeypatch.setattr(baseline, "_SLOWER", 1e9)
    assert beside(prepared, PLENTY) is None


class Says(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def test_a_run_of_minutes_is_told_of_both(prepared):
    reporter = Says()
    found = figures.baselines(prepared, Budget(PLENTY), reporter)
    assert list(found) == ["ngram", "cm"]
    assert found["cm"].report.tokens == found["ngram"].report.tokens
    ngram, cm = reporter.said
    assert "6-gram" in ngram
    assert f"context mixing {found['cm'].report.nats_per_token:.4f} nats/token" in cm


@pytest.mark.skipif(not PPMD, reason="pyppmd is not installed")
def test_ppmd_knows_the_training_text():
    text = b"to be or not to be " * 50
    assert baseline.ppmd_bits_per_byte(text, text) < baseline.ppmd_bits_per_byte(b"", text) < 8


def test_without_pyppmd_there_is_no_line_of_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    assert baseline.ppmd_bits_per_byte(b"a", b"a") is None
