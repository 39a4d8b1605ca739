"""How well are AG News told apart, beside scikit-learn's TF-IDF and logistic regression?

    python benchmarks/classify.py -o runs/ag-news --seeds 0 1 2

7,600 texts of four classes in the order of their SHA-256: the first 5,600 train, 1,000 validate, 1,000 test. The
language model that a network starts from learns from the training texts alone. Recipes were chosen on the validation
split; the test split is read once, for the table. What is trained is kept in DIR and not trained again; `--only` trains
one, `--valid` shows the validation split.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import lmlab
from common import machine, table
from lmlab.classify import Classifier
from lmlab.classify.data import Examples, Labelled
from lmlab.classify.figures import calibration_temperature, figures, probabilities
from lmlab.corpora.cache import find
from lmlab.corpora.settings import IN_HAND
from lmlab.progress import default_reporter

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
SIZES = {"train": 5_600, "valid": 1_000, "test": 1_000}
NGRAMS: dict[str, dict[str, Any]] = {
    "n-gram, order 2, words": {},
    "n-gram, order 5, characters": {"tokenizer": "char", "settings": {"order": 5}},
    "n-gram, order 3, bpe": {"tokenizer": "bpe", "settings": {"order": 3}},
}
WIDTH = {"model.hidden": 128, "model.embedding": 128, "model.dropout": 0.4}
LANGUAGE_MODEL = {"softmax": "adaptive", "epochs": 4, "lr": 6e-3, "batch_size": 16, "dropout_schedule": "constant"}
QUIET = {"baseline": False, "samples": False, "precision": "fp32", "threads": 1}
SCRATCH = {"train.epochs": 6, "train.lr": 4e-3, "train.evaluations": 12, "tokenizer.min_count": 2, **WIDTH}
TUNED = {"train.epochs": 4, "train.lr": 1e-2, "train.evaluations": 12}
THAW = {"frozen": 0.1, "decay": 1.3}
FIGURES = ("accuracy", "macro_f1", "log_loss", "calibration_error")
FIXED = {"train.threads": 1, "train.precision": "fp32"}


def corpus() -> Labelled:
    """AG News by split."""
    path = find("ag_news_test.csv")
    if path is None:
        raise SystemExit("ag_news_test.csv is not there: `lmlab corpora ag_news_test` fetches it")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(f"{title} ; {text}", CLASSES[int(label) - 1]) for label, title, text in csv.reader(file)]
    rows.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    splits, at = {}, 0
    for split, size in SIZES.items():
        splits[split] = Examples(*map(list, zip(*rows[at : at + size], strict=True)))
        at += size
    return Labelled("AG News", "", "in the order of SHA-256", splits)


def train(name: str, folder: Path, news: Labelled) -> None:
    """Train a classifier, or the language model, and keep it."""
    out, reporter = folder / name, default_reporter()
    if name == "language-model":
        texts = {split: part.texts for split, part in news.splits.items()}  # test: a corpus has it
        settings: dict[str, Any] = {**LANGUAGE_MODEL, **QUIET, **{path.split(".")[1]: v for path, v in WIDTH.items()}}
        lmlab.train(texts, model="lstm", tokenizer="word", lower=True, min_count=2, out=out, **settings)
        return
    way, _, seed = name.partition("-seed-")
    started = way == "tuned"
    classifier = Classifier(start=str(folder / "language-model"), **THAW) if started else Classifier("lstm")
    named = {"source": IN_HAND, "seed": int(seed), **FIXED, **(TUNED if started else SCRATCH)}
    classifier.learn(named, news, reporter).save(out)


def scikit_learn(news: Labelled) -> dict[str, dict[str, np.ndarray]]:
    """p_NC by split: its defaults, and the words or pairs and C that do best on the validation split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    learned, held_out = news.of("train"), news.of("valid")
    fitted = {
        (words, C): make_pipeline(
            TfidfVectorizer(ngram_range=(1, words), sublinear_tf=words > 1), LogisticRegression(C=C, max_iter=1000)
        ).fit(learned.texts, learned.labels)
        for words, C in [(1, 1.0), (1, 3.0), (1, 10.0), (2, 3.0), (2, 10.0), (2, 30.0)]
    }
    best = max(fitted, key=lambda each: fitted[each].score(held_out.texts, held_out.labels))
    chosen = {"scikit-learn, its defaults": (1, 1.0), f"scikit-learn, 1 to {best[0]} words, C = {best[1]:g}": best}
    return {
        f"{name}: TF-IDF, logistic regression": {
            split: fitted[each].predict_proba(news.of(split).texts) for split in ("valid", "test")
        }
        for name, each in chosen.items()
    }


def ensemble(members: list[dict[str, np.ndarray]], labels: list[str]) -> dict[str, np.ndarray]:
    """The normalised geometric mean of probabilities, calibrated on the validation split."""
    logits = {split: np.mean([np.log(p[split] + 1e-12) for p in members], axis=0) for split in ("valid", "test")}
    classes_N = np.array([sorted(CLASSES).index(label) for label in labels])
    temperature = calibration_temperature(logits["valid"], classes_N)
    return {split: probabilities(logits_NC, temperature) for split, logits_NC in logits.items()}


def measured(folder: Path, seeds: list[int], news: Labelled) -> dict[str, list[dict[str, np.ndarray]]]:
    """p_NC by split of everything, for each seed where there are several."""

    def asked(classifier: Classifier) -> dict[str, np.ndarray]:
        return {split: classifier.predict_proba(news.of(split).texts) for split in ("valid", "test")}

    found = {name: [p] for name, p in scikit_learn(news).items()}
    for name, given in NGRAMS.items():
        named = {"source": IN_HAND, **{f"model.{k}": v for k, v in given.get("settings", {}).items()}}
        found[name] = [asked(Classifier("ngram", given.get("tokenizer")).learn(named, news, default_reporter()))]
    for name, way in {"LSTM from scratch": "scratch", "LSTM from the language model": "tuned"}.items():
        found[name] = [asked(Classifier.load(folder / f"{way}-seed-{seed}")) for seed in seeds]
    labels, ngrams = news.of("valid").labels, [found[name][0] for name in NGRAMS]
    found["the three n-grams together"] = [ensemble(ngrams, labels)]
    found["the n-grams and the LSTM"] = [ensemble([*ngrams, p], labels) for p in found["LSTM from the language model"]]
    return found


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/ag-news"), metavar="DIR", help="where models lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the networks")
    parser.add_argument("--only", metavar="NAME", help="train this one, as it is called in DIR, and stop")
    parser.add_argument("--valid", action="store_true", help="show the validation split; the test split is not read")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    news = corpus()
    names = ["language-model", *(f"{way}-seed-{seed}" for way in ("scratch", "tuned") for seed in options.seeds)]
    for name in [options.only] if options.only else names:
        if not (options.out / name).exists():
            train(name, options.out, news)
    if options.only:
        return
    split = "valid" if options.valid else "test"
    found = measured(options.out, options.seeds, news)

    def of(split: str) -> dict[str, list[dict[str, Any]]]:
        labels = news.of(split).labels
        return {name: [figures(p[split], sorted(CLASSES), labels) for p in each] for name, each in found.items()}

    held_out = {name: statistics.mean(one["accuracy"] for one in each) for name, each in of("valid").items()}
    ours, told = [name for name in found if not name.startswith("scikit-learn")], of(split)
    best = max(ours, key=lambda name: held_out[name])
    rows = []
    for name, each in told.items():
        columns = [[one[figure] for one in each] for figure in FIGURES]
        rows.append([name, str(len(each)), f"{held_out[name]:.3f}", *(spread(values) for values in columns)])
    head = ["seeds", "validation accuracy", "accuracy", "macro F1", "log loss, nats", "calibration error"]
    print(table([f"{split} split", *head], rows))
    pairs = {(pair["label"], pair["predicted"]): pair["texts"] for pair in told[best][0]["confusions"]}
    matrix = [[true, *(str(pairs.get((true, said), 0)) for said in sorted(CLASSES))] for true in sorted(CLASSES)]
    print(f"\nOur best on the validation split: {best}, first seed\n")
    print(table(["true, and said:", *sorted(CLASSES)], matrix))
    for name in names:
        manifest = json.loads((options.out / name / "manifest.json").read_text(encoding="utf-8"))
        if manifest["status"] != "done":
            print(f"\n{name} was {manifest['status']} after {manifest['results']['steps']:,} steps")
    print(f"\n{machine()}; load {os.getloadavg()[0]:.0f} at the end")
    if options.json:
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


def spread(values: list[float]) -> str:
    """The mean, and the standard deviation where there are several.

    >>> spread([0.5]), spread([0.5, 0.6])
    ('0.500', '0.550 ± 0.071')
    """
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
