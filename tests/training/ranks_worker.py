"""What each of two processes does for `test_parallel.py`: `torchrun ... ranks_worker.py FOLDER`."""

import sys
from pathlib import Path

import torch

from lmlab.training.ranks import joined
from tests.training.runs import fit, resumed, stop_at

WAYS = {"columns": {"way": "columns"}, "lines": {"way": "lines"}}
ACCUMULATED = {"way": "lines", "accumulate": 2}
NAMED = {"steps": 50, "dropout": 0.0, "lr": 3e-3, "evaluations": 2}
HALF = 25


def go(run, ranks):
    """Run with these ranks; the first alone keeps anything and is told anything."""
    run.ranks = ranks
    if not ranks.first:
        run.run, run.listeners = None, ()
    return run.go()


def main(root):
    torch.set_num_threads(1)
    with joined() as ranks:
        for name, way in WAYS.items():
            go(fit(root / f"{name}-two", **way, **NAMED), ranks)
            halted = go(fit(root / f"{name}-two-half", listeners=[stop_at(HALF)], **way, **NAMED), ranks)
            assert (halted.reason, halted.progress.step) == ("interrupted", HALF)
            go(resumed(root / f"{name}-one-half", **way, **NAMED), ranks)
        go(fit(root / "accumulated-two", **ACCUMULATED, **NAMED), ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
