from __future__ import annotations

import subprocess
import sys

import pytest

from lmlab import engine


def test_small_work_leaves_numba_alone() -> None:
    code = "import sys; from lmlab import engine; assert not engine.compiled(10_000); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_holds_within_its_block() -> None:
    with engine.only(True):
        assert engine.compiled(1)
        with engine.only(False):
            assert not engine.compiled(10**12)
        assert engine.compiled(1)
    assert engine.compiled(10**12)


@pytest.mark.parametrize("threads", [1, 3, None])
def test_each_does_all_and_tells_what_fails(threads: int | None) -> None:
    done: list[int] = []
    engine.each(done.append, range(50), threads)
    assert sorted(done) == list(range(50))
    with pytest.raises(ZeroDivisionError):
        engine.each(lambda x: done.append(1 // x), [1, 0, 2], threads)


def test_small_pieces_add_up() -> None:
    code = """
from lmlab import engine
answers = [engine.compiled_by_now(1_000_000) for _ in range(6)]
assert answers == [False, False, False, True, True, True], answers
"""
    subprocess.run([sys.executable, "-c", code], check=True)
