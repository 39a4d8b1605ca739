"""What the parts of the campaign share: cases by name and number, lanes that try them side by side, a table.

A case is known by its part, its name and its number; with the seed that says all of it, so that
`python -m tests.soak --seed SEED --only PART/NAME/NUMBER` tries it again.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import random
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

WHOLE = 45.0  # minutes of a whole campaign, for which the parts name their counts


class WrongError(Exception):
    """What should have been refused was taken, or not in one line."""


@dataclass
class Case:
    """What came of a case; `found` is empty where it ended as it should."""

    number: int
    seconds: float = 0.0
    rss: int = 0
    found: str = ""
    detail: str = ""
    times: int = 1  # as how many it counts


@dataclass
class Tally:
    """What came of the cases of a name."""

    cases: int = 0
    seconds: float = 0.0
    rss: int = 0
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, case: Case) -> None:
        """Count a case; of those that end alike the first is kept."""
        self.cases += case.times
        self.seconds, self.rss = max(self.seconds, case.seconds), max(self.rss, case.rss)
        if case.found:
            kept = self.found.setdefault(case.found, {"number": case.number, "times": 0, "detail": case.detail})
            kept["times"] += 1

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what another process tallied."""
        self.cases += other["cases"]
        self.seconds, self.rss = max(self.seconds, other["seconds"]), max(self.rss, other["rss"])
        for found, about in other["found"].items():
            kept = self.found.setdefault(found, {**about, "times": 0})
            kept["times"] += about["times"]


class Part(Protocol):
    """A part of the campaign."""

    share: float  # of the campaign's time
    batch: int  # cases that one process tries in a row

    def prepare(self, folder: Path) -> None:
        """Make in a folder what all cases start from; called once, in the process that is forked."""

    def counts(self) -> dict[str, int]:
        """How many cases of each name a whole campaign tries."""

    def tried(self, name: str, numbers: range, seed: int, folder: Path) -> Iterator[Case]:
        """Try cases, in a folder of this process's own."""


def drawn(seed: int, *words: object) -> random.Random:
    """Random numbers that hang on nothing else."""
    return random.Random("/".join(map(str, (seed, *words))))


def empty(folder: Path) -> Path:
    """The folder, with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def tasks(counts: Mapping[str, int], scale: float, batch: int) -> list[tuple[str, range]]:
    """The cases in batches, the names taking turns by their shares, so that time that runs out cuts all alike."""
    batches = []
    for name, count in counts.items():
        many = max(1, round(count * scale))
        step = min(batch, -(-many // 50))
        starts = range(0, many, step)
        batches += [((i + 0.5) / len(starts), name, range(at, min(at + step, many))) for i, at in enumerate(starts)]
    return [(name, numbers) for _, name, numbers in sorted(batches, key=lambda one: one[:2])]


def in_lanes(
    part: Part, todo: list[tuple[str, range]], seed: int, until: float, folder: Path
) -> Iterator[dict[str, Any]]:
    """Try batches side by side, a process a core; yields a tally of each batch as it ends."""
    lanes, pids = [], []
    cores = sorted(os.sched_getaffinity(0))
    for number, core in enumerate(cores):
        reading, writing = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if not pid:
            _lane(part, todo[number :: len(cores)], seed, until, empty(folder / f"lane-{number}"), core, writing)
        writing.close()
        lanes.append(reading)
        pids.append(pid)
    while lanes:
        for lane in multiprocessing.connection.wait(lanes):
            try:
                yield lane.recv()
            except EOFError:
                lanes.remove(lane)
    for pid in pids:
        os.waitpid(pid, 0)


def _lane(
    part: Part, todo: list[tuple[str, range]], seed: int, until: float, folder: Path, core: int, writing: Any
) -> None:
    try:
        os.sched_setaffinity(0, {core})
        for name, numbers in todo:
            tally = Tally()
            try:
                for case in part.tried(name, numbers, seed, folder):
                    tally.add(case)
                    if time.time() > until:
                        break
            except Exception as error:  # noqa: BLE001  # the campaign's own fault is told, and the others go on
                tally.add(Case(numbers.start, 0, 0, f"the campaign fails: {error!r}", traceback.format_exc()))
            writing.send({"name": name, "tried": len(numbers), **asdict(tally)})
            if time.time() > until:
                break
    finally:
        os._exit(0)


def table(tallies: Mapping[str, Tally]) -> str:
    """The counts in Markdown."""
    rows = ["| part | cases | found | worst s | worst RSS, MiB |", "|---|---:|---:|---:|---:|"]
    for name, tally in tallies.items():
        rows.append(f"| {name} | {tally.cases:,} | {len(tally.found)} | {tally.seconds:.1f} | {tally.rss >> 20:,} |")
    whole = sum(tally.cases for tally in tallies.values())
    return "\n".join([*rows, f"| all | {whole:,} | {sum(len(t.found) for t in tallies.values())} | | |"])
