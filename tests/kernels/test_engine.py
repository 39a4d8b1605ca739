from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from lmlab.kernels import engine


def test_small_work_leaves_numba_alone() -> None:
    code = (
        "import sys; from lmlab.kernels import engine; "
        "assert not engine.compiled(10_000); assert 'numba' not in sys.modules"
    )
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


def test_what_was_begun_ends_before_a_failure_is_told() -> None:
    ended: list[int] = []
    begun, failed = threading.Event(), threading.Event()

    def work(n: int) -> None:
        if not n:
            begun.wait()
            failed.set()
            raise ZeroDivisionError
        begun.set()
        failed.wait()
        time.sleep(0.2)  # one that did not wait would be back by now; one that does is right however long this takes
        ended.append(n)

    with pytest.raises(ZeroDivisionError):
        engine.each(work, [0, 1], 2)
    assert ended == [1]


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = """
import os
from lmlab.kernels import engine
engine.each(print, "ab", 2)
child = os.fork()
if not child:
    engine.each(print, "cd", 2)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, stdout=subprocess.DEVNULL)


def test_the_choice_depends_on_size_alone_whatever_is_loaded_already() -> None:
    code = """
from lmlab.kernels import engine
sizes = [1_000, 1_999_999, 2_000_000, 10**9]
before = [engine.compiled(size) for size in sizes]
import lmlab.kernels.jit
assert before == [engine.compiled(size) for size in sizes] == [False, False, True, True], before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_work_of_a_size_is_compiled_from_a_bound_on_whatever_ran_before() -> None:
    assert [engine.worthwhile(work, 10) for work in (9, 10, 9)] == [False, True, False]
    with engine.only(True):
        assert engine.worthwhile(0, 10)
    with engine.only(False):
        assert not engine.worthwhile(10, 10)


def test_what_is_ready_compiles_nothing() -> None:
    said: list[str] = []
    with engine.watch_compiling(lambda: said.append("compiling")) as spent:
        pass
    assert (said, spent.seconds) == ([], 0)


def test_compiling_is_said_once_and_its_time_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    ticks = iter([10.0, 13.0, 20.0, 21.0])
    monkeypatch.setattr(engine.time, "perf_counter", lambda: next(ticks))
    with engine.watch_compiling(lambda: said.append("compiling")) as spent:
        for begins in (True, True, False, False, True, False):  # one that needs another, then one alone
            engine.note_compiling(begins=begins)
    assert (said, spent.seconds) == (["compiling"], 4.0)
    engine.note_compiling(begins=True)
    assert spent.seconds == 4.0
