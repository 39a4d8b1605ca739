"""One sentence a call: C functions of Python, compiled by Numba, for callers that ask for little and often.

Scoring five words takes less time than handing one array to a compiled function. So what is called here takes Python's
own objects and gives Python's own objects, and is bound to one block of numbers that says where the tables lie:

    row 0   the words: table, its mask, the order, what a context never seen adds
    row k   level k: its index, log2 of the slots of that, its records, its suffixes, and its last node

A lone question waits for memory, so what is asked of an n-gram lies side by side, in a record of 16 bytes a node: its
key, log p and backoff.

A context is one number, made of the level of its longest stored part, how long it really is, and the node.
Where callers see it, it is tidied: a part that begins no stored n-gram and has a backoff of 0 (then written -0.0) is
dropped, so that contexts which score alike are equal, as KenLM's states are.

`<s>` and `</s>` are words here, as in ARPA files. `<s>` is never predicted; asked for all the same, it costs nothing.

Shapes: K the order, W words, B bytes of their spellings, S slots of their table, G nodes of a level.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import carray, cfunc, types, uint64
from numba.extending import intrinsic

from lmlab.codecs.scan_compiled import _finish, hash_word
from lmlab.jit import inline, jit, prefetch
from lmlab.models.ngram.counts import high
from lmlab.models.ngram.kernels import _hash
from lmlab.models.ngram.trie import Trie
from lmlab.vocab import BOS, EOS, SPECIALS, UNK

EMPTY = 0
"""The context without words."""
RECORD = "<fi?xxx"
"""What `full_scores` gives of each word, for `struct`: log10 p, the length of the n-gram found, unknown or not."""
_RECORD_BYTES = 12
_WORDS, _MASK, _ORDER, _ABSENT = range(4)
_SLOTS, _BITS, _RECORDS, _SUFFIXES, _LAST = range(5)
_LOGP, _BACKOFF = 2, 3  # among the 32-bit numbers of a record
_LEVEL, _LENGTH = 40, 32  # where these begin in a context's number
_LOG_10 = float(np.log(10.0))
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


@dataclass(frozen=True)
class Calls:
    """The functions of one model; log10, and text either str or bytes, up to a NUL.

    Attributes:
        score: (sentence, bos, eos) to its log-probability.
        full_scores: (sentence, bos, eos) to bytes, a `RECORD` a word.
        step: (context, word) to the context then, log-probability, length of the n-gram found, whether it is unknown.
        kept: what must not go while the functions are in use.
    """

    score: Callable[[str | bytes, object, object], float]
    full_scores: Callable[[str | bytes, object, object], bytes]
    step: Callable[[int, str | bytes], tuple[int, float, int, bool]]
    kept: tuple[Any, ...]


def bind(trie: Trie, words: Sequence[bytes]) -> Calls:
    """The functions of a model whose words have these spellings, ids from 4 on."""
    spellings_S2 = _spellings(words)
    block_K8 = np.zeros((trie.order + 1, 8), dtype=np.int64)
    block_K8[0, :_ABSENT] = spellings_S2.ctypes.data, len(spellings_S2) - 1, trie.order
    block_K8[0, _ABSENT : _ABSENT + 1].view(np.float64)[:] = trie.absent
    records = [_records(trie, k) for k in range(1, trie.order + 1)]
    for k, record_G2 in enumerate(records, 1):
        suffix_G = trie.levels[k - 1].suffix_G
        block_K8[k, [_RECORDS, _SUFFIXES, _LAST]] = record_G2.ctypes.data, suffix_G.ctypes.data, len(record_G2) - 1
    for k, index in enumerate(trie.indices, 2):
        block_K8[k, :_RECORDS] = index.slots.ctypes.data, index.bits
    block, make = block_K8.tobytes(), ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    score, full_scores, step = (make(ctypes.addressof(method), block, None) for method, _ in _methods())
    return Calls(score, full_scores, step, (trie, spellings_S2, records))


def begin(trie: Trie) -> int:
    """The context that opens a sentence."""
    return int(_context(1, 1, BOS)) if trie.order > 1 else EMPTY


def _spellings(words: Sequence[bytes]) -> np.ndarray:
    """Open addressing by the hash of the spelling: uint64, the hash, 0 where the slot is empty, and the id."""
    named = [*words, b"<s>", b"</s>"]
    id_W = np.array([*range(len(SPECIALS), len(SPECIALS) + len(words)), BOS, EOS], dtype=np.uint64)
    end_W = np.fromiter(map(len, named), np.int64).cumsum()
    spellings_S2 = np.zeros((1 << (2 * len(named)).bit_length(), 2), dtype=np.uint64)
    _enter_words(np.frombuffer(b"".join(named), dtype=np.uint8), end_W, id_W, spellings_S2)
    return spellings_S2


def _records(trie: Trie, k: int) -> np.ndarray:
    """The records of level k, uint64."""
    level = trie.levels[k - 1]
    record_G2 = np.empty((len(level.key_G), 2), dtype=np.uint64)
    record_G2[:, 0] = level.key_G
    record_G2.view(np.float32)[:, _LOGP] = level.logp_G
    if k < trie.order:
        dead_G = level.backoff_G == 0
        dead_G[high(trie.levels[k].key_G)] = False
        record_G2.view(np.float32)[:, _BACKOFF] = np.where(dead_G, np.float32(-0.0), level.backoff_G)
    return record_G2


@functools.cache
def _methods() -> tuple[tuple[_Method, Any], ...]:
    """Of each function its description for Python, and the compiled code, to be kept."""
    signature = types.intp(types.intp, types.intp, types.intp)
    methods = []
    for function in (_score, _full_scores, _step):
        compiled = cfunc(signature, cache=True)(function)
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
    return _new_float(_sentence(model_K8, text, bos, eos, 0) / _LOG_10)


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
    level = context >> _LEVEL
    if not (0 <= level < model_K8[0, _ORDER] and (context & 0xFFFFFFFF) <= model_K8[level, _LAST]):
        return _bad_argument()  # a context of some other model
    logp, context, found = _follow(model_K8, word, context, True)
    answer = _new_tuple(4)
    _set_item(answer, 0, _new_int(context))
    _set_item(answer, 1, _new_float(logp / _LOG_10))
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
        hashed = hash_word(spelled_B[start : end_W[word]])
        at = hashed & mask
        while spellings_S2[at, 0] != 0:
            at = (at + uint64(1)) & mask
        spellings_S2[at, 0], spellings_S2[at, 1] = hashed, id_W[word]
        start = end_W[word]


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
    text_B = carray(_pointer(text), (_ANY,), np.uint8)
    context = np.int64(EMPTY)
    if bos and model_K8[0, _ORDER] > 1:
        context = _context(1, 1, BOS)
    at, total, before = uint64(0), 0.0, np.int64(BOS)
    while True:
        while _is_space(text_B[at]):
            at += uint64(1)
        if text_B[at] != 0:
            hashed = uint64(0xCBF29CE484222325)
            while text_B[at] > 32 or not (_is_space(text_B[at]) or text_B[at] == 0):
                hashed = (hashed ^ uint64(text_B[at])) * uint64(0x100000001B3)
                at += uint64(1)
            word = _word_id(model_K8, _finish(hashed))
        elif eos:
            word, eos = np.int64(EOS), 0
        else:
            return total
        _ask(model_K8, before, word)
        before = word
        logp, context, found = _follow(model_K8, word, context, False)
        total += logp
        if records != 0:
            carray(_pointer(records), (3,), np.float32)[0] = logp / _LOG_10
            carray(_pointer(records), (3,), np.int32)[1] = found
            carray(_pointer(records), (3,), np.int32)[2] = word == UNK
            records += _RECORD_BYTES


@inline
def _ask(model_K8, before, word):
    """Ask memory ahead for a word, and for the pair it makes with the one before: most searches come down to them."""
    prefetch(carray(_pointer(model_K8[1, _RECORDS]), (_ANY, 2), np.uint64), word * 2)
    if model_K8[0, _ORDER] > 1:
        slots, mask = _slots(model_K8, 2)
        prefetch(slots, np.int64(_hash(_key(before, word)) & mask))


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
def _follow(model_K8, word, context, tidied):
    """A word after a context: its natural log-probability, the context then, and the length of the n-gram found.

    Tidied, contexts that score alike are equal; it takes time and changes no score.
    """
    order = model_K8[0, _ORDER]
    absent = carray(_pointer(model_K8.ctypes.data), (_ANY,), np.float64)[_ABSENT]
    level, length, node = context >> _LEVEL, (context >> _LENGTH) & 0xFF, context & 0xFFFFFFFF
    logp = absent * (length - level)
    found = _child(model_K8, level, node, word)
    while found < 0:
        logp += _value(model_K8, level, node, _BACKOFF)
        node, level = _suffix(model_K8, level, node), level - 1
        found = _child(model_K8, level, node, word)
    reached = level + 1
    if reached > 1 or word != BOS:
        logp += _value(model_K8, reached, found, _LOGP)
    at, end = reached, found
    if at == order:  # the longest are no contexts: without its first word it is
        at, end = level, np.int64(0)
        if level > 0:
            end = _child(model_K8, level - 1, _suffix(model_K8, level, node), word)
    if absent != 0:
        return logp, _context(at, 1 if word == BOS else min(length + 1, order - 1), end), reached
    while tidied and at > 0 and _is_dead(_value(model_K8, at, end, _BACKOFF)):
        end, at = _suffix(model_K8, at, end), at - 1
    return logp, _context(at, at, end), reached


@inline
def _child(model_K8, level, node, word):
    """The node, one level up, of a context's word, or -1; the context without words knows them all."""
    if level == 0:
        return word
    bits = model_K8[level + 1, _BITS]
    slots, mask = _slots(model_K8, level + 1)
    record_G2 = carray(_pointer(model_K8[level + 1, _RECORDS]), (_ANY, 2), np.uint64)
    key = _key(node, word)
    hashed = _hash(key)
    at, mark = hashed & mask, hashed >> uint64(32 + bits)
    while True:
        slot = uint64(slots[at])
        if slot == 0:
            return -1
        if slot >> uint64(bits) == mark:
            found = np.int64(slot & mask) - 1
            if record_G2[uint64(found), 0] == key:
                return found
        at = (at + uint64(1)) & mask


@inline
def _slots(model_K8, level):
    slots = carray(_pointer(model_K8[level, _SLOTS]), (_ANY,), np.uint32)
    return slots, (uint64(1) << uint64(model_K8[level, _BITS])) - uint64(1)


@inline
def _key(node, word):
    return (uint64(node) << uint64(32)) | uint64(word)


@inline
def _value(model_K8, level, node, which):
    return carray(_pointer(model_K8[level, _RECORDS]), (_ANY, 4), np.float32)[uint64(node), which]


@inline
def _suffix(model_K8, level, node):
    return np.int64(carray(_pointer(model_K8[level, _SUFFIXES]), (_ANY,), np.uint32)[uint64(node)])


@inline
def _is_dead(backoff):
    return backoff == 0 and np.signbit(backoff)


@jit
def _context(level, length, node):
    return (np.int64(level) << _LEVEL) | (np.int64(length) << _LENGTH) | np.int64(node)
