"""The gradient of one batch, cut into row blocks: in threads of this process, or in several processes.

The gradient of a batch is the sum over its tokens, so any cut gives the same to rounding. Blocks in threads are summed
in their order, each with masks of its own, so that a run repeats bit for bit; processes average theirs while they still
compute (DistributedDataParallel, Li et al. 2020). One thread a block spares the barriers inside every operation, at the
price of reading the weights once a block; a timed run measures which is faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lmlab.kernels.engine import block_of
from lmlab.models.neural.base import NeuralModel, TensorState
from lmlab.models.neural.dropout import drawn_from
from lmlab.tokens.batches import Batch
from lmlab.training.ranks import Ranks
from lmlab.vocabulary import IGNORE, PAD

Key = tuple[int, ...]


class Gradients:
    """Adds the gradients of batches to those of the parameters.

    Args:
        model: whose loss it is.
        precision: makes the context that the loss is computed in.
        row_blocks: of a batch, each in a thread of its own.
        ranks: the processes that train together; each of several has one row block, and `row_blocks` is 1.
    """

    def __init__(
        self, model: NeuralModel, precision: Callable[[], Any], row_blocks: int = 1, ranks: Ranks | None = None
    ) -> None:
        self.row_blocks, self._precision, self._ranks = row_blocks, precision, ranks or Ranks()
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.loss = Loss(model)
        many = self._ranks.count > 1
        self._synced = DistributedDataParallel(self.loss) if many else None
        self._pool = (
            ThreadPoolExecutor(row_blocks, initializer=torch.set_num_threads, initargs=(1,)) if row_blocks > 1 else None
        )

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()

    def add(
        self, batch: Batch, state: TensorState | None, scale: float, key: Key, *, last: bool = True
    ) -> tuple[Tensor, TensorState]:
        """Add `scale` times the gradient of the batch's summed nats; the nats, and the state after it.

        Args:
            batch: this process's rows.
            state: before the batch.
            scale: one over the tokens of the step, in all processes.
            key: what the masks of dropout are drawn from.
            last: whether the step's gradient is whole with this batch; processes wait with averaging until then.
        """
        if self._pool is not None:
            return self._in_threads(batch, state, scale, key)
        with self._synced.no_sync() if self._synced and not last else contextlib.nullcontext():
            nats, after = self._forward(batch, state, (*key, self._ranks.rank))
            (nats * (scale * self._ranks.count)).backward()
        return nats.detach(), after.detach()

    def _forward(self, batch: Batch, state: TensorState | None, key: Key) -> tuple[Tensor, TensorState]:
        with drawn_from(*key), self._precision():
            nats, after = (self._synced or self.loss)(batch, state)
        return nats, after

    def _in_threads(
        self, batch: Batch, state: TensorState | None, scale: float, key: Key
    ) -> tuple[Tensor, TensorState]:
        assert self._pool is not None
        work = [
            self._pool.submit(
                self._block,
                batch.rows(part, self.row_blocks),
                state and rows_of(state, part, self.row_blocks),
                scale,
                (*key, part),
            )
            for part in range(self.row_blocks)
        ]
        nats, after, gradients = zip(*(block.result() for block in work), strict=True)
        for parameter, *of_blocks in zip(self._parameters, *gradients, strict=True):
            first = of_blocks[0].contiguous()  # fused AdamW takes gradients to be laid out as their parameters
            total = first if parameter.grad is None else parameter.grad.add_(first)
            for gradient in of_blocks[1:]:
                total += gradient
            parameter.grad = total
        return torch.stack(nats).sum(), TensorState.cat(after)

    def _block(
        self, batch: Batch, state: TensorState | None, scale: float, key: Key
    ) -> tuple[Tensor, TensorState, tuple[Tensor, ...]]:
        nats, after = self._forward(batch, state, key)
        return nats.detach(), after.detach(), torch.autograd.grad(nats * scale, self._parameters)


class Loss(nn.Module):
    """A model's loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, model: NeuralModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, state: TensorState | None) -> tuple[Tensor, TensorState]:
        """Summed nats and the state; of no rows, nothing, with a gradient of zeros."""
        if len(batch.ids_BT):
            return self.model.loss(batch.ids_BT, batch.targets_BT, state, batch.fresh_B)
        ids_11 = batch.ids_BT.new_full((1, 1), PAD)
        nats, state = self.model.loss(ids_11, torch.full_like(ids_11, IGNORE), None)
        return nats, rows_of(state, 0, 2)  # the first half of one row: none


def rows_of(state: TensorState, part: int, parts: int) -> TensorState:
    """The state of row block `part` of `parts`, cut as `Batch.rows` cuts a batch."""
    return TensorState(tuple(tensor[block_of(len(tensor), part, parts)] for tensor in state.tensors))
