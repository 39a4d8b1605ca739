"""Operations of neural layers: each one function, which has a plain twin in torch and a compiled one.

Which twin runs is decided in `choice.py`, by processor, precision and size alone. `lmlab.kernels.only` forces either.
"""

from lmlab.kernels.neural.attention import attention
from lmlab.kernels.neural.embedding import embedding
from lmlab.kernels.neural.loss import cross_entropy_sum
from lmlab.kernels.neural.recurrent import recurrent_layers

__all__ = ["attention", "cross_entropy_sum", "embedding", "recurrent_layers"]
