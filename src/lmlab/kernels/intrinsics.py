"""Processor instructions that Numba does not reach by itself, as functions for compiled loops."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_name
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """Prefetch the element at `index` of a contiguous array, its axes laid end to end."""

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
    """One where `which` is not 0, else the other, without a branch that the processor could mispredict."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        which, one, other = arguments
        return builder.select(builder.icmp_unsigned("!=", which, which.type(0)), one, other)

    return one(which, one, one), generate


@intrinsic
def lowest(_typing: Any, bits: Any) -> Any:
    """The place of the lowest set bit, 64 if there is none."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(0))

    return types.uint64(types.uint64), generate


@intrinsic
def equal_of_8(_typing: Any, array: Any, index: Any, wanted: Any) -> Any:
    """A bit for each of the eight 32-bit numbers from `index` on: whether it is `wanted`."""

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


def processor() -> str:
    """The processor's name, as LLVM has it."""
    return str(get_host_cpu_name())


def picks() -> bool:
    """Whether this processor has the instruction of `pick_16`, which picks 16 of 32 numbers at once."""
    return processor_has("avx512f")


@intrinsic
def pick_16(_typing: Any, codes: Any, index: Any, values: Any, more: Any, out: Any, to: Any) -> Any:
    """Write, from `to` on, what 32 float32 `values`, each with `more` added, have at the 16 codes from `index` on.

    Only where `picks`; nothing may ever write to the values.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not picks():
            return context.get_dummy_value()  # compiled, but never reached
        floats, places, one = ir.VectorType(ir.FloatType(), 16), ir.VectorType(ir.IntType(32), 16), ir.IntType(32)
        first = builder.insert_element(ir.Constant(floats, ir.Undefined), arguments[3], one(0))
        more_16, halves = builder.shuffle_vector(first, first, ir.Constant(places, [0] * 16)), []
        for start in (0, 16):
            half = _load(context, builder, signature.args[2:], (arguments[2], ir.IntType(64)(start)), floats)
            half.set_metadata(
                "invariant.load", builder.module.add_metadata([])
            )  # so that it is hoisted out of the loop
            halves.append(builder.fadd(half, more_16))
        codes_16 = _load(context, builder, signature.args, arguments, ir.VectorType(ir.IntType(8), 16))
        pick = ir.FunctionType(floats, [floats, places, floats])
        pick = cgutils.get_or_insert_function(builder.module, pick, "llvm.x86.avx512.vpermi2var.ps.512")
        picked = builder.call(pick, [halves[0], builder.zext(codes_16, places), halves[1]])
        builder.store(picked, _at(context, builder, signature.args[4:], arguments[4:], floats), align=1)
        return context.get_dummy_value()

    return types.void(codes, types.int64, values, types.float32, out, types.int64), generate


@intrinsic
def spaces_of_64(_typing: Any, array: Any, index: Any) -> Any:
    """A bit for each of the 64 bytes from `index` on: whether it is one of `SPACES`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        many = ir.VectorType(ir.IntType(8), 64)
        text, found = (
            _load(context, builder, signature.args, arguments, many),
            ir.Constant(ir.VectorType(ir.IntType(1), 64), None),
        )
        for byte in b"\0 ":
            found = builder.or_(found, builder.icmp_unsigned("==", text, ir.Constant(many, [byte] * 64)))
        from_tab = builder.sub(text, ir.Constant(many, [ord("\t")] * 64))
        to_return = builder.icmp_unsigned("<=", from_tab, ir.Constant(many, [ord("\r") - ord("\t")] * 64))
        return builder.bitcast(builder.or_(found, to_return), ir.IntType(64))

    return types.uint64(array, types.int64), generate


@intrinsic
def eight_bytes(_typing: Any, array: Any, index: Any) -> Any:
    """The eight bytes from `index` on, as one number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _load(context, builder, signature.args, arguments, ir.IntType(64))

    return types.uint64(array, types.int64), generate


@intrinsic
def as_float(_typing: Any, bits: Any) -> Any:
    """The float32 that 32 bits are."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


def _load(context: Any, builder: Any, kinds: Any, arguments: Any, kind: ir.Type) -> Any:
    """The bytes from an index of an array on, read as another type, without need of alignment."""
    return builder.load(_at(context, builder, kinds, arguments, kind), align=1)


def _at(context: Any, builder: Any, kinds: Any, arguments: Any, kind: ir.Type) -> Any:
    data = context.make_array(kinds[0])(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), kind.as_pointer())
