"""The exponential of float32 and what is made of it, for loops that the compiler vectorises."""

from __future__ import annotations

import numpy as np

from lmlab.kernels.jit import inline

_f4, _i4 = np.float32, np.int32
_LOG2_E, _LN_2, _LN_2_REST = _f4(1.4426950408889634), _f4(0.693359375), _f4(-2.12194440e-4)
_LEAST, _MOST = _f4(-125 / 1.44269504), _f4(125 / 1.44269504)
_SHIFT, _SHIFT_BITS = _f4(3 << 22), _i4(0x4B400000)


@inline
def exp(x):
    """The exponential to 4e-7: the nearest power of 2 by its bits, times a polynomial; 0 below -86."""
    x = _MOST if x > _MOST else x
    whole = _i4(_f4(x * _LOG2_E + _SHIFT).view(np.int32) - _SHIFT_BITS)
    y = (x - _f4(whole) * _LN_2) - _f4(whole) * _LN_2_REST  # the first product is exact: ln 2 in two numbers
    p = _f4(8.290314667e-03)
    p = p * y + _f4(4.189792932e-02)
    p = p * y + _f4(1.666763619e-01)
    p = p * y + _f4(4.999914954e-01)
    p = p * y + _f4(9.999997072e-01)
    p = p * y + _f4(1)
    scaled = _i4((whole << _i4(23)) + _f4(p).view(np.int32)).view(np.float32)
    return _f4(0) if x < _LEAST else scaled


@inline
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return _f4(1) / (_f4(1) + exp(-x))


@inline
def tanh(x):
    """2 sigmoid(2x) - 1."""
    return _f4(2) / (_f4(1) + exp(_f4(-2) * x)) - _f4(1)
