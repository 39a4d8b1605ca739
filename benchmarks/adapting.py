"""What each way to adapt and to mix is worth, beside log-linear mixing online: whether it earns its place.

    python benchmarks/adapting.py                         # a minute for each LSTM
    python benchmarks/adapting.py --minutes 0.1 --limit 300 --only words

Models learn from the training split. What is fitted is fitted on the first half of the validation split, and figures
are of its second half; no test split is read. Seconds are of composing, with what is fitted then, and of scoring.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import lmlab
from common import machine, table
from lmlab.corpora import Corpus, DataSettings
from lmlab.errors import LmlabError
from lmlab.facade.prepare import open_source
from lmlab.progress import Silent
from lmlab.training.baseline import ORDERS
from mixing import TEXTS

CHOSEN = ("tinyshakespeare, characters", "tinyshakespeare, words", "python-stdlib, code tokens", "AG News, characters")
WAYS: dict[str, tuple[str, str, str]] = {
    "n-gram": ("kn", "", ""),
    "n-gram, counts": ("kn", "counts", ""),
    "n-gram + cm, constant weights": ("kn", "", "cm:fitted"),
    "n-gram + cm, online": ("kn", "online", "cm"),
    "LSTM": ("lstm", "", ""),
    "LSTM, counts": ("lstm", "counts", ""),
    "LSTM, dynamic": ("lstm", "dynamic", ""),
    "LSTM, dynamic + counts": ("lstm", "dynamic+counts", ""),
    "LSTM + n-gram, constant weights": ("lstm", "", "kn:fitted"),
    "LSTM + n-gram, gate": ("lstm", "", "kn"),
    "LSTM + n-gram, online": ("lstm", "online", "kn"),
    "LSTM + n-gram, counts": ("lstm", "counts", "kn"),
    "LSTM + n-gram, dynamic, gate": ("lstm", "dynamic", "kn"),
    "LSTM + n-gram, dynamic + online": ("lstm", "dynamic+online", "kn"),
    "LSTM + n-gram, dynamic + counts": ("lstm", "dynamic+counts", "kn"),
    "LSTM + cm, online": ("lstm", "online", "cm"),
    "LSTM + cm, online + counts": ("lstm", "online+counts", "cm"),
    "n-gram + cm, online + counts": ("kn", "online+counts", "cm"),
    "LSTM + cm, dynamic + online": ("lstm", "dynamic+online", "cm"),
    "LSTM + n-gram + cm, online": ("lstm", "online", "kn cm"),
    "LSTM + n-gram + cm, dynamic + online": ("lstm", "dynamic+online", "kn cm"),
    "cm": ("cm", "", ""),
    "cm, counts": ("cm", "counts", ""),
    "cm, online": ("cm", "online", ""),
    "cm, online + counts": ("cm", "online+counts", ""),
}
"""The run itself, --adapt, and the runs of --mix; `fitted` weights are the constants that suit the first half best."""


def parts(text: dict[str, Any], limit: int) -> dict[str, list[Any]]:
    """The training split, and the halves of the validation split in place of validation and test."""
    data = {} if text["source"] == "tinyshakespeare" else {"limit": limit}
    corpus: Corpus = open_source(text["source"], DataSettings(**data), Silent())
    found = {split: [each.tokens or each.text for each in corpus.documents(split)] for split in ("train", "valid")}
    if len(found["valid"]) == 1:
        (whole,) = found["valid"]
        found["valid"] = [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    half = len(found["valid"]) // 2
    return {"train": found["train"], "valid": found["valid"][:half], "test": found["valid"][half:]}


def way(runs: dict[str, Any], own: str, adapt: str, mixed: str) -> dict[str, float]:
    """Nats a token on the second half of the validation split, seconds to compose and to score."""
    began = time.perf_counter()
    mix = [str(runs[name.partition(":")[0]].folder) for name in mixed.split()]
    if "fitted" in mixed:
        gated = runs[own].composed(mix=mix).composition["mixture"]
        mix = [f"{run}:{each['weight']:.6f}" for run, each in zip(mix, gated[1:], strict=True)]
        began = time.perf_counter()
    lm = runs[own].composed(adapt or None, mix)
    composed = time.perf_counter()
    report = lm.evaluate(split="test")
    return {
        "nats": report["nats_per_token"],
        "composing": composed - began,
        "scoring": time.perf_counter() - composed,
        "tokens": report["tokens"],
    }


def column(
    text: dict[str, Any], ways: dict[str, tuple[str, str, str]], limit: int, minutes: float, folder: Path
) -> dict[str, Any]:
    """All ways on one text."""
    source, tokenizer = parts(text, limit), text["tokenizer"]
    common = {"tokenizer": tokenizer, "baseline": False, "samples": False}
    runs = {
        "kn": lmlab.train(source, model="ngram", order=ORDERS[tokenizer], out=folder / "kn", **common),
        "cm": lmlab.train(source, model="cm", out=folder / "cm", **common),
        "lstm": lmlab.train(source, model="lstm", minutes=minutes, out=folder / "lstm", **common),
    }
    found: dict[str, Any] = {}
    for name, asked in ways.items():
        try:
            found[name] = way(runs, *asked)
            print(f"{name:40} {found[name]}", file=sys.stderr, flush=True)
        except LmlabError as error:
            print(f"{name:40} {error}", file=sys.stderr, flush=True)
    return found


def cell(found: dict[str, Any] | None) -> str:
    """Nats a token (seconds to fit + to score)."""
    return "-" if found is None else f"{found['nats']:.4f} ({found['composing']:.0f} + {found['scoring']:.1f})"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="for each LSTM")
    parser.add_argument("--limit", type=int, default=3000, help="documents of python-stdlib and AG News")
    parser.add_argument("--only", default="", help="texts whose name has this in it")
    parser.add_argument("--json", metavar="FILE", help="keep the figures")
    parser.add_argument("--without", metavar="WAY", default="", help="ways whose name has this in it, as in dynamic")
    options = parser.parse_args()
    left = {name: asked for name, asked in WAYS.items() if not options.without or options.without not in name}
    columns = {}
    for name in (name for name in CHOSEN if options.only in name):
        print(name, file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            columns[name] = column(TEXTS[name], left, options.limit, options.minutes, Path(folder))
        if options.json:
            Path(options.json).write_text(json.dumps(columns), encoding="utf-8")
    rows = [[name, *(cell(one.get(name)) for one in columns.values())] for name in WAYS]
    print(machine(), table(["nats/token (seconds)", *columns], rows), sep="\n\n")


if __name__ == "__main__":
    main()
