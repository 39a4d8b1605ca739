"""Figures of classifiers on labelled records: accuracy, macro F1, log loss, calibration, what is taken for what.

Without --on, the test split of each one's own records, with the baselines that training kept.
"""

from __future__ import annotations

import argparse
from typing import Any

from lmlab.cli.classify_train import figures_rows
from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import print_json, print_table
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab classify eval runs/news
  lmlab classify eval runs/news runs/news-lstm --on other.jsonl --label-field topic"""
_MOST_SHOWN = 12  # labels of a confusion table; of more, as many confusions are listed


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directories of classifiers")
    parser.add_argument("--on", metavar="SOURCE", help="records that they were not trained on")
    parser.add_argument("--split", metavar="NAME", help="train, valid, test or all (test; of --on all)")
    parser.add_argument("--label-field", metavar="NAME", help="the field of a record that holds its label")
    parser.add_data(shares=False)


def run(options: argparse.Namespace) -> int:
    """Judge each, show one table and what each confuses."""
    from lmlab.classify.classifier import Classifier
    from lmlab.classify.data import labelled_of

    data = in_group(options, "data")
    if options.on is None and (data or options.label_field):
        raise UsageError("how records are read is named, but --on names none", "name some with --on")
    reporter, found = reporter_of(options), []
    rows: list[dict[str, Any]] = []
    for path in options.runs:
        classifier = Classifier.load(path)
        fitted = classifier.fitted
        labelled = labelled_of(fitted.config, fitted.manifest, options.on, data, options.label_field)
        split = options.split or ("all" if options.on is not None else "test")
        part = labelled.of(split)
        figures = classifier.evaluate(part.texts, part.labels, reporter)
        about = {"data": labelled.name, "split": split, "data_sha256": labelled.sha256}
        found.append({"run": path, **figures, "protocol": about})
        rows += figures_rows(path, figures, {} if rows or options.on else classifier.fitted.manifest["results"], split)
    if options.json:
        print_json(found)
        return 0
    print_table(rows, title=f"{found[0]['protocol']['data']}, split {found[0]['protocol']['split']}")
    for figures in found:
        _show_confusions(figures)
    return 0


def _show_confusions(figures: dict[str, Any]) -> None:
    """A table of truth against prediction; of many labels, the commonest errors."""
    labels = [row["label"] for row in figures["labels"]]
    pairs = {(pair["label"], pair["predicted"]): pair["texts"] for pair in figures["confusions"]}
    if len(labels) <= _MOST_SHOWN:
        rows = [
            {"true": shown_label(row["label"])}
            | {f"said {shown_label(said)}": pairs.get((row["label"], said), 0) for said in labels}
            | {name: row[name] for name in ("precision", "recall", "f1")}
            for row in figures["labels"]
        ]
    else:
        wrong = [(pair, many) for pair, many in pairs.items() if pair[0] != pair[1]][:_MOST_SHOWN]
        rows = [{"true": shown_label(true), "said": shown_label(said), "texts": many} for (true, said), many in wrong]
    unseen = figures["unseen_labels"]
    note = ""
    if unseen:
        many = f"{len(unseen)} label{'s' if len(unseen) > 1 else ''} never seen in training"
        note = f"{many}, always errors: {', '.join(map(shown_label, unseen))[:200]}"
    print_table(rows, title=f"{figures['run']}: what is taken for what", note=note)


def shown_label(label: Any) -> str:
    """A label in one line: text as in JSON, without its quotes."""
    import json

    return json.dumps(label, ensure_ascii=False).removeprefix('"').removesuffix('"')
