"""What the benchmarks share: the machine in words, rates, tables, and a model whose texts never end early."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmlab.models.base import LanguageModel

_PEAK_SIZE = 2048
_LEAST_SECONDS = 1.0  # a rate is taken over at least so long


class Endless:
    """A model that never says `<eos>`: every generated text has the length asked for, so that rates compare."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.vocab_size, self.bos, self.eos = model.vocab_size, model.bos, model.eos

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
        """See `LanguageModel.start`."""
        return self._endless(*self._model.start(prompts))

    def step(self, state: Any, tokens_B: Tensor) -> tuple[Tensor, Any]:
        """See `LanguageModel.step`."""
        return self._endless(*self._model.step(state, tokens_B))

    def _endless(self, logp_BV: Tensor, state: Any) -> tuple[Tensor, Any]:
        return logp_BV.index_fill(1, torch.tensor([self.eos]), -torch.inf), state


def rate(work: Callable[[], int]) -> float:
    """Units of work a second: `work` is repeated for at least a second after one small warm-up by the caller."""
    began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < _LEAST_SECONDS:
        done += work()
    return done / (time.perf_counter() - began)


def machine() -> str:
    """Cores, processor, memory, versions, and the matrix product's best speed as measured now."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    peaks = " and ".join(f"{gemm(kind) / 1e9:.0f} GFLOP/s {name}" for kind, name in KINDS)
    return (
        f"{cores} cores of {_processor()}, {memory:.0f} GB, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"matrix product of {_PEAK_SIZE}: {peaks}"
    )


KINDS = ((torch.float32, "fp32"), (torch.bfloat16, "bf16"))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gemm(kind: torch.dtype, size: int = _PEAK_SIZE) -> float:
    """Floating-point operations a second of a square matrix product, the best of ten."""
    left, right = (torch.randn(size, size).to(kind) for _ in range(2))
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others are figures.

    >>> print(table(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    lines = [head, *rows]
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    drawn.insert(1, "|---|" + "---:|" * (len(head) - 1))
    return "\n".join(drawn)


def short(figure: float) -> str:
    """Three figures that matter.

    >>> short(1234567), short(45300), short(321.4), short(3.14159)
    ('1.23 M', '45.3 k', '321', '3.14')
    """
    for scale, unit in ((1e6, " M"), (1e3, " k")):
        if figure >= scale:
            return f"{figure / scale:.3g}{unit}"
    return f"{figure:.3g}"
