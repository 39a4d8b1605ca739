"""Two minutes, no download: an n-gram, a CNN and an LSTM on Python's own standard library.

The library's functions become records of code tokens in the CodeSearchNet schema, split by module. Three models learn
from the same tokens; one table compares them on modules that none has seen, and each strategy completes a prompt.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lmlab.cli.compare import draw, print_comparison, result
from lmlab.cli.parser import Parser, reporter_of
from lmlab.cli.show import print_json, print_table
from lmlab.errors import RunExistsError

EXAMPLES = """\
  lmlab demo
  lmlab demo --minutes 0.2 -o runs/quick"""

PROMPT = "def train ("
_VOCABULARY = 8_000
_SETTINGS: dict[str, dict[str, Any]] = {
    "ngram": {"model": {"order": 5}},
    "cnn": {"model": {"embedding": 128, "channels": 192, "layers": 3, "kernel": 4}, "train": {"lr": 3e-3}},
    "lstm": {"model": {"embedding": 128, "hidden": 192}, "train": {"lr": 1.2e-2}},
}


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("-o", "--out", metavar="DIR", default="runs/demo", help="where the runs go (default runs/demo)")
    parser.add_argument("--minutes", type=float, default=0.6, metavar="M", help="for each neural model (default 0.6)")
    parser.add_argument("--source", default="python-stdlib", metavar="SOURCE", help="another corpus of code tokens")


def run(options: argparse.Namespace) -> int:
    """Train the three, compare, complete."""
    from lmlab.facade.compare import compare

    out = Path(options.out)
    if out.exists():
        raise RunExistsError(out)
    reporter = reporter_of(options)
    models = compare(
        options.source,
        list(_SETTINGS),
        out=out,
        reporter=reporter,
        settings=_SETTINGS,
        minutes=options.minutes,
        tokenizer={"kind": "code", "vocab_size": _VOCABULARY},
        train={"batching": "lines", "batch_tokens": 768, "length": 256, "evaluations": 8, "samples": False},
    )
    picture = draw(models, out)
    completions = [row for lm in models for row in complete(lm)]
    if options.json:
        print_json({"results": [result(lm) for lm in models], "completions": completions})
        return 0
    print_comparison(models, f"{options.source}: modules that no model has seen (test split)")
    unknown = models[0].tokenizer.encode(PROMPT).unknown_tokens
    note = "the library never says 'train' often enough to know it: the models read it as [UNK]" if unknown else ""
    print_table(completions, title=f"completions of {PROMPT}", note=note)
    print(f"learning curves: {picture}\nruns: {', '.join(str(lm.folder) for lm in models)}")
    print(f'go on with: lmlab generate {models[-1].folder} --prompt "{PROMPT}" --temperature 0.7 -n 3')
    return 0


def complete(lm: Any) -> list[dict[str, str]]:
    """The prompt completed by every strategy."""
    from lmlab import Beam, Greedy, Sample

    strategies = {
        "greedy": Greedy(),
        "sample, temperature 0.5": Sample(temperature=0.5, seed=1),
        "sample, temperature 0.8": Sample(temperature=0.8, seed=1),
        "sample, temperature 1.1": Sample(temperature=1.1, seed=1),
        "sample, top-k 20": Sample(top_k=20, seed=1),
        "sample, nucleus 0.9": Sample(top_p=0.9, seed=1),
        "beam, width 5": Beam(width=5),
    }
    kind = lm.config.model.kind
    return [
        {
            "model": kind,
            "strategy": name,
            "completion": " ".join(lm.generate(PROMPT, strategy, max_tokens=24, allow_unknown=True)[0].text.split()),
        }
        for name, strategy in strategies.items()
    ]
