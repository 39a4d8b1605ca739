"""A causal convolution on a CPU that multiplies pairs of bfloat16: compiled loops of our own.

oneDNN's gradients of a convolution reach seven tenths of what a matrix product does, and each rectifier is a pass over
memory besides. Here a convolution is a product, and the rectifier is part of it (`convolution_kernels.py`). The first
layer is looked up where tokens are few: what each token adds by each tap stands in a table, which spares the products.
Everything else is torch's: float32, GPUs, other processors.

Shapes: B sequences, S positions before and T after, C channels before and M after, K taps, V the vocabulary,
E embedding, W the columns of packed panels or of whole vectors, P threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.kernels.engine import each
from lmlab.kernels.neural.bridge import numbers, shares
from lmlab.vocabulary import PAD


def convolve(hidden_BSC: Tensor, weight_MC1K: Tensor, bias_M: Tensor, dilation: int, *, rectify: bool) -> Tensor:
    """One layer: out_BTM, in bfloat16.

    Args:
        hidden_BSC: the layer below.
        weight_MC1K: the filters, as torch keeps them; C and M are even.
        bias_M: their bias.
        dilation: how far apart the positions lie that a filter sees.
        rectify: whether what is below 0 becomes 0.
    """
    out_BTM: Tensor = _Convolution.apply(hidden_BSC, weight_MC1K, bias_M, dilation, rectify)
    return out_BTM


def look_up(
    table_VE: Tensor, ids_BS: Tensor, weight_MC1K: Tensor, bias_M: Tensor, dilation: int, *, rectify: bool
) -> Tensor:
    """The first layer of few tokens: the same of their embeddings, without the products; padding's learns nothing."""
    with torch.autocast("cpu", enabled=False):
        added_KVM = torch.einsum("ve,mek->kvm", table_VE, weight_MC1K[:, :, 0])
    out_BTM: Tensor = _LookUp.apply(added_KVM, ids_BS, bias_M, dilation, rectify)
    return out_BTM


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_BSC: Tensor, weight_MC1K: Tensor, bias_M: Tensor, dilation: int, rectify: bool
    ) -> Tensor:
        from lmlab.kernels.neural.convolution_loops import convolve, pack
        from lmlab.kernels.neural.matmul import room_to_pack

        kind, hidden_BSC = hidden_BSC.dtype, hidden_BSC.to(torch.bfloat16).contiguous()
        filters, channels, _, taps = weight_MC1K.shape
        weights, weights_back = room_to_pack(taps * channels, filters), room_to_pack(taps * filters, channels)
        pack(weight_MC1K[:, :, 0].numpy(), weights, weights_back)
        out_BTM = hidden_BSC.new_empty(_after(hidden_BSC, taps, dilation, bias_M))
        arrays = (
            *(numbers(hidden_BSC), weights, taps, dilation),
            *(bias_M.numpy(), rectify, numbers(out_BTM)),
        )
        blocks = shares(len(out_BTM))
        each(lambda block: convolve(*arrays, block.start, block.stop), blocks, len(blocks))
        ctx.save_for_backward(hidden_BSC, out_BTM, torch.from_numpy(weights_back))
        ctx.kind, ctx.taps, ctx.dilation, ctx.rectify = kind, taps, dilation, rectify
        return out_BTM

    @staticmethod
    def backward(ctx: Any, grad_BTM: Tensor) -> tuple[Tensor | None, ...]:
        from lmlab.kernels.neural.convolution_loops import convolve_back
        from lmlab.kernels.neural.matmul import ROWS, packed_columns

        hidden_BSC, out_BTM, weights_back = ctx.saved_tensors
        channels, filters, grad_BTM = hidden_BSC.shape[2], out_BTM.shape[2], grad_BTM.to(torch.bfloat16).contiguous()
        grad_hidden_BSC, blocks = torch.empty_like(hidden_BSC), shares(len(out_BTM))
        grad_weights_PKCW = torch.empty(len(blocks), ctx.taps, -(-channels // ROWS) * ROWS, packed_columns(filters))
        grad_bias_PM = torch.zeros(len(blocks), filters)
        arrays = (
            *(numbers(hidden_BSC), numbers(out_BTM), weights_back.numpy(), ctx.dilation, ctx.rectify),
            *(numbers(grad_BTM), numbers(grad_hidden_BSC)),
        )
        work = zip(grad_weights_PKCW.numpy(), grad_bias_PM.numpy(), blocks, strict=True)
        each(lambda part: convolve_back(*arrays, part[0], part[1], part[2].start, part[2].stop), work, len(blocks))
        grad_weight_MCK = _whole(grad_weights_PKCW)[:, :channels, :filters].permute(2, 1, 0)
        return grad_hidden_BSC.to(ctx.kind), grad_weight_MCK[:, :, None], _whole(grad_bias_PM), None, None


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, added_KVM: Tensor, ids_BS: Tensor, bias_M: Tensor, dilation: int, rectify: bool) -> Tensor:
        from lmlab.kernels.neural.convolution_loops import look_up

        out_BTM = torch.empty(_after(ids_BS, len(added_KVM), dilation, bias_M), dtype=torch.bfloat16)
        arrays = (
            *(_in_vectors(added_KVM).contiguous().numpy(), ids_BS.numpy(), dilation),
            *(bias_M.numpy(), rectify, numbers(out_BTM)),
        )
        blocks = shares(len(out_BTM))
        each(lambda block: look_up(*arrays, block.start, block.stop), blocks, len(blocks))
        ctx.save_for_backward(ids_BS, out_BTM)
        ctx.shape, ctx.dilation, ctx.rectify = added_KVM.shape, dilation, rectify
        return out_BTM

    @staticmethod
    def backward(ctx: Any, grad_BTM: Tensor) -> tuple[Tensor | None, ...]:
        from lmlab.kernels.neural.convolution_loops import look_up_back

        ids_BS, out_BTM = ctx.saved_tensors
        filters, blocks = ctx.shape[2], shares(len(out_BTM))
        grad_added_PKVW = _in_vectors(torch.zeros(len(blocks), *ctx.shape))
        grad_bias_PM = torch.zeros(len(blocks), filters)
        grad_BTM = grad_BTM.to(torch.bfloat16).contiguous()
        arrays = ids_BS.numpy(), ctx.dilation, ctx.rectify, numbers(out_BTM), numbers(grad_BTM)
        work = zip(grad_added_PKVW.numpy(), grad_bias_PM.numpy(), blocks, strict=True)
        each(lambda part: look_up_back(*arrays, part[0], part[1], part[2].start, part[2].stop), work, len(blocks))
        grad_added_KVM = _whole(grad_added_PKVW)[..., :filters]
        grad_added_KVM[:, PAD] = 0
        return grad_added_KVM, None, _whole(grad_bias_PM), None, None


def _after(before_BS: Tensor, taps: int, dilation: int, bias_M: Tensor) -> tuple[int, int, int]:
    """The shape of what a layer makes."""
    rows, before = before_BS.shape[:2]
    return rows, before - (taps - 1) * dilation, len(bias_M)


def _in_vectors(numbers_M: Tensor) -> Tensor:
    """The same with zeros behind, to whole vectors."""
    return F.pad(numbers_M, (0, -numbers_M.shape[-1] % 16))


def _whole(parts_PX: Tensor) -> Tensor:
    """The sum of what each thread found."""
    return parts_PX.sum(0) if len(parts_PX) > 1 else parts_PX[0]
