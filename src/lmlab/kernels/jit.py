"""How loops are compiled: Numba, without the interpreter's lock, kept on disk after the first time.

Only modules of compiled loops import this; importing Numba takes a third of a second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.codegen import get_host_cpu_features
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic


class _Cache(FunctionCache):
    """Numba's, which looks at a function's own file alone; inlined from its neighbours, or from here, it is another."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _sources(Path(self._py_func.__code__.co_filename).parent))


@functools.cache
def _sources(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = {path: path.stat() for path in (*sorted(folder.glob("*.py")), Path(__file__))}
    return tuple((path.name, file.st_mtime_ns, file.st_size) for path, file in files.items())


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function when it is first called."""
    compiled: Any = njit(nogil=True, error_model="numpy", **options)(function)
    compiled._cache = _Cache(function)
    return compiled


def jit_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, floats summed in any order: of such sums the compiler makes vectors. Infinities and NaN stay so."""
    return jit(function, fastmath={"reassoc", "contract", "nsz"})


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a function that C calls, at once."""
    compiled: Any = CFunc(function, normalize_signature(signature), locals={}, options={})
    compiled._cache = _Cache(function)
    compiled.compile()
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function into its callers."""
    compiled: Callable[..., Any] = njit(inline="always", error_model="numpy")(function)
    return compiled


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Ask memory for the element at `index` of a contiguous array, all axes laid end to end, and go on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _at(context, builder, signature.args, arguments, ir.IntType(8))
        flag = ir.IntType(32)
        signed = ir.FunctionType(ir.VoidType(), [address.type, flag, flag, flag])
        ask = cgutils.get_or_insert_function(builder.module, signed, "llvm.prefetch.p0")
        builder.call(ask, [address, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@intrinsic
def choose(_typing: Any, which: Any, one: Any, other: Any) -> Any:
    """One where `which` is not 0, else the other: never a branch, which may be guessed wrong."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        which, one, other = arguments
        return builder.select(builder.icmp_unsigned("!=", which, which.type(0)), one, other)

    return one(which, one, one), generate


@intrinsic
def lowest(_typing: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set, 64 if none is."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.uint64(types.uint64), generate


@intrinsic
def equal_of_8(_typing: Any, array: Any, index: Any, wanted: Any) -> Any:
    """Which of the eight 32-bit numbers from `index` on are `wanted`, a bit each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        eight = ir.VectorType(ir.IntType(32), 8)
        numbers = _load(context, builder, signature.args, arguments, eight)
        one = builder.insert_element(ir.Constant(eight, ir.Undefined), arguments[2], ir.IntType(32)(0))
        alike = builder.shuffle_vector(one, one, ir.Constant(eight, [0] * 8))
        bits = builder.bitcast(builder.icmp_unsigned("==", numbers, alike), ir.IntType(8))
        return builder.zext(bits, ir.IntType(64))

    return types.uint64(array, types.int64, types.uint32), generate


@functools.cache
def processor_has(feature: str) -> bool:
    """Whether code may use a feature of the processor, as LLVM names it."""
    return f"+{feature}" in get_host_cpu_features().split(",")


def picks() -> bool:
    """Whether this processor picks 16 of 32 numbers at once, as `pick_16` does."""
    return processor_has("avx512f")


@intrinsic
def pick_16(_typing: Any, codes: Any, index: Any, values: Any, more: Any, out: Any, to: Any) -> Any:
    """Write, from `to` on, what 32 float32 `values`, each with `more` added, have at the 16 codes from `index` on.

    Only where `picks`; nothing may ever write to the values.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not picks():
            return context.get_dummy_value()  # compiled, but never come to
        floats, places, one = ir.VectorType(ir.FloatType(), 16), ir.VectorType(ir.IntType(32), 16), ir.IntType(32)
        first = builder.insert_element(ir.Constant(floats, ir.Undefined), arguments[3], one(0))
        more_16, halves = builder.shuffle_vector(first, first, ir.Constant(places, [0] * 16)), []
        for start in (0, 16):
            half = _load(context, builder, signature.args[2:], (arguments[2], ir.IntType(64)(start)), floats)
            half.set_metadata("invariant.load", builder.module.add_metadata([]))  # and so taken out of the loop
            halves.append(builder.fadd(half, more_16))
        codes_16 = _load(context, builder, signature.args, arguments, ir.VectorType(ir.IntType(8), 16))
        pick = ir.FunctionType(floats, [floats, places, floats])
        pick = cgutils.get_or_insert_function(builder.module, pick, "llvm.x86.avx512.vpermi2var.ps.512")
        picked = builder.call(pick, [halves[0], builder.zext(codes_16, places), halves[1]])
        builder.store(picked, _at(context, builder, signature.args[4:], arguments[4:], floats), align=1)
        return context.get_dummy_value()

    return types.void(codes, types.int64, values, types.float32, out, types.int64), generate


@intrinsic
def add_16(_typing: Any, numbers: Any, index: Any, sums: Any, to: Any) -> Any:
    """Add the 16 float32 from `index` on to those of `sums` from `to` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        floats = ir.VectorType(ir.FloatType(), 16)
        more = _load(context, builder, signature.args, arguments, floats)
        place = _at(context, builder, signature.args[2:], arguments[2:], floats)
        builder.store(builder.fadd(builder.load(place, align=4), more), place, align=4)
        return context.get_dummy_value()

    return types.void(numbers, types.int64, sums, types.int64), generate


@intrinsic
def spaces_of_64(_typing: Any, array: Any, index: Any) -> Any:
    """Which of the 64 bytes from `index` on are NUL, tab, LF, CR or a space, a bit each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        many = ir.VectorType(ir.IntType(8), 64)
        text, found = (
            _load(context, builder, signature.args, arguments, many),
            ir.Constant(ir.VectorType(ir.IntType(1), 64), None),
        )
        for byte in b"\0\t\n\r ":
            found = builder.or_(found, builder.icmp_unsigned("==", text, ir.Constant(many, [byte] * 64)))
        return builder.bitcast(found, ir.IntType(64))

    return types.uint64(array, types.int64), generate


@intrinsic
def eight_bytes(_typing: Any, array: Any, index: Any) -> Any:
    """The eight bytes from `index` on, as one number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(context, builder, signature.args, arguments, ir.IntType(64))

    return types.uint64(array, types.int64), generate


def _load(context: Any, builder: Any, kinds: Any, arguments: Any, kind: ir.Type) -> Any:
    """What lies at an index of an array, read as something else, wherever it begins."""
    return builder.load(_at(context, builder, kinds, arguments, kind), align=1)


def _at(context: Any, builder: Any, kinds: Any, arguments: Any, kind: ir.Type) -> Any:
    data = context.make_array(kinds[0])(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), kind.as_pointer())
