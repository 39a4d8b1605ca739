"""Between torch's tensors and the compiled layers of our own: when these run, on which numbers, on which threads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lmlab.kernels.engine import block_of

_FEW_TOKENS = 256


def suits(ids: Tensor) -> bool:
    """Whether a batch is for the compiled layers: by shape, precision and processor alone, so that runs repeat."""
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if ids.is_cuda or not half or not ids.numel():
        return False
    from lmlab.kernels.neural.matmul import multiplies_pairs

    return multiplies_pairs()


def few_tokens(ids: Tensor, vocab_size: int) -> bool:
    """Whether what each token adds to the first layer is worth a table."""
    return vocab_size <= min(_FEW_TOKENS, ids.numel())


def numbers(tensor: Tensor) -> np.ndarray:
    """The tensor as an array, of bfloat16 the bits."""
    array: np.ndarray = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def shares(count: int, whole: int = 1) -> list[slice]:
    """What each thread does of so many: a slice each, of a multiple of `whole`, which `count` is one of."""
    threads = min(torch.get_num_threads(), count // whole)
    blocks = (block_of(count // whole, part, threads) for part in range(threads))
    return [slice(whole * block.start, whole * block.stop) for block in blocks]
