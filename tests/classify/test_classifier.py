"""The classifier from texts to figures: fitted, kept, read back, and through nasty inputs in one line."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
from time import perf_counter

import numpy as np
import pytest

import lmlab
from lmlab.classify import Classifier
from lmlab.classify.batches import by_length
from lmlab.classify.data import read
from lmlab.classify.figures import calibration_temperature, figures, log_loss, probabilities
from lmlab.cli import main
from lmlab.corpora import DataSettings
from lmlab.errors import (
    ArtifactError,
    DataError,
    LmlabError,
    RunExistsError,
    SettingError,
    UnknownNameError,
    UsageError,
)
from lmlab.progress import Reporter

RNG = np.random.default_rng(0)
WORDS = {"sport": ["goal", "match", "team", "win", "cup"], "money": ["bank", "stock", "price", "market", "oil"]}
TEXTS, LABELS = [], []
for nth in range(80):
    LABELS.append(["sport", "money"][nth % 2])
    TEXTS.append(" ".join(RNG.choice([*WORDS[LABELS[-1]], "the", "of", "a"], size=RNG.integers(3, 12))))
TINY = {"hidden": 12, "embedding": 8, "steps": 60, "threads": 1, "precision": "fp32", "lr": 1e-2}
NETWORKS = [("lstm", TINY), ("cnn", {"channels": 12, "steps": 60, "precision": "fp32", "lr": 1e-2})]


def made(kind: str) -> Classifier:
    match kind:
        case "bayes":
            return Classifier()
        case "lstm":
            return Classifier("lstm", settings=TINY)
        case _:
            return Classifier("lstm", bayes=True, settings={**TINY, "steps": 10})


KINDS = ["bayes", "lstm", "neural bayes"]


@pytest.mark.parametrize("kind", KINDS)
def test_learns_keeps_and_reads_back(kind, tmp_path):
    classifier = made(kind).fit(TEXTS, LABELS)
    assert classifier.score(TEXTS, LABELS) > 0.9
    p = classifier.predict_proba([*TEXTS, ""])
    np.testing.assert_allclose(p.sum(1), 1)
    assert classifier.classes_.tolist() == ["money", "sport"]
    assert classifier.predict(["goal of the team", "stock market"]).tolist() == ["sport", "money"]
    assert classifier.predict([]).tolist() == []
    again = Classifier.load(classifier.save(tmp_path / "run"))
    np.testing.assert_array_equal(again.predict_proba([*TEXTS, ""]), p)
    with pytest.raises(RunExistsError):
        classifier.save(tmp_path / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_classifier_and_company_changes_no_prediction(kind):
    classifier = made(kind).fit(TEXTS, LABELS)
    p = classifier.predict_proba(TEXTS)
    np.testing.assert_array_equal(made(kind).fit(TEXTS, LABELS).predict_proba(TEXTS), p)
    alone = np.concatenate([classifier.predict_proba([text]) for text in TEXTS[:8]])
    np.testing.assert_allclose(alone, p[:8], atol=1e-5)
    beside = classifier.predict_proba([*TEXTS[:8], "goal " * 400])[:8]
    np.testing.assert_allclose(beside, p[:8], atol=1e-5)


@pytest.mark.parametrize(("model", "settings"), NETWORKS)
def test_starts_from_a_language_model(model, settings, tmp_path):
    quick = {"split": "none", "steps": 5, "baseline": False, "samples": False, "threads": 1, "precision": "fp32"}
    width = {name: settings[name] for name in ("hidden", "embedding", "channels") if name in settings}
    lmlab.train(TEXTS * 3, tokenizer="word", model=model, out=tmp_path / "lm", **quick, **width)
    settings = {**settings, "steps": 80}
    settings = {name: value for name, value in settings.items() if name not in width}
    classifier = Classifier(start=str(tmp_path / "lm"), settings=settings).fit(TEXTS, LABELS)
    assert classifier.score(TEXTS, LABELS) > 0.9
    assert classifier.fitted.config.model.kind == model
    again = Classifier.load(classifier.save(tmp_path / "run"))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), classifier.predict_proba(TEXTS))
    with pytest.raises(UsageError, match="beside a start"):
        Classifier("gru", start=str(tmp_path / "lm")).fit(TEXTS, LABELS)


def test_frozen_layers_stay_until_they_are_thawed(tmp_path):
    quick = {
        "split": "none",
        "steps": 3,
        "baseline": False,
        "samples": False,
        "hidden": 12,
        "embedding": 8,
        "threads": 1,
    }
    lm = lmlab.train(TEXTS, tokenizer="word", model="lstm", out=tmp_path / "lm", **quick)
    frozen = Classifier(start=str(tmp_path / "lm"), frozen=0.99, settings={"steps": 5}).fit(TEXTS, LABELS)
    thawed = Classifier(start=str(tmp_path / "lm"), frozen=0.0, settings={"steps": 5}).fit(TEXTS, LABELS)
    before = lm.model.embedding.weight
    assert bool((frozen.fitted.scorer.encoder.embedding.weight == before).all())
    assert not bool((thawed.fitted.scorer.encoder.embedding.weight == before).all())


def test_calibration_lowers_the_log_loss_and_changes_no_label():
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(size=(500, 4)) * 20, rng.integers(4, size=500)
    logits[np.arange(500), classes] += 15
    temperature = calibration_temperature(logits, classes)
    assert log_loss(logits, classes, temperature) < log_loss(logits, classes)
    tried = [log_loss(logits, classes, t) for t in temperature * np.array([0.9, 1.1])]
    assert log_loss(logits, classes, temperature) <= min(tried)
    assert (probabilities(logits, temperature).argmax(1) == logits.argmax(1)).all()


def test_a_tenth_is_held_out_and_calibrates_where_it_is_large_enough():
    texts = [f"{text} {nth}" for nth, text in enumerate(TEXTS * 5)]
    many = Classifier().fit(texts, LABELS * 5).fitted
    assert many.temperature != 1
    assert "log_loss_before_calibration" in many.manifest["results"]
    assert Classifier().fit(TEXTS * 5, LABELS * 5).fitted.temperature == 1


def test_figures_by_hand_with_a_label_never_seen_in_training():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = figures(p, ["a", "b"], ["a", "b", "b", "new"])
    assert found["accuracy"] == 0.5
    assert found["unseen_labels"] == ["new"]
    assert [row["f1"] for row in found["labels"]] == pytest.approx([0.5, 2 / 3, 0.0])
    assert found["macro_f1"] == pytest.approx((0.5 + 2 / 3) / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.2, 0.7]).mean())
    assert {(c["label"], c["predicted"]): c["texts"] for c in found["confusions"]}["new", "a"] == 1


def test_batches_hold_every_text_once_and_like_lengths():
    lengths = np.random.default_rng(0).integers(2, 100, size=1000)
    batches = by_length(lengths, 16, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 10


NASTY = {
    "one label": (["a", "b"] * 20, ["x"] * 40, "one class alone is there, 'x'"),
    "no text": ([], [], "there is no text"),
    "none": (["a", "b"], ["x", None], "label 1 is None"),
    "nan label": (["a", "b"], ["x", float("nan")], "label 1 is nan"),
    "infinite label": (["a", "b"], [1.0, float("inf")], "label 1 is inf"),
    "continuous label": (["a", "b"], [1.0, 0.5], "label 1 is 0.5, of a continuous range"),
    "empty label": (["a", "b"], ["x", ""], "label 1 is ''"),
    "mixed": (["a", "b"], ["x", 1], "some labels are texts, others numbers"),
    "nan text": (["a", float("nan")], ["x", "y"], "text 1 is nan"),
    "none text": (["a", None], ["x", "y"], "text 1 is None"),
    "numbers": (np.array([[1.0, np.nan], [2, 3]]), ["x", "y"], "which is no text"),
    "no labels": (["a", "b"], None, "the target y is None"),
    "a string of labels": (["a", "b"], "xy", "the target y is 'xy'"),
    "one string": ("abc", ["x", "y", "x"], "stands in place of texts"),
    "lengths": (["a", "b", "c"], ["x", "y"], "3 texts, but 2 labels"),
    "surrogate": (["a", "\ud800"], ["x", "y"], "no text"),
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("model", ["ngram", "lstm"])
def test_nasty_input_is_one_line(name, model):
    texts, labels, said = NASTY[name]
    with pytest.raises(LmlabError, match=said) as error:
        Classifier(model, settings={"steps": 2}).fit(texts, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize(
    "labels",
    [
        ['a, "b"', "two\nlines"],
        ["é\u202e\U0001f600", " "],
        ["class-000", "../up"],
        [1, 2],
        [2.0, -1.0],
        [True, False],
        list(np.array([7, 8])),
    ],
    ids=str,
)
def test_labels_of_any_kind_come_back_as_they_were(kind, labels, tmp_path):
    classifier = made(kind).fit(TEXTS, [labels[label == "sport"] for label in LABELS])
    assert classifier.score(TEXTS, [labels[label == "sport"] for label in LABELS]) > 0.9
    again = Classifier.load(classifier.save(tmp_path / "run"))
    assert again.predict(["goal team", "bank stock"]).tolist() == [labels[1], labels[0]]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_empty_texts_are_texts(kind):
    classifier = made(kind).fit(["", "goal match", " ", "bank"] * 10, ["none", "some", "none", "some"] * 10)
    assert classifier.predict(["", "goal", "\n"]).tolist()[:2] == ["none", "some"]


CLASSES = {
    "one text of a class": ([*TEXTS, "rain"], [*LABELS, "weather"], {}),
    "one empty text of a class": ([*TEXTS, ""], [*LABELS, "nothing"], {"neural bayes": "take n-grams, or one network"}),
    "a class a text": (TEXTS[:10], range(10), {}),
    "10,000 classes": (
        [f"w{n}" for n in range(10_000)],
        range(10_000),
        dict.fromkeys(["bayes", "neural bayes"], "train one network"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_few_texts_are_learned_or_a_line_says_what_works(kind, name):
    texts, labels, remedies = CLASSES[name]
    classifier = made(kind).set_params(settings={**TINY, "steps": 1} if kind != "bayes" else None)
    if kind in remedies:
        with pytest.raises(LmlabError, match=remedies[kind]) as error:
            classifier.fit(texts, labels)
        assert "\n" not in str(error.value)
        return
    p_NC = classifier.fit(texts, labels).predict_proba(texts[-3:])
    assert p_NC.shape == (3, len(set(labels)))
    assert np.isfinite(p_NC).all()


def test_settings_are_checked_in_one_line():
    with pytest.raises(SettingError, match=r"classify\.pool"):
        Classifier("lstm", pool="first").fit(TEXTS, LABELS)
    with pytest.raises(UnknownNameError):
        Classifier("lsmt").fit(TEXTS, LABELS)
    with pytest.raises(UsageError, match="not trained from text"):
        Classifier("mixture").fit(TEXTS, LABELS)
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read("nowhere.csv", DataSettings())
    with pytest.raises(UsageError, match=r"train\.carry does nothing"):
        Classifier("lstm", settings={**TINY, "carry": False}).fit(TEXTS, LABELS)
    with pytest.raises(UsageError, match="stupid backoff"):
        Classifier(settings={"smoothing": "stupid-backoff"}).fit(TEXTS, LABELS)
    with pytest.raises(UsageError, match="call fit first"):
        Classifier().predict(["x"])


def test_parameters_are_scikit_learns():
    classifier = Classifier("lstm", settings=TINY)
    assert type(classifier)(**classifier.get_params()).get_params() == classifier.get_params()
    assert classifier.set_params(pool="last", seed=3).pool == "last"
    assert repr(Classifier("gru", seed=2)) == "Classifier(model='gru', seed=2)"
    with pytest.raises(ValueError, match="takes no 'C'"):
        classifier.set_params(C=1)


def test_scikit_learn_takes_it():
    pytest.importorskip("sklearn", reason="scikit-learn is no dependency")
    from sklearn.base import clone, is_classifier
    from sklearn.ensemble import VotingClassifier
    from sklearn.metrics import f1_score
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    assert is_classifier(Classifier())
    assert cross_val_score(Classifier(), TEXTS, LABELS, cv=3).mean() > 0.9
    pipeline = make_pipeline(FunctionTransformer(lambda texts: [text.upper() for text in texts]), Classifier())
    assert clone(pipeline).fit(TEXTS, LABELS).score(TEXTS, LABELS) > 0.9
    search = GridSearchCV(Classifier(), {"tokenizer": ["word", "char"]}, cv=2).fit(TEXTS, LABELS)
    assert search.best_score_ > 0.9
    ways = [("words", Classifier()), ("characters", Classifier(tokenizer="char"))]
    voting = VotingClassifier(ways, voting="soft").fit(TEXTS, LABELS)
    assert voting.score(TEXTS, LABELS) > 0.9
    both = np.mean([each.predict_proba(TEXTS) for each in voting.estimators_], axis=0)
    np.testing.assert_allclose(voting.predict_proba(TEXTS), both)
    classifier = Classifier().fit(TEXTS, LABELS)
    said = classifier.predict(TEXTS)
    assert classifier.evaluate(TEXTS, LABELS)["macro_f1"] == pytest.approx(f1_score(LABELS, said, average="macro"))


# -- records and the command line -------------------------------------------------------------------------------------


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "news.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["topic", "text"])
        writer.writerows(zip([f"{label}, or\n«so»" for label in LABELS * 3],
                             [f"{text} {n}" for n, text in enumerate(TEXTS * 3)], strict=True))  # fmt: skip
    return path


def test_train_eval_predict(records, tmp_path, capsys):
    run, split = str(tmp_path / "run"), "0.6,0.2,0.2"
    assert main(["classify", "train", str(records), "--label-field", "topic", "--split", split, "-o", run]) == 0
    assert "naive Bayes" in capsys.readouterr().out
    assert main(["classify", "eval", run, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    labelled = read(records, DataSettings(split=split), "topic")
    assert found["texts"] == len(labelled.splits["test"])
    assert found["accuracy"] > 0.9
    assert main(["classify", "eval", run]) == 0
    assert r"sport, or\n«so»" in capsys.readouterr().out
    (tmp_path / "texts.txt").write_text("goal team\n\nbank stock\n")
    assert main(["classify", "predict", run, str(tmp_path / "texts.txt")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines][::2] == [r"sport, or\n«so»", r"money, or\n«so»"]
    assert len(lines) == 3
    assert main(["classify", "predict", run, str(records), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 240
    assert main(["classify", "train", str(records), "--label-field", "topic", "-o", run]) == 2


def test_a_language_model_is_no_classifier_nor_the_other_way_round(tmp_path, capsys):
    Classifier().fit(TEXTS, LABELS).save(tmp_path / "classifier")
    lmlab.train(TEXTS, tokenizer="word", model="ngram", split="none", out=tmp_path / "lm")
    with pytest.raises(ArtifactError, match="classify eval"):
        lmlab.load(tmp_path / "classifier")
    with pytest.raises(ArtifactError, match="no classifier"):
        Classifier.load(tmp_path / "lm")
    assert main(["classify", "eval", str(tmp_path / "classifier")]) == 2
    assert "name some with --on" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_damaged_file_is_told(kind, tmp_path):
    made(kind).fit(TEXTS, LABELS).save(tmp_path / "run")
    for file in [path for path in (tmp_path / "run").rglob("*") if path.is_file()]:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ArtifactError) as error:
            Classifier.load(tmp_path / "run")
        assert "\n" not in str(error.value)
        file.write_bytes(content)
    Classifier.load(tmp_path / "run")


BAD_RECORDS = {
    '{"text": "a", "topic": "x"}\n{"text": "b"}': "has no field 'topic'",
    '{"text": "a", "topic": null}': "is None, which is no label",
    '{"text": "a", "topic": NaN}': "is nan, which is no label",
    '{"text": "a", "topic": ["x"]}': "which is no label",
    '{"text": 3, "topic": "x"}': "holds neither text",
    "": "holds no record",
    '{"text": "a", "topic": "x"}': "one class alone is there, 'x'",
    "plain text": "is not JSON",
}


@pytest.mark.parametrize("content", BAD_RECORDS)
def test_bad_records_are_one_line(content, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text(content)
    arguments = [str(tmp_path / "bad.jsonl"), "--label-field", "topic", "--split", "none", "-o", str(tmp_path / "run")]
    assert main(["classify", "train", *arguments]) == 1
    said = capsys.readouterr().err.splitlines()
    assert BAD_RECORDS[content] in said[-1]
    assert not (tmp_path / "run").exists()


def test_ten_thousand_numbers_as_labels(tmp_path, capsys):
    rows = [{"text": f"w{number}", "label": number, "partition": "train"} for number in range(10_000)]
    rows += [{"text": "w7", "label": 7, "partition": "test"}, {"text": "w8", "label": 9.0, "partition": "test"}]
    (tmp_path / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["classify", "train", str(tmp_path / "many.jsonl"), "-o", str(tmp_path / "run")]
    assert main(words) == 2
    assert "10,000 classes would need as many language models" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    small = ["--steps", "1", "--set", "model.hidden=4", "--set", "model.embedding=4", "--set", "train.precision=fp32"]
    assert main([*words, "--model", "gru", *small]) == 0
    capsys.readouterr()
    assert main(["classify", "eval", str(tmp_path / "run"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["texts"] == 2
    assert found["unseen_labels"] == ["9.0"]
    assert {row["label"] for row in found["labels"]} > {"7", "9.0"}


def test_a_label_absent_in_training_is_an_error_and_told(tmp_path, capsys):
    part = {"train": TEXTS, "valid": TEXTS[:6], "test": TEXTS[:10]}
    rows = [{"text": text, "label": label, "partition": split}
            for split, texts in part.items() for text, label in zip(texts, LABELS, strict=False)]  # fmt: skip
    rows += [{"text": "weather rain", "label": "weather", "partition": split} for split in ("valid", "test")]
    (tmp_path / "news.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["classify", "train", str(tmp_path / "news.jsonl"), "-o", str(tmp_path / "run")]) == 0
    assert main(["classify", "eval", str(tmp_path / "run")]) == 0
    assert "1 label never seen in training" in " ".join(capsys.readouterr().out.split())
    found = Classifier.load(tmp_path / "run").fitted.manifest["results"]["test"]
    assert found["unseen_labels"] == ["weather"]
    assert found["accuracy"] <= 10 / 11


def test_records_of_a_program(tmp_path):
    rows = [{"text": text, "label": 1} for text in TEXTS]
    labelled = read({"train": rows, "test": rows[:3]}, DataSettings())
    assert {split: len(part) for split, part in labelled.splits.items()} == {"train": 80, "valid": 0, "test": 3}
    assert labelled.of("all").labels[0] == "1"
    with pytest.raises(UnknownNameError):
        labelled.of("dev")
    with pytest.raises(DataError):
        read([{"text": "a"}], DataSettings())


def test_minutes_are_the_whole_commands():
    labelled = read([{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)], DataSettings())
    tiny = {f"model.{name}": TINY[name] for name in ("hidden", "embedding")}
    classifier = Classifier("lstm").learn({"train.minutes": 1, **tiny}, labelled, Reporter(), perf_counter() - 600)
    assert classifier.fitted.manifest["results"]["steps"] == 1


class CtrlC(Reporter):
    """Presses it at the first step of training."""

    @contextlib.contextmanager
    def stage(self, title, total=None, unit="B"):
        yield lambda done: os.kill(os.getpid(), signal.SIGINT) if title == "training" else None


def test_ctrl_c_keeps_the_weights_so_far(records, tmp_path, monkeypatch):
    monkeypatch.setattr("lmlab.cli.classify_train.reporter_of", lambda options: CtrlC())
    words = ["classify", "train", str(records), "--label-field", "topic", "--split", "0.6,0.2,0.2", "--model", "lstm"]
    small = ["--set", "model.hidden=8", "--set", "train.precision=fp32", "--epochs", "100000"]
    assert main([*words, *small, "-o", str(tmp_path / "run")]) == 130
    manifest = Classifier.load(tmp_path / "run").fitted.manifest
    assert (manifest["status"], manifest["results"]["steps"]) == ("interrupted", 1)
