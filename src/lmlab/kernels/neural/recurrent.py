"""The recurrent part of an LSTM or a GRU layer on a CPU that multiplies pairs of bfloat16: compiled loops of our own.

oneDNN's LSTM adds to the gradient of the recurrent weights at every position, which are megabytes of sums for a few
rows; torch's GRU is a dozen operations a position. Here that gradient is one product after the loop, and the weights
stream by in the order in which they are read (`arithmetic.py`, `recurrent_kernels.py`). What the input adds to the
parts of a layer is looked up: where tokens are few, in a table of what each adds, which spares a product a position.
Everything else is torch's: float32, GPUs, other processors.

Shapes: T positions, S = T + 1, B sequences, N = B rounded up to whole tiles, H hidden, F = 4H gates of an LSTM or 3H
parts of a GRU, G = 4H, M different inputs, W and V the columns of packed panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.kernels.engine import each
from lmlab.kernels.neural import bridge
from lmlab.kernels.neural.bridge import numbers, shares

_AT_A_TIME = 512  # positions whose product stays in the second cache


def suits(ids_TB: Tensor, hidden: int) -> bool:
    """Whether a batch is for the compiled loops."""
    return hidden % 16 == 0 and bridge.suits(ids_TB)


def layer(
    inputs: Tensor,
    tokens_TB: Tensor | None,
    state: Sequence[Tensor],
    recur_FH: Tensor,
    bias_F: Tensor,
    kept_H: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """One layer: h_TBH, and the state after it.

    Args:
        inputs: what the input adds to the parts, float32 or bfloat16: inputs_MF of each token, or inputs_TBF.
        tokens_TB: which token stands where; None where inputs are of positions.
        state: h_1BH and c_1BH before it for an LSTM, h_1BH for a GRU.
        recur_FH: the recurrent weights, as torch keeps them; H is a multiple of 16.
        bias_F: their bias.
        kept_H: what the hidden numbers are multiplied by where the next position reads them.
    """
    gru, kept_1BH = len(state) == 1, state[-1]
    h_TBH, h_BH, kept_BH = _Layer.apply(gru, inputs, tokens_TB, state[0][0], kept_1BH[0], recur_FH, bias_F, kept_H)
    return (h_TBH, kept_BH[None]) if gru else (h_TBH, h_BH[None], kept_BH[None])


class _Layer(torch.autograd.Function):
    """Remembers, and goes back, once: its memory becomes the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        gru: bool,
        inputs: Tensor,
        tokens_TB: Tensor | None,
        h_BH: Tensor,
        kept_BH: Tensor,
        recur_FH: Tensor,
        bias_F: Tensor,
        mask_H: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        from lmlab.kernels.neural.matmul import ROWS, pack_weights, room_to_pack
        from lmlab.kernels.neural.recurrent_loops import read

        parts, hidden = recur_FH.shape
        index_TB = torch.arange(inputs.shape[:2].numel()).view(inputs.shape[:2]) if tokens_TB is None else tokens_TB
        length, rows = index_TB.shape
        inputs_MF = inputs.reshape(-1, parts)
        spare = -rows % ROWS
        mask_H = torch.ones(hidden) if mask_H is None else mask_H
        weights, weights_back = room_to_pack(hidden, parts), room_to_pack(parts, hidden)
        pack_weights(recur_FH.numpy(), mask_H.numpy(), weights_back, weights)
        h_SNH = torch.empty(length + 1, rows + spare, hidden, dtype=torch.bfloat16)
        kept_SNH = torch.empty(length + 1, rows + spare, hidden)
        h_SNH[0], kept_SNH[0] = F.pad(h_BH, (0, 0, 0, spare)), F.pad(kept_BH, (0, 0, 0, spare))
        parts_TNG = h_SNH.new_empty(length, rows + spare, 4 * hidden)
        index_TN = F.pad(index_TB, (0, spare)).contiguous()
        arrays = (
            *(gru, weights, bias_F.numpy(), numbers(inputs_MF), inputs_MF.dtype == torch.bfloat16, index_TN.numpy()),
            *(numbers(h_SNH), numbers(parts_TNG), kept_SNH.numpy()),
        )
        blocks = shares(rows + spare, ROWS)
        each(lambda block: read(*arrays, block.start, block.stop), blocks, len(blocks))
        ctx.save_for_backward(torch.from_numpy(weights_back), mask_H, index_TN, h_SNH, parts_TNG, kept_SNH)
        ctx.gru, ctx.tokens, ctx.rows, ctx.gone = gru, None if tokens_TB is None else len(inputs), rows, False
        ctx.kinds = inputs_MF.dtype, h_BH.dtype, kept_BH.dtype
        return h_SNH[1:, :rows], h_SNH[-1, :rows].float(), kept_SNH[-1, :rows]

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor, grad_h_BH: Tensor, grad_kept_BH: Tensor) -> tuple[Tensor | None, ...]:
        from lmlab.kernels.neural.matmul import ROWS, packed_columns
        from lmlab.kernels.neural.recurrent_loops import read_back

        if ctx.gone:
            raise RuntimeError("went back through this layer before; it remembers no longer")
        ctx.gone = True
        weights, mask_H, index_TN, h_SNH, parts_TNG, kept_SNH = ctx.saved_tensors
        count, parts, hidden = index_TN.shape[1], 2 * weights.shape[1], len(mask_H)
        spare = (0, 0, 0, count - ctx.rows)
        grad_TNH = F.pad(grad_TBH.to(torch.bfloat16), spare).contiguous()
        grad_kept_NH = F.pad(grad_kept_BH, spare).contiguous()
        grad_h_NV = F.pad(grad_h_BH, (0, packed_columns(hidden) - hidden, *spare[2:])).contiguous()
        blocks = shares(count, ROWS)
        grad_inputs_PMF = torch.zeros(len(blocks), ctx.tokens or 0, parts)
        grad_bias_PF = torch.zeros(len(blocks), parts)
        arrays = (
            *(ctx.gru, weights.numpy(), index_TN.numpy(), numbers(parts_TNG), kept_SNH.numpy(), numbers(grad_TNH)),
            *(grad_h_NV.numpy(), grad_kept_NH.numpy()),
        )
        work = zip(grad_inputs_PMF.numpy(), grad_bias_PF.numpy(), blocks, strict=True)
        each(lambda part: read_back(*arrays, part[0], part[1], part[2].start, part[2].stop), work, len(blocks))
        kind, kind_h, kind_kept = ctx.kinds
        return (
            None,
            grad_inputs_PMF.sum(0).to(kind) if ctx.tokens else _of_positions(parts_TNG[:, : ctx.rows], parts).to(kind),
            None,
            grad_h_NV[: ctx.rows, :hidden].to(kind_h),
            grad_kept_NH[: ctx.rows].to(kind_kept),
            _of_weights(parts_TNG, h_SNH, mask_H, parts),
            grad_bias_PF.sum(0),
            None,
        )


def _of_positions(parts_TBG: Tensor, parts: int) -> Tensor:
    """The gradients by what each position's input added: a GRU's proposal from the input comes last."""
    if parts == parts_TBG.shape[-1]:
        return parts_TBG
    hidden = parts // 3
    return torch.cat([parts_TBG[..., : 2 * hidden], parts_TBG[..., 3 * hidden :]], -1)


def _of_weights(parts_TNG: Tensor, h_SNH: Tensor, mask_H: Tensor, parts: int) -> Tensor:
    """The gradients of the recurrent weights."""
    from lmlab.kernels.neural.matmul import pack, packed_columns, room_to_pack, transpose_halves

    parts_MG, h_MH = numbers(parts_TNG.flatten(0, 1)), numbers(h_SNH[:-1].flatten(0, 1))
    grad_FV = torch.empty(parts, packed_columns(len(mask_H)))
    for start in range(0, len(parts_MG), _AT_A_TIME):
        some_SG, some_SH = parts_MG[start : start + _AT_A_TIME], h_MH[start : start + _AT_A_TIME]
        pairs_FS, packed = np.empty((parts, len(some_SG) // 2), np.uint32), room_to_pack(len(some_SG), len(mask_H))
        transpose_halves(some_SG, pairs_FS)
        pack(some_SH, mask_H.numpy(), packed)
        _multiply(pairs_FS.view(np.uint16), packed, grad_FV.numpy(), add=start > 0)
    return grad_FV[:, : len(mask_H)]


def _multiply(rows_NK: np.ndarray, packed: np.ndarray, results_NM: np.ndarray, *, add: bool) -> None:
    from lmlab.kernels.neural.matmul import ROWS, product

    blocks = shares(len(rows_NK), ROWS)
    each(lambda part: product(rows_NK[part], packed, results_NM[part], add), blocks, len(blocks))
