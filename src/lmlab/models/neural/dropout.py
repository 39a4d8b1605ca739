"""Dropout whose masks depend on a key alone: seed, step and block of rows, whichever thread draws them.

torch draws masks from one global generator: threads would race for it, every checkpoint would have to hold it, and it
takes a tenth of an LSTM's step. NumPy's SFC64 is a dozen times as fast, and each thread has one of its own. While a key
is in use, a draw from torch's CPU generator is an error, since a resumed run would not repeat it.
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
from torch.nn.modules.dropout import _DropoutNd

from lmlab.errors import UsageError

_MOST = 0.9  # the largest share that a schedule may ask for
_LEVELS = 1 << 16  # shares are rounded to these, and before that so that the scale is a bfloat16
_REMEDY = "use lmlab.models.neural.dropout.Dropout, whose masks repeat when a run is resumed"
_generator: ContextVar[np.random.Generator | None] = ContextVar("dropout", default=None)


@contextmanager
def drawn_from(*key: int) -> Iterator[None]:
    """Within this block, and in this thread, the same key gives the same masks.

    Raises:
        UsageError: torch's CPU generator was drawn from.
    """
    before, torchs = _generator.set(np.random.Generator(np.random.SFC64(key))), torch.get_rng_state()
    if torch.cuda.is_available():
        torch.cuda.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    try:
        yield
    finally:
        _generator.reset(before)
    if not torch.equal(torchs, torch.get_rng_state()):
        raise UsageError("the model draws from torch's random generator while it is trained", _REMEDY)


def drop(model: nn.Module, times: float) -> None:
    """Make a model drop so many times its shares from now on.

    Raises:
        UsageError: it has dropout of torch's own, which no schedule reaches.
    """
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.times = times
        elif isinstance(module, _DropoutNd) and module.p:
            raise UsageError(f"{name} is torch's {type(module).__name__}", _REMEDY)


class Dropout(nn.Module):
    """Zeroes a share of its input while training, and scales the rest up by as much.

    Attributes:
        share: as it was set.
        times: how many times that is dropped at present.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.times = share, 1.0

    @property
    def present_share(self) -> float:
        """What is dropped at present, 0 in evaluation."""
        share = self.share if self.times == 1 else min(_MOST, self.share * self.times)
        return share if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """The input, some of it dropped; drawn from torch's own generator on a GPU, or where there is no key."""
        generator, share = _generator.get(), self.present_share
        if not share:
            return x
        if generator is None or x.is_cuda:
            return F.dropout(x, share)
        scale = torch.tensor(1 / (1 - share)).bfloat16().item()
        dropped = round((1 - 1 / scale) * _LEVELS)
        four_each = generator.integers(1 << 64, size=-(-x.numel() // 4), dtype=np.uint64)
        kept = (four_each.view(np.uint16)[: x.numel()] >= dropped).reshape(x.shape)
        return x * _times(kept, scale, x.dtype)

    def extra_repr(self) -> str:
        """For `repr`."""
        return str(self.share)


def _times(kept: np.ndarray, scale: float, kind: torch.dtype) -> Tensor:
    """The scale where kept, else 0, by NumPy: torch takes ten times as long to convert booleans."""
    if kind == torch.bfloat16:
        bits = np.float32(scale).view(np.uint32) >> 16
        return torch.from_numpy(kept * np.int16(bits)).view(kind)
    return torch.from_numpy(kept * np.float32(scale)).to(kind)
