"""Dropout whose masks hang on a key alone: seed, step and block of rows, whichever thread draws them.

Torch draws masks from one global generator, which threads would race for and every checkpoint would have to hold; and
it takes a tenth of an LSTM's step to do so. NumPy's SFC64 is a dozen times as fast, and each thread has one of its own.
Source: Srivastava et al. 2014, section 4 (scaled while training, so that scoring needs nothing).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MOST = 0.9  # of the input is dropped, however many times its share is asked for
_LEVELS = 1 << 16  # a share is rounded to so many levels, having been rounded to where its scale is a bfloat16
_generator: ContextVar[np.random.Generator | None] = ContextVar("dropout", default=None)


@contextmanager
def drawn_from(*key: int) -> Iterator[None]:
    """Within this, and in this thread, the same key gives the same masks."""
    before = _generator.set(np.random.Generator(np.random.SFC64(key)))
    if torch.cuda.is_available():
        torch.cuda.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    try:
        yield
    finally:
        _generator.reset(before)


def drop(model: nn.Module, times: float) -> None:
    """From now on a model drops so many times its shares."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.times = times


class Dropout(nn.Module):
    """Zeroes a share of its input while training, and scales the rest up by as much.

    Attributes:
        share: as it was set.
        times: how many times that is dropped at present.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.times = share, 1.0

    def forward(self, x: Tensor) -> Tensor:
        """The input, some of it dropped; from torch's own generator on a GPU, or where no key was given."""
        generator, share = _generator.get(), self.share
        if self.times != 1:
            share = min(_MOST, share * self.times)
        if generator is None or x.is_cuda or not self.training or not share:
            return F.dropout(x, share, self.training)
        scale = torch.tensor(1 / (1 - share)).bfloat16().item()
        dropped = round((1 - 1 / scale) * _LEVELS)
        four_each = generator.integers(1 << 64, size=-(-x.numel() // 4), dtype=np.uint64)
        kept = (four_each.view(np.uint16)[: x.numel()] >= dropped).reshape(x.shape)
        return x * _times(kept, scale, x.dtype)

    def extra_repr(self) -> str:
        """For `repr`."""
        return str(self.share)


def _times(kept: np.ndarray, scale: float, kind: torch.dtype) -> Tensor:
    """The scale where kept, else zero: NumPy's product, as torch takes ten times as long to make numbers of truths."""
    if kind == torch.bfloat16:
        bits = np.float32(scale).view(np.uint32) >> 16
        return torch.from_numpy(kept * np.int16(bits)).view(kind)
    return torch.from_numpy(kept * np.float32(scale)).to(kind)
