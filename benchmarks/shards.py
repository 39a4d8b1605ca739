"""What does counting by shards cost? One process with two threads beside 1, 4 and 16 shards on two processes.

    python benchmarks/shards.py TEXT [--rounds 3] [--cluster tcp://127.0.0.1:8786]

Wall and CPU seconds are those of whole command lines, their children included; a cluster's workers are not. Bytes are
what the tasks wrote for each other, counted in the folder that they share before the next phase discards it.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

KEPT = ("manifest.json", "config.json")  # which tell seconds


def cost(words: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command line."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "lmlab", *words, "--quiet", "--json"], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--cluster", default=None)
    options = parser.parse_args()
    size = options.text.stat().st_size / 1e6
    rows: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder, "one"), Path(folder, "many")
        for _ in range(options.rounds):
            for shards in (0, *options.shards):
                out = many if shards else one
                shutil.rmtree(out, ignore_errors=True)
                how = ["--shards", str(shards)] if shards else []
                how += ["--cluster", options.cluster] if shards and options.cluster else []
                name = f"{shards} shards" if shards else "one process"
                rows.setdefault(name, []).append(cost(["ngram", "estimate", str(options.text), "-o", str(out), *how]))
                if shards:
                    names = [path.name for path in one.iterdir() if path.name not in KEPT]
                    assert filecmp.cmpfiles(one, many, names, shallow=False)[0] == names, "not the same model"
    base = [median(column) for column in zip(*rows["one process"], strict=True)]
    print(f"{size:.0f} MB, order 5, {os.cpu_count()} cores, medians of {options.rounds} rounds")
    for name, costs in rows.items():
        wall, cpu = (median(column) for column in zip(*costs, strict=True))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {base[0] / wall:.2f} | {base[1] / cpu:.2f} | {size / cpu:.1f} |")


if __name__ == "__main__":
    main()
