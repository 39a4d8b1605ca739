"""What context mixing is worth: beside Kneser-Ney and an LSTM on several texts, and ingredient by ingredient.

    python benchmarks/mixing.py                        # a minute for each LSTM
    python benchmarks/mixing.py --minutes 0 --limit 300 --only words

All models of a row read the same tokens, learn from the same training split and score the validation split, on which
nothing was chosen but for the characters of tinyshakespeare. python-stdlib is of the machine's own Python.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import lmlab
from common import machine, table
from lmlab.models.cm.contexts import CHARACTERS
from lmlab.training.baseline import ORDERS

TEXTS: dict[str, dict[str, Any]] = {
    "tinyshakespeare, characters": {"source": "tinyshakespeare", "tokenizer": "char"},
    "tinyshakespeare, words": {"source": "tinyshakespeare", "tokenizer": "word"},
    "python-stdlib, characters": {"source": "python-stdlib", "tokenizer": "char"},
    "python-stdlib, code tokens": {"source": "python-stdlib", "tokenizer": "code"},
    "python-stdlib, bpe": {"source": "python-stdlib", "tokenizer": {"kind": "bpe", "vocab_size": 1000}},
    "AG News, characters": {"source": "ag_news_test", "tokenizer": "char"},
}
_DROPPED = {
    "all": (),
    "orders alone": ("match", "word", "like", "column", "first", "heading", "fresh", "-", "+"),
    "without matches": ("match",),
    "without words": ("word",),
    "without contexts of the text at hand alone": ("fresh",),
    "without place in line and paragraph": ("column", "first", "heading"),
}


def figure(lm: Any, seconds: float) -> dict[str, float]:
    """Nats a token on the validation split, seconds to learn, and tokens scored a second."""
    began = time.perf_counter()
    report = lm.evaluate(split="valid")
    return {"nats": report["nats_per_token"], "seconds": seconds, "scoring": time.perf_counter() - began}


def trained(text: dict[str, Any], **named: Any) -> tuple[Any, float]:
    """A model of a text, and how long it learned."""
    began = time.perf_counter()
    data = {} if text["source"] == "tinyshakespeare" else {"limit": text["limit"]}
    if text["source"] == "python-stdlib" and text["tokenizer"] != "code":
        data["text_field"] = "code"
    settings = {"data": data, "model": named.pop("settings", {})}
    source, tokenizer = text["source"], text["tokenizer"]
    lm = lmlab.train(source, tokenizer=tokenizer, baseline=False, samples=False, settings=settings, **named)
    return lm, time.perf_counter() - began


def row(text: dict[str, Any], minutes: float) -> dict[str, dict[str, float]]:
    """All models of one text."""
    tokenizer = text["tokenizer"]
    found = {}
    lm, seconds = trained(text, model="ngram", order=ORDERS[tokenizer if isinstance(tokenizer, str) else "bpe"])
    found["kneser-ney"] = figure(lm, seconds)
    if minutes:
        found["lstm"] = figure(*trained(text, model="lstm", minutes=minutes))
    lm, seconds = trained(text, model="cm")
    return found | {"cm": figure(lm, seconds), "cm online": figure(lm.composed("online"), seconds)}


def ingredients(text: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Context mixing of characters without some of its contexts."""
    found = {}
    for name, dropped in _DROPPED.items():
        plain = [one for one in CHARACTERS if not any(part in one for part in dropped if part not in "-+")]
        kept = [one for one in plain if one[0] in "01" and "+" not in one] if name == "orders alone" else plain
        lm, seconds = trained(text, model="cm", settings={"contexts": tuple(kept)})
        found[name] = {"cm": figure(lm, seconds), "cm online": figure(lm.composed("online"), seconds)}
    return found


def shown(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Nats a token, with the seconds to learn."""
    rows = [
        [text, *(f"{each['nats']:.4f} ({each['seconds']:.0f})" for each in row.values())] for text, row in found.items()
    ]
    return table(["nats/token (seconds to learn)", *next(iter(found.values()))], rows)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="for each LSTM; 0 for none")
    parser.add_argument("--limit", type=int, default=3000, help="documents of python-stdlib and AG News")
    parser.add_argument("--only", default="", help="texts whose name has this in it, or ingredients")
    parser.add_argument("--json", metavar="FILE", help="keep the figures")
    options = parser.parse_args()
    texts = {name: {**text, "limit": options.limit} for name, text in TEXTS.items()}
    rows: dict[str, Any] = {}
    for name, text in texts.items():
        if options.only in name:
            rows[name] = row(text, options.minutes)
            print(name, rows[name], file=sys.stderr, flush=True)
    found = ingredients(texts["python-stdlib, characters"]) if options.only in ("", "ingredients") else {}
    if options.json:
        Path(options.json).write_text(json.dumps({"rows": rows, "ingredients": found}), encoding="utf-8")
    print("\n\n".join([machine(), *(shown(each) for each in (rows, found) if each)]))


if __name__ == "__main__":
    main()
