"""The n-gram benchmark on a text of a few lines, without KenLM."""

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ngram
import ngram_jobs
import weighing
from lmlab.kernels import engine
from lmlab.vocabulary import BOS, UNK

TRAIN = "the cat sat on the mat\na dog sat on a cat\n\nthe dog and the cat ran to the mat\n" * 30
HELD = "the cat ran to a dog\nno bird sat on the mat\n"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "train.txt").write_text(TRAIN)
    (folder / "held.txt").write_text(HELD)
    return folder


@pytest.fixture
def case(texts, tmp_path):
    core = min(os.sched_getaffinity(0))
    files = texts / "train.txt", texts / "held.txt"
    return ngram.Case("tiny", *files, tmp_path, 3, 1, core, {core}, tools={}, kenlm=None)


def command(texts, tmp_path, *more):
    named = f"tiny={texts / 'train.txt'},{texts / 'held.txt'}"
    return ["--text", named, "--kenlm", str(tmp_path), "--json", str(tmp_path / "figures.json"), *more]


def test_rows_without_kenlm_have_figures_of_ours_alone(texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ngram, "machine", lambda: "a machine")
    monkeypatch.setattr(ngram, "PASSES", 1)
    before = os.sched_getaffinity(0)
    ngram.main(command(texts, tmp_path, "--repeats", "1", "--order", "3", "--rows", "estimate", "batch", "row"))
    assert os.sched_getaffinity(0) == before
    printed = capsys.readouterr().out
    assert "| estimate; lmplz | CPU s |" in printed
    kept = json.loads((tmp_path / "figures.json").read_text())
    figures = kept["texts"]["tiny"]["figures"]
    assert len(figures) == 3 + 6 + 1
    assert all(len(line["ours"]) == 1 and line["ours"][0] > 0 for line in figures)
    assert all(line["ratio"] is None and not line["theirs"] for line in figures)
    assert len(kept["texts"]["tiny"]["checks"]) == 2


def test_results_that_differ_are_told_at_the_end(texts, tmp_path, monkeypatch, capsys):
    def wrong(case):
        case.check("perplexity", 52.4138, 52.4148)
        return []

    monkeypatch.setattr(ngram, "machine", lambda: "a machine")
    monkeypatch.setitem(ngram.ROWS, "calls", wrong)
    with pytest.raises(SystemExit, match="differ"):
        ngram.main(command(texts, tmp_path, "--rows", "calls"))
    assert "tiny, perplexity: 52.4138 and 52.4148 DIFFER" in capsys.readouterr().out


def test_a_check_takes_five_digits_of_a_figure_and_all_of_a_whole_number(case):
    case.check("a", 52.41380, 52.41382)
    case.check("b", 2_000_000_000, 2_000_000_001)
    assert [said.split()[-1] for said in case.checks] == ["agree", "DIFFER"]


def test_the_head_ends_with_a_line(case):
    head = case.head(60).read_text()
    assert head == "the cat sat on the mat\na dog sat on a cat\n\n"


def test_the_job_of_scoring_gives_the_perplexities_of_the_plain_path(case):
    case.estimate()
    found = ngram_jobs.scoring(str(case.model))(str(case.held), [case.core])
    model, words = ngram_jobs.opened(str(case.model))
    ids = {word: id for id, word in enumerate(words, 4)}
    ids_N = np.array([id for line in HELD.splitlines() for id in [BOS, *(ids.get(w, UNK) for w in line.split()), 3]])
    with engine.only(False):
        logp_N = model.logp_array(ids_N)
    known_N = (ids_N != BOS) & (ids_N != UNK)
    assert found["tokens"] == 14
    assert found["including"] == pytest.approx(math.exp(-logp_N.sum() / 14), rel=1e-6)
    assert found["excluding"] == pytest.approx(math.exp(-logp_N[known_N].mean()), rel=1e-6)
    assert found["excluding"] < found["including"]


def test_the_layouts_score_alike(case):
    case.estimate()
    (line, *_) = ngram.size(case)
    assert case.checks[0].endswith("agree")
    assert 0 < line.ours[0] < 10_000


def test_a_process_is_weighed():
    """From a small process, as the benchmark is one: a child's peak counts what its parent was when it was started.

    The child says itself what it took; what is weighed is that, and its start and end besides.
    """
    child = (
        "import time; began = time.perf_counter(); x = bytearray(200_000_000)\nfor i in range(3_000_000): pass\n"
        "print(time.process_time(), time.perf_counter() - began)"
    )
    weigh = f"import sys, weighing; print(tuple(vars(weighing.run(sys.executable, '-c', {child!r})).values()))"
    known = {**os.environ, "PYTHONPATH": str(Path(weighing.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", weigh], env=known, capture_output=True, text=True, check=True)
    cost = weighing.Cost(*ast.literal_eval(done.stdout))
    cpu, wall = map(float, cost.said.split())
    assert 200 < cost.peak < 2000
    assert cost.cpu > 0.9 * cpu  # two clocks of the system, which do not tick alike
    assert cost.wall > 0.9 * wall


def test_a_ratio_above_one_is_ours_to_be_better():
    assert weighing.Line("seconds", "s", [1, 2, 9], [4, 4, 4]).ratio == 2
    assert weighing.Line("speed", "1/s", [6], [3], more=True).ratio == 2
    assert weighing.Line("alone", "s", [6]).ratio is None


def test_works_take_turns():
    asked = []
    answers = weighing.in_turn(2, lambda: asked.append("a") or 1, None, lambda: asked.append("b") or 2)
    assert asked == ["a", "b", "a", "b"]
    assert answers == [[1, 1], [], [2, 2]]
