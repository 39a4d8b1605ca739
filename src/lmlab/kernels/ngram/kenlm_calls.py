"""Scoring a sentence in a binary file of KenLM's, as C functions that Python calls; `c_calls` says how and why.

What they are bound to is one row of numbers: the addresses of the file, its head and its levels, how many levels there
are, and the ids of `<s>` and `</s>`. Python's lock is held all the while.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]

from lmlab.kernels.jit import callback, jit
from lmlab.kernels.ngram.c_calls import (
    _ANY,
    _FASTCALL,
    _bytes_data,
    _count_words,
    _is_true,
    _Method,
    _new_bytes,
    _new_float,
    _pointer,
    _text,
)
from lmlab.kernels.ngram.kenlm_files import score_sentence
from lmlab.kernels.ngram.kenlm_layout import Column, Head
from lmlab.kernels.ngram.plain_calls import RECORD

_RECORD_BYTES = struct.calcsize(RECORD)
_HEADS, _COLUMNS = len(Head), len(Column)
_BYTES, _HEAD, _LEVELS, _MANY, _BEGIN, _END = range(6)


def bind(
    bytes_C: np.ndarray, head: np.ndarray, levels_LF: np.ndarray, begin: int, end: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`score` and `full_scores` of a model whose arrays the caller keeps."""
    addresses = (array.ctypes.data for array in (bytes_C, head, levels_LF))
    block = np.array([*addresses, len(levels_LF), begin, end], np.int64).tobytes()
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    score, full_scores = (make(ctypes.addressof(method), block, None) for method, _ in _methods())
    return score, full_scores


@functools.cache
def _methods() -> tuple[tuple[_Method, Any], ...]:
    """Of each function its description for Python, and the compiled code, to be kept."""
    signature = types.intp(types.intp, types.intp, types.intp)
    methods = []
    for function in (_score, _full_scores):
        compiled = callback(signature, function)
        methods.append((_Method(function.__name__[1:].encode(), compiled.address, _FASTCALL, None), compiled))
    return tuple(methods)


def _score(block, arguments, _many):
    objects = carray(_pointer(arguments), (3,), np.int64)
    text = _text(objects[0])
    if text == 0:
        return 0
    return _new_float(_sentence(block, text, _is_true(objects[1]), _is_true(objects[2]), 0, 0))


def _full_scores(block, arguments, _many):
    objects = carray(_pointer(arguments), (3,), np.int64)
    text = _text(objects[0])
    if text == 0:
        return 0
    bos, eos = _is_true(objects[1]), _is_true(objects[2])
    words = _count_words(text) + (1 if eos else 0)
    records = _new_bytes(0, _RECORD_BYTES * words)
    if records != 0:
        _sentence(block, text, bos, eos, _bytes_data(records), words)
    return records


@jit
def _sentence(block, text, bos, eos, records, words):
    """The sum of a text's words up to its first NUL; `words` records, if any, are filled."""
    model = carray(_pointer(_bytes_data(block)), (6,), np.int64)
    text_B, size = carray(_pointer(text), (_ANY,), np.uint8), 0
    while text_B[size] != 0:
        size += 1
    _, total = score_sentence(
        carray(_pointer(model[_BYTES]), (_ANY,), np.uint8),
        carray(_pointer(model[_HEAD]), (_HEADS,), np.int64),
        carray(_pointer(model[_LEVELS]), (model[_MANY], _COLUMNS), np.int64),
        carray(_pointer(text), (size,), np.uint8),
        model[_BEGIN] if bos else np.int64(-1),
        model[_END] if eos else np.int64(-1),
        carray(_pointer(records if words > 0 else text), (words, 3), np.float32),
    )
    return np.float64(total)
