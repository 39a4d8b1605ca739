"""The benchmark of tinyshakespeare, on a text of its own and a few seconds."""

from __future__ import annotations

import math

import pytest

import shakespeare
from tests.texts import some_text


@pytest.mark.slow
def test_a_run_gives_every_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(some_text(2_000), encoding="utf-8")
    run = shakespeare.one_run(0, 0.05, tmp_path, "text.txt", shakespeare.SPLIT)
    nats = run["nats"]
    assert set(nats) == set(shakespeare.EVALUATIONS)
    assert len(set(nats.values())) == len(nats)  # every way to evaluate did something
    # a text drawn from one distribution rewards neither mixing nor adapting; but a mixture is bounded by its parts
    assert nats["with the n-gram, weight 0.25"] < nats["one LSTM"] - math.log(0.75)
    assert run["wall"] == run["seconds"]["training"] + run["seconds"]["counting"]
    assert "| one LSTM |" in shakespeare.table([run])
