"""Which twin of an operation runs, and what compiled loops need of torch: arrays and blocks for threads.

The choice hangs on processor, precision and size alone, never on what ran before: a resumed run repeats bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lmlab.kernels import engine

_TABLE_TOKENS = 256
_LOSS_LOGITS = 1 << 16  # as many as repay importing Numba


def compiled_in_bfloat16(operand: Tensor) -> bool:
    """Whether layers run as compiled loops: under autocast, on a CPU with instructions for bfloat16 (AVX512-BF16)."""
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if operand.is_cuda or not autocast or not operand.numel() or not engine.worthwhile(1, 1):  # at any size
        return False
    from lmlab.kernels.neural.matmul import has_bfloat16

    return has_bfloat16()


def compiled_loss(features_NH: Tensor, logits: int) -> bool:
    """Whether so many logits become gradients in compiled loops: float32 or bfloat16 on a CPU, and not few."""
    kind = features_NH.dtype in (torch.float32, torch.bfloat16)
    return kind and not features_NH.is_cuda and engine.worthwhile(logits, _LOSS_LOGITS)


def worth_a_table(ids: Tensor, vocab_size: int) -> bool:
    """Whether a layer's product with its input is worth computing once for each token of the vocabulary."""
    return vocab_size <= min(_TABLE_TOKENS, ids.numel())


def array_of(tensor: Tensor) -> np.ndarray:
    """The tensor as an array over the same memory; the bits of bfloat16, which NumPy lacks, as uint16."""
    array: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    return array


def row_blocks(count: int, multiple: int = 1) -> list[slice]:
    """A block of rows for each thread, of a multiple of `multiple`, as `count` is."""
    threads = min(torch.get_num_threads(), count // multiple)
    blocks = (engine.block_of(count // multiple, part, threads) for part in range(threads))
    return [slice(multiple * block.start, multiple * block.stop) for block in blocks]
