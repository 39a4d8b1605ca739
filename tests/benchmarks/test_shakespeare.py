"""The benchmark of tinyshakespeare, on a text of its own and a few seconds."""

from __future__ import annotations

import json
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
    (config, manifest) = (
        json.loads((tmp_path / "lstm" / f"{name}.json").read_text()) for name in ("config", "manifest")
    )
    assert (run["hidden"], run["lr"]) == (config["model"]["hidden"], config["train"]["lr"])
    assert (run["steps"], run["tokens_seen"]) == (manifest["results"]["steps"], manifest["results"]["tokens_seen"])


def made_up(seed, shift):
    """A run with figures that can be reckoned with by hand."""
    nats = {name: 1.0 + place / 10 + shift for place, name in enumerate(shakespeare.EVALUATIONS)}
    seconds = {name: 10.0 * place + shift for place, name in enumerate(shakespeare.EVALUATIONS)}
    about = {"hidden": 640, "lr": 4e-3, "steps": 7000, "tokens_seen": 7_654_321, "parameters": 1_900_000}
    seconds |= {"training": 170.0, "counting": 3.5, "priming": 7.0}
    return {"seed": seed, "nats": nats, "seconds": seconds, "wall": 173.5, **about}


def test_the_table_gives_means_each_seed_and_medians():
    lines = shakespeare.table([made_up(0, 0.0), made_up(4, 0.2), made_up(7, 0.7)]).splitlines()
    assert lines[0] == "| nats/char, last tenth | mean | seeds 0, 4, 7 | seconds |"
    assert lines[2] == "| one LSTM | 1.3000 | 1.0000 1.2000 1.7000 | 0 |"
    assert lines[3] == "| with the n-gram, weight 0.25 | 1.4000 | 1.1000 1.3000 1.8000 | 10 |"
    assert lines[10] == (
        "seed 0: 640 units, 1,900,000 parameters, lr 0.004, 7000 steps, 7.65 M tokens; 170.0 s of training, "
        "3.5 s for the n-gram, 173.5 s in all; 7.0 s for context mixing"
    )


def test_the_wall_time_is_that_of_the_two_commands_that_train(tmp_path, monkeypatch):
    """Not of those that evaluate, which come in the other rows."""
    (tmp_path / "lstm").mkdir()
    config = {"model": {"hidden": 8}, "train": {"lr": 0.1}}
    (tmp_path / "lstm" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    asked = []

    def lmlab(*words, cwd):
        asked.append(words)
        answer = {"steps": 1, "tokens_seen": 2, "parameters": 3} if words[0] == "train" else [{"nats_per_token": 1.5}]
        return answer, {"train": 2.0 ** len(asked), "eval": 1000.0}[words[0]]

    monkeypatch.setattr(shakespeare, "lmlab", lmlab)
    run = shakespeare.one_run(3, None, tmp_path, "text.txt", "0.9,0,0.1")
    assert run["wall"] == 2 + 4
    assert run["seconds"] == {
        "training": 2,
        "counting": 4,
        "priming": 8,
        **dict.fromkeys(shakespeare.EVALUATIONS, 1000.0),
    }
    assert [words[0] for words in asked] == ["train", "train", "train", *["eval"] * len(shakespeare.EVALUATIONS)]
    assert all("--minutes" not in words for words in asked)
    assert asked[0][asked[0].index("--seed") + 1] == "3"
