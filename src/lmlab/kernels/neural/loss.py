"""Summed cross-entropy of a linear output layer, without holding the logits.

With a vocabulary of 40,000 the logits of 4,096 rows are 0.6 GB, and autograd would keep them twice more. Here the rows
go through in chunks, and each chunk leaves only its gradients behind: memory stays flat, and fewer bytes move. On a
CPU the logits become gradients in place, in one compiled pass (`loss_loops.py`).

Shapes: N rows, H features, V the vocabulary, K rows to compute, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmlab.kernels.engine import each
from lmlab.kernels.neural import choice
from lmlab.vocabulary import IGNORE

_CHUNK_ROWS, _CHUNK_LOGITS = 256, 1 << 20  # of a chunk: at least; as many as stay in cache


def cross_entropy_sum(features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over the rows of -log softmax(features @ weight.T + bias)[target], in nats, in float32.

    Rows whose target is `IGNORE` are left out. Under autocast the products run in its precision, softmax and sums in
    float32. Backward works once: the gradients are scaled in place.
    """
    if torch.is_autocast_enabled(features_NH.device.type):
        kind = torch.get_autocast_dtype(features_NH.device.type)
        features_NH, weight_VH = features_NH.to(kind), weight_VH.to(kind)
    total: Tensor = _ChunkedCrossEntropy.apply(features_NH, weight_VH, bias_V, targets_N, torch.is_grad_enabled())
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass: they are linear in the one number that backward is given."""

    @staticmethod
    def forward(
        ctx: Any, features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, learning: bool
    ) -> Tensor:
        rows_K = _rows_to_compute(targets_N)
        features_KH = features_NH if rows_K is None else features_NH[rows_K]
        targets_K = targets_N if rows_K is None else targets_N[rows_K]
        grad_features_KH = torch.empty_like(features_KH)
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32)
        grad_bias_V, total = torch.zeros_like(bias_V), bias_V.new_zeros(())
        fused = choice.compiled_loss(features_NH, len(targets_K) * len(weight_VH))
        gradients = compiled_gradients if fused else plain_gradients
        many = _CHUNK_ROWS * max(1, _CHUNK_LOGITS // (_CHUNK_ROWS * len(weight_VH)))
        for at in range(0, len(targets_K), many):
            features_CH = features_KH[at : at + many]
            logits_CV = features_CH @ weight_VH.T
            nats, grad_CV = gradients(logits_CV, bias_V, targets_K[at : at + many], grad_bias_V, learning)
            total += nats
            if learning:
                torch.mm(grad_CV, weight_VH, out=grad_features_KH[at : at + many])
                grad_weight_VH += grad_CV.T @ features_CH
        if rows_K is not None:
            grad_features_KH = torch.zeros_like(features_NH).index_copy_(0, rows_K, grad_features_KH)
        ctx.save_for_backward(grad_features_KH, grad_weight_VH.to(weight_VH.dtype), grad_bias_V)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors  # scaled in place: torch refuses a second backward
        return *(of_one.mul_(grad) for of_one in grads), None, None


def _rows_to_compute(targets_N: Tensor) -> Tensor | None:
    """The rows not ignored, then some ignored ones to whole chunks, as oneDNN compiles for each height; None is all."""
    count_N = targets_N != IGNORE
    whole = -(-int(count_N.sum()) // _CHUNK_ROWS) * _CHUNK_ROWS
    return None if whole >= len(targets_N) else torch.cat([count_N.nonzero(), (~count_N).nonzero()])[:whole, 0]


def plain_gradients(
    logits_CV: Tensor, bias_V: Tensor, targets_C: Tensor, grad_bias_V: Tensor, learning: bool
) -> tuple[Tensor, Tensor]:
    """Summed nats, and their gradient with respect to the logits; that of the bias is added to `grad_bias_V`."""
    target_C1, ignored_C1 = targets_C.clamp(min=0)[:, None], (targets_C == IGNORE)[:, None]
    logp_CV = (logits_CV.float() + bias_V).log_softmax(-1)
    chosen_C1 = logp_CV.gather(-1, target_C1).masked_fill(ignored_C1, 0)
    if learning:
        logp_CV = logp_CV.exp_().scatter_(-1, target_C1, chosen_C1.expm1()).masked_fill_(ignored_C1, 0)
        grad_bias_V += logp_CV.sum(0)
    return -chosen_C1.sum(), logp_CV.to(logits_CV.dtype)


def compiled_gradients(
    logits_CV: Tensor, bias_V: Tensor, targets_C: Tensor, grad_bias_V: Tensor, learning: bool
) -> tuple[Tensor, Tensor]:
    """`plain_gradients` by compiled loops, the gradients in place of the logits; each thread has a block of rows."""
    from lmlab.kernels.neural.loss_loops import to_gradients

    threads, half = torch.get_num_threads(), logits_CV.dtype == torch.bfloat16
    chosen_C, others_C = torch.empty(2, len(targets_C))
    grads_bias_PV = torch.zeros(threads, len(bias_V))
    rows = (logits_CV.view(torch.uint16) if half else logits_CV), targets_C, chosen_C, others_C
    blocks = zip(*(torch.tensor_split(part.detach(), threads) for part in rows), grads_bias_PV, strict=True)

    def work(block: tuple[Tensor, ...]) -> None:
        to_gradients(bias_V.detach().numpy(), *(part.numpy() for part in block), half, learning)

    each(work, blocks, threads)
    grad_bias_V += grads_bias_PV.sum(0)
    return (torch.log1p(others_C + chosen_C.expm1()) - chosen_C).sum(), logits_CV
