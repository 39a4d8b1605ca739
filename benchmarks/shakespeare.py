"""How good a model of tinyshakespeare three minutes give: one neural model, mixed with an n-gram, adapting as it reads.

    python benchmarks/shakespeare.py --seeds 0 1 2

Everything as a user would call it: the recipe shakespeare-3min, an n-gram of ten characters, `lmlab eval` on the last
tenth of the text. All weights and rates named here were chosen on 85 to 90 % of the text with models of the first 85 %.
The wall time of training and of the n-gram is taken around whole processes, start-up and reading included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import machine

SPLIT = "0.9,0,0.1"
DYNAMIC, COUNTS = "lr=0.001,decay=0.002", "discount=0.8,strength=0.5"
CM = "context mixing alone, online"
EVALUATIONS = {
    "one LSTM": "",
    "with the n-gram, weight 0.25": "--mix kn:0.25",
    "with the n-gram and counts of the text": f"--mix kn:0.25 --adapt counts:{COUNTS},weight=0.4,shortest=4,longest=8",
    "dynamic evaluation": f"--adapt dynamic:{DYNAMIC}",
    "dynamic evaluation, n-gram, counts": (
        f"--mix kn:0.18 --adapt dynamic+counts:{DYNAMIC},{COUNTS},weight=0.2,shortest=5,longest=9"
    ),
    "dynamic evaluation with context mixing, online": f"--mix cm:0.45 --adapt dynamic+online:{DYNAMIC}",
    CM: "--adapt online",
}


def lmlab(*arguments: str, cwd: Path) -> tuple[Any, float]:
    """A command's JSON, and its wall time in seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lmlab", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout), time.perf_counter() - began


def one_run(seed: int, minutes: float | None, folder: Path, source: str, split: str) -> dict[str, Any]:
    """Train, count, evaluate every way: nats/char and seconds of each."""
    budget = ["--minutes", str(minutes)] if minutes else []
    asked = [
        "train",
        source,
        "--recipe",
        "shakespeare-3min",
        "--split",
        split,
        "--seed",
        str(seed),
        "-o",
        "lstm",
        *budget,
    ]
    trained, training = lmlab(*asked, cwd=folder)
    _, counting = lmlab(
        "train", source, "--tokenizer", "char", "--order", "10", "--split", split, "-o", "kn", cwd=folder
    )
    _, priming = lmlab(
        "train", source, "--tokenizer", "char", "--model", "cm", "--split", split, "-o", "cm", cwd=folder
    )
    config = json.loads((folder / "lstm" / "config.json").read_text(encoding="utf-8"))
    figures, seconds = {}, {"training": training, "counting": counting, "priming": priming}
    for name, options in EVALUATIONS.items():
        (report,), seconds[name] = lmlab("eval", "cm" if name == CM else "lstm", *options.split(), cwd=folder)
        figures[name] = report["nats_per_token"]
    keys = ("steps", "tokens_seen", "parameters")
    about = {key: trained[key] for key in keys} | {"hidden": config["model"]["hidden"], "lr": config["train"]["lr"]}
    return {"seed": seed, "nats": figures, "seconds": seconds, "wall": training + counting, **about}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a way of evaluating, the mean of the seeds and their spread."""
    seeds = ", ".join(str(run["seed"]) for run in runs)
    lines = [f"| nats/char, last tenth | mean | seeds {seeds} | seconds |", "|---|---:|---|---:|"]
    for name in EVALUATIONS:
        values = [run["nats"][name] for run in runs]
        seconds = statistics.median(run["seconds"][name] for run in runs)
        each = " ".join(f"{value:.4f}" for value in values)
        lines.append(f"| {name} | {statistics.mean(values):.4f} | {each} | {seconds:.0f} |")
    for run in runs:
        seconds = run["seconds"]
        lines.append(
            f"\nseed {run['seed']}: {run['hidden']} units, {run['parameters']:,} parameters, lr {run['lr']}, "
            f"{run['steps']} steps, {run['tokens_seen'] / 1e6:.2f} M tokens; {seconds['training']:.1f} s of training, "
            f"{seconds['counting']:.1f} s for the n-gram, {run['wall']:.1f} s in all; "
            f"{seconds['priming']:.1f} s for context mixing"
        )
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=None, help="instead of the recipe's")
    parser.add_argument("--source", default="tinyshakespeare", help="another text, to choose settings on")
    parser.add_argument("--split", default=SPLIT)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if Path(options.source).exists():
        options.source = str(Path(options.source).resolve())
    runs = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LMLAB_CACHE"] = folder  # nothing of an earlier run is found there
            runs.append(one_run(seed, options.minutes, Path(folder), options.source, options.split))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine(), "runs": runs}) if options.json else f"{machine()}\n\n{table(runs)}")


if __name__ == "__main__":
    main()
