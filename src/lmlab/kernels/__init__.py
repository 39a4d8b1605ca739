"""Everything compiled, and the choice between compiled loops and their plain twins.

`only(False)` runs the plain twins alone, `watch_compiling` says when loops are compiled and how long that took.
"""

from lmlab.kernels.engine import only, watch_compiling

__all__ = ["only", "watch_compiling"]
