"""Is the n-gram engine faster and smaller than KenLM? Ours and theirs in turn, in one run, on one pinned core.

    LMLAB_DATA=... python benchmarks/ngram.py --kenlm BIN --kenlm-python PYTHON
    python benchmarks/ngram.py --text py=train.txt,held.txt --rows estimate batch --json figures.json

This process only starts others and weighs them (weighing.py); what ours and kenlm's do is in ngram_jobs.py.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

from weighing import Cost, Line, Worker, costs, in_turn, of, on, run

SMALL = 1_200_000  # bytes of a small text: tinyshakespeare whole
HEAD = 20_000_000  # bytes of training text that are scored
PASSES = 5  # at least, of what is quick
AGREE = 1e-5  # five digits
HERE = Path(__file__).resolve().parent
TRIE = "-q 8 -b 8 -a 22 trie"
TOOLS = ("lmplz", "build_binary", "query")

PROTOCOL = """\
Protocol: order {order}, one run, core {core}, ours and theirs in turn, medians of {repeats} rounds (of what is quick,
{passes} at least). CPU is user and system time, of whole processes where it is in seconds, imports included; peak is
the largest resident set; both as the system tells them. lmplz runs with -S 1G and writes ARPA, we write our model
directory. Batch scoring reads the text from its file, with the model open and its tables built, and touches 128 MB of
other memory between passes. Bits count the spellings of the words;
"tables" are those of batch scoring, in memory. A ratio above 1 says that ours is better."""


def job(name: str, *arguments: Any, python: str = sys.executable) -> list[str]:
    """The command of a job of ngram_jobs.py."""
    return [python, str(HERE / "ngram_jobs.py"), name, json.dumps(arguments, default=str)]


@dataclass
class Case:
    """A text, what is made of it, and the tools that are there; `kenlm` is an interpreter that can import it."""

    name: str
    train: Path
    held: Path
    folder: Path
    order: int
    repeats: int
    core: int
    cores: set[int]
    tools: dict[str, str]
    kenlm: str | None
    checks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.passes = max(PASSES, self.repeats)
        self.model, self.their_arpa = self.folder / "model", self.folder / "their.arpa"

    def prepare(self) -> None:
        """Make what every row needs; the first call of a compiled loop, which is slow, is then behind us."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.estimate()
        if self.tools:
            self.lmplz()

    @cached_property
    def probing(self) -> Path:
        """Their model, hashed."""
        self.build("their.bin", "probing", self.their_arpa)
        return self.folder / "their.bin"

    def estimate(self, text: Path | None = None, out: str = "model") -> Cost:
        """Ours, to a model directory."""
        shutil.rmtree(self.folder / out, ignore_errors=True)
        named = ("-o", self.folder / out, "--order", str(self.order), "--quiet")
        return run(sys.executable, "-m", "lmlab.cli", "ngram", "estimate", text or self.train, *named)

    def lmplz(self, text: Path | None = None, out: str = "their.arpa") -> Cost:
        """Theirs, to an ARPA file."""
        files = ("-T", f"{self.folder}/", "--text", text or self.train, "--arpa", self.folder / out)
        command = (self.tools["lmplz"], "-o", str(self.order), "-S", "1G", *files)
        try:
            return run(*command)
        except subprocess.CalledProcessError:
            return run(*command, "--discount_fallback")

    def build(self, out: str, *how: str | Path) -> Cost:
        """An ARPA file of theirs to a binary one."""
        return run(self.tools["build_binary"], "-T", f"{self.folder}/", *how, self.folder / out)

    def query(self, model: Path, text: str | Path) -> Cost:
        """Score a text with theirs."""
        return run(self.tools["query"], "-v", "summary", model, stdin=text)

    def theirs(self, work: Callable[[], Any]) -> Callable[[], Any] | None:
        """A work of their tools, or None without them."""
        return work if self.tools else None

    def their_worker(self, name: str, *arguments: Any) -> contextlib.AbstractContextManager[Worker | None]:
        """A worker that is given their model, or None without kenlm."""
        if not (self.tools and self.kenlm):
            return contextlib.nullcontext()
        return Worker(job(name, self.probing, *arguments, python=self.kenlm))

    def head(self, size: int) -> Path:
        """The first whole lines of the training text, so many bytes at most."""
        path = self.folder / f"head_{size}.txt"
        with self.train.open("rb") as file:
            head = file.read(size)
        path.write_bytes(head[: head.rfind(b"\n") + 1] or head)
        return path

    def check(self, what: str, ours: float, theirs: float) -> None:
        """Note whether two figures agree to five digits, whole numbers to the last."""
        same = ours == theirs if isinstance(ours, int) else math.isclose(ours, theirs, rel_tol=AGREE)
        said = "agree" if same else "DIFFER"
        self.checks.append(f"{self.name}, {what}: {ours:.10g} and {theirs:.10g} {said}")


def perplexity(summary: Cost, which: str) -> float:
    """Of query's summary."""
    return float(re.findall(rf"Perplexity {which} OOVs:\s+(\S+)", summary.said)[0])


# ---- the rows


def estimate(case: Case) -> list[Line]:
    """Text to a saved model, whole processes."""
    return costs("estimate; lmplz", *in_turn(case.repeats, case.estimate, case.theirs(case.lmplz)))


def small(case: Case) -> list[Line]:
    """The same of 1 MB."""
    text = case.head(SMALL)
    theirs = case.theirs(partial(case.lmplz, text, "small.arpa"))
    found = in_turn(case.passes, partial(case.estimate, text, "small"), theirs)
    return costs(f"estimate {text.stat().st_size / 1e6:.1f} MB; lmplz", *found)


def ready(case: Case) -> list[Line]:
    """Text to a model that answers queries."""
    two, one, theirs = in_turn(
        case.repeats,
        lambda: case.estimate().cpu + run(*job("scoring", case.model)).cpu,
        lambda: run(*job("text_to_tables", case.train, case.folder / "whole", case.order)).cpu,
        case.theirs(lambda: case.lmplz().cpu + case.build("their.bin", "probing", case.their_arpa).cpu),
    )
    return [
        Line("text to answers, estimating and opening; lmplz and build_binary probing", "CPU s", two, theirs),
        Line("text to answers, in one process; lmplz and build_binary probing", "CPU s", one, theirs),
    ]


def batch(case: Case) -> list[Line]:
    """Scoring whole files, query on probing."""
    lines = []
    for what, text in (("held-out", case.held), ("training text", case.head(HEAD))):
        with Worker(job("scoring", case.model)) as scoring:
            ours, theirs, starts, spread = in_turn(
                case.passes,
                partial(scoring, text, [case.core]),
                case.theirs(lambda text=text: case.query(case.probing, text)),  # type: ignore[misc]
                case.theirs(lambda: case.query(case.probing, os.devnull)),
                partial(scoring, text, sorted(case.cores)),
            )
        tokens, start = ours[0]["tokens"], median(cost.cpu for cost in starts) if starts else 0.0
        cpu, wall = of(ours, "cpu"), of(spread, "wall")
        for which, our_s, their_s in (
            ("", cpu, [cost.cpu for cost in theirs]),
            (" without its start", cpu, [max(cost.cpu - start, 1e-4) for cost in theirs]),
            (f", {len(case.cores)} threads of ours, wall", wall, [cost.wall for cost in theirs]),
        ):
            ours_now, theirs_now = ([tokens / 1e6 / s for s in side] for side in (our_s, their_s))
            figure = f"score {what} ({tokens:,} tokens); query{which}"
            lines.append(Line(figure, "Mtok/s", ours_now, theirs_now, more=True))
        case.check(f"{what}: digests of scores by one thread and by all", ours[0]["digest"], spread[0]["digest"])
        for which in ("including", "excluding") if theirs else ():
            case.check(f"{what}: perplexity {which} OOVs and query's", ours[0][which], perplexity(theirs[0], which))
    return lines


def sentences(case: Case) -> list[Line]:
    """Held-out text, by file (ours) or by sentence (both), python kenlm."""
    with (
        Worker(job("scoring", case.model)) as scoring,
        Worker(job("sentences", case.model, "lmlab.compat.kenlm", case.held)) as compat,
        case.their_worker("sentences", "kenlm", case.held) as kenlm,
    ):
        files, ours, theirs = in_turn(case.passes, partial(scoring, case.held, [case.core]), compat, kenlm)
    by_file, lines = [answer["tokens"] / 1e6 / answer["cpu"] for answer in files], []
    for name in ("full_scores", "score"):
        by_sentence, others = of(ours, name), of(theirs, name)
        lines.append(Line(f"score held-out as a file; kenlm {name}", "Mtok/s", by_file, others, more=True))
        lines.append(Line(f"compat {name} by sentence; kenlm {name}", "Mtok/s", by_sentence, others, more=True))
    if theirs:
        case.check("held-out: sum of compat's scores and kenlm's", ours[0]["total"], theirs[0]["total"])
    return lines


def calls(case: Case) -> list[Line]:
    """One sentence of five words a call."""
    with (
        Worker(job("calls", case.model, "lmlab.compat.kenlm", case.held)) as compat,
        case.their_worker("calls", "kenlm", case.held) as kenlm,
    ):
        ours, theirs = in_turn(case.passes, compat, kenlm)
    if theirs:
        case.check("five words: sum of compat's scores and kenlm's", ours[0]["total"], theirs[0]["total"])
    return [Line("5 words a call; kenlm score", "us", of(ours, "us"), of(theirs, "us"))]


def size(case: Case) -> list[Line]:
    """Bits an n-gram."""
    with Worker(job("sizes", case.model, case.train, case.held)) as sizes:
        ours = sizes()
    case.check("held-out: digests of scores by the fast layout and the compact one", ours["fast"], ours["compact"])
    their_bits: dict[str, list[float]] = {}
    if case.tools:
        case.build("their.trie", *TRIE.split(), case.their_arpa)
        files = {TRIE: case.folder / "their.trie", "probing": case.probing}
        their_bits = {name: [8 * path.stat().st_size / ours["ngrams"]] for name, path in files.items()}
    return [
        Line(f"size, {name}; {other}", "bits/n-gram", [ours["bits"][name]], their_bits.get(other, []))
        for name, other in (("compact", TRIE), ("directory", "probing"), ("tables", "probing"))
    ]


def row(case: Case) -> list[Line]:
    """The whole next-word distribution."""
    words = case.folder / "words.txt"
    run(*job("write_words", case.model, words))
    with (
        Worker(job("our_row", case.model, case.held, words)) as lmlab,
        case.their_worker("their_row", case.held, words) as kenlm,
    ):
        ours, theirs = in_turn(case.passes, lmlab, kenlm)
    if theirs:
        case.check("held-out: log10 summed over sampled words", ours[0]["total"], theirs[0]["total"])
    figure = f"all next words, V = {ours[0]['words']:,}; BaseScore over them"
    return [Line(figure, "us", of(ours, "us"), of(theirs, "us"))]


def arpa(case: Case) -> list[Line]:
    """ARPA text, written and read."""
    mine = case.folder / "our.arpa"
    write = (sys.executable, "-m", "lmlab.cli", "ngram", "arpa", case.model, mine, "--quiet")
    estimated, written, lmplz, read, built = in_turn(
        case.repeats,
        lambda: case.estimate().cpu,
        lambda: run(*write).cpu,
        case.theirs(lambda: case.lmplz().cpu),
        lambda: run(*job("read_arpa", case.their_arpa if case.tools else mine)).cpu,
        case.theirs(lambda: case.build("their.bin", "probing", case.their_arpa).cpu),
    )
    if case.tools:
        case.build("our.bin", "probing", mine)
        ours, theirs = (case.query(case.folder / name, case.held) for name in ("our.bin", "their.bin"))
        case.check("query with our ARPA and with lmplz's", *(perplexity(cost, "including") for cost in (ours, theirs)))
    together = [sum(pair) for pair in zip(estimated, written, strict=True)]
    return [
        Line(f"write ARPA, {mine.stat().st_size / 1e6:.0f} MB (lmplz's is within estimating)", "CPU s", written),
        Line("estimate and write ARPA; lmplz", "CPU s", together, lmplz),
        Line("read ARPA; build_binary probing", "CPU s", read, built),
    ]


def warm(case: Case) -> list[Line]:
    """1 MB in a process that runs already, as users of the module have it; lmplz is a process each time."""
    text, theirs = case.head(SMALL), case.folder / "small.arpa"
    if not case.tools:
        return []
    case.lmplz(text, "small.arpa")
    with (
        Worker(job("opening", theirs, "lmlab.compat.kenlm")) as lmlab,
        Worker(job("opening", theirs, "kenlm", python=case.kenlm or sys.executable)) as kenlm,
        Worker(job("estimating", text, case.order)) as estimating,
    ):
        ours, others, model, lmplz = in_turn(
            case.passes, lmlab, kenlm, estimating, lambda: case.lmplz(text, "small.arpa").cpu
        )
    return [
        Line("read ARPA of 1 MB of text, warm; kenlm.Model", "CPU s", of(ours, "cpu"), of(others, "cpu")),
        Line("estimate 1 MB, warm; lmplz", "CPU s", of(model, "cpu"), lmplz),
    ]


def threads(case: Case) -> list[Line]:
    """All cores, beside one."""
    spread = on(case.cores)  # as a decorator, it can be used again
    one, many, theirs = in_turn(
        case.repeats,
        lambda: case.estimate().wall,
        spread(lambda: case.estimate(out="model_of_all").wall),
        case.theirs(spread(lambda: case.lmplz().wall)),
    )
    names = [path.name for path in case.model.glob("*.npy")]
    same, _, _ = filecmp.cmpfiles(case.model, case.folder / "model_of_all", names, shallow=False)
    case.check("files of the model by one thread, and identical ones by all", len(names), len(same))
    text = case.head(HEAD)
    with Worker(job("scoring", case.model)) as scoring:
        alone, together = in_turn(case.passes, *(partial(scoring, text, c) for c in ([case.core], sorted(case.cores))))
    case.check("digests of scores by one thread and by all", alone[0]["digest"], together[0]["digest"])
    here = f"{len(case.cores)} threads"
    return [
        Line(f"estimate with {here}; ours with one", "wall s", many, one),
        Line(f"score with {here}; ours with one", "wall s", of(together, "wall"), of(alone, "wall")),
        Line(f"estimate with {here}; lmplz on those cores", "wall s", many, theirs),
    ]


ROWS = {
    work.__name__: work for work in (estimate, ready, small, batch, sentences, calls, size, row, arpa, warm, threads)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows asked for and print a table a text."""
    asked = _parser().parse_args(arguments)
    cores = os.sched_getaffinity(0)
    core = min(cores) if asked.core is None else asked.core
    kenlm = asked.kenlm_python or (sys.executable if importlib.util.find_spec("kenlm") else None)
    about, tools, measured = machine(), _tools(asked.kenlm), []
    protocol = PROTOCOL.format(order=asked.order, core=core, repeats=asked.repeats, passes=PASSES)
    kept: dict[str, Any] = {"machine": about, "protocol": protocol, "texts": {}}
    with contextlib.ExitStack() as stack:
        work = asked.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(on({core}))
        for name, train, held in asked.text or [_tinyshakespeare(work)]:
            case = Case(name, train, held, work / name, asked.order, asked.repeats, core, cores, tools, kenlm)
            case.prepare()
            lines: list[Line] = []
            measured.append((case, lines))
            for which in asked.rows:
                print(f"{name}: {which}", file=sys.stderr, flush=True)
                lines += ROWS[which](case)
                kept["texts"][name] = {"figures": [*map(asdict, lines)], "checks": case.checks}
                if asked.json:
                    asked.json.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    checks = [f"- {check}" for case, _ in measured for check in case.checks]
    print(about, *(_table(case.name, lines) for case, lines in measured), protocol, "\n".join(checks), sep="\n\n")
    if any(check.endswith("DIFFER") for check in checks):
        sys.exit("some results differ")


def machine() -> str:
    """This machine in words; found out elsewhere, as it takes torch."""
    return run(sys.executable, "-c", "import common; print(common.machine())", cwd=HERE).said.strip()


def _tools(folder: str | None) -> dict[str, str]:
    """Where KenLM's tools are: all of them, or none."""
    found = {tool: shutil.which(tool, path=folder) for tool in TOOLS}
    if missing := [tool for tool, path in found.items() if not path]:
        print(f"ours alone: {', '.join(missing)} not found", file=sys.stderr)
        return {}
    return {tool: path for tool, path in found.items() if path}


def _table(name: str, lines: Sequence[Line]) -> str:
    from common import short, table  # takes torch: not before all is measured

    def cells(line: Line) -> list[str]:
        theirs = short(median(line.theirs)) if line.theirs else "-"
        ratio = "-" if line.ratio is None else f"{line.ratio:.3g}"
        return [line.figure, line.unit, short(median(line.ours)), theirs, ratio]

    return table([f"{name}: ours; theirs", "unit", "ours", "theirs", "ratio"], [cells(line) for line in lines])


def _tinyshakespeare(work: Path) -> tuple[str, Path, Path]:
    """The corpus, its first 98 % of lines for training."""
    if "LMLAB_DATA" not in os.environ:
        sys.exit("name a text with --text, or the folder of tinyshakespeare.txt with LMLAB_DATA")
    lines = Path(os.environ["LMLAB_DATA"], "tinyshakespeare.txt").read_bytes().splitlines(keepends=True)
    train, held, cut = work / "train.txt", work / "held.txt", len(lines) * 98 // 100
    work.mkdir(parents=True, exist_ok=True)
    train.write_bytes(b"".join(lines[:cut]))
    held.write_bytes(b"".join(lines[cut:]))
    return "tinyshakespeare", train, held


def _text(named: str) -> tuple[str, Path, Path]:
    name, _, files = named.partition("=")
    train, _, held = files.partition(",")
    if not held:
        raise argparse.ArgumentTypeError(f"{named} is not NAME=TRAIN,HELD")
    return name, Path(train), Path(held)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/ngram.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", action="append", type=_text, metavar="NAME=TRAIN,HELD", help="repeatable")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="all, if not given")
    parser.add_argument("--order", type=int, default=5, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds of what is slow")
    parser.add_argument("--core", type=int, metavar="N", help="the core that everything runs on")
    parser.add_argument("--kenlm", metavar="DIR", help=f"where {', '.join(TOOLS)} are; else PATH")
    parser.add_argument("--kenlm-python", metavar="PYTHON", help="an interpreter with kenlm; else this one")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep models here; else they are deleted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser


if __name__ == "__main__":
    main()
