"""How well are AG News told apart, beside scikit-learn's TF-IDF and logistic regression; does pre-training help?

    python benchmarks/classify.py -o runs/ag-news

7,600 texts of four classes in the order of their SHA-256: 5,600 train, 1,000 validate, 1,000 test. A language model
that a network starts from learns from the training texts alone (5,200 of them; 400 tell when its loss turns), one a
seed. The two LSTMs have the same passes over the labelled texts, batches, rates and decay; a third has from scratch as
many passes as the language model and the started one have together. All was chosen on the validation split; the test
split is read once, for the tables. `--labels` draws accuracy against the number of labelled texts.

What is trained is kept in DIR and not trained again; `--only` trains one, `--valid` shows the validation split.
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
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
from lmlab.seeing.picture import Picture
from lmlab.seeing.style import COLOURS, DASHES, bare

CLASSES = ("Business", "Sci/Tech", "Sports", "World")  # in the order of every classifier's columns
IN_FILE = ("World", "Sports", "Business", "Sci/Tech")
SIZES = {"train": 5_600, "valid": 1_000, "test": 1_000}
MODEL_TEXTS = (5_200, 5_400)  # of the training texts: up to the first a language model learns, then it is judged
MODEL_PASSES, PASSES = 12, 3
DECAY, FEW_DECAY = 1.3, 2.6  # of the rates with all labels, and with fewer
FIXED = {"source": IN_HAND, "train.threads": 1, "train.precision": "fp32", "train.batch_size": 32}
WIDTH = {"hidden": 256, "embedding": 256, "dropout": 0.5, "recurrent_dropout": 0.2}
LANGUAGE_MODEL = {"epochs": MODEL_PASSES, "evaluations": MODEL_PASSES, "lr": 3e-3, "weight_decay": 0.05}
QUIET = {"baseline": False, "samples": False, "precision": "fp32", "threads": 1}
LABELLED = {"train.epochs": PASSES, "train.evaluations": 6, "train.weight_decay": 1.0, "train.lr": 1e-2, **FIXED}
LSTM = {"tokenizer.min_count": 2, **{f"model.{name}": value for name, value in WIDTH.items()}}
BAG = {"model.layers": 1, "model.kernel": 1, "model.channels": 256, "model.embedding": 256, "model.dropout": 0.5}
NGRAMS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "n-gram, words, order 2 (the default)": (None, {}),
    "n-gram, words, order 1": (None, {"model.order": 1}),
    "n-gram, characters, order 4": ("char", {"model.order": 4}),
    "n-gram, bpe, order 2": ("bpe", {"model.order": 2}),
}
SCRATCH, LONGER, TUNED = "scratch", "longer", "tuned"
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    f"bag of words network, {PASSES} passes": ("bag", {"model": "cnn"}, BAG),
    f"LSTM from scratch, {PASSES} passes": (SCRATCH, {"model": "lstm", "pool": "concat"}, LSTM),
    f"LSTM from scratch, {MODEL_PASSES + PASSES} passes": (
        LONGER,
        {"model": "lstm", "pool": "concat"},
        {**LSTM, "train.epochs": MODEL_PASSES + PASSES, "train.evaluations": 30},
    ),
    f"LSTM from the language model, {PASSES} passes": (TUNED, {"pool": "concat"}, {}),
}
TOGETHER: dict[str, tuple[str, ...]] = {  # rows of NGRAMS, names of NETWORKS
    "the n-grams together": tuple(NGRAMS)[1:],
    "characters, bag of words, LSTM from the language model": ("n-gram, characters, order 4", "bag", TUNED),
}
LABELS = (100, 300, 1_000, 5_600)
FIGURES = ("accuracy", "macro_f1", "log_loss", "calibration_error")
DRAWS = 10_000
Predictions = list[dict[str, np.ndarray]]
"""p_NC by split, of each seed."""


@functools.cache
def corpus(labels: int = SIZES["train"], seed: int = 0) -> Labelled:
    """AG News by split, with so many labelled texts to train on, others for each seed while there are enough."""
    path = find("ag_news_test.csv")
    if path is None:
        raise SystemExit("ag_news_test.csv is not there: `lmlab corpora ag_news_test` fetches it")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(f"{title} ; {text}", IN_FILE[int(label) - 1]) for label, title, text in csv.reader(file)]
    rows.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    ends = itertools.accumulate(SIZES.values())
    splits = {name: Examples(rows[end - SIZES[name] : end]) for name, end in zip(SIZES, ends, strict=True)}
    first = seed * labels % SIZES["train"]
    splits["train"] = Examples(splits["train"][first : first + labels])
    return Labelled("AG News", "", "in the order of SHA-256", splits)


def train(name: str, folder: Path) -> None:
    """Train what is called so in the folder, and keep it: `lm-SEED`, or `NETWORK-LABELS-SEED`."""
    way, *labels, seed = name.split("-")
    if way == "lm":
        texts, (learned, judged) = corpus().of("train").texts, MODEL_TEXTS
        parts = {"train": texts[:learned], "valid": texts[learned:judged], "test": texts[judged:]}
        how: dict[str, Any] = {**LANGUAGE_MODEL, **QUIET, **WIDTH, "input": "tied", "batch_size": 32, "seed": int(seed)}
        lmlab.train(parts, model="lstm", tokenizer="word", lower=True, min_count=2, out=folder / name, **how)
        return
    _, asked, named = next(each for each in NETWORKS.values() if each[0] == way)
    named = {**LABELLED, **named, "seed": int(seed)}
    named["train.epochs"] *= (SIZES["train"] / int(labels[0])) ** 0.5  # of fewer texts more passes, yet fewer steps
    few = int(labels[0]) < SIZES["train"]
    start = {"start": str(folder / f"lm-{seed}"), "decay": FEW_DECAY if few else DECAY} if way == TUNED else {}
    news = corpus(int(labels[0]), int(seed))
    Classifier(**asked, **start).learn(named, news, default_reporter()).save(folder / name)


def asked(predict: Callable[[list[str]], np.ndarray]) -> dict[str, np.ndarray]:
    """p_NC by split."""
    return {split: predict(corpus().of(split).texts) for split in ("valid", "test")}


def scikit_learn(news: Labelled, thorough: bool) -> dict[str, dict[str, np.ndarray]]:
    """p_NC by split: of its defaults, and of what does best on the validation split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    learned, held_out = news.of("train"), news.of("valid")
    grid = [(words, damped, C) for words in (1, 2) for damped in (False, True) for C in (1.0, 3.0, 10.0, 30.0)]
    fitted = {
        (words, damped, C): make_pipeline(
            TfidfVectorizer(ngram_range=(1, words), sublinear_tf=damped), LogisticRegression(C=C, max_iter=1000)
        ).fit(learned.texts, learned.labels)
        for words, damped, C in (grid if thorough else grid[:4])
    }
    best = max(fitted, key=lambda each: fitted[each].score(held_out.texts, held_out.labels))
    words, damped, C = best
    told = f"1 to {words} words, C = {C:g}{', sublinear' * damped}, the best of {len(fitted)} on validation"
    chosen = {"its defaults": grid[0], told: best}
    return {
        f"scikit-learn: TF-IDF, logistic regression, {name}": asked(fitted[each].predict_proba)
        for name, each in chosen.items()
    }


def together(members: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean of probabilities, as `VotingClassifier(voting="soft")` has it, calibrated on the validation split."""
    logits = {split: np.log(np.mean([p[split] for p in members], axis=0) + 1e-12) for split in ("valid", "test")}
    classes_N = np.array([CLASSES.index(label) for label in corpus().of("valid").labels])
    temperature = calibration_temperature(logits["valid"], classes_N)
    return {split: probabilities(logits_NC, temperature) for split, logits_NC in logits.items()}


def measured(folder: Path, seeds: list[int]) -> dict[str, Predictions]:
    """What everything says, for each seed where there are several."""
    news = corpus()
    found = {name: [p] for name, p in scikit_learn(news, thorough=True).items()}
    for name, (tokenizer, named) in NGRAMS.items():
        made = Classifier("ngram", tokenizer).learn({"source": IN_HAND, **named}, news, default_reporter())
        found[name] = [asked(made.predict_proba)]
    ways = {way: name for name, (way, _, _) in NETWORKS.items()}
    for way, name in ways.items():
        kept = [Classifier.load(folder / f"{way}-{SIZES['train']}-{seed}") for seed in seeds]
        found[name] = [asked(each.predict_proba) for each in kept]
    for name, members in TOGETHER.items():
        parts = [found[ways.get(member, member)] for member in members]
        found[name] = [together([part[nth % len(part)] for part in parts]) for nth in range(max(map(len, parts)))]
    return found


def right(each: Predictions, split: str) -> np.ndarray:
    """Whether each seed's answer to each text is right."""
    labels_N = np.array(corpus().of(split).labels)
    return np.array([np.array(CLASSES)[p[split].argmax(1)] == labels_N for p in each])


def nats(each: Predictions, split: str) -> np.ndarray:
    """What each seed's true class of each text costs."""
    classes_N = [CLASSES.index(label) for label in corpus().of(split).labels]
    return np.array([-np.log(p[split][np.arange(len(classes_N)), classes_N] + 1e-12) for p in each])


def paired(ours_SN: np.ndarray, theirs_SN: np.ndarray) -> str:
    """The mean difference over seeds and texts, and the 95 % interval of a bootstrap over the texts."""
    gain_N = ours_SN.mean(0) - theirs_SN.mean(0)
    picks_RN = np.random.default_rng(0).integers(len(gain_N), size=(DRAWS, len(gain_N)))
    low, high = np.quantile(gain_N[picks_RN].mean(1), (0.025, 0.975))
    return f"{gain_N.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def mcnemar(ours_SN: np.ndarray, theirs_SN: np.ndarray) -> str:
    """The exact test's p for each pair of seeds (McNemar 1947), two-sided."""
    from scipy.stats import binomtest

    seeds = max(len(ours_SN), len(theirs_SN))
    pairs = [(ours_SN[nth % len(ours_SN)], theirs_SN[nth % len(theirs_SN)]) for nth in range(seeds)]
    counts = [(int((ours & ~theirs).sum()), int((theirs & ~ours).sum())) for ours, theirs in pairs]
    return ", ".join(f"{binomtest(won, won + lost).pvalue:.2g}" if won + lost else "1" for won, lost in counts)


def tables(found: dict[str, Predictions], split: str) -> dict[str, Any]:
    """Print the figures of all, the differences that matter, and the confusions of the best; return the figures."""
    told = {name: [figures(p[split], CLASSES, corpus().of(split).labels) for p in each] for name, each in found.items()}
    held_out = {name: right(each, "valid").mean() for name, each in found.items()}
    rows = [
        [name, str(len(each)), f"{held_out[name]:.3f}", *(spread([one[figure] for one in each]) for figure in FIGURES)]
        for name, each in told.items()
    ]
    head = ["seeds", "validation accuracy", "accuracy", "macro F1", "log loss, nats", "calibration error"]
    print(table([f"{split} split", *head], rows))
    theirs = [name for name in found if name.startswith("scikit-learn")]
    ours = [name for name in found if name not in theirs]
    best = min(ours, key=lambda name: nats(found[name], "valid").mean())
    way = {way: name for name, (way, _, _) in NETWORKS.items()}
    pairs = [(best, theirs[1]), (best, theirs[0]), (way["bag"], theirs[1])]
    pairs += [(way[TUNED], way[SCRATCH]), (way[TUNED], way[LONGER])]
    compared = []
    for one, other in pairs:
        ours_SN, theirs_SN = right(found[one], split), right(found[other], split)
        lost = paired(nats(found[one], split), nats(found[other], split))
        compared.append([f"{one} against {other}", paired(ours_SN, theirs_SN), mcnemar(ours_SN, theirs_SN), lost])
    print(f"\nOur best by the log loss on the validation split: {best}\n")
    print(table(["difference", "accuracy (95 %)", "McNemar's p by seed", "log loss (95 %)"], compared))
    counts = {(pair["label"], pair["predicted"]): pair["texts"] for pair in told[best][0]["confusions"]}
    print("\nWhat it takes for what, first seed:\n")
    matrix = [[true, *(str(counts.get((true, said), 0)) for said in CLASSES)] for true in CLASSES]
    print(table(["true, and said:", *CLASSES], matrix))
    return told


def by_labels(folder: Path, seeds: list[int], split: str, out: Path) -> None:
    """Print and draw accuracy against the number of labelled texts."""
    names = ("TF-IDF, logistic regression", "n-gram and Bayes' rule", "LSTM from scratch", "LSTM from a language model")
    found: dict[str, list[list[float]]] = {name: [] for name in names}
    for labels in LABELS:
        drawn = [corpus(labels, seed) for seed in seeds]
        each: list[Predictions] = [
            [[*scikit_learn(news, thorough=False).values()][1] for news in drawn],
            [asked(Classifier().learn({"source": IN_HAND}, news, default_reporter()).predict_proba) for news in drawn],
            *(
                [asked(Classifier.load(folder / f"{way}-{labels}-{seed}").predict_proba) for seed in seeds]
                for way in (SCRATCH, TUNED)
            ),
        ]
        for name, predictions in zip(names, each, strict=True):
            found[name].append([float(right_N.mean()) for right_N in right(predictions, split)])
    rows = [[name, *map(spread, values)] for name, values in found.items()]
    print(table([f"accuracy, {split} split, by labelled texts", *(f"{labels:,}" for labels in LABELS)], rows))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for (name, values), colour, dash in zip(found.items(), COLOURS, DASHES, strict=False):
            means, errors = [statistics.mean(v) for v in values], [statistics.pstdev(v) for v in values]
            axes.errorbar(LABELS, means, errors, color=colour, linestyle=dash, marker="o", capsize=3, label=name)
        axes.set_xscale("log")
        axes.set_xticks(LABELS, [f"{labels:,}" for labels in LABELS])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        bare(axes, "labelled texts", f"accuracy, {split} split")

    title = f"AG News: what a language model of 5,200 unlabelled texts is worth, {len(seeds)} seeds"
    out.parent.mkdir(parents=True, exist_ok=True)
    Picture(title, rows, draw).save(out)


def spread(values: list[float]) -> str:
    """The mean, and the standard deviation where there are several.

    >>> spread([0.5]), spread([0.5, 0.6])
    ('0.500', '0.550 ± 0.071')
    """
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/ag-news"), metavar="DIR", help="where models lie")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the networks")
    parser.add_argument("--labels", type=Path, metavar="PNG", help="also train on fewer labels, and draw the curve")
    parser.add_argument("--only", metavar="NAME", help="train this one, as it is called in DIR, and stop")
    parser.add_argument("--valid", action="store_true", help="show the validation split; the test split is not told of")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [f"lm-{seed}" for seed in options.seeds]
    names += [f"{way}-{SIZES['train']}-{seed}" for way, _, _ in NETWORKS.values() for seed in options.seeds]
    if options.labels:
        fewer = itertools.product((SCRATCH, TUNED), LABELS[:-1], options.seeds)
        names += [f"{way}-{labels}-{seed}" for way, labels, seed in fewer]
    for name in [options.only] if options.only else names:
        if not (options.out / name).exists():
            train(name, options.out)
        manifest = json.loads((options.out / name / "manifest.json").read_text(encoding="utf-8"))
        if manifest["status"] not in ("done", "early"):
            raise SystemExit(f"{options.out / name} was {manifest['status']}: remove it, and run this again")
    if options.only:
        return
    split = "valid" if options.valid else "test"
    told = tables(measured(options.out, options.seeds), split)
    if options.labels:
        print()
        by_labels(options.out, options.seeds, split, options.labels)
    print(f"\n{machine()}; load {os.getloadavg()[0]:.0f} at the end")
    if options.json:
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
