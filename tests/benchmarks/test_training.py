"""The training benchmark at a size of seconds."""

import json
import os

import pytest

import training
import training_jobs as jobs
from lmlab.training import machine

FIRST, ADAPTIVE = jobs.JAX_ROW, "the same, adaptive softmax"


@pytest.fixture(autouse=True)
def leave_this_process_alone(monkeypatch):
    monkeypatch.setattr(machine, "tune_process", lambda: None)


@pytest.mark.parametrize("name", jobs.ROWS)
def test_both_sides_of_a_row_train(name):
    assert jobs.plain(name, True)(0.01) > 0
    assert jobs.ours(name, True)(0.01)["rate"] > 0


def test_the_products_of_a_token_are_counted_as_by_hand():
    row = jobs.ROWS[FIRST].small()
    weights = 4 * row.hidden * (row.embedding + row.hidden) + row.hidden * row.vocab_size
    assert jobs.ours(FIRST, True)(0.01)["flop_per_token"] == 6 * weights


def test_a_line_of_the_table():
    found = {"theirs": [100.0, 200.0, 300.0], "ours": [300.0, 800.0, 600.0], "precision": "bf16"}
    found |= {"flop_per_token": 1e7, "peak": [1e10, 2e10, 3e10], "goals": (3, 4)}
    assert training.cells("a", found) == ["a (bf16)", "200", "600", "3.00", "2.00-4.00", "3 · 4", "6", "30 %"]
    assert training.cells("a", found | {"flop_per_token": None})[-2:] == ["-", "-"]


@pytest.mark.slow  # three processes that import torch
def test_a_row_measured_in_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "machine", lambda: "a machine")
    before = os.sched_getaffinity(0)
    arguments = [
        "--quick",
        "--rounds",
        "2",
        "--seconds",
        "0.05",
        "--only",
        ADAPTIVE,
        "--json",
        str(tmp_path / "f.json"),
    ]
    training.main(arguments)
    assert os.sched_getaffinity(0) == before
    assert f"| {ADAPTIVE} (" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "f.json").read_text())["figures"].values()
    assert all(len(row[side]) == 2 and min(row[side]) > 0 for side in ("theirs", "ours", "peak"))


@pytest.mark.slow  # four processes, of which two train
def test_memory_is_told(monkeypatch, capsys):
    monkeypatch.setattr(training, "machine", lambda: "a machine")
    training.main(["--quick", "--memory"])
    printed = capsys.readouterr().out
    assert "| chunked loss |" in printed
    assert "300 steps on lines" in printed
