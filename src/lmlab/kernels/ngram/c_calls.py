"""The functions of `plain_calls`, compiled by Numba, as C functions that Python calls by METH_FASTCALL.

Scoring five words takes less time than handing one array to a compiled function. So what is called here takes Python's
own objects and gives Python's own objects, and is bound to one block of numbers that says where the tables lie:

    row 0   the words: table, its mask, the order, what a context never seen adds, room to work in
    row k   level k: its table and the shape of that, as score.py has them, its suffixes, and its last entry

Python's lock is held all the while, so one room serves all threads.

A lone question waits for memory. So all n-grams that can end in a word of a sentence are asked for at once, in as many
tables, when the word before it is known; and the spellings and pairs of many words before any of them is scored.

Shapes: K the order, W words, B bytes of their spellings, S slots of their table, G nodes of a level, E places of
entries of a level.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import carray, types, uint32, uint64  # type: ignore[attr-defined]
from numba.extending import intrinsic

from lmlab.kernels.intrinsics import equal_of_8, lowest, prefetch
from lmlab.kernels.jit import callback, inline, jit
from lmlab.kernels.ngram.layout import Level
from lmlab.kernels.ngram.plain_calls import LENGTH, LEVEL, LOG_10, RECORD, Calls, marks, tidied
from lmlab.kernels.ngram.score import Tables, _factor, _line, _mix
from lmlab.memory import fixed, room
from lmlab.vocabulary import BOS, EOS, SPECIALS, UNK

_RECORD_BYTES = struct.calcsize(RECORD)
_WORDS, _MASK, _ORDER, _ABSENT, _ROOM = range(5)
_TABLE, _BITS, _UNUSED, _SLOTS, _LINES, _SUFFIXES, _LAST = range(7)
_LOGP, _BACKOFF = 1, 2
_STRETCH = 64  # words looked at together
_LINE, _MARK, _ENTRY, _WEIGHT = range(4)  # in the room, of each length: the question, and what came of the last
_FASTCALL = 0x80  # Python's METH_FASTCALL
_ANY = 1 << 60  # as the length of an array that is known by its address alone

_utf8 = types.ExternalFunction("PyUnicode_AsUTF8", types.intp(types.intp))
_is_buffer = types.ExternalFunction("PyObject_CheckBuffer", types.intc(types.intp))
_bytes_data = types.ExternalFunction("PyBytes_AsString", types.intp(types.intp))
_new_bytes = types.ExternalFunction("PyBytes_FromStringAndSize", types.intp(types.intp, types.intp))
_is_true = types.ExternalFunction("PyObject_IsTrue", types.intc(types.intp))
_as_int = types.ExternalFunction("PyLong_AsLongLong", types.int64(types.intp))
_new_int = types.ExternalFunction("PyLong_FromLongLong", types.intp(types.int64))
_new_bool = types.ExternalFunction("PyBool_FromLong", types.intp(types.intp))
_new_float = types.ExternalFunction("PyFloat_FromDouble", types.intp(types.float64))
_new_tuple = types.ExternalFunction("PyTuple_New", types.intp(types.intp))
_bad_argument = types.ExternalFunction("PyErr_BadArgument", types.intc())
_set_item = types.ExternalFunction("PyTuple_SetItem", types.intc(types.intp, types.intp, types.intp))


def bind(levels: Sequence[Level], absent: float, words: Sequence[bytes], bos_logp: float | None = 0.0) -> Calls:
    """The functions of a model; `calls.bind` says what it takes."""
    spellings_S2 = _spellings(words, marks(levels, bos_logp))
    levels, order, places_K = tidied(levels), len(levels), list[np.ndarray]()
    tables = Tables(levels, absent, places_K)
    tables.words_V2[BOS, 0] = bos_logp or 0.0
    room_R4 = np.zeros((order + 1 + _STRETCH, 4), dtype=np.uint64)
    block_K8 = np.zeros((order + 1, 8), dtype=np.int64)
    block_K8[0, :_ABSENT] = spellings_S2.ctypes.data, len(spellings_S2) - 1, order
    block_K8[0, _ABSENT : _ABSENT + 1].view(np.float64)[:] = absent
    block_K8[0, _ROOM] = room_R4.ctypes.data
    block_K8[1, [_TABLE, _LAST]] = tables.words_V2.ctypes.data, len(tables.words_V2) - 1
    suffixes = []
    for k, (table, *shape) in enumerate(tables.tables, 2):
        suffix_E = room((len(table) // 2 if k < order else 0,), np.uint32)
        if k < order:
            _link(fixed(levels[k - 1].suffix_G), places_K[k - 2], places_K[k - 1], suffix_E)
        suffixes.append(suffix_E)
        block_K8[k, : _LAST + 1] = table.ctypes.data, *shape, suffix_E.ctypes.data, len(table) // 2 - 1
    block, make = block_K8.tobytes(), ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    score, full_scores, step = (make(ctypes.addressof(method), block, None) for method, _ in _methods())
    return Calls(score, full_scores, step, (spellings_S2, tables, suffixes, room_R4))


def _spellings(words: Sequence[bytes], marked: Mapping[bytes, int]) -> np.ndarray:
    """Open addressing by the hash of the spelling: uint64, the hash, 0 where the slot is empty, and the id."""
    named = [*words, *marked]
    id_W = np.array([*range(len(SPECIALS), len(SPECIALS) + len(words)), *marked.values()], dtype=np.uint64)
    end_W = np.fromiter(map(len, named), np.int64).cumsum()
    spellings_S2 = np.zeros((1 << (2 * len(named)).bit_length(), 2), dtype=np.uint64)
    _enter_words(np.frombuffer(b"".join(named), dtype=np.uint8), end_W, id_W, spellings_S2)
    return spellings_S2


@functools.cache
def _methods() -> tuple[tuple[_Method, Any], ...]:
    """Of each function its description for Python, and the compiled code, to be kept."""
    signature = types.intp(types.intp, types.intp, types.intp)
    methods = []
    for function in (_score, _full_scores, _step):
        compiled = callback(signature, function)
        methods.append((_Method(function.__name__[1:].encode(), compiled.address, _FASTCALL, None), compiled))
    return tuple(methods)


class _Method(ctypes.Structure):
    """Python's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


# ---- called by Python: the block, where the arguments lie, and how many there are


def _score(block, arguments, _many):
    model_K8, objects = _model(block), carray(_pointer(arguments), (3,), np.int64)
    text = _text(objects[0])
    if text == 0:
        return 0
    bos, eos = _is_true(objects[1]), _is_true(objects[2])
    return _new_float(_sentence(model_K8, text, bos, eos, 0) / LOG_10)


def _full_scores(block, arguments, _many):
    model_K8, objects = _model(block), carray(_pointer(arguments), (3,), np.int64)
    text = _text(objects[0])
    if text == 0:
        return 0
    bos, eos = _is_true(objects[1]), _is_true(objects[2])
    records = _new_bytes(0, _RECORD_BYTES * (_count_words(text) + (1 if eos else 0)))
    if records != 0:
        _sentence(model_K8, text, bos, eos, _bytes_data(records))
    return records


def _step(block, arguments, _many):
    model_K8, objects = _model(block), carray(_pointer(arguments), (2,), np.int64)
    text = _text(objects[1])
    if text == 0:
        return 0
    text_B = carray(_pointer(text), (_ANY,), np.uint8)
    at, hashed = 0, uint64(0xCBF29CE484222325)
    while text_B[at] != 0:
        hashed = (hashed ^ uint64(text_B[at])) * uint64(0x100000001B3)
        at += 1
    word = _word_id(model_K8, _finish(hashed))
    context = _as_int(objects[0])
    level = context >> LEVEL
    if not (0 <= level < model_K8[0, _ORDER] and (context & 0xFFFFFFFF) <= model_K8[level, _LAST]):
        return _bad_argument()  # a context of some other model
    logp, context, found = _follow(model_K8, word, context)
    answer = _new_tuple(4)
    _set_item(answer, 0, _new_int(context))
    _set_item(answer, 1, _new_float(logp / LOG_10))
    _set_item(answer, 2, _new_int(found))
    _set_item(answer, 3, _new_bool(1 if word == UNK else 0))
    return answer


@intrinsic
def _pointer(_typing: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


@inline
def _model(block):
    return carray(_pointer(_bytes_data(block)), (_ANY, 8), np.int64)


@inline
def _text(text):
    """Where the bytes of a str or of bytes lie; 0 after raising TypeError for any other."""
    return _bytes_data(text) if _is_buffer(text) else _utf8(text)


# ---- the work


@jit
def _enter_words(spelled_B, end_W, id_W, spellings_S2):
    start, mask = 0, uint64(len(spellings_S2) - 1)
    for word in range(len(end_W)):
        hashed = uint64(0xCBF29CE484222325)
        for byte in range(start, end_W[word]):
            hashed = (hashed ^ uint64(spelled_B[byte])) * uint64(0x100000001B3)
        hashed = _finish(hashed)
        at = hashed & mask
        while spellings_S2[at, 0] != 0:
            at = (at + uint64(1)) & mask
        spellings_S2[at, 0], spellings_S2[at, 1] = hashed, id_W[word]
        start = end_W[word]


@jit
def _link(suffix_G, place_F, place_G, suffix_E):
    for node in range(len(place_G)):
        if node + 16 < len(place_G):
            prefetch(place_F, np.int64(suffix_G[node + 16]))
            prefetch(suffix_E, np.int64(place_G[node + 16]))
        suffix_E[place_G[node]] = place_F[suffix_G[node]]


@inline
def _finish(hashed):
    """The last mixing of a word's hash, 64-bit FNV-1a; never 0."""
    hashed = (hashed ^ (hashed >> uint64(32))) * uint64(0x9E3779B97F4A7C15)
    hashed ^= hashed >> uint64(29)
    return hashed if hashed != 0 else uint64(1)


@inline
def _is_space(byte):
    """As C has it: what KenLM splits at."""
    return byte == 32 or 9 <= byte <= 13


@jit
def _count_words(text):
    text_B = carray(_pointer(text), (_ANY,), np.uint8)
    at, many, inside = 0, 0, False
    while text_B[at] != 0:
        space = _is_space(text_B[at])
        many += 0 if space or inside else 1
        inside = not space
        at += 1
    return many


@jit
def _sentence(model_K8, text, bos, eos, records):
    """The natural log-probability of a text; each word's own goes to `records`, if that is an address."""
    text_B, full = carray(_pointer(text), (_ANY,), np.uint8), model_K8[0, _ORDER] - 1
    room_R4, first = carray(_pointer(model_K8[0, _ROOM]), (_ANY, 4), np.uint64), model_K8[0, _ORDER] + 1
    at, total, before, length, level, more = uint64(0), 0.0, np.int64(BOS), np.int64(0), np.int64(0), True
    if bos and full > 0:
        length, level = np.int64(1), np.int64(1)
        _remember(model_K8, room_R4, 1, np.int64(BOS))
    while more:
        stop = first
        while _is_space(text_B[at]):
            at += uint64(1)
        while stop < first + _STRETCH - 1 and text_B[at] != 0:
            hashed = uint64(0xCBF29CE484222325)
            while text_B[at] > 32 or not (_is_space(text_B[at]) or text_B[at] == 0):
                hashed = (hashed ^ uint64(text_B[at])) * uint64(0x100000001B3)
                at += uint64(1)
            room_R4[stop, 0] = _finish(hashed)
            _ask_word(model_K8, room_R4[stop, 0])
            stop += 1
            while _is_space(text_B[at]):
                at += uint64(1)
        more = text_B[at] != 0
        for i in range(first, stop):
            room_R4[i, 0] = _word_id(model_K8, room_R4[i, 0])
        if eos and not more:
            room_R4[stop, 0] = EOS
            stop += 1
        for i in range(first, stop):
            prefetch(_table(model_K8, 1), np.int64(room_R4[i, 0]) * 2)
            if full > 0:
                _question(model_K8, 2, before, room_R4[i, 0])
            before = np.int64(room_R4[i, 0])
        for i in range(first, stop):
            word = np.int64(room_R4[i, 0])
            logp, found = _look_up(model_K8, room_R4, level, word)
            logp += _absent(model_K8) * (length - level)
            length, level = min(np.int64(1) if word == BOS else length + 1, full), min(found, full)
            total += logp
            if records != 0:
                carray(_pointer(records), (3,), np.float32)[0] = logp / LOG_10
                carray(_pointer(records), (3,), np.int32)[1] = found
                carray(_pointer(records), (3,), np.int32)[2] = word == UNK
                records += _RECORD_BYTES
    return total


@inline
def _look_up(model_K8, room_R4, level, word):
    """A word after the context in the room: its natural log-probability, and the length of the n-gram found.

    All n-grams that may be stored are asked for before one is looked at. In the room, they take the context's place.
    """
    for k in range(2, level + 2):
        room_R4[k, _LINE], room_R4[k, _MARK] = _question(model_K8, k, room_R4[k - 1, _ENTRY], word)
    weights_R4 = carray(_pointer(model_K8[0, _ROOM]), (_ANY, 4), np.float64)
    found, entry, logp, shorter = np.int64(0), word, 0.0, 0.0
    while entry >= 0:
        found += 1
        logp, shorter = np.float64(_value(model_K8, found, entry, _LOGP)), weights_R4[found, _WEIGHT]
        if found < model_K8[0, _ORDER]:
            _remember(model_K8, room_R4, found, entry)
        entry = np.int64(-1)
        if found <= level:
            entry = _answer(model_K8, found + 1, room_R4[found + 1, _LINE], room_R4[found + 1, _MARK])
    if found <= level:
        logp += shorter
    for k in range(found + 1, level + 1):
        logp += weights_R4[k, _WEIGHT]
    return logp, found


@inline
def _remember(model_K8, room_R4, level, entry):
    room_R4[level, _ENTRY] = entry
    weights_R4 = carray(_pointer(model_K8[0, _ROOM]), (_ANY, 4), np.float64)
    weights_R4[level, _WEIGHT] = _value(model_K8, level, entry, _BACKOFF)


@inline
def _absent(model_K8):
    return carray(_pointer(model_K8.ctypes.data), (_ANY,), np.float64)[_ABSENT]


@inline
def _ask_word(model_K8, hashed):
    spellings_S2 = carray(_pointer(model_K8[0, _WORDS]), (_ANY, 2), np.uint64)
    prefetch(spellings_S2, np.int64(hashed & uint64(model_K8[0, _MASK])) * 2)


@inline
def _word_id(model_K8, hashed):
    spellings_S2 = carray(_pointer(model_K8[0, _WORDS]), (_ANY, 2), np.uint64)
    mask = uint64(model_K8[0, _MASK])
    at = hashed & mask
    while spellings_S2[at, 0] != 0:
        if spellings_S2[at, 0] == hashed:
            return np.int64(spellings_S2[at, 1])
        at = (at + uint64(1)) & mask
    return np.int64(UNK)


@jit
def _follow(model_K8, word, context):
    """A word after a context: its natural log-probability, the context then, and the length of the n-gram found."""
    order, absent = model_K8[0, _ORDER], _absent(model_K8)
    level, length, entry = context >> LEVEL, (context >> LENGTH) & 0xFF, context & 0xFFFFFFFF
    logp = absent * (length - level)
    found = _child(model_K8, level, entry, word)
    while found < 0:
        logp += _value(model_K8, level, entry, _BACKOFF)
        entry, level = _suffix(model_K8, level, entry), level - 1
        found = _child(model_K8, level, entry, word)
    reached = level + 1
    logp += _value(model_K8, reached, found, _LOGP)
    at, end = reached, found
    if at == order:  # the longest are no contexts: without its first word it is
        at, end = level, np.int64(0)
        if level > 0:
            end = max(np.int64(0), _child(model_K8, level - 1, _suffix(model_K8, level, entry), word))
    if absent != 0:
        return logp, _context(at, 1 if word == BOS else min(length + 1, order - 1), end), reached
    while at > 0 and _is_dead(_value(model_K8, at, end, _BACKOFF)):
        end, at = _suffix(model_K8, at, end), at - 1
    return logp, _context(at, at, end), reached


@inline
def _child(model_K8, level, entry, word):
    """The entry, one level up, of a context's word, or -1; the context without words knows them all."""
    if level == 0:
        return word
    line, mark = _question(model_K8, level + 1, entry, word)
    return _answer(model_K8, level + 1, line, mark)


@inline
def _question(model_K8, k, entry, word):
    """Where a k-gram lies if it is stored, and its mark; memory is asked for it."""
    unused, lines = uint64(model_K8[k, _UNUSED]), uint64(model_K8[k, _LINES])
    mixed = _mix(entry, word, uint64(model_K8[k, _BITS]), _factor(unused))
    line = _line(mixed, lines) << uint64(4)
    prefetch(_table(model_K8, k), np.int64(line))
    return line, mixed >> unused


@inline
def _answer(model_K8, k, line, mark):
    """The entry of a k-gram, or -1."""
    table = _table(model_K8, k)
    while True:
        taken = uint64(table[line])
        met = equal_of_8(table, np.int64(line), uint32(mark)) & taken & uint64(0xFE)
        if met != 0:
            return np.int64((line >> uint64(1)) + lowest(met))
        if taken & uint64(1) == 0:
            return np.int64(-1)
        line += uint64(16)


@inline
def _table(model_K8, level):
    return carray(_pointer(model_K8[level, _TABLE]), (_ANY,), np.uint32)


@inline
def _value(model_K8, level, entry, which):
    values = carray(_pointer(model_K8[level, _TABLE]), (_ANY,), np.float32)
    if level == 1:
        return values[uint64(2 * entry + which - 1)]
    return values[uint64((entry >> 3) * 16 + ((which * model_K8[level, _SLOTS] + (entry & 7)) & 15))]


@inline
def _suffix(model_K8, level, entry):
    if level == 1:
        return np.int64(0)
    return np.int64(carray(_pointer(model_K8[level, _SUFFIXES]), (_ANY,), np.uint32)[uint64(entry)])


@inline
def _is_dead(backoff):
    return backoff == 0 and np.signbit(backoff)


@jit
def _context(level, length, entry):
    return (np.int64(level) << LEVEL) | (np.int64(length) << LENGTH) | np.int64(entry)
