"""What is compiled is kept, and compiled again when anything that went into it has changed."""

import os
import subprocess
import sys
from pathlib import Path

INLINED = "from lmlab.kernels.jit import inline\n\n@inline\ndef tens(x):\n    return x * {}\n"
CALLER = """
from numba import types
from lmlab.kernels.jit import callback, jit
from inlined import tens

@jit
def compiled(x):
    return tens(x)

def _called(x):
    return tens(x)

called = callback(types.int64(types.int64), _called)
print(compiled(7), called.ctypes(7), sum(compiled.stats.cache_hits.values()), called.cache_hits)
"""


def run(folder: Path) -> list[int]:
    known = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", "import caller"], cwd=folder, env=known, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


def test_a_change_of_what_is_inlined_compiles_its_callers_again(tmp_path):
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "inlined.py").write_text(INLINED.format(10))
    assert run(tmp_path) == [70, 70, 0, 0]
    assert run(tmp_path) == [70, 70, 1, 1]
    (tmp_path / "inlined.py").write_text(INLINED.format(100))
    assert run(tmp_path) == [700, 700, 0, 0]
