"""Where to find a level's nodes by key, in one step instead of a search: what makes large models fast."""

from __future__ import annotations

from typing import Self

import numpy as np

from lmlab.errors import UsageError
from lmlab.memory import room

_FULL = 0.7  # fuller tables make longer searches
_PACKED = 0.85  # where memory counts more
_LEAST_BITS = 12
_MOST_BITS = 31  # of the 32 bits of a slot, one at least is left for a piece of the hash


class Index:
    """An open-addressing table of 32-bit slots; kernels.py says what they hold.

    Attributes:
        slots: uint32, a power of two of them.
        bits: which power.
    """

    def __init__(self, slots: np.ndarray) -> None:
        self.slots = slots
        self.bits = len(slots).bit_length() - 1

    @classmethod
    def empty(cls, nodes: int, full: float = _PACKED) -> Self:
        """An index with room for so many nodes, filled at most so far."""
        bits = max(_LEAST_BITS, int(nodes / full).bit_length())
        if bits > _MOST_BITS:
            raise UsageError(
                f"{nodes:,} n-grams of one length are more than the {int(full * 2**_MOST_BITS):,} that can be indexed",
                "use a smaller order, or count a part of the data",
            )
        return cls(room((1 << bits,), np.uint32))

    @classmethod
    def of(cls, key_G: np.ndarray) -> Self:
        """The index of a level with these keys."""
        from lmlab.models.ngram import kernels

        index = cls.empty(len(key_G), _FULL)
        kernels.index_keys(fixed(key_G), index.slots, index.bits)
        return index

    def holds(self, nodes: int) -> bool:
        """Whether there is room for so many nodes."""
        return nodes <= _PACKED * len(self.slots)


def fixed(array: np.ndarray) -> np.ndarray:
    """A read-only view, memory-mapped or not: one type for the kernels, so that they are compiled once."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
