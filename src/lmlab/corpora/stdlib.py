"""The corpus that every machine has: Python's own standard library, a record a function.

The schema is CodeSearchNet's (Husain et al. 2019, arXiv:1909.09436). Like it, we take functions and methods (nested
ones inside theirs), leave comments and the docstring out of `code_tokens`, and drop functions of fewer than three lines
of code. Unlike it, we keep undocumented functions and special methods. Both `original_string` and `code` are the source
from `def` to the end. A whole module lies in one partition, by hash of its path.
"""

from __future__ import annotations

import ast
import bisect
import gzip
import hashlib
import io
import json
import os
import platform
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmlab.corpora.settings import SPLITS, Shares
from lmlab.corpora.splits import code_of
from lmlab.disk import cache_dir, replacing
from lmlab.errors import DataError, StorageError

SHARES: Shares = (0.8, 0.1, 0.1)
FEWEST_LINES = 3
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
_NO_CODE = ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENCODING", "ENDMARKER")
_WORD = re.compile(r"\w+|[^\w\s]")
_FORMAT = 1  # of the file in the cache

Function = ast.FunctionDef | ast.AsyncFunctionDef
Token = tuple[tuple[int, int], str]  # where it starts (line, column), and its text


def made_path() -> Path:
    """Where the corpus of this Python version lies, or will lie."""
    return cache_dir() / f"python-stdlib-{platform.python_version()}-{_FORMAT}.jsonl.gz"


def ensure() -> Path:
    """The corpus of this Python version, made now if it was not yet; DataError where it cannot be made."""
    target = made_path()
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file, gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
            for record in records(Path(sysconfig.get_path("stdlib"))):
                packed.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
            if not packed.tell():
                problem = "this Python's standard library holds no source"
                raise DataError(problem, "install the full Python, or name a file")
    except (OSError, StorageError) as error:
        cause = error.__cause__ or error
        problem = f"{target} cannot be written ({getattr(cause, 'strerror', cause)})"
        raise DataError(problem, "make room or set LMLAB_CACHE") from error
    return target


def records(library: Path) -> Iterator[dict[str, Any]]:
    """Every function below a folder of Python source, file by file in sorted order."""
    for root, folders, files in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(root, name)
                yield from module_records(path.read_bytes(), path.relative_to(library).as_posix())


def module_records(data: bytes, path: str) -> Iterator[dict[str, Any]]:
    """The functions of one module; none where it cannot be parsed."""
    try:
        source = data.decode("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and such in old modules
            tree = ast.parse(source)
        lines = io.StringIO(source).readlines()
        tokens = list(_tokens(lines))
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return
    starts = [start for start, _ in tokens]
    sha = hashlib.sha256(data).hexdigest()
    partition = SPLITS[code_of(hashlib.sha256(path.encode()).digest(), SHARES)]
    for name, function in _functions(tree, ""):
        code_tokens, code_lines = _code(function, tokens, starts)
        if code_lines < FEWEST_LINES:
            continue
        docstring = ast.get_docstring(function) or ""
        code = "".join(lines[function.lineno - 1 : function.end_lineno]).strip()
        yield {
            "repo": "python/cpython",
            "path": path,
            "func_name": name,
            "original_string": code,
            "language": "python",
            "code": code,
            "code_tokens": code_tokens,
            "docstring": docstring,
            "docstring_tokens": _WORD.findall(docstring),
            "sha": sha,
            "url": "",
            "partition": partition,
        }


def _tokens(lines: list[str]) -> Iterator[Token]:
    """The tokens that are code; an f-string is one token in every version of Python."""
    opened: list[tuple[int, int]] = []
    for kind, string, start, end, _ in tokenize.generate_tokens(iter(lines).__next__):
        name = tokenize.tok_name[kind]
        if name in ("FSTRING_START", "TSTRING_START"):  # from Python 3.12 on
            opened.append(start)
        elif name in ("FSTRING_END", "TSTRING_END"):
            first = opened.pop()
            if not opened:
                between = "".join(lines[first[0] - 1 : end[0]])
                yield first, between[first[1] : len(between) - len(lines[end[0] - 1]) + end[1]]
        elif name not in _NO_CODE and not opened:
            yield start, string


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Functions of a module and methods of its classes, also under `if` and `try`; not those inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        elif isinstance(child, ast.stmt | ast.excepthandler):
            yield from _functions(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def _code(function: Function, tokens: list[Token], starts: list[tuple[int, int]]) -> tuple[list[str], int]:
    """The tokens of a function without its docstring, and on how many lines they start."""
    low = bisect.bisect_left(starts, (function.lineno, 0))
    high = bisect.bisect_left(starts, ((function.end_lineno or function.lineno) + 1, 0))
    kept = tokens[low:high]
    if ast.get_docstring(function, clean=False) is not None:
        node = function.body[0]
        start, end = (node.lineno, 0), ((node.end_lineno or node.lineno) + 1, 0)
        if node.lineno == function.lineno:  # def f(): "docstring"
            start, end = (node.lineno, node.col_offset), (node.lineno, node.end_col_offset or 0)
        kept = [token for token in kept if not start <= token[0] < end]
    return [text for _, text in kept], len({start[0] for start, _ in kept})
