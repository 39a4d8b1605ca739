"""Recurrent layers: the plain RNN, the LSTM and the GRU, layer upon layer.

oneDNN's LSTM adds to the gradient of the recurrent weights at every position, which are megabytes of sums for a few
rows, and torch's GRU makes a dozen operations a position. The compiled loops compute that gradient as one product
after the loop, and stream the packed weights by in the order in which they are read (`recurrent_loops.py`). Where
tokens are few, the product of the first layer with its input is a table with a row for each token.

Shapes: T positions, S = T + 1, B sequences, N = B rounded up to whole tiles, L layers, E inputs, H hidden, F = 4H gates
of an LSTM or 3H of a GRU, G = 4H what is saved of them, M different inputs, V the vocabulary or the columns of panels.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.kernels.engine import each
from lmlab.kernels.neural import choice
from lmlab.kernels.neural.choice import array_of, row_blocks
from lmlab.kernels.neural.embedding import embedding

Tensors = Sequence[Tensor]
_POSITIONS = 512  # whose product stays in the second cache
_LAYERS: Final[Mapping[str, Any]] = {"rnn": torch.rnn_tanh, "lstm": torch.lstm, "gru": torch.gru}
_CELLS: Final[Mapping[str, Any]] = {"rnn": torch.rnn_tanh_cell, "lstm": torch.lstm_cell, "gru": torch.gru_cell}


def recurrent_layers(
    cell: str,
    x: Tensor,
    table_VE: Tensor | None,
    state: Tensors,
    weights: Sequence[Tensors],
    dropout: Any,
    masks: Sequence[Tensor | None],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Read T positions through L layers.

    Args:
        cell: rnn, lstm or gru.
        x: tokens_TB; the inputs are their rows of the table, without one their one-hot vectors.
        table_VE: an embedding, or None.
        state: before the first position: h_LBH, of an LSTM also c_LBH.
        weights: of each layer, as torch keeps them: input, recurrent, and the biases of both.
        dropout: a module called between layers; `present_share` is the share that it drops.
        masks: of each layer, what h is multiplied by (H) wherever the next position reads it, or None.

    Returns:
        The hidden states of the last layer, (T, B, H), and the state after the last position.
    """
    if x.is_cuda and all(mask is None for mask in masks):  # cuDNN keeps all layers in one buffer, and drops in between
        flat = [weight for layer in weights for weight in layer]
        return _by_torch(cell, _inputs(x, table_VE, weights[0]), state, flat, len(weights), dropout.present_share)
    if len(x) == 1 and not torch.is_grad_enabled():
        twin = plain_step
    elif cell != "rnn" and state[0].shape[-1] % 16 == 0 and choice.compiled_in_bfloat16(x):
        twin = compiled_layer
    else:
        twin = plain_layer
    after = []
    for layer, (of_layer, mask_H) in enumerate(zip(weights, masks, strict=True)):
        before = [part_LBH[layer : layer + 1] for part_LBH in state]
        x, *new = twin(cell, dropout(x) if layer else x, None if layer else table_VE, before, of_layer, mask_H)
        after.append(new)
    return x, tuple(torch.cat(part) for part in zip(*after, strict=True))


def plain_layer(
    cell: str, x: Tensor, table_VE: Tensor | None, state: Tensors, weights: Tensors, mask_H: Tensor | None = None
) -> tuple[Tensor, ...]:
    """One layer by torch: hidden states_TBH, then the state after; `x` may be tokens_TB or inputs_TBE."""
    enter_FE, recur_FH, *biases = weights
    recur_FH = recur_FH if mask_H is None else recur_FH * mask_H
    hidden_TBH, after = _by_torch(cell, _inputs(x, table_VE, weights), state, [enter_FE, recur_FH, *biases], 1, 0.0)
    return hidden_TBH, *after


def plain_step(
    cell: str, x: Tensor, table_VE: Tensor | None, state: Tensors, weights: Tensors, mask_H: Tensor | None = None
) -> tuple[Tensor, ...]:
    """`plain_layer` of one position by torch's cells: a third of the time, since no weights are repacked for it."""
    enter_FE, recur_FH, *biases = weights
    recur_FH = recur_FH if mask_H is None else recur_FH * mask_H
    before = [part_1BH[0] for part_1BH in state]
    after = _CELLS[cell](_inputs(x, table_VE, weights)[0], _one_or_all(before), enter_FE, recur_FH, *biases)
    after_1BH = [part_BH[None] for part_BH in ([*after] if cell == "lstm" else [after])]
    return after_1BH[0], *after_1BH


def compiled_layer(
    cell: str, x: Tensor, table_VE: Tensor | None, state: Tensors, weights: Tensors, mask_H: Tensor | None = None
) -> tuple[Tensor, ...]:
    """`plain_layer` of an LSTM or a GRU by compiled loops, in bfloat16; H is a multiple of 16. Backward works once."""
    enter_FE, recur_FH, enter_bias_F, bias_F = weights
    vocab_size = enter_FE.shape[1] if table_VE is None else len(table_VE)
    tokens_TB = x if not x.is_floating_point() and choice.worth_a_table(x, vocab_size) else None
    if tokens_TB is None:
        inputs = F.linear(_inputs(x, table_VE, weights), enter_FE, enter_bias_F)
    elif table_VE is None:
        inputs = (enter_FE.T + enter_bias_F).contiguous()
    else:
        inputs = F.linear(table_VE, enter_FE, enter_bias_F)
    gru, before_1BH = cell == "gru", state[-1]
    given = gru, inputs, tokens_TB, state[0][0], before_1BH[0], recur_FH, bias_F, mask_H
    hidden_TBH, h_BH, after_BH = _Layer.apply(*given)
    return (hidden_TBH, after_BH[None]) if gru else (hidden_TBH, h_BH[None], after_BH[None])


def _inputs(x: Tensor, table_VE: Tensor | None, weights: Tensors) -> Tensor:
    if x.is_floating_point():
        return x
    return F.one_hot(x, weights[0].shape[1]).to(weights[0].dtype) if table_VE is None else embedding(table_VE, x)


def _by_torch(
    cell: str, x_TBE: Tensor, state: Tensors, weights: Tensors, layers: int, dropout: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    learning = torch.is_grad_enabled()
    hidden_TBH, *after = _LAYERS[cell](
        *(x_TBE, _one_or_all([part.contiguous() for part in state]), weights, True, layers),
        *(dropout, learning, False, False),  # one direction, time before rows
    )
    return hidden_TBH, tuple(after)


def _one_or_all(state: Tensors) -> Any:
    """Torch takes the state of an LSTM as a tuple, any other as a tensor."""
    return tuple(state) if len(state) > 1 else state[0]


class _Layer(torch.autograd.Function):
    """Backward overwrites the saved gates with their gradients, so it works once."""

    @staticmethod
    def forward(
        ctx: Any, gru: bool, inputs: Tensor, tokens_TB: Tensor | None, *given: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        from lmlab.kernels.neural.matmul import ROWS, pack, pack_transposed, room_to_pack
        from lmlab.kernels.neural.recurrent_loops import forward

        h_BH, c_BH, recur_FH, bias_F, mask_H = given
        gates, hidden = recur_FH.shape
        index_TB = torch.arange(inputs.shape[:2].numel()).view(inputs.shape[:2]) if tokens_TB is None else tokens_TB
        length, rows = index_TB.shape
        inputs_MF = inputs.reshape(-1, gates)
        spare = -rows % ROWS
        masked_FH = array_of((recur_FH if mask_H is None else recur_FH * mask_H).to(torch.bfloat16))
        weights, transposed = room_to_pack(hidden, gates), room_to_pack(gates, hidden)
        pack_transposed(masked_FH, weights)
        pack(masked_FH, transposed)
        h_SNH = torch.empty(length + 1, rows + spare, hidden, dtype=torch.bfloat16)
        c_SNH = torch.empty(length + 1, rows + spare, hidden)
        h_SNH[0], c_SNH[0] = F.pad(h_BH, (0, 0, 0, spare)), F.pad(c_BH, (0, 0, 0, spare))
        gates_TNG = h_SNH.new_empty(length, rows + spare, 4 * hidden)
        index_TN = F.pad(index_TB, (0, spare)).contiguous()
        arrays = (
            *(gru, weights, bias_F.numpy(), array_of(inputs_MF), inputs_MF.dtype == torch.bfloat16),
            *map(array_of, (index_TN, h_SNH, gates_TNG, c_SNH)),
        )
        blocks = row_blocks(rows + spare, ROWS)
        each(lambda block: forward(*arrays, block.start, block.stop), blocks, len(blocks))
        ctx.save_for_backward(torch.from_numpy(transposed), mask_H, index_TN, h_SNH, gates_TNG, c_SNH)
        ctx.gru, ctx.tokens, ctx.rows, ctx.done = gru, None if tokens_TB is None else len(inputs), rows, False
        ctx.kinds = inputs_MF.dtype, h_BH.dtype, c_BH.dtype
        return h_SNH[1:, :rows], h_SNH[-1, :rows].float(), c_SNH[-1, :rows]

    @staticmethod
    def backward(ctx: Any, dout_TBH: Tensor, dh_BH: Tensor, dc_BH: Tensor) -> tuple[Tensor | None, ...]:
        from lmlab.kernels.neural.matmul import ROWS, packed_columns
        from lmlab.kernels.neural.recurrent_loops import backward

        if ctx.done:
            raise RuntimeError("backward ran through this layer before; its saved tensors are gone")
        ctx.done = True
        weights, mask_H, index_TN, h_SNH, gates_TNG, c_SNH = ctx.saved_tensors
        count, gates, hidden = index_TN.shape[1], 2 * weights.shape[1], h_SNH.shape[2]
        spare = (0, 0, 0, count - ctx.rows)
        dout_TNH = F.pad(dout_TBH.to(torch.bfloat16), spare).contiguous()
        dc_NH = F.pad(dc_BH, spare).contiguous()
        dh_NV = F.pad(dh_BH, (0, packed_columns(hidden) - hidden, *spare[2:])).contiguous()
        blocks = row_blocks(count, ROWS)
        dinputs_PMF, dbias_PF = torch.zeros(len(blocks), ctx.tokens or 0, gates), torch.zeros(len(blocks), gates)
        arrays = ctx.gru, *map(array_of, (weights, index_TN, gates_TNG, c_SNH, dout_TNH, dh_NV, dc_NH))
        work = zip(dinputs_PMF.numpy(), dbias_PF.numpy(), blocks, strict=True)
        each(lambda part: backward(*arrays, part[0], part[1], part[2].start, part[2].stop), work, len(blocks))
        kind, kind_h, kind_c = ctx.kinds
        dinputs = dinputs_PMF.sum(0) if ctx.tokens else _of_positions(gates_TNG[:, : ctx.rows], gates)
        drecur_FH = _of_weights(gates_TNG, h_SNH, gates)
        drecur_FH = drecur_FH if mask_H is None else drecur_FH * mask_H
        dh_BH, dc_BH = dh_NV[: ctx.rows, :hidden].to(kind_h), dc_NH[: ctx.rows].to(kind_c)
        return None, dinputs.to(kind), None, dh_BH, dc_BH, drecur_FH, dbias_PF.sum(0), None


def _of_positions(dgates_TBG: Tensor, gates: int) -> Tensor:
    """The gradient of each position's input: that of a GRU's candidate comes last."""
    if gates == dgates_TBG.shape[-1]:
        return dgates_TBG
    hidden = gates // 3
    return torch.cat([dgates_TBG[..., : 2 * hidden], dgates_TBG[..., 3 * hidden :]], -1)


def _of_weights(dgates_TNG: Tensor, h_SNH: Tensor, gates: int) -> Tensor:
    """The gradient of the recurrent weights, before their mask."""
    from lmlab.kernels.neural.matmul import ROWS, pack, packed_columns, room_to_pack, transpose_in_pairs

    dgates_MG, h_MH = array_of(dgates_TNG.flatten(0, 1)), array_of(h_SNH[:-1].flatten(0, 1))
    hidden = h_SNH.shape[2]
    grad_FV, blocks = torch.empty(gates, packed_columns(hidden)), row_blocks(gates, ROWS)
    for start in range(0, len(dgates_MG), _POSITIONS):
        some_MG, some_MH = dgates_MG[start : start + _POSITIONS], h_MH[start : start + _POSITIONS]
        pairs_FP, packed = np.empty((gates, len(some_MG) // 2), np.uint32), room_to_pack(len(some_MG), hidden)
        transpose_in_pairs(some_MG, pairs_FP)
        pack(some_MH, packed)
        operands = pairs_FP.view(np.uint16), packed, grad_FV.numpy(), start > 0
        each(functools.partial(_product_of_block, *operands), blocks, len(blocks))
    return grad_FV[:, :hidden]


def _product_of_block(rows: np.ndarray, packed: np.ndarray, results: np.ndarray, add: bool, block: slice) -> None:
    from lmlab.kernels.neural.matmul import product

    product(rows[block], packed, results[block], add)
