"""KenLM's Python module, by lmlab: worker processes of any kind find it, which a patched `sys.modules` does not reach.

KenLM's own is compiled, and Python prefers a compiled module in the same folder: where both are installed, it is used.
"""

from lmlab.compat.kenlm import (
    ARPALoadComplain,
    Config,
    FullScoreReturn,
    LanguageModel,
    LoadMethod,
    Model,
    State,
)

__all__ = ["ARPALoadComplain", "Config", "FullScoreReturn", "LanguageModel", "LoadMethod", "Model", "State"]
