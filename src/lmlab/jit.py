"""How loops are compiled: Numba, without the interpreter's lock, kept on disk after the first time.

Only modules of compiled loops import this; importing Numba takes a third of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called."""
    compiled: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy")(function)
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function into its callers."""
    compiled: Callable[..., Any] = njit(inline="always", error_model="numpy")(function)
    return compiled


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Ask memory for the element at `index` of a contiguous array, all axes laid end to end, and go on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        signed = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        ask = cgutils.get_or_insert_function(builder.module, signed, "llvm.prefetch.p0")
        builder.call(ask, [address, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate
