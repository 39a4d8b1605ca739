"""How fast does `lmlab filter` score many short documents, beside a plain loop over kenlm's module?

    python benchmarks/filter.py --documents 1000000 --kenlm-python PYTHON

A made-up corpus: words drawn by Zipf's law, 12 to 28 a document, a JSON object a line. One 5-gram is estimated from
another such text; kenlm reads it as the ARPA file that we write. The plain loop parses each line, calls
`model.perplexity`, adds the figure and writes the line again. Each side is a process of its own, from start to end of
which the clock counts. On a machine with other work the seconds of processors compare. Both perplexities are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import lmlab
from common import machine, table

VOCABULARY, LEARNED = 50_000, 50_000  # words; documents that the model is made from
PLAIN = """
import json, sys, kenlm
model = kenlm.Model(sys.argv[1])
with open(sys.argv[2], encoding="utf-8") as read, open(sys.argv[3], "w", encoding="utf-8") as write:
    for line in read:
        record = json.loads(line)
        record["perplexity"] = model.perplexity(record["text"])
        write.write(json.dumps(record, ensure_ascii=False) + "\\n")
"""


def documents(count: int, seed: int) -> Iterator[str]:
    """Made-up texts."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, 10_000):
        size_D = rng.integers(12, 29, min(10_000, count - start))
        words = np.minimum(rng.zipf(1.3, size_D.sum()), VOCABULARY)
        for words_N in np.split(words, size_D.cumsum()[:-1]):
            yield " ".join(f"w{word}" for word in words_N.tolist())


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of the clock, and of processors."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figures(path: Path) -> np.ndarray:
    """The perplexities of a file of records."""
    with path.open(encoding="utf-8") as file:
        return np.array([json.loads(line)["perplexity"] for line in file])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], metavar="N")
    parser.add_argument("--kenlm-python", metavar="PYTHON", help="an interpreter that has kenlm")
    asked = parser.parse_args(arguments)
    with TemporaryDirectory() as name:
        folder = Path(name)
        run, arpa, source = folder / "run", folder / "model.arpa", folder / "web.jsonl"
        lmlab.estimate(documents(LEARNED, 0), order=5, out=run)
        with source.open("w", encoding="utf-8") as file:
            for number, text in enumerate(documents(asked.documents, 1)):
                file.write(json.dumps({"id": number, "text": text}) + "\n")
        words = sum(map(len, map(str.split, documents(min(asked.documents, 10_000), 1))))
        lines, theirs = [], None
        cli = [sys.executable, "-m", "lmlab"]
        if asked.kenlm_python:
            subprocess.run([*cli, "ngram", "arpa", str(run), str(arpa)], check=True, stdout=subprocess.DEVNULL)
            taken = timed([asked.kenlm_python, "-c", PLAIN, str(arpa), str(source), str(folder / "k.jsonl")])
            theirs = figures(folder / "k.jsonl")
            lines.append(_row("plain loop over kenlm", taken, asked.documents, ""))
        for processes in asked.processes:
            out = folder / f"ours{processes}.jsonl"
            command = [*cli, "filter", str(run), str(source), "-o", str(out), "--no-spelling", "--quiet"]
            taken = timed([*command, "--processes", str(processes)])
            same = ""
            if theirs is not None:
                same = f"{np.abs(figures(out) / theirs - 1).max():.1e}"
            lines.append(_row(f"lmlab filter, {processes} process(es)", taken, asked.documents, same))
        head = ("way", "seconds", "documents/s", "seconds of processors", "greatest relative difference")
        print(machine(), table(head, lines), sep="\n\n")
        print(f"\n{asked.documents:,} documents, {words / min(asked.documents, 10_000):.1f} words each on average.")


def _row(name: str, taken: tuple[float, float], count: int, same: str) -> list[str]:
    return [name, f"{taken[0]:.1f}", f"{count / taken[0]:,.0f}", f"{taken[1]:.1f}", same]


if __name__ == "__main__":
    main()
