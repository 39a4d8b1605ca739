"""The machine and the process under training: devices, precision, threads, signals, memory.

A library call borrows: threads and signal handlers come back when training ends. `tune_process` alone changes the
process for good; the command line calls it at its start, and a program of yours may.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmlab.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor, device

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a process to end, besides Ctrl-C; a system may lack one."""
_PROBE_GAIN = 1.3  # bf16 must be this much faster than fp32 to be chosen


def tune_process(*, keep_memory: bool = True) -> None:
    """Set this process up for training, for good. Call it before torch is imported: threads read it then.

    Idle OpenMP threads spin a moment, then sleep: torch's own spin for milliseconds, which starves everybody on a busy
    machine (LSTM 512, 16x64, two threads, tokens/s: 46,000 idle and nothing in half a minute beside two busy
    processes; with this 47,000 and 17,000). glibc keeps freed memory instead of having each step fault its pages in
    anew: an LSTM 256 learns 1.6 times as fast on batches of 64x512, and as fast as before on 16x64, at the price of
    memory that stays at its peak. Environment variables that are set already stand; LMLAB_PLAIN_MALLOC=1 leaves the
    memory as it is.

    Args:
        keep_memory: whether freed memory is kept; counting n-grams gains nothing, and its peak rises by a sixth.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if not keep_memory or sys.platform != "linux" or os.environ.get("LMLAB_PLAIN_MALLOC"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # another C library has nothing to tune
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def choose_device(wanted: str, local_rank: int) -> device:
    """Where to compute: `cpu`, `cuda`, or `auto`, a GPU if there is one; each process of a machine has its own.

    Raises:
        SettingError: a GPU is wanted and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise SettingError("train.device", wanted, "cpu or auto on a machine without a GPU that torch can use")
    if wanted == "cpu" or not there:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def choose_precision(wanted: str, on: device) -> str:
    """`fp32` or `bf16`; `auto` takes bf16 where the device has it, and multiplies clearly faster in it."""
    import torch

    if wanted != "auto":
        return wanted
    if on.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    numbers = torch.Generator().manual_seed(0)  # its own: a probe must not move the run's random state
    left, right = torch.randn(256, 512, generator=numbers), torch.randn(512, 512, generator=numbers)
    with torch_borrowed():
        torch.set_num_threads(1)  # several that wait for each other on a busy machine would measure that
        gain = _product_seconds(left, right) / _product_seconds(left.bfloat16(), right.bfloat16())
    return "bf16" if gain > _PROBE_GAIN else "fp32"


def _product_seconds(left: Tensor, right: Tensor) -> float:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return min(times)


@contextlib.contextmanager
def torch_borrowed(threads: int | None = None) -> Iterator[None]:
    """Whatever number of threads torch is given within this, the caller's comes back; fp32 is fp32, and a run repeats.

    Of itself torch lets cuDNN round fp32 to 10 bits (TF32) in recurrences and convolutions: on a GPU the weights of a
    small LSTM were 2e-3 from the processor's after 20 steps. Who wants speed takes bf16, as `auto` does there. Nor may
    cuDNN sum in any order: weights of a CNN that learned twice were up to 4e-3 apart.

    Args:
        threads: to begin with; None are the caller's.
    """
    import torch

    cudnn = torch.backends.cudnn
    before, told = torch.get_num_threads(), (cudnn.allow_tf32, cudnn.deterministic)
    cudnn.allow_tf32, cudnn.deterministic = False, True
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = told
        torch.set_num_threads(before)


class Interrupt:
    """Turns the first Ctrl-C (SIGTERM, SIGHUP) into a request to stop after the step; the second one acts at once.

    The handlers of before come back on leaving. Outside the main thread, which alone gets signals, nothing changes; nor
    does it where hangups are ignored (`nohup`).

    Attributes:
        signal: the number of the one that asked; 0 if none did.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ENDING):
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
