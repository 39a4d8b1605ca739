"""Several processes that train one model: how a launcher such as `torchrun` starts them, and how they stay in step.

Each process (rank) reads its own rows of every batch, and the gradients are averaged. What depends on a clock, a
measurement or a signal is decided by rank 0 or summed over all ranks, so that all do the same. A single process
communicates with nobody.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from lmlab.errors import UsageError
from lmlab.kernels import engine

if TYPE_CHECKING:
    from torch import Tensor

_PATIENCE = timedelta(days=1)  # the others wait while rank 0 encodes; a rank that died is noticed at once all the same


@dataclass(frozen=True)
class Ranks:
    """The processes that train together.

    Attributes:
        rank: this one's number. Rank 0 reports, writes files and decides.
        count: how many there are.
        local: this one's number on its machine, of `local_count`.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def cores(self) -> int:
        """Processors for each process of this machine."""
        return max(1, engine.cores() // self.local_count)

    def agree(self, value: float) -> float:
        """Rank 0's value."""
        return self.total(value if self.first else 0.0)[0]

    def total(self, *values: float) -> list[float]:
        """Sums over the ranks, the same on each to the bit."""
        if self.count == 1:
            return list(values)
        import torch
        from torch import distributed

        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return sums.tolist()

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Make every rank's tensors those of rank 0."""
        if self.count > 1:
            from torch import distributed

            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks in their order, in main memory; every rank must call this."""
        if self.count == 1:
            return rows
        import torch
        from torch import distributed

        counts = torch.zeros(self.count, dtype=torch.int64)
        counts[self.rank] = len(rows)
        distributed.all_reduce(counts)
        start = int(counts[: self.rank].sum())
        kind = torch.uint8 if rows.dtype == torch.bool else rows.dtype
        whole = torch.zeros(int(counts.sum()), *rows.shape[1:], dtype=kind)
        whole[start : start + len(rows)] = rows.cpu()
        distributed.all_reduce(whole)  # rows differ in number from rank to rank; a sum with zeros takes them all
        return whole.to(rows.dtype)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Rank 0 runs the block first, the others when it is done: they find its work in the token cache."""
        if not self.first:
            self.total(0.0)
        yield
        if self.first:
            self.total(0.0)


def is_first() -> bool:
    """Whether this is rank 0, or the only process, by the launcher's environment variable."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined() -> Iterator[Ranks]:
    """All processes that a launcher started (it sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or this one alone.

    Raises:
        UsageError: what the launcher says makes no sense.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks()
        return
    _check_launcher()
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        ranks = Ranks(
            distributed.get_rank(),
            distributed.get_world_size(),
            int(os.environ.get("LOCAL_RANK", "0")),
            int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
        yield ranks
        ranks.total(0.0)  # nobody leaves while another still works
    finally:
        gc.collect()  # what averaged gradients must be gone before the connections are, or the process aborts
        distributed.destroy_process_group()


def _check_launcher() -> None:
    """Processes that wait for one that does not exist would wait for a day."""
    said = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")}
    numbers = all(said[name].isdecimal() for name in ("WORLD_SIZE", "RANK", "MASTER_PORT"))
    if not (numbers and said["MASTER_ADDR"] and int(said["RANK"]) < int(said["WORLD_SIZE"])):
        shown = ", ".join(f"{name}={value!r}" for name, value in said.items())
        raise UsageError(f"the launcher says {shown}, but RANK must be below WORLD_SIZE and all be set", "use torchrun")
