"""Large arrays in pages of their own, that go back to the system when the array is let go of.

What the C library hands out and takes back piece by piece it may keep; a counter that grows through a dozen sizes then
holds twice what it uses.
"""

from __future__ import annotations

import math
import mmap
import sys
from typing import Any

import numpy as np

_SMALL = 1 << 20


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros; pages that are never touched take no memory.

    >>> room((2, 3), np.uint32).tolist()
    [[0, 0, 0], [0, 0, 0]]
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _SMALL or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(shape, dtype=dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)  # random access through small pages misses the table of pages each time
    return np.frombuffer(pages, dtype=dtype).reshape(shape)


class Rows:
    """A table that grows where it lies, without a second copy where the system can move pages.

    Attributes:
        array: the rows, shape (many, columns); a new one after every `grow`.
    """

    def __init__(self, many: int, columns: int, dtype: Any) -> None:
        self.array = room((many, columns), dtype)

    def grow(self, many: int) -> None:
        """Make it so many rows long; no other reference to the array may be about."""
        shape, dtype = (many, self.array.shape[1]), self.array.dtype
        pages = self._pages()
        if pages is None:
            longer = room(shape, dtype)
            longer[: len(self.array)] = self.array
            self.array = longer
            return
        del self.array
        pages.resize(math.prod(shape) * dtype.itemsize)
        self.array = np.frombuffer(pages, dtype=dtype).reshape(shape)

    def _pages(self) -> mmap.mmap | None:
        """The pages below, where they are a mapping that can be moved."""
        base: Any = self.array
        while isinstance(base, np.ndarray):
            base = base.base
        base = base.obj if isinstance(base, memoryview) else base
        return base if isinstance(base, mmap.mmap) and sys.platform == "linux" else None
