"""The campaign: `make soak`, or `python -m tests.soak`.

It tries what may happen to a program and ends with a table (Markdown, and JSON in `--json FILE`), and with exit code 1
where something was found, each with what tries it again. The counts are those of 45 minutes; fewer minutes try fewer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from lmlab.training.machine import tune_process
from tests.soak.campaign import WHOLE, Tally, empty, in_lanes, table, tasks

PARTS = ("kills", "fuzz", "disk", "pairs")
_MEMORY_DISK = Path("/dev/shm")  # where there is one, thousands of small files a second wear out no disk


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=WHOLE, help="how long, counts in proportion (default 45)")
    parser.add_argument("--only", metavar="PART[/NAME[/NUMBER]]", default="", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--json", metavar="FILE", help="keep the counts and what was found")
    return parser.parse_args()


def main() -> int:
    """Run the campaign; 1 where something was found."""
    options = _options()
    part_wanted, _, rest = options.only.partition("/")
    name_wanted, _, number = rest.rpartition("/") if rest.rpartition("/")[2].isdigit() else (rest, "", "")
    if part_wanted and part_wanted not in PARTS:
        raise SystemExit(f"no part is called {part_wanted!r}: there are {', '.join(PARTS)}")
    os.environ.setdefault("LMLAB_DATA", os.devnull)  # nothing but what the campaign makes
    tune_process()
    place = _MEMORY_DISK if os.access(_MEMORY_DISK, os.W_OK) else None
    tallies: dict[str, Tally] = {}
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="lmlab-soak-", dir=place) as folder:
        for name in [part_wanted] if part_wanted else PARTS:
            tallies |= _part(name, name_wanted, number, options, Path(folder))
    print(f"\n{table(tallies)}\n\n{(time.time() - began) / 60:.0f} minutes, seed {options.seed}")
    for name, tally in tallies.items():
        for found, about in tally.found.items():
            print(f"\n{name}: {found} ({about['times']} times)\n  {about['again']}\n{about['detail']}".rstrip())
    if options.json:
        Path(options.json).write_text(json.dumps({name: asdict(tally) for name, tally in tallies.items()}, indent=2))
    return int(any(tally.found for tally in tallies.values()))


def _part(part_name: str, name: str, number: str, options: argparse.Namespace, folder: Path) -> dict[str, Tally]:
    import importlib

    part = importlib.import_module(f"tests.soak.{part_name}").PART
    home = empty(folder / part_name)
    part.prepare(home)
    counts = {key: count for key, count in part.counts().items() if not name or key == name}
    if not counts:
        raise SystemExit(f"{part_name} has no cases called {name!r}: there are {', '.join(part.counts())}")
    todo = tasks(counts, options.minutes / WHOLE, part.batch)
    if number:
        todo = [(name, range(int(number), int(number) + 1))]
    began = said = time.time()
    planned, tried = sum(len(numbers) for _, numbers in todo), 0
    tallies = {f"{part_name}/{key}": Tally() for key in counts}
    for got in in_lanes(part, todo, options.seed, began + 60 * options.minutes * part.share, home):
        tallies[f"{part_name}/{got['name']}"].merge(got)
        tried += got["tried"]
        if tried == planned or time.time() > said + 15:
            said = time.time()
            _tell(part_name, tallies, tried / planned, said - began)
    for key, tally in tallies.items():
        for about in tally.found.values():
            about["again"] = f"python -m tests.soak --seed {options.seed} --only {key}/{about['number']}"
    return tallies


def _tell(part: str, tallies: dict[str, Tally], share: float, seconds: float) -> None:
    cases, found = sum(t.cases for t in tallies.values()), sum(len(t.found) for t in tallies.values())
    print(
        f"{part}: {cases:,} cases, {share:.0%} of the plan, {found} found, {seconds:.0f} s", file=sys.stderr, flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
