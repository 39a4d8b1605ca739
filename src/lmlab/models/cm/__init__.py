"""Context mixing, a data compressor of the PAQ kind as a language model: many contexts, mixed decision by decision.

`contexts` names what is looked at, `tree` makes tokens of binary decisions, `model` is the model.
"""

from lmlab.models.cm.model import CM, Adaptive

__all__ = ["CM", "Adaptive"]
