"""What does counting by shards cost? One process with two threads beside 1, 4 and 16 shards on two processes.

    python benchmarks/shards.py TEXT [--rounds 3] [--shards 4 16 64] [--memory 1G]
    python benchmarks/shards.py TEXT --cluster tcp://127.0.0.1:8786 --workers PID PID     # Dask's worker processes
    python benchmarks/shards.py TEXT --cluster ray://127.0.0.2:10001 --workers PID PID    # Ray's raylets

Wall and CPU seconds, and bytes written to files, are those of whole command lines and their children, and of the
workers named and theirs. Every model is compared with that of one process, byte for byte.
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
BLOCK, TICK = 512, os.sysconf("SC_CLK_TCK")


def spent(workers: list[int]) -> tuple[float, float, float]:
    """Now, CPU seconds, and MB written to files: of ended children of this process, and of workers and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, written = usage.ru_utime + usage.ru_stime, usage.ru_oublock * BLOCK
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat") if workers else ():
        try:
            below.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    todo = list(workers)
    while todo:
        pid = todo.pop()
        todo += below.get(pid, ())
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu += sum(map(int, fields[11:15])) / TICK
        written += int(Path(f"/proc/{pid}/io").read_text().partition("\nwrite_bytes: ")[2].split()[0])
    return time.perf_counter(), cpu, written / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--memory", metavar="SIZE", help="within which each process counts")
    parser.add_argument("--cluster", metavar="URL")
    parser.add_argument("--workers", type=int, nargs="+", default=[], metavar="PID")
    options = parser.parse_args()
    size = options.text.stat().st_size / 1e6
    bound = ["--memory", options.memory] if options.memory else []
    rows: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder, "one"), Path(folder, "many")
        for _ in range(options.rounds):
            for shards in (0, *options.shards):
                out = many if shards else one
                shutil.rmtree(out, ignore_errors=True)
                how = ["--shards", str(shards)] if shards else []
                how += ["--cluster", options.cluster] if shards and options.cluster else []
                words = ["ngram", "estimate", str(options.text), "-o", str(out), "--skip-symbols", *bound, *how]
                before = spent(options.workers)
                subprocess.run(
                    [sys.executable, "-m", "lmlab", *words, "--quiet", "--json"], check=True, stdout=subprocess.DEVNULL
                )
                cost = [after - first for after, first in zip(spent(options.workers), before, strict=True)]
                name = f"{shards} shards" if shards else "one process"
                rows.setdefault(name, []).append(cost)
                print(f"{name}: {cost[0]:.1f} s, {cost[1]:.1f} CPU s, {cost[2]:,.0f} MB", file=sys.stderr, flush=True)
                if shards:
                    names = [path.name for path in one.iterdir() if path.name not in KEPT]
                    assert filecmp.cmpfiles(one, many, names, shallow=False)[0] == names, "not the same model"
    base = [median(column) for column in zip(*rows["one process"], strict=True)]
    print(f"{size:.0f} MB, order 5, {os.cpu_count()} cores, medians of {options.rounds} rounds")
    print("| | wall s | CPU s | of one process's wall | of its CPU | MB of text/CPU s | MB written |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, costs in rows.items():
        wall, cpu, written = (median(column) for column in zip(*costs, strict=True))
        shares = f"{base[0] / wall:.2f} | {base[1] / cpu:.2f} | {size / cpu:.1f}"
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {shares} | {written:,.0f} |")


if __name__ == "__main__":
    main()
