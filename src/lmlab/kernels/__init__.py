"""Everything compiled, and the choice between compiled loops and their plain twins.

`only(False)` runs the plain twins alone, `prepare` compiles ahead of time and says how long that took.
"""

from lmlab.kernels.engine import only, prepare

__all__ = ["only", "prepare"]
