"""Does `--minutes` hold for the whole command, on a busy machine too? Commands beside busy loops, their seconds.

    LMLAB_DATA=... python benchmarks/budget.py
    python benchmarks/budget.py --only cnn --loops 2 --minutes 0.5

A row is a command of its own, `lmlab train ... --minutes M`, from its start to its end as a shell sees them, beside so
many busy loops a core. With `rising`, the loops begin in the middle.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import machine, table

SHAKESPEARE = ("tinyshakespeare", "--tokenizer", "char", "--model")
FAMILIES = {
    "char LSTM": (*SHAKESPEARE, "lstm"),
    "code LSTM, 40,000 words": ("python-stdlib", "--recipe", "codesearchnet-lstm"),
    "CNN": (*SHAKESPEARE, "cnn"),
    "Transformer": (*SHAKESPEARE, "transformer"),
    "GRU": (*SHAKESPEARE, "gru"),
}
MINUTES = (0.2, 0.5, 1.0)
LOOPS = (0, 1, 2, 3)
HEAD = ("model", "minutes", "loops a core", "asked, s", "taken, s", "off by", "steps", "scored of the validation split")
PROTOCOL = """\
Protocol: one command a row, `lmlab train SOURCE --minutes M -o NEW`, wall time of the whole process; text encoded and
loops compiled before. The bound is 10 % or 5 s, whichever is more: {held} of {rows} rows hold. Loops are Python
processes that count; `rising` starts them when half of the time is over. Load before the first row: {load:.1f}."""


@contextlib.contextmanager
def busy(loops: int, after: float) -> Iterator[None]:
    """So many loops a core, from so many seconds on, while the block runs."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.extend(
            subprocess.Popen([sys.executable, "-c", "import os; mine = os.getppid()\nwhile os.getppid() == mine: pass"])
            for _ in range(loops * (os.cpu_count() or 1))
        )

    timer = threading.Timer(after, start)
    timer.start()
    try:
        if not after:
            timer.join()
        yield
    finally:
        timer.cancel()
        timer.join()
        for process in started:
            process.kill()
            process.wait()


def measure(family: str, minutes: float, loops: int, *, rising: bool) -> dict[str, Any]:
    """A row's figures."""
    with tempfile.TemporaryDirectory() as folder, busy(loops, 30 * minutes if rising else 0.0):
        out, began = Path(folder) / "run", time.perf_counter()
        words = [*FAMILIES[family], "--minutes", str(minutes), "-o", str(out), "--quiet"]
        subprocess.run([sys.executable, "-m", "lmlab.cli", "train", *words], stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - began
        results = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["results"]
    valid = results["valid"]
    return {
        "family": family,
        "minutes": minutes,
        "loops": f"{loops}{' rising' if rising else ''}",
        "asked": 60 * minutes,
        "taken": seconds,
        "steps": results["steps"],
        "share": valid["tokens"] / valid["of_tokens"],
        "budget": results["budget"],
    }


def holds(row: dict[str, Any]) -> bool:
    """Whether a command ended within 10 % or 5 s of what was asked."""
    return bool(abs(row["taken"] - row["asked"]) <= max(5.0, 0.1 * row["asked"]))


def cells(row: dict[str, Any]) -> list[str]:
    """A line of the table."""
    off = f"{row['taken'] - row['asked']:+.1f} s{'' if holds(row) else ' (!)'}"
    figures = [f"{row['minutes']:g}", row["loops"], f"{row['asked']:.0f}", f"{row['taken']:.1f}", off]
    return [row["family"], *figures, f"{row['steps']:,}", f"{100 * row['share']:.0f} %"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(prog="python benchmarks/budget.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(FAMILIES), metavar="MODEL", help="repeatable")
    parser.add_argument("--minutes", action="append", type=float, metavar="M", help="repeatable (0.2, 0.5, 1)")
    parser.add_argument("--loops", action="append", type=int, metavar="N", help="a core; repeatable (0 to 3)")
    parser.add_argument("--all", action="store_true", help="every combination, not a third of them")
    parser.add_argument("--rising", action="store_true", help="the loops begin in the middle")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    asked = parser.parse_args(arguments)
    load, rows = os.getloadavg()[0], []
    combined = itertools.product(asked.only or FAMILIES, enumerate(asked.minutes or MINUTES), asked.loops or LOOPS)
    few = not (asked.all or asked.only or asked.minutes or asked.loops)
    for number, (family, (nth, minutes), loops) in enumerate(combined):
        if few and (number // len(LOOPS) // len(MINUTES) + nth + loops) % len(MINUTES):
            continue  # 20 of 60, each model at each load and nearly each length
        rows.append(measure(family, minutes, loops, rising=asked.rising))
        print("  ", *cells(rows[-1]), rows[-1]["budget"]["took"], file=sys.stderr, flush=True)
    protocol = PROTOCOL.format(held=sum(map(holds, rows)), rows=len(rows), load=load)
    print(machine(), table(HEAD, [cells(row) for row in rows]), protocol, sep="\n\n")
    if asked.json:
        asked.json.write_text(json.dumps({"rows": rows, "protocol": protocol}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
