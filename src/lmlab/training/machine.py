"""The machine under the training: memory allocation, threads, precision. All of it exact but bf16, which is measured.

glibc hands every large tensor back to the kernel when it is freed, so that each step faults its pages in anew: a third
of an LSTM's time. Keeping them costs memory that stays at its high-water mark, and nothing else.
"""

from __future__ import annotations

import os
import sys
import time

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PROBE_GAIN = 1.3  # bf16 must be this much faster than fp32 to be chosen


def share_politely() -> None:
    """Let idle threads spin a moment, then sleep. Works only before torch is loaded; a setting of the caller's stands.

    Two threads that share every product meet at thousands of barriers a second (LSTM 512, 16x64, tokens/s): on an idle
    machine they reach 18,000 where they sleep at once, 39,000 with 1,000 spins, 47,000 with 5,000, 46,000 where they
    spin for ever; beside two busy processes 8,500, 13,000, 17,000, and nothing in half a minute. The command line calls
    this; a program that imports lmlab keeps what it has: a library must not set it for others.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, and torch use huge pages if no tensor was made yet. LMLAB_PLAIN_MALLOC=1 is off."""
    if sys.platform != "linux" or os.environ.get("LMLAB_PLAIN_MALLOC"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    import ctypes

    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library: nothing to tune


def choose_precision(wanted: str) -> str:
    """`fp32` or `bf16`; "auto" multiplies matrices in both and takes bf16 where it is clearly faster."""
    if wanted != "auto":
        return wanted
    import torch

    numbers = torch.Generator().manual_seed(0)  # its own: a probe must not move the run's random state
    left, right = torch.randn(256, 512, generator=numbers), torch.randn(512, 512, generator=numbers)
    plain = _best_seconds(left, right)
    half = _best_seconds(left.bfloat16(), right.bfloat16())
    return "bf16" if plain / half > _PROBE_GAIN else "fp32"


def _best_seconds(left: object, right: object) -> float:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        left @ right  # type: ignore[operator]
        times.append(time.perf_counter() - began)
    return min(times)
