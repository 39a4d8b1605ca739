"""How loops are compiled: by Numba, without the interpreter's lock, and kept on disk after the first time.

Numba's files of machine code are pickles, so loading one runs what its writer wanted. They are read only from a folder
that belongs to this user and that nobody else, group included, may write to. The folders tried, in this order:
`$NUMBA_CACHE_DIR`, `__pycache__` beside the source, and Numba's folder in the user's cache (`~/.cache/numba` on Linux).
Where none will do, nothing is kept and each process compiles anew.

Only modules of compiled loops import this file; importing Numba takes a third of a second.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from lmlab.kernels import intrinsics
from lmlab.kernels.engine import note_compiling

_IMPORT = re.compile(r"^ *from ([\w.]+) import (?:\(([^)]*)\)|(.*))|^ *import ([\w.]+)", re.MULTILINE)


def _without_linear_algebra() -> None:
    """Import Numba's NumPy functions, which import SciPy's linear algebra, 0.15 s, to see whether it is there.

    No loop here multiplies matrices; loops of others that do ask for it again when they are compiled.
    """
    from numba.np import linalg

    looks = linalg.ensure_blas
    linalg.ensure_blas = _ensure_scipy
    try:
        from numba.np import arraymath
    finally:
        linalg.ensure_blas = looks
    arraymath.ensure_blas = looks  # type: ignore[attr-defined]


def _ensure_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise ImportError


_without_linear_algebra()


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
            note_compiling(begins=True)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        super().save_overload(sig, data)
        note_compiling(begins=False)

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
    found, following = {Path(__file__), Path(intrinsics.__file__)}, {file}
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
    """Compile with float sums in any order, which the compiler can vectorise; infinities and NaN keep their meaning.

    Callers always get their own copy: of two copies, one fused with its caller's sums and one not, the process that
    compiles would run the other one than those that load the machine code, and round otherwise.
    """
    return jit(function, forceinline=True, fastmath={"reassoc", "contract", "nsz"})


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
