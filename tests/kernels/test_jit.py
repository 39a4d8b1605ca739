"""What is compiled is kept, compiled again when what went into it has changed, and read from private folders alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

INLINED = "from lmlab.kernels.jit import inline\n\n@inline\ndef tens(x):\n    return x * {}\n"
BETWEEN = "from inlined import (\n    tens,\n)\n"
CALLER = """
from numba import types
from lmlab import kernels
from lmlab.kernels.jit import callback, jit
from between import tens
import other

@jit
def compiled(x):
    return tens(x)

def _called(x):
    return tens(x)

def work():
    global called
    called = callback(types.int64(types.int64), _called)
    return compiled(7), other.double(7)

begins = []
with kernels.watch_compiling(lambda: begins.append(1)) as spent:
    work()
hits = [sum(function.stats.cache_hits.values()) for function in (compiled, other.double)]
print(compiled(7), called.ctypes(7), *hits, called.cache_hits, len(begins), int(spent.seconds > 0))
"""
OTHER = "from lmlab.kernels.jit import jit\n\n@jit\ndef double(x):\n    return 2 * x\n"


def run(folder: Path, cache: Path, **more: str) -> list[int]:
    known = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]),
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-c", "import caller"], cwd=folder, env=known, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name, text in (("caller", CALLER), ("between", BETWEEN), ("other", OTHER), ("inlined", INLINED.format(10))):
        (folder / f"{name}.py").write_text(text)
    return folder


def test_a_change_of_what_is_inlined_compiles_its_callers_again_and_nothing_else(sources, tmp_path):
    assert run(sources, tmp_path / "cache") == [70, 70, 0, 0, 0, 1, 1]
    assert run(sources, tmp_path / "cache") == [70, 70, 1, 1, 1, 0, 0]
    (sources / "inlined.py").write_text(INLINED.format(100))
    assert run(sources, tmp_path / "cache") == [700, 700, 0, 1, 0, 1, 1]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of folders")
@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_to_is_neither_read_nor_written(sources, tmp_path, mode):
    cache = tmp_path / "cache"
    run(sources, cache)
    (inside,) = cache.iterdir()
    inside.chmod(mode)
    before = {path: path.stat().st_mtime_ns for path in inside.iterdir()}
    assert run(sources, cache)[2:5] == [0, 0, 0], "what may be another's was loaded"
    assert run(sources, cache)[2:5] == [1, 1, 1], "nor is it kept beside the source"
    assert {path: path.stat().st_mtime_ns for path in inside.iterdir()} == before
    assert list((sources / "__pycache__").glob("*.nbi"))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of folders")
def test_where_no_folder_is_private_nothing_is_kept_and_all_works(sources, tmp_path):
    (tmp_path / "file").touch()
    (sources / "__pycache__").mkdir()
    (sources / "__pycache__").chmod(0o777)
    for _ in range(2):
        assert run(sources, tmp_path / "file", XDG_CACHE_HOME=str(tmp_path / "file"))[:5] == [70, 70, 0, 0, 0]


SUMS = """
import numpy as np
from lmlab.kernels.jit import jit, jit_sums

@jit_sums
def products(x, y, out):
    for j in range(len(out)):
        out[j] = x[j] * y[j] * (np.float32(1) - x[j])

@jit_sums
def add(numbers, sums):
    for j in range(len(sums)):
        sums[j] += numbers[j]

@jit
def total(x, y, out, sums):
    for n in range(len(x)):
        products(x[n], y[n], out)
        add(out, sums)

x, y = np.random.default_rng(0).random((2, 50, 64)).astype(np.float32)
sums = np.zeros(64, np.float32)
total(x, y, np.empty(64, np.float32), sums)
print(*sums.view(np.uint32))
"""


def test_the_process_that_compiles_rounds_as_those_that_load(tmp_path):
    (tmp_path / "caller.py").write_text(SUMS)
    first, second = (run(tmp_path, tmp_path / "cache") for _ in range(2))
    assert first == second
    assert len(first) == 64


def test_loops_are_loaded_without_linear_algebra_which_others_still_find() -> None:
    pytest.importorskip("scipy", reason="Numba multiplies matrices by SciPy's BLAS")
    code = """
import sys, numpy, numba
import lmlab.kernels.ngram.count
assert "scipy.linalg" not in sys.modules
product = numba.njit(lambda a, b: numpy.dot(a, b) + numpy.cov(a)[0, 0])(numpy.eye(2), numpy.eye(2))
assert "scipy.linalg" in sys.modules
assert product.sum() == 4.0, product
"""
    subprocess.run([sys.executable, "-c", code], check=True)
