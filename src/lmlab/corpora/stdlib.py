"""The corpus that every machine has: Python's own standard library, a record a function.

The schema is CodeSearchNet's (Husain et al. 2019, arXiv:1909.09436): `repo, path, func_name, original_string,
language, code, code_tokens, docstring, docstring_tokens, sha, url, partition`. Like it, we take functions and methods
(nested ones stay inside theirs), leave comments and the docstring out of `code_tokens`, and drop functions of fewer
than three lines of code. Unlike it, we keep undocumented functions and special methods. Both `original_string` and
`code` are the source from `def` to the end. A whole module lies in one partition, by hash of its path.
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

from lmlab.corpora.cache import cache_dir
from lmlab.corpora.settings import Shares
from lmlab.corpora.splits import SPLITS, code_of
from lmlab.errors import DataError

SHARES: Shares = (0.8, 0.1, 0.1)
FEWEST_LINES = 3
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
_WORD = re.compile(r"\w+|[^\w\s]")
_FORMAT = 1  # of the file in the cache

Function = ast.FunctionDef | ast.AsyncFunctionDef
Token = tuple[tuple[int, int], str]
"""Where a token starts (line, column) and its text."""


def made_path() -> Path:
    """Where the corpus of this Python version lies, or will lie."""
    return cache_dir() / f"python-stdlib-{platform.python_version()}-{_FORMAT}.jsonl.gz"


def ensure() -> Path:
    """The corpus of this Python version, made now if it was not yet.

    Raises:
        DataError: this Python comes without its source, or the cache cannot be written.
    """
    target = made_path()
    if target.is_file():
        return target
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        written = _write(Path(sysconfig.get_path("stdlib")), part)
        if not written:
            part.unlink()
            raise DataError("this Python's standard library holds no source", "install the full Python, or name a file")
        part.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror})", "make room or set LMLAB_CACHE") from error
    return target


def _write(library: Path, target: Path) -> int:
    count = 0
    with target.open("wb") as raw:
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            for record in records(library):
                packed.write(json.dumps(record, ensure_ascii=False).encode("utf-8") + b"\n")
                count += 1
        raw.flush()
        os.fsync(raw.fileno())
    return count


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
    sha, partition = hashlib.sha256(data).hexdigest(), SPLITS[code_of(hashlib.sha256(path.encode()).digest(), SHARES)]
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
                yield first, _span(lines, first, end)
        elif kind not in _LAYOUT and not opened:
            yield start, string


def _span(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    between = lines[start[0] : end[0] - 1]
    return "".join([lines[start[0] - 1][start[1] :], *between, lines[end[0] - 1][: end[1]]])


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
    skip = (0, 0), (0, 0)
    if ast.get_docstring(function, clean=False) is not None:
        node = function.body[0]
        skip = (node.lineno, 0), ((node.end_lineno or node.lineno) + 1, 0)
        if node.lineno == function.lineno:  # def f(): "docstring"
            skip = (node.lineno, node.col_offset), (node.lineno, node.end_col_offset or 0)
    kept = [token for token in tokens[low:high] if not skip[0] <= token[0] < skip[1]]
    return [text for _, text in kept], len({start[0] for start, _ in kept})
