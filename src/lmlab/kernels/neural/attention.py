"""Attention within a window on a CPU that multiplies pairs of bfloat16: compiled loops of our own.

torch's takes a mask of all queries and keys, and multiplies what it hides; `attention_kernels.py` does not look there.
Everything else is torch's: float32, GPUs, other processors.

Shapes: B sequences, A heads, N = B A, T queries, S keys, F features of a head, H half of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmlab.kernels.engine import each
from lmlab.kernels.neural.bridge import numbers, shares


def attend(
    queries_BATF: Tensor, keys_BASF: Tensor, values_BASF: Tensor, turns_2SH: Tensor, missing_B: Tensor, window: int
) -> Tensor:
    """Each query's mean of the values that it sees, in bfloat16.

    Args:
        queries_BATF: as they were projected: they are brought to a mean square of one and turned here. F is even.
        keys_BASF: likewise; the last T stand where the queries do.
        values_BASF: what the keys stand for.
        turns_2SH: float32, cosine and sine of what each key's pairs of features are turned by.
        missing_B: how many of the first keys are none.
        window: how many keys a query sees, its own included.
    """
    seen_BATF: Tensor = _Attention.apply(queries_BATF, keys_BASF, values_BASF, turns_2SH, missing_B, window)
    return seen_BATF


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries_BATF: Tensor,
        keys_BASF: Tensor,
        values_BASF: Tensor,
        turns_2SH: Tensor,
        missing_B: Tensor,
        window: int,
    ) -> Tensor:
        from lmlab.kernels.neural.attention_loops import attend

        parts = queries_BATF, keys_BASF, values_BASF
        in_halves = [part.to(torch.bfloat16).contiguous().flatten(0, 1) for part in parts]
        missing_N = missing_B.repeat_interleave(queries_BATF.shape[1])
        out_NTF, scale_NT = torch.empty_like(in_halves[0]), torch.empty(in_halves[0].shape[:2])
        kept = *in_halves, turns_2SH, missing_N
        arrays = *map(numbers, kept), window, numbers(out_NTF), scale_NT.numpy()
        blocks = shares(len(out_NTF))
        each(lambda block: attend(*arrays, block.start, block.stop), blocks, len(blocks))
        ctx.save_for_backward(*kept, scale_NT)
        ctx.window, ctx.parts = window, [(part.shape, part.dtype) for part in parts]
        return out_NTF.view(queries_BATF.shape)

    @staticmethod
    def backward(ctx: Any, grad_BATF: Tensor) -> tuple[Tensor | None, ...]:
        from lmlab.kernels.neural.attention_loops import attend_back

        *kept, scale_NT = ctx.saved_tensors
        grad_NTF = grad_BATF.to(torch.bfloat16).contiguous().flatten(0, 1)
        grads = [torch.empty_like(part) for part in kept[:3]]
        arrays = *map(numbers, kept), ctx.window, scale_NT.numpy(), numbers(grad_NTF), *map(numbers, grads)
        blocks = shares(len(grad_NTF))
        each(lambda block: attend_back(*arrays, block.start, block.stop), blocks, len(blocks))
        given = (grad.view(shape).to(kind) for grad, (shape, kind) in zip(grads, ctx.parts, strict=True))
        return *given, None, None, None
