"""How loops are compiled: by Numba, without the interpreter's lock, and kept on disk after the first time.

Numba's files of machine code are pickles, so loading one runs what its writer wanted. They are read only from a folder
that belongs to this user and that nobody else, group included, may write to. The folders tried, in this order:
`$NUMBA_CACHE_DIR`, `__pycache__` beside the source, and Numba's folder in the user's cache (`~/.cache/numba` on Linux).
Where none will do, nothing is kept and each process compiles anew.

Only modules of compiled loops import this file; importing Numba takes a third of a second.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache
from numba.core.ccallback import CFunc
from numba.core.codegen import get_host_cpu_features
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic

from lmlab.kernels.engine import note_compiling

_IMPORT = re.compile(r"^ *from ([\w.]+) import (?:\(([^)]*)\)|(.*))|^ *import ([\w.]+)", re.MULTILINE)


class _PrivateFolder:
    """A place for Numba's files that no other user can write to; mixed into Numba's own locators."""

    def ensure_cache_path(self) -> None:
        folder = self.get_cache_path()  # type: ignore[attr-defined]
        os.makedirs(folder, mode=0o700, exist_ok=True)
        super().ensure_cache_path()  # type: ignore[misc]
        about = os.stat(folder)
        if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
            raise PermissionError(f"{folder} could be written to by other users")  # Numba tries the next place


_PRIVATE: Any = [type(one.__name__, (_PrivateFolder, one), {}) for one in CompileResultCacheImpl._locator_classes]


class _Files(CompileResultCacheImpl):
    _locator_classes = _PRIVATE


class _Cache(FunctionCache):
    """Numba's, which looks at a function's own file alone; what is inlined from other files counts here too."""

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = super().load_overload(sig, target_context)
        if found is None:
            note_compiling(done=False)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        super().save_overload(sig, data)
        note_compiling(done=True)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _sources(Path(self._py_func.__code__.co_filename)))


def _cache(function: Callable[..., Any]) -> Any:
    try:
        return _Cache(function)
    except RuntimeError:  # no folder will do
        return NullCache()


@functools.cache
def _sources(file: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells whether code of a file is stale: the file, this one, and what it imports of its folders, and so on."""
    here = Path(__file__).parent
    root = here if here in file.parents else file.parent
    found, following = {Path(__file__)}, {file}
    while following:
        one = following.pop()
        found.add(one)
        following |= {path for path in _imported(one) if root in path.parents} - found
    about = {path: path.stat() for path in sorted(found)}
    return tuple((path.name, stat.st_mtime_ns, stat.st_size) for path, stat in about.items())


def _imported(file: Path) -> Iterator[Path]:
    """The files of the modules that a file imports by name, of those loaded."""
    for package, several, names, module in _IMPORT.findall(file.read_text(encoding="utf-8")):
        inside = [f"{package}.{name}" for name in re.findall(r"\w+", several or names)] if package else []
        for name in (package, module, *inside):
            path = getattr(sys.modules.get(name), "__file__", None)
            if path:
                yield Path(path)


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function when it is first called."""
    compiled: Any = njit(nogil=True, error_model="numpy", **options)(function)
    compiled._cache = _cache(function)
    return compiled


def jit_sums(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with float sums in any order, which the compiler can vectorise; infinities and NaN keep their meaning."""
    return jit(function, fastmath={"reassoc", "contract", "nsz"})


def callback(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a function that C calls, at once."""
    compiled: Any = CFunc(function, normalize_signature(signature), locals={}, options={})
    compiled._cache = _cache(function)
    compiled.compile()
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function into its callers."""
    compiled: Callable[..., Any] = njit(inline="always", error_model="numpy")(function)
    return compiled


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
    """A bit for each of the 64 bytes from `index` on: whether it is NUL, tab, LF, CR or a space."""

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
    """The bytes from an index of an array on, read as another type, without need of alignment."""
    return builder.load(_at(context, builder, kinds, arguments, kind), align=1)


def _at(context: Any, builder: Any, kinds: Any, arguments: Any, kind: ir.Type) -> Any:
    data = context.make_array(kinds[0])(context, builder, arguments[0]).data
    return builder.bitcast(builder.gep(data, [arguments[1]]), kind.as_pointer())
