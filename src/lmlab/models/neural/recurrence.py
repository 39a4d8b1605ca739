"""One layer of an LSTM or a GRU on a CPU that multiplies pairs of bfloat16: compiled loops of our own.

oneDNN's LSTM adds to the gradient of the recurrent weights at every position, which are megabytes of sums for a few
rows; torch's GRU is a dozen operations a position. Here that gradient is one product after the loop, the weights stream
by in the order in which they are read (`arithmetic.py`), and what a position reads, the hidden numbers and the input,
lies in one row: one product each way (`recurrent_kernels.py`). Everything else is torch's: float32, GPUs, other
processors, an LSTM of many rows at a time, where oneDNN is as fast.

Shapes: T positions, S = T + 1, B sequences, N = B rounded up to whole tiles, E input, H hidden, K = H + E rounded up to
pairs, G = 4H, F = 4H or 3H rows of torch's weights, W and V the columns of packed panels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.engine import each

_MOST_ROWS = 24  # a thread, of an LSTM
_AT_A_TIME = 512  # positions whose product stays in the second cache


def suits(entered_TBE: Tensor, hidden: int, parts: int) -> bool:
    """Whether this input is for the compiled loops: by shape, precision and processor alone, so that runs repeat.

    Args:
        entered_TBE: the input.
        hidden: how many numbers the layer remembers.
        parts: tensors of a state, 2 for an LSTM and 1 for a GRU.
    """
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    most = _MOST_ROWS * torch.get_num_threads() if parts > 1 else torch.inf
    if entered_TBE.is_cuda or hidden % 4 or not half or not 0 < entered_TBE.shape[1] <= most:
        return False
    from lmlab.models.neural.arithmetic import multiplies_pairs

    return multiplies_pairs()


def layer(
    entered_TBE: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], kept_H: Tensor | None = None
) -> tuple[Tensor, ...]:
    """One layer: h_TBH, and the state after it.

    Args:
        entered_TBE: its input.
        state: h_1BH and c_1BH before it for an LSTM, h_1BH for a GRU.
        weights: of the input, recurrent, and their biases, as torch keeps them.
        kept_H: what the hidden numbers are multiplied by where the next position reads them.
    """
    gru, kept_1BH = len(state) == 1, state[-1]
    h_TBH, h_BH, kept_BH = _Layer.apply(gru, entered_TBE, state[0][0], kept_1BH[0], *weights, kept_H)
    return (h_TBH, kept_BH[None]) if gru else (h_TBH, h_BH[None], kept_BH[None])


class _Layer(torch.autograd.Function):
    """Remembers, and goes back, once: its memory becomes the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        gru: bool,
        entered_TBE: Tensor,
        h_BH: Tensor,
        kept_BH: Tensor,
        enter_FE: Tensor,
        recur_FH: Tensor,
        enter_bias_F: Tensor,
        recur_bias_F: Tensor,
        mask_H: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        from lmlab.models.neural.arithmetic import ROWS, pack_transposed, packed_columns, room_to_pack
        from lmlab.models.neural.recurrent_kernels import read

        (length, rows, width), hidden = entered_TBE.shape, recur_FH.shape[1]
        count, numbers = rows + -rows % ROWS, hidden + width + width % 2
        inputs = slice(hidden, hidden + width)
        mask_H = torch.ones(hidden) if mask_H is None else mask_H
        weights, bias_G = room_to_pack(numbers, 4 * hidden), torch.zeros(4 * hidden)
        pack_transposed(recur_FH.numpy(), mask_H.numpy(), 0, 0, weights)
        bias_G[: len(recur_FH)] = recur_bias_F
        for part, of_torch in _entering(gru, hidden):
            pack_transposed(enter_FE[of_torch].numpy(), np.ones(width, np.float32), hidden, part.start, weights)
            bias_G[part] += enter_bias_F[of_torch]
        read_SNK = torch.zeros(length + 1, count, numbers, dtype=torch.bfloat16)
        read_SNK[:length, :rows, inputs], read_SNK[0, :rows, :hidden] = entered_TBE, h_BH
        kept_SNH = torch.empty(length + 1, count, hidden)
        kept_SNH[0] = F.pad(kept_BH, (0, 0, 0, count - rows))
        parts_TNG = read_SNK.new_empty(length, count, 4 * hidden)
        sums_NW = np.empty((count, packed_columns(4 * hidden)), np.float32)
        arrays = gru, weights, bias_G.numpy(), _bits(read_SNK), _bits(parts_TNG), kept_SNH.numpy(), sums_NW
        each(lambda block: read(*arrays, *block), *_blocks(count, ROWS))
        ctx.save_for_backward(enter_FE, recur_FH, mask_H, read_SNK, parts_TNG, kept_SNH)
        ctx.gru, ctx.shape, ctx.gone = gru, entered_TBE.shape, False
        ctx.kinds = entered_TBE.dtype, h_BH.dtype, kept_BH.dtype
        return read_SNK[1:, :rows, :hidden], read_SNK[-1, :rows, :hidden].float(), kept_SNH[-1, :rows]

    @staticmethod
    def backward(ctx: Any, grad_TBH: Tensor, grad_h_BH: Tensor, grad_kept_BH: Tensor) -> tuple[Tensor | None, ...]:
        from lmlab.models.neural.arithmetic import ROWS, pack, packed_columns, room_to_pack
        from lmlab.models.neural.recurrent_kernels import read_back

        if ctx.gone:
            raise RuntimeError("went back through this layer before; it remembers no longer")
        ctx.gone = True
        enter_FE, recur_FH, mask_H, read_SNK, parts_TNG, kept_SNH = ctx.saved_tensors
        (length, rows, width), (_, count, size), (many, hidden) = ctx.shape, parts_TNG.shape, recur_FH.shape
        weights, ones_E = room_to_pack(size, read_SNK.shape[-1]), torch.ones(width)
        pack(recur_FH.numpy(), False, 0, mask_H.numpy(), 0, 0, weights)
        for part, of_torch in _entering(ctx.gru, hidden):
            pack(enter_FE[of_torch].numpy(), False, 0, ones_E.numpy(), part.start, hidden, weights)
        spare = (0, 0, 0, count - rows)
        grad_TNH = F.pad(grad_TBH.to(torch.bfloat16), spare).contiguous()
        grad_read_SNV = torch.empty(length + 1, count, packed_columns(read_SNK.shape[-1]))
        grad_read_SNV[-1, :, :hidden] = F.pad(grad_h_BH, spare)
        grad_kept_NH = F.pad(grad_kept_BH, spare).contiguous()
        blocks, threads = _blocks(count, ROWS)
        grad_bias_PG = torch.zeros(len(blocks), size)
        arrays = (
            *(ctx.gru, weights, _bits(parts_TNG), kept_SNH.numpy(), _bits(grad_TNH)),
            *(grad_read_SNV.numpy(), grad_kept_NH.numpy(), np.empty((count, size), np.float32)),
        )
        work = zip(grad_bias_PG.numpy(), blocks, strict=True)
        each(lambda part: read_back(*arrays, part[0], *part[1]), work, threads)
        grad_recur_GH, grad_enter_GE = _of_weights(parts_TNG, read_SNK, mask_H, ones_E)
        grad_bias_G, entering = grad_bias_PG.sum(0), [part for part, _ in _entering(ctx.gru, hidden)]
        kind, kind_h, kind_kept = ctx.kinds
        return (
            None,
            grad_read_SNV[:-1, :rows, hidden : hidden + width].to(kind),
            grad_read_SNV[0, :rows, :hidden].to(kind_h),
            grad_kept_NH[:rows].to(kind_kept),
            torch.cat([grad_enter_GE[part] for part in entering]),
            grad_recur_GH[:many],
            torch.cat([grad_bias_G[part] for part in entering]),
            grad_bias_G[:many],
            None,
        )


def _of_weights(parts_TNG: Tensor, read_SNK: Tensor, *scales: Tensor) -> list[Tensor]:
    """The gradients of the weights of what was read, in as many matrices as there are scales, a number a column."""
    from lmlab.models.neural.arithmetic import pack, packed_columns, product, room_to_pack, transpose_halves

    positions, size = parts_TNG.shape[0] * parts_TNG.shape[1], parts_TNG.shape[2]
    parts_MG, read_MK = _bits(parts_TNG).reshape(positions, size), _bits(read_SNK[:-1]).reshape(positions, -1)
    gradients = [torch.empty(size, packed_columns(len(scale_C))) for scale_C in scales]
    for start in range(0, positions, _AT_A_TIME):
        some_SG, some_SK = parts_MG[start : start + _AT_A_TIME], read_MK[start : start + _AT_A_TIME]
        pairs_GS, at = np.empty((size, len(some_SG) // 2), np.uint32), 0
        transpose_halves(some_SG, pairs_GS)
        for scale_C, grad_GC in zip(scales, gradients, strict=True):
            packed = room_to_pack(len(some_SG), len(scale_C))
            pack(some_SK, True, at, scale_C.numpy(), 0, 0, packed)
            product(pairs_GS.view(np.uint16), packed, grad_GC.numpy(), start > 0)
            at += len(scale_C)
    return [grad_GC[:, : len(scale_C)] for scale_C, grad_GC in zip(scales, gradients, strict=True)]


def _entering(gru: bool, hidden: int) -> list[tuple[slice, slice]]:
    """Which rows of ours have which of torch's for the input: those of a GRU's proposal come last."""
    if not gru:
        return [(slice(0, 4 * hidden), slice(0, 4 * hidden))]
    return [
        (slice(0, 2 * hidden), slice(0, 2 * hidden)),
        (slice(3 * hidden, 4 * hidden), slice(2 * hidden, 3 * hidden)),
    ]


def _bits(half: Tensor) -> np.ndarray:
    return half.view(torch.uint16).numpy()


def _blocks(rows: int, least: int) -> tuple[list[tuple[int, int]], int]:
    """Rows from and to for each thread, whole tiles of `least`, and how many threads."""
    tiles = rows // least
    threads = min(torch.get_num_threads(), tiles)
    cuts = [least * (part * tiles // threads) for part in range(threads + 1)]
    return list(pairwise(cuts)), threads
