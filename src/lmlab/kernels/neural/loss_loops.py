"""Cross-entropy and its gradient in few passes over rows of logits that stay in cache, compiled.

torch makes a dozen passes over memory for one exponential a logit. Exponentials are taken relative to the target's
logit, so no pass looks for the maximum first: the loss is then ln(1 + the others). A row whose target is so unlikely
that this overflows is computed again, relative to its maximum. Each pass covers several rows, since the end of one
row's sum would stall the processor before the next.

Shapes: N rows, V the vocabulary, R rows of a block, W the vocabulary rounded up to whole vectors.
"""

from __future__ import annotations

import numpy as np

from lmlab.kernels.exponential import exp
from lmlab.kernels.jit import jit_sums
from lmlab.kernels.neural.matmul import narrow, widen_if

_LANES, _CELLS = 16, 2048  # numbers of a vector; of a block, which stays in the first cache
_OVERFLOWS = np.float32(1e30)
_f4 = np.float32


@jit_sums
def to_gradients(bias_V, logits_NV, targets_N, chosen_N, others_N, grad_bias_V, half, learning):
    """Logits, without their bias, become the gradients of -log softmax(logits + bias)[target].

    Args:
        bias_V: float32.
        logits_NV: float32, or uint16 which is bfloat16; overwritten if `learning`.
        targets_N: int64, below 0 where a row is ignored.
        chosen_N: float32, out: the target's logit, relative to a level.
        others_N: float32, out: the summed exponentials of the others, relative to the same level.
        grad_bias_V: float32; the sum of the gradients is added to it.
        half: whether logits are bfloat16.
        learning: whether gradients are wanted.
    """
    rows, size = logits_NV.shape
    wide = -(-size // _LANES) * _LANES
    many = max(1, _CELLS // wide)
    cells_RW = np.empty((many, wide), np.float32)
    cells, scale_R = cells_RW.reshape(-1), np.empty(many, np.float32)
    for start in range(0, rows, many):
        count = min(many, rows - start)
        for r in range(count):
            n, target = start + r, max(targets_N[start + r], 0)
            level = widen_if(half, logits_NV[n, target]) + bias_V[target]
            for v in range(size):
                cells_RW[r, v] = widen_if(half, logits_NV[n, v]) + bias_V[v] - level
            cells_RW[r, size if targets_N[n] >= 0 else 0 :] = -np.inf
        for i in range(count * wide):
            cells[i] = exp(cells[i])
        for r in range(count):
            cells_RW[r, max(targets_N[start + r], 0)] = 0  # added last, to lose nothing where the target is likely
        for r in range(count):
            others = _f4(0)
            for v in range(wide):
                others += cells_RW[r, v]
            chosen_N[start + r], others_N[start + r] = 0, others
        for r in range(count):
            n, target = start + r, targets_N[start + r]
            if not others_N[n] < _OVERFLOWS:
                level = _f4(-np.inf)
                for v in range(size):
                    cells_RW[r, v] = widen_if(half, logits_NV[n, v]) + bias_V[v]
                    level = level if level > cells_RW[r, v] else cells_RW[r, v]
                chosen_N[n], others_N[n], cells_RW[r, target] = cells_RW[r, target] - level, 0, -np.inf
                for v in range(size):
                    cells_RW[r, v] = exp(cells_RW[r, v] - level)
                    others_N[n] += cells_RW[r, v]
        if not learning:
            continue
        for r in range(count):
            scale_R[r] = _f4(1) / (others_N[start + r] + exp(chosen_N[start + r]))
        for r in range(count):
            scale = scale_R[r]
            for v in range(size):
                g = cells_RW[r, v] * scale
                grad_bias_V[v] += g
                logits_NV[start + r, v] = narrow(g) if half else g
        for r in range(count):
            n, target = start + r, max(targets_N[start + r], 0)
            g = -others_N[n] * scale_R[r]
            grad_bias_V[target] += g
            logits_NV[n, target] = narrow(g) if half else g
