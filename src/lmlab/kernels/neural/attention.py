"""Causal attention within a sliding window: RMS-normalised queries and keys, rotary positions, softmax, values.

torch's attention takes a mask of all queries and keys, and computes what the mask hides. The compiled loops compute
only the keys of the window, in bfloat16 (`attention_loops.py`): a training step of a Transformer takes two thirds.

Shapes: B sequences, A heads, N = B A, T queries, S keys, F features of a head (even).

Sources: Vaswani et al. 2017; Su et al. 2021 (RoPE); Henry et al. 2020 (normalised queries and keys); Beltagy et al.
2020 (sliding window).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.kernels.engine import each
from lmlab.kernels.neural import choice


def attention(q_BATF: Tensor, k_BASF: Tensor, v_BASF: Tensor, missing_B: Tensor, window: int) -> Tensor:
    """For each query the mean of the values it attends to, (B, A, T, F).

    Args:
        q_BATF: queries, as projected; normalised and rotated here.
        k_BASF: keys, as projected; the last T belong to the positions of the queries.
        v_BASF: values of the keys.
        missing_B: how many of the first keys are padding, which nothing attends to.
        window: how many positions a query attends to, its own included.
    """
    twin = compiled_attention if choice.compiled_in_bfloat16(q_BATF) else plain_attention
    return twin(q_BATF, k_BASF, v_BASF, missing_B, window)


def plain_attention(q_BATF: Tensor, k_BASF: Tensor, v_BASF: Tensor, missing_B: Tensor, window: int) -> Tensor:
    """`attention` by torch's `scaled_dot_product_attention`, in any precision, on any device."""
    length, count = q_BATF.shape[2], k_BASF.shape[2]
    past = count - length
    q_BATF, k_BASF = rotate(_normalise(q_BATF), past), rotate(_normalise(k_BASF), 0)
    if past == 0 and length <= window:
        return F.scaled_dot_product_attention(q_BATF, k_BASF, v_BASF, is_causal=True)
    key_S = torch.arange(count, device=missing_B.device)
    distance_TS = key_S[past:, None] - key_S
    seen_B1TS = (distance_TS >= 0) & (distance_TS < window) & (key_S >= missing_B[:, None])[:, None, None]
    return F.scaled_dot_product_attention(q_BATF, k_BASF, v_BASF, attn_mask=seen_B1TS)


def compiled_attention(q_BATF: Tensor, k_BASF: Tensor, v_BASF: Tensor, missing_B: Tensor, window: int) -> Tensor:
    """`attention` by compiled loops, in bfloat16, on a CPU that has instructions for it."""
    out_BATF: Tensor = _Attention.apply(q_BATF, k_BASF, v_BASF, missing_B, window)
    return out_BATF


def _normalise(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def rotate(x_BATF: Tensor, first: int) -> Tensor:
    """Rotary positions, from `first` on: pairs of features, F/2 apart, rotated by angles that grow with position."""
    cos, sin = _rotations(first, x_BATF.shape[2], x_BATF).to(x_BATF.dtype)
    a, b = x_BATF.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _rotations(first: int, length: int, x_BATF: Tensor) -> Tensor:
    """Cosine and sine of the angles, float32: (2, length, F/2)."""
    half = x_BATF.shape[3] // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=x_BATF.device) / half)
    angle = torch.arange(first, first + length, device=x_BATF.device)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BATF: Tensor, k_BASF: Tensor, v_BASF: Tensor, *how: Any) -> Tensor:
        from lmlab.kernels.neural.attention_loops import forward

        missing_B, window = how
        operands = q_BATF, k_BASF, v_BASF
        in_bfloat16 = [operand.to(torch.bfloat16).contiguous().flatten(0, 1) for operand in operands]
        missing_N = missing_B.repeat_interleave(q_BATF.shape[1])
        out_NTF = torch.empty_like(in_bfloat16[0])
        saved = *in_bfloat16, _rotations(0, k_BASF.shape[2], k_BASF), missing_N
        arrays = *map(choice.array_of, saved), window, choice.array_of(out_NTF)
        blocks = choice.row_blocks(len(out_NTF))
        each(lambda block: forward(*arrays, block.start, block.stop), blocks, len(blocks))
        ctx.save_for_backward(*saved)
        ctx.window, ctx.operands = window, [(operand.shape, operand.dtype) for operand in operands]
        return out_NTF.view(q_BATF.shape)

    @staticmethod
    def backward(ctx: Any, grad_BATF: Tensor) -> tuple[Tensor | None, ...]:
        from lmlab.kernels.neural.attention_loops import backward

        grad_NTF = grad_BATF.to(torch.bfloat16).contiguous().flatten(0, 1)
        grads = [torch.empty_like(operand) for operand in ctx.saved_tensors[:3]]
        arrays = *map(choice.array_of, ctx.saved_tensors), ctx.window, *map(choice.array_of, (grad_NTF, *grads))
        blocks = choice.row_blocks(len(grad_NTF))
        each(lambda block: backward(*arrays, block.start, block.stop), blocks, len(blocks))
        given = (grad.view(shape).to(kind) for grad, (shape, kind) in zip(grads, ctx.operands, strict=True))
        return *given, None, None
