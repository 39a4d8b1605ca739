"""What training borrows of the process, and the one call that changes it for good."""

import ctypes
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from lmlab.cli import main
from lmlab.training.machine import Interrupt, choose_precision, torch_borrowed
from tests.training.runs import fit

MAPPED = """
import ctypes, os
import lmlab
{call}
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]
libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p
before = libc.mallinfo2().hblks
libc.malloc(64 << 20)
print(libc.mallinfo2().hblks - before, os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
"""


def in_a_process(call, **variables):
    """Whether a process maps a large block of memory by itself, and how its threads would wait."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "LMLAB_PLAIN"))}
    script = MAPPED.format(call=call)
    done = subprocess.run([sys.executable, "-c", script], env=env | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library is not glibc"
)
def test_one_call_tunes_the_process_and_importing_does_not():
    assert in_a_process("") == ["1", "None", "None"]
    assert in_a_process("lmlab.tune_process()") == ["0", "passive", "5000"]
    named = {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "7", "LMLAB_PLAIN_MALLOC": "1"}
    assert in_a_process("lmlab.tune_process()", **named) == ["1", "active", "7"]


def test_neither_training_nor_a_command_line_in_this_process_changes_the_environment(tmp_path):
    before = dict(os.environ)
    fit(tmp_path / "run", steps=2, precision="auto").go()
    assert main(["--version"]) == 0
    assert dict(os.environ) == before


def test_a_pace_gives_threads_back_and_moves_no_weight():
    run, threads = fit(precision="auto"), torch.get_num_threads()
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    assert run.pace(0.0) > 0
    assert torch.get_num_threads() == threads
    assert all(torch.equal(now, was) for now, was in zip(run.model.parameters(), before, strict=True))


def test_handlers_come_back_after_a_failure_and_stay_outside_the_main_thread():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    seen = []

    def fails():
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
            assert interrupt.signal == signal.SIGTERM
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()

    def elsewhere():
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before[0]]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_precision_that_is_named_stands():
    assert [choose_precision(name, torch.device("cpu")) for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")


def test_torch_comes_back_as_it_was():
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.allow_tf32, cudnn.deterministic
    with torch_borrowed():
        torch.set_num_threads(1)
        assert (cudnn.allow_tf32, cudnn.deterministic) == (False, True)
    assert (torch.get_num_threads(), cudnn.allow_tf32, cudnn.deterministic) == before
