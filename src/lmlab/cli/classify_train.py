"""Train a text classifier on labelled records.

SOURCE holds records (*.jsonl, *.csv, *.tsv, *.parquet, packed or not, or a folder of them) with a text and a label, or
is - for JSON lines on standard input. By default every class gets an n-gram model, and Bayes' rule decides; with
--model lstm (gru, rnn, cnn, transformer) one network answers, from scratch or --start from a language model.
"""

from __future__ import annotations

import argparse
from typing import Any

from lmlab.cli.parser import Parser, in_group, named, reporter_of
from lmlab.cli.show import print_json, print_table
from lmlab.errors import RunExistsError

EXAMPLES = """\
  lmlab classify train news.jsonl --label-field topic -o runs/news
  lmlab classify train ag.csv --columns class,title,description --template "{title} ; {description}" -o runs/ag
  lmlab classify train news.jsonl --model lstm --minutes 1 -o runs/news-lstm
  lmlab classify train news.jsonl --start runs/lstm --epochs 5 -o runs/news-tuned"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="records with a text and a label")
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="the directory to write")
    parser.add_argument("--label-field", metavar="NAME", help="the field of a record that holds its label")
    parser.add_argument("--model", dest="model.kind", metavar="KIND", help="what is trained")
    parser.add_classifier()
    parser.add_learning()
    parser.add_data()


def run(options: argparse.Namespace) -> int:
    """Train, save, show."""
    from pathlib import Path

    from lmlab.classify.classifier import Classifier
    from lmlab.classify.data import read
    from lmlab.classify.settings import ClassifierSettings
    from lmlab.corpora import DataSettings
    from lmlab.disk import exists, held
    from lmlab.facade.learn import lasting

    reporter, given = reporter_of(options), named(options)
    out = Path(options.out)
    if exists(out):
        raise RunExistsError(out)
    own = ClassifierSettings.make(in_group(options, "classify"), "classify")
    given = {path: value for path, value in given.items() if not path.startswith("classify.")}
    classifier = Classifier(given.get("model.kind"), given.get("tokenizer.kind"), **own.dump())
    with held(out):
        with reporter.stage(f"reading {options.source}"):
            labelled = read(options.source, DataSettings.make(in_group(options, "data"), "data"), options.label_field)
        given["source"] = lasting(options.source)
        classifier.learn(given, labelled, reporter, options.began)
        results = classifier.fitted.manifest["results"]
        for split in ("valid", "test"):
            if len(part := labelled.splits[split]):
                results[split] = classifier.evaluate(part.texts, part.labels, reporter)
                results[f"{split}_baselines"] = classifier.baselines(labelled.splits["train"], part)
        classifier.fitted.manifest["label_field"] = options.label_field
        classifier.save(out)
    shown = {"run": str(out), "status": classifier.fitted.manifest["status"], **results}
    code = 128 + results["signal"] if results.get("signal") else 0
    if options.json:
        print_json(shown)
        return code
    rows = figures_rows(str(out), results.get("test") or results.get("valid"), results)
    split = "test" if "test" in results else "validation"
    print_table(rows, title=f"{split} split of {labelled.name} ({labelled.rule})") if rows else None
    print(f"saved in {out}")
    return code


def figures_rows(name: str, figures: Any, results: Any = None, split: str = "test") -> list[dict[str, Any]]:
    """The rows of a table: baselines that were kept, then the classifier's figures."""
    if figures is None:
        return []
    baselines = (results or {}).get(f"{split}_baselines") or (results or {}).get("valid_baselines") or {}
    return [
        {
            "classifier": called,
            "texts": each["texts"],
            "accuracy": each["accuracy"],
            "macro F1": each["macro_f1"],
            "log loss, nats": each["log_loss"],
            "calibration error": each["calibration_error"],
        }
        for called, each in ({**baselines, name: figures}).items()
    ]
