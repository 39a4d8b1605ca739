"""Comparisons: the mixture beside its components, the ladder, what a budget bought, overwriting."""

import numpy as np
import pytest

import lmlab
from lmlab import scoring
from lmlab.errors import RunExistsError, UsageError
from tests.texts import PPMD, QUICK, TEXT

TRAIN = {name: value for name, value in QUICK.items() if name != "baseline"}
OWN = {"ngram": {"model": {"order": 2}}, "lstm": {"model": {"hidden": 8}}}


def compared(poem, **named):
    return lmlab.compare(poem, ["ngram", "lstm"], settings=OWN, tokenizer="char", train=TRAIN, **named)


@pytest.fixture(scope="module")
def poem(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "poem.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def comparison(poem, tmp_path_factory):
    return compared(poem, out=tmp_path_factory.mktemp("compared") / "runs")


def test_the_mixture_is_a_run_that_scores_and_writes_as_the_table_says(comparison):
    ngram, lstm, mixture = comparison
    again = lmlab.load(mixture.folder)
    assert again.evaluate()["total_nats"] == pytest.approx(comparison.rows[-1]["total_nats"], rel=1e-6)
    assert lmlab.load(lstm.folder).manifest["results"]["test"] == lstm.manifest["results"]["test"]
    weights = mixture.manifest["results"]["weights"]
    assert list(weights) == ["ngram", "lstm"]
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3)
    valid = ngram.held_out("valid")
    nats = [-float(scoring.token_logp(lm.model, valid).sum(dtype=np.float64)) for lm in comparison]
    assert nats[-1] <= min(nats[:-1]) * (1 + 1e-6)  # fitted there, it is no worse there than the best
    assert again.generate("the ", "greedy", max_tokens=3)[0].tokens


def test_the_ladder_ends_in_the_mixture_and_says_what_a_budget_bought(comparison):
    rungs = {rung.name: rung for rung in comparison.ladder}
    assert list(rungs) == ["uniform", *PPMD, "ngram", "lstm", "mixture"]
    assert rungs["uniform"].bits == 8.0
    assert rungs["lstm"].note.startswith("3 steps, 0.")
    assert "passes" in rungs["lstm"].note
    assert rungs["mixture"].note.endswith(" lstm")
    shown, html = repr(comparison), comparison._repr_html_()
    for name, rung in rungs.items():
        assert f"{name}" in shown
        assert f"{rung.bits:.3f}" in shown
        assert f"<th>{name}</th>" in html
    assert list(comparison.table["model"]) == ["ngram", "lstm", "mixture"]
    assert comparison[0].config.model.kind == "ngram"
    assert len(comparison[:2]) == 2


def test_one_model_and_no_validation_split_have_no_mixture(poem):
    assert len(lmlab.compare(poem, ["ngram"])) == 1
    assert len(compared(poem, split="0.9,0,0.1")) == 2
    with pytest.raises(UsageError, match="made of the other models"):
        lmlab.compare(poem, ["ngram", "mixture"])


def test_too_few_steps_are_said_beside_the_ladder(poem):
    train = {name: value for name, value in TRAIN.items() if name != "steps"} | {"minutes": 1e-6}
    models = lmlab.compare(poem, ["ngram", "lstm"], settings=OWN, train=train)
    assert "lstm: too few steps to learn from" in repr(models)
    assert "too few steps" in models._repr_html_()


def test_a_cell_run_twice_does_not_raise_and_what_is_no_run_is_never_removed(poem, tmp_path):
    out = tmp_path / "runs"
    for overwrite in (False, True):
        compared(poem, out=out, overwrite=overwrite)
    with pytest.raises(RunExistsError, match="overwrite"):
        compared(poem, out=out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds more than runs"):
        compared(poem, out=out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    for train in (lmlab.train, lmlab.estimate):
        for overwrite in (False, True):
            lm = train(poem, out=tmp_path / train.__name__, overwrite=overwrite, **ORDER[train])
        assert lmlab.load(tmp_path / train.__name__).config == lm.config
    before = sorted(tmp_path.iterdir())
    lm.save(lm.folder, overwrite=True)  # over the arrays that it is reading
    assert lm.score("the cat sat").total["tokens"] == 4
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(UsageError):
        lmlab.train(poem, model="ngram", out=tmp_path, overwrite=True, order=0)
    assert sorted(tmp_path.iterdir()) == before


ORDER = {lmlab.train: {"model": "ngram", "order": 2}, lmlab.estimate: {"order": 2}}
