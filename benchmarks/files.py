"""One file beside a directory and KenLM's binary, and encoding by shards beside one process; medians, interleaved.

    python -m benchmarks.files TEXT FOLDER [--kenlm]

TEXT has a sentence a line; FOLDER is for what is made, and goes on from what is there. With --kenlm, KenLM's module
opens the binary that `lmlab ngram binary` writes.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lmlab
from lmlab import store
from lmlab.progress import Silent

REPEATS = 15


def opening(folder: Path, text: str, with_kenlm: bool) -> None:
    """Milliseconds to open a model that was opened before, and bytes."""
    from lmlab.cli import main
    from lmlab.compat import kenlm as ours

    names = {"directory": folder / "kn", "one file": folder / "kn.lm"}
    if not names["directory"].exists():
        lm = lmlab.estimate(text, order=5, out=names["directory"], reporter=Silent())
        lm.save(names["one file"])
    for path in names.values():
        store.load(path)
    time.sleep(0.2)
    ways: dict[str, Any] = {name: (lambda path=path: store.load(path)) for name, path in names.items()}
    ways |= {f"{name}, Model(path)": (lambda path=path: ours.Model(str(path))) for name, path in names.items()}
    ways["directory, and its words"] = lambda: store.load(names["directory"]).tokenizer.tokens
    if not (folder / "kn.bin").exists():
        main(["ngram", "binary", str(names["directory"]), str(folder / "kn.bin")])
    ways["KenLM's probing binary, Model(path)"] = lambda: ours.Model(str(folder / "kn.bin"))
    if with_kenlm:
        import kenlm

        ways["KenLM's probing binary, kenlm.Model"] = lambda: kenlm.Model(str(folder / "kn.bin"))
    models = {name: way for name, way in ways.items() if "Model" in name}
    ways |= {f"{name}, a sentence": (lambda way=way: way().score("to be or not")) for name, way in models.items()}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            took[name].append(1e3 * (time.perf_counter() - began))
    for name, each in took.items():
        print(f"| open: {name} | {statistics.median(each):.1f} ms |")
    (folder / "asked.txt").write_text("to be or not to be\n")
    command = [sys.executable, "-m", "lmlab", "score", str(names["directory"]), str(folder / "asked.txt"), "--quiet"]
    cold = []
    for _ in range(REPEATS // 3):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        cold.append(time.perf_counter() - began)
    print(f"| lmlab score of a line, a process | {statistics.median(cold):.2f} s |")


def encoding(folder: Path, text: str) -> None:
    """Wall and processor seconds to encode a text whose vocabulary is known."""
    like = folder / "ids-like"
    settings = {"data.unit": "line", "tokenizer.kind": "bpe", "tokenizer.vocab_size": 4000}
    if not like.exists():
        lmlab.encode(text, out=like, settings=settings, reporter=Silent())
    for name, shards in (("one process", None), ("2 workers, 2 shards", 2), ("2 workers, 8 shards", 8)):
        before, began = processor(), time.perf_counter()
        lmlab.encode(
            text, out=folder / f"ids-{time.time_ns()}", like=like, shards=shards, settings=settings, reporter=Silent()
        )
        wall = time.perf_counter() - began
        size = Path(text).stat().st_size / 1e6
        print(f"| encode: {name} | {wall:.1f} s | {processor() - before:.1f} CPU s | {size / wall:.1f} MB/s |")


def processor() -> float:
    """Processor seconds of this process and of those that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    text, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    opening(folder, text, "--kenlm" in sys.argv)
    encoding(folder, text)
