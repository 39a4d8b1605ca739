import json
import math
import shutil

import numpy as np
import pytest

import lmlab
from lmlab import scoring, store
from lmlab.errors import ArtifactError, SettingError, UnknownNameError, UsageError
from lmlab.facade import compose
from lmlab.facade.compose import parse_adaptation, parse_component
from lmlab.facade.fitting import Fitting, head, identity
from lmlab.facade.text_model import TextModel
from lmlab.models.mixture import fit_weights
from lmlab.progress import Silent
from lmlab.vocabulary import EOS
from tests.stores import of_documents
from tests.texts import TEXT, TINY, some_text

ADAPTATIONS = [
    "dynamic:segment=16",
    "dynamic:rule=sgd,segment=16",
    "counts",
    "dynamic+counts:segment=16",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A small LSTM, an n-gram of its tokens, both saved, and what must not be mixed with them."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMLAB_CACHE", str(folder / "cache"))
        lstm = {"model": "lstm", **TINY, "hidden": 24, "steps": 60, "settings": {"train": {"lr": 0.02}}}
        for name, named in {"lstm": lstm, "kn": {"order": 2}, "cut": {"order": 1, "max_chars": 2000}}.items():
            lmlab.train(text=TEXT, tokenizer="char", **{"model": "ngram", **named}).save(folder / name)
        lmlab.train(text=TEXT, tokenizer="word", model="ngram").save(folder / "words")
        shutil.copytree(folder / "kn", folder / "other-split")
        manifest = (folder / "kn" / "manifest.json").read_text(encoding="utf-8")
        store.sign(folder / "other-split", json.loads(manifest.replace("by position", "by chance")))
        yield folder


@pytest.fixture
def lm(runs, tmp_path, monkeypatch):
    """The LSTM with its validation split, which a text in hand does not keep, and an empty cache."""
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    kept = lmlab.load(runs / "lstm")
    again = lmlab.train(text=TEXT, tokenizer="char", model="ngram", order=1)
    return TextModel(kept.model, kept.tokenizer, kept.config, kept.manifest, kept.folder, again._held_out)


def never(*args, **named):
    raise AssertionError("it was fitted again")


# -- what is named ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "error", "named"),
    [
        ("", UnknownNameError, "no adaptation is called ''"),
        ("dynamyc", UnknownNameError, "did you mean 'dynamic'"),
        ("dynamic:theta=1", UnknownNameError, "no setting of dynamic is called 'theta'"),
        ("dynamic:lr", UsageError, "setting=value, not 'lr'"),
        ("dynamic:lr=fast", SettingError, "dynamic.lr is 'fast'"),
        ("dynamic:lr=-1", SettingError, "lr is -1"),
        ("counts:weight=2", SettingError, "weight is 2"),
        ("dynamic+cache", UsageError, "--adapt cache is no more: take counts"),
    ],
)
def test_wrong_adaptations(spec, error, named):
    with pytest.raises(error, match=named):
        parse_adaptation(spec)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"mix": [None]}, r"mix is \[None\], but must be a list of runs"),
        ({"mix": "runs/kn6"}, r"mix is 'runs/kn6', but must be a list of runs"),
        ({"mix": 5}, "mix is 5, but must be a list of runs"),
        ({"adapt": ["counts"]}, r"adapt is \['counts'\], but must be text"),
    ],
)
def test_what_is_no_text_is_refused(lm, named, told):
    with pytest.raises(SettingError, match=told):
        lm.composed(**named)


def test_a_weight_is_a_share(tmp_path):
    assert parse_component("a:b:1") == ("a:b", 1.0)
    for weight in ("2", "-0.1", "nan", "half", ""):
        with pytest.raises(SettingError, match="the weight of runs/kn is"):
            parse_component(f"runs/kn:{weight}")
    (tmp_path / "run:2").mkdir()
    assert parse_component(str(tmp_path / "run:2"))[1] is None


def test_a_component_that_may_know_the_text_is_told_of(lm, runs):
    (doubt,) = lm.composed(mix=[f"{runs / 'other-split'}:0.5"]).composition["doubts"]
    assert "may know what this run held out" in doubt
    assert "doubts" not in lm.composed(mix=[f"{runs / 'kn'}:0.5"]).composition


def test_what_does_not_fit_is_refused(lm, runs):
    with pytest.raises(UsageError, match=r"another vocabulary \(word, \d+ tokens; this run char, \d+ tokens\)"):
        lm.composed(mix=[str(runs / "words")])
    with pytest.raises(UsageError, match=r"another vocabulary \(id \d+ is '.', in this run '.'\)"):
        lm.composed(mix=[str(runs / "cut")])
    with pytest.raises(UsageError, match=r"sum to 1\.1"):
        lm.composed(mix=[f"{runs / 'kn'}:0.5", f"{runs / 'kn'}:0.6"])
    with pytest.raises(UsageError, match="splits the same text otherwise"):
        lm.composed(mix=[str(runs / "other-split")])
    with pytest.raises(ArtifactError, match="no such folder"):
        lm.composed(mix=["nowhere"])
    with pytest.raises(UsageError, match="dynamic needs a neural model, but this run's is ngram"):
        lmlab.load(runs / "kn").composed("dynamic")


def test_a_composition_is_neither_saved_nor_composed_again(lm, runs, tmp_path):
    composed = lm.composed(mix=[f"{runs / 'kn'}:0.5"])
    with pytest.raises(UsageError, match="not kept"):
        composed.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="composed already"):
        composed.composed("counts")
    assert lm.composed() is lm


# -- mixtures ---------------------------------------------------------------------------------------------------------


def test_weights_are_fitted_by_em_on_the_validation_split(lm, runs):
    other = lmlab.load(runs / "kn")
    composed = lm.composed(mix=[str(runs / "kn")])
    valid = lm.held_out("valid")
    expected = fit_weights(np.stack([scoring.token_logp(b.model, valid) for b in (lm, other)]))
    mixture = composed.evaluate(split="test")["protocol"]["mixture"]
    assert [each["component"] for each in mixture] == ["this run", str(runs / "kn")]
    assert [each["weight"] for each in mixture] == pytest.approx(expected)
    nats = [scoring.evaluate(b.model, valid).nats_per_token for b in (composed, lm, other)]
    assert nats[0] < min(nats[1:])


def test_given_weights_stay(lm, runs):
    kn = str(runs / "kn")
    assert lm.composed(mix=[f"{kn}:0.3"]).model.weights == pytest.approx((0.7, 0.3))
    assert lm.composed(mix=[f"{kn}:0.3", f"{kn}:0.7"]).model.weights == pytest.approx((0, 0.3, 0.7))
    weights = lm.composed(mix=[f"{kn}:0.25", kn]).model.weights
    assert weights[1] == 0.25
    assert sum(weights) == pytest.approx(1)


def test_a_gate_moves_the_weights_where_there_is_text_enough_to_fit_it(lm, runs, monkeypatch):
    kn, valid = str(runs / "kn"), lm.held_out("valid")
    constant = lm.composed(mix=[kn])
    monkeypatch.setattr(compose, "_LEAST_GATED", 10)
    gated = lm.composed(mix=[kn])
    assert gated.composition["mixture"] == constant.composition["mixture"]
    assert "a gate" in gated.evaluate()["protocol"]["gate"]
    assert scoring.evaluate(gated.model, valid).nats_per_token < scoring.evaluate(constant.model, valid).nats_per_token
    assert lm.composed(mix=[f"{kn}:0.3"]).model.weights == pytest.approx((0.7, 0.3))  # what is named stays


def test_counts_are_of_the_whole_mixture_and_of_counted_models_too(lm, runs, tmp_path):
    mixed = lm.composed("counts:weight=0.5", mix=[str(runs / "kn") + ":0.3"])
    assert mixed.model.settings.weight == 0.5
    assert mixed.model.inner.weights == pytest.approx((0.7, 0.3))
    (tmp_path / "other.txt").write_text(TEXT[::-1], encoding="utf-8")
    counted = lmlab.load(runs / "kn")
    adapted = counted.composed("counts:longest=2,shortest=1,weight=0.5")
    nats = [each.evaluate(on=str(tmp_path / "other.txt"))["nats_per_token"] for each in (adapted, counted)]
    assert nats[0] < nats[1] - 0.5  # backwards, nothing is as it was trained; but it repeats itself


def test_with_both_the_adapted_model_is_weighed(lm, runs):
    kn = str(runs / "kn")
    composed = lm.composed("dynamic:lr=0.05,decay=0,rule=sgd,segment=8", [kn])
    adapted, other = composed.model.components
    valid = lm.held_out("valid")
    expected = fit_weights(np.stack([scoring.token_logp(part, valid) for part in (adapted, other)]))
    assert composed.model.weights == pytest.approx(expected.tolist())
    assert composed.model.weights[0] > lm.composed(mix=[kn]).model.weights[0]
    protocol = composed.evaluate()["protocol"]
    assert protocol["adaptation"]["dynamic"]["lr"] == 0.05
    assert "in order; each token predicted before it is learned from" in protocol["adapted"]


# -- adaptation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", ADAPTATIONS)
def test_it_is_chosen_on_the_validation_split_and_helps(lm, adapt):
    composed = lm.composed(adapt)
    valid = lm.held_out("valid")
    assert set(composed.composition["adaptation"]) == set(adapt.partition(":")[0].split("+"))
    assert scoring.evaluate(composed.model, valid).nats_per_token < scoring.evaluate(lm.model, valid).nats_per_token


def test_a_model_that_counts_as_it_reads_goes_on_with_it():
    cm = lmlab.train(text=TEXT, tokenizer="char", model="cm", settings={"model": {"memory": "32M"}})
    valid, online = cm.held_out("valid"), cm.composed("online+counts")
    assert set(online.composition["adaptation"]) == {"online", "counts"}
    assert scoring.evaluate(online.model, valid).nats_per_token < scoring.evaluate(cm.model, valid).nats_per_token
    with pytest.raises(UsageError, match="online"):
        cm.composed("online+dynamic")


def test_a_mixture_learns_online_with_what_is_in_it(lm, runs, tmp_path):
    text, cm = some_text(60, seed=9), str(tmp_path / "cm")
    lmlab.train(text=TEXT, tokenizer="char", model="cm", settings={"model": {"memory": "32M"}}).save(cm)
    nats = {}
    for adapt in (None, "online", "dynamic+online:lr=0.01,decay=0.01,segment=8"):
        composed = lm.composed(adapt, [f"{cm}:0.5"])
        scores = composed.score(text)
        nats[adapt] = scores.total["total_nats"]
        assert sum(row["bits"] for row in scores.rows) == pytest.approx(nats[adapt] / math.log(2), rel=1e-4)
    assert set(composed.composition["adaptation"]) == {"dynamic", "online"}
    assert nats["online"] < nats[None]
    assert len(composed.plot.mixture("the").rows) == 4
    counted = lm.composed("online+counts", [f"{cm}:0.5"])
    assert set(counted.composition["adaptation"]) == {"online", "counts"}
    assert counted.score(text).total["total_nats"] <= nats["online"] + 0.1  # weighed as the validation split wants


def test_only_such_a_model_does(lm):
    with pytest.raises(UsageError, match="--model cm"):
        lm.composed("online")


def test_what_is_named_is_not_chosen(lm):
    adaptation = lm.composed("dynamic+counts:lr=0.003,discount=0.6,segment=8").composition["adaptation"]
    assert (adaptation["dynamic"]["lr"], adaptation["dynamic"]["segment"]) == (0.003, 8)
    assert adaptation["counts"]["discount"] == 0.6
    assert adaptation["counts"]["weight"] != 0.4  # the default, which the fit leaves on a text of so few words


@pytest.mark.parametrize("adapt", ["dynamic:segment=16", "counts"])
def test_it_is_fitted_once(lm, runs, monkeypatch, tmp_path, adapt):
    spec = adapt, [str(runs / "kn")]
    first = lm.composed(*spec)
    with monkeypatch.context() as patch:
        for name in ("gradient_rms", "fit_weights", "mean_nats"):
            patch.setattr(compose, name, never)
        assert lm.composed(*spec).composition == first.composition
        with pytest.raises(AssertionError, match="again"):
            lm.composed("dynamic:segment=17")
    for path in (tmp_path / "cache" / "adaptation").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert lm.composed(*spec).composition == first.composition


def test_other_weights_are_another_model(runs):
    lm, other = (lmlab.load(runs / "lstm") for _ in range(2))
    assert identity(lm) == identity(other)
    other.model.output.bias.data[5] += 1e-3
    assert identity(lm) != identity(other)


def test_without_a_validation_split(runs, lm):
    """A text in hand is not kept by a saved run: plain steps at their defaults, and weights must be named."""
    alone = lmlab.load(runs / "lstm")
    assert alone.held_out("valid") is None
    assert alone.composed("dynamic").composition["adaptation"]["dynamic"]["rule"] == "sgd"
    assert alone.composed("counts").composition["adaptation"]["counts"]["weight"] == 0.4
    with pytest.raises(UsageError, match="take rule=sgd"):
        alone.composed("dynamic:rule=rms")
    with pytest.raises(UsageError, match=r"--mix RUN:0\.3"):
        alone.composed(mix=[str(runs / "kn")])
    assert alone.composed(mix=[f"{runs / 'kn'}:0.3"]).model.weights == pytest.approx((0.7, 0.3))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (3, [[4, 5, 6]]),
        (4, [[4, 5, 6, EOS]]),
        (5, [[4, 5, 6, EOS]]),  # of the next document only <bos> would be left
        (6, [[4, 5, 6, EOS], [7]]),
        (99, [[4, 5, 6, EOS], [7, EOS]]),
    ],
)
def test_the_beginning_of_the_validation_split(tokens, expected):
    whole = of_documents([[4, 5, 6], [7]])
    cut = head(tokens, whole)
    assert [cut.document(number).tolist()[1:] for number in range(len(cut))] == expected
    assert cut.tokens == sum(map(len, expected))


def test_a_search_leaves_what_explodes(lm):
    fitting = Fitting(lm, Silent())
    costs = []

    def cost(values):
        costs.append(values["lr"])
        return math.inf if values["lr"] > 0.05 else abs(math.log(values["lr"] / 0.02))

    assert fitting.search("dynamic", {"lr": 0.1}, cost)["lr"].item() == 0.025
    assert costs == [0.1, 0.2, 0.05, 0.025, 0.0125]


# -- a composed lm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapt", [None, "dynamic:lr=0.01,decay=0.01,segment=4", "counts:weight=0.3"])
def test_it_scores_and_writes_as_any_other(lm, runs, adapt):
    composed = lm.composed(adapt, [f"{runs / 'kn'}:0.4"])
    scores = composed.score(some_text(3, seed=5))
    bits = sum(row["bits"] for row in scores.rows)
    assert bits == pytest.approx(scores.total["total_nats"] / math.log(2), rel=1e-4)
    assert scores.total["total_nats"] != pytest.approx(lm.score(some_text(3, seed=5)).total["total_nats"], rel=1e-3)
    texts = [composed.generate("the ", lmlab.Sample(seed=1), n=2, max_tokens=12) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0][0].text == "".join(
        step.new for step in composed.stream("the ", lmlab.Sample(seed=1), max_tokens=12)
    )
