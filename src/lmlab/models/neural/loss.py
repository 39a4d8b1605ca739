"""The masked loss: summed cross-entropy of a linear output layer, without holding the logits.

With a vocabulary of 40,000 the logits of 4,096 rows are 0.6 GB, and autograd would keep them twice more. Here the rows
go through in chunks, and each chunk leaves behind its gradients alone: memory stays flat, and fewer bytes move.

Shapes: N rows, H features, V the vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.vocab import IGNORE

_CHUNK_ROWS = 256
_SMALL_VOCABULARY = 1024  # below it the plain way is as fast, and the logits are small


def cross_entropy_sum(features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over the rows of -log softmax(features @ weight.T + bias)[target], in nats, in float32.

    Rows whose target is `IGNORE` count nothing. Under autocast the products run in its precision, softmax and sums
    in float32.
    """
    if len(weight_VH) < _SMALL_VOCABULARY:
        logits_NV = F.linear(features_NH, weight_VH, bias_V).float()
        return F.cross_entropy(logits_NV, targets_N, reduction="sum", ignore_index=IGNORE)
    if torch.is_autocast_enabled(features_NH.device.type):
        kind = torch.get_autocast_dtype(features_NH.device.type)
        features_NH, weight_VH = features_NH.to(kind), weight_VH.to(kind)
    total: Tensor = _ChunkedCrossEntropy.apply(features_NH, weight_VH, bias_V, targets_N, torch.is_grad_enabled())
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradients during the forward pass: they are linear in the one number that backward brings."""

    @staticmethod
    def forward(
        ctx: Any, features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, learning: bool
    ) -> Tensor:
        kept = (targets_N != IGNORE).nonzero()[:, 0]
        grad_features_NH = torch.zeros_like(features_NH)
        grads_VH1 = weight_VH.new_zeros(len(weight_VH), weight_VH.shape[1] + 1, dtype=torch.float32)  # the bias's last
        total = features_NH.new_zeros((), dtype=torch.float32)
        for rows_C in kept.split(_CHUNK_ROWS):
            features_CH, target_C1 = features_NH[rows_C], targets_N[rows_C, None]
            logits_CV = (features_CH @ weight_VH.T).float().add_(bias_V)
            if not learning:  # only the loss is wanted: two products of three are spared
                total += (logits_CV.logsumexp(-1, keepdim=True) - logits_CV.gather(-1, target_C1)).sum()
                continue
            grad_CV = logits_CV.softmax(-1)
            # the highest logit is that of the highest probability: so one exponential serves the loss as well
            highest_C1, chosen_C1 = logits_CV.amax(-1, keepdim=True), logits_CV.gather(-1, target_C1)
            nats_C1 = highest_C1 - chosen_C1 - grad_CV.amax(-1, keepdim=True).log()
            total += nats_C1.sum()
            grad_CV = grad_CV.scatter_(-1, target_C1, torch.expm1(-nats_C1)).to(features_NH.dtype)
            grad_features_NH[rows_C] = grad_CV @ weight_VH
            grads_VH1 += grad_CV.T @ F.pad(features_CH, (0, 1), value=1.0)
        grad_weight_VH, grad_bias_V = grads_VH1[:, :-1].to(weight_VH.dtype), grads_VH1[:, -1].contiguous()
        ctx.save_for_backward(grad_features_NH, grad_weight_VH, grad_bias_V)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_features_NH, grad_weight_VH, grad_bias_V = ctx.saved_tensors
        grads = grad_features_NH * grad.to(grad_features_NH.dtype), grad_weight_VH * grad, grad_bias_V * grad
        return *grads, None, None
