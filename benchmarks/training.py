"""Does lmlab train at the machine's limit? Rows of models, plain PyTorch beside ours, alternating on one core.

    LMLAB_DATA=... python benchmarks/training.py
    python benchmarks/training.py --memory

Each side of a row is a process of its own (ours changes how its process keeps freed memory; the other must not profit
from it), set up once and asked in turn; `training_jobs.py` is what they do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from training_jobs import CUTS, JAX_ROW, ROWS, STEPS
from weighing import Worker, in_turn, of, on, run

HERE = Path(__file__).parent
PROTOCOL = """\
Protocol: core {core} alone, one thread; {rounds} rounds of some {seconds:g} s a side, in turn, each side a process;
medians; real tokens (no padding) a second of CPU time; the spread is that of the rounds' ratios. Plain is the
notebook's own kind of loop (`notebook_loops.py`): torch's defaults, fp32, Adam, its own batches. Ours is `Fit` on a
machine set up as `lmlab train` does it, in the precision that its probe chooses. The ragged lines are those of AG
News, as the arxiv recipes read them; the other texts are made up, their ids falling off as Zipf's law. FLOPs are 6 a
token and weight of a matrix, the embedding excepted; the peak is the median, over the same rounds, of the best of ten
matrix products of 1024. Adaptive softmax does not multiply by most of its weights: its FLOPs are not given."""
HEAD = ("ours; theirs", "theirs, tokens/s", "ours", "ratio", "spread", "must · aim", "GFLOP/s of ours", "of the peak")


def worker(job: str, name: str, quick: bool, interpreter: str = sys.executable) -> Worker:
    """A process that does a job, one thread of it."""
    return Worker([interpreter, str(HERE / "training_jobs.py"), job, name, "quick" if quick else ""])


def measure(name: str, asked: argparse.Namespace, theirs: str = "plain") -> dict[str, Any]:
    """A row's figures, a list of each over the rounds."""
    interpreter = asked.jax if theirs == "jax" else sys.executable
    with ExitStack() as stack:
        jobs = ((theirs, interpreter), ("ours", sys.executable), ("peak", sys.executable))
        works: list[Callable[[], Any]] = [
            partial(stack.enter_context(worker(job, name, asked.quick, which)), asked.seconds) for job, which in jobs
        ]
        plain, ours, peaks = in_turn(asked.rounds, *works)
    precision = ours[0]["precision"]
    return {
        "theirs": plain,
        "ours": of(ours, "rate"),
        "precision": precision,
        "flop_per_token": ours[0]["flop_per_token"] if ROWS[name].softmax == "full" else None,
        "peak": of(peaks, precision),
        "goals": ROWS[name].goals if theirs == "plain" else None,
    }


def cells(name: str, found: dict[str, Any]) -> list[str]:
    """A line of the table."""
    from common import short  # takes torch

    ratios = [mine / theirs for mine, theirs in zip(found["ours"], found["theirs"], strict=True)]
    theirs, ours = median(found["theirs"]), median(found["ours"])
    line = [f"{name} ({found['precision']})", short(theirs), short(ours), f"{ours / theirs:.2f}"]
    line += [f"{min(ratios):.2f}-{max(ratios):.2f}", " · ".join(map(str, found["goals"] or ())) or "-"]
    if found["flop_per_token"] is None:
        return [*line, "-", "-"]
    flops = ours * found["flop_per_token"]
    return [*line, f"{flops / 1e9:.0f}", f"{100 * flops / median(found['peak']):.0f} %"]


def speeds(asked: argparse.Namespace) -> dict[str, Any]:
    """The figures of all rows asked for."""
    found = {}
    for name in asked.only or ROWS:
        print(name, file=sys.stderr, flush=True)
        found[name] = measure(name, asked)
        print("  ", *cells(name, found[name]), file=sys.stderr, flush=True)
    if asked.jax and JAX_ROW in found:
        found["the first row; JAX jit and scan"] = measure(JAX_ROW, asked, theirs="jax")
    elif not asked.jax:
        print("JAX: left out, as no interpreter that knows it was named (--jax)", file=sys.stderr)
    return found


def memory(quick: bool) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """Tables of peak memory: of the chunked loss, and of training on ever more text."""
    losses, texts = [], []
    for kind in ("fp32", "bf16"):
        with worker("chunked_loss", kind, quick) as ask:
            losses.append([kind, *(f"{figure:,.0f}" for figure in ask().values())])
    for megabytes in (0.1, 1) if quick else (10, 100, 1000):
        with worker("large_text", "", quick) as ask:
            stages = ask(megabytes).values()
            texts.append([f"{megabytes:,}", *(f"{peak:,.0f} · {own:,.0f}" for peak, own in stages)])
        print("peak MB:", *texts[-1], file=sys.stderr, flush=True)
    head = ("text, MB", "peak MB · without mapped files, encoding it", *(f"and {STEPS} steps on {cut}" for cut in CUTS))
    return [(("chunked loss", "rows", "V", "peak MB beyond its input"), losses), (head, texts)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for and print the tables."""
    asked = _parser().parse_args(arguments)
    core = max(os.sched_getaffinity(0)) if asked.core is None else asked.core
    with on({core}):
        about = machine()
        found: Any = memory(asked.quick) if asked.memory else speeds(asked)
    from common import table

    tables = found if asked.memory else [(HEAD, [cells(name, row) for name, row in found.items()])]
    protocol = PROTOCOL.format(core=core, rounds=asked.rounds, seconds=asked.seconds)
    print(about, *(table(head, rows) for head, rows in tables), *[protocol][asked.memory :], sep="\n\n")
    if asked.json:
        content = {"machine": about, "protocol": protocol, "figures": found}
        asked.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """The core in words, by a process that torch may stay in."""
    return run(sys.executable, "-c", "import common; print(common.machine())", cwd=HERE).said.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/training.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(ROWS), metavar="ROW", help="repeatable")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of a side, a round")
    parser.add_argument("--core", type=int, metavar="N", help="the core that everything runs on; else the last")
    parser.add_argument("--jax", metavar="PYTHON", type=shutil.which, help="an interpreter that knows JAX")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    parser.add_argument("--quick", action="store_true", help="everything small, in seconds: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser


if __name__ == "__main__":
    main()
