"""Values, bytes, texts and damages that nobody expects."""

from __future__ import annotations

import bz2
import copy
import gzip
import json
import lzma
import random
from collections.abc import Callable
from typing import Any

import zstandard

ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 3, 7, 255, 256, 65_536, 2**31, 2**32, 2**63, 10**12, 10**12 + 1, 10**30, 10**400,
    -(10**30), 0.0, -0.0, 0.5, 1.5, 1e-30, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
    "", "x", "0", "-1", "1e3", "nan", "inf", "true", "none", "auto", "a,b", "0 1 1", "0;1", "1,2,3",
    "\ud800", "\0", "\n", "..", "/", "\u202e", "x" * 5_000, "9" * 5_000,
    [], [1], ["a"], [[]], [None], {}, {"a": 1}, {"kind": "x"}, [0] * 100,
]  # fmt: skip
WORDS = [
    "the",
    "end",
    "of",
    "naïve",
    "漢字",
    "e\u0301",
    "<s>",
    "</s>",
    "<unk>",
    "[UNK]",
    "[PAD]",
    "{x}",
    "\\data\\",
    "1=3",
]
SPACES = [" ", "\n", "\t", "  ", "\n\n", "\r\n", *"\r\v\f\x1c\x1d\x1e\x85\xa0\u2028\u2029\u3000\ufeff\u200b"]
BYTES = [
    *(bytes([byte]) for byte in b'\0\xff\xc3",{[\\'), b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf",
    b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PAR1",
]  # fmt: skip
PACKERS: list[Callable[[bytes], bytes]] = [
    gzip.compress, bz2.compress, lambda data: lzma.compress(data, preset=0), zstandard.ZstdCompressor().compress,
]  # fmt: skip
Draw = random.Random


def some_words(draw: Draw, most: int = 40) -> str:
    """Words and what parts them."""
    return "".join(
        draw.choice(WORDS) + draw.choice(SPACES if draw.random() < 0.3 else SPACES[:3])
        for _ in range(draw.randrange(most))
    )


def damaged(draw: Draw, data: bytes) -> bytes:
    """The same bytes with a few changes: flipped, dropped, doubled, replaced, cut off."""
    if not data:
        return draw.choice(BYTES)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at, end = sorted((draw.randrange(len(data) + 1), draw.randrange(len(data) + 1)))
        some = data[at : min(end, at + 30)]
        change = draw.randrange(6)
        if change == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
        elif change == 1:
            data = data[:at] + data[at + len(some) :]
        elif change == 2:
            data = data[:at] + some * draw.choice((2, 3, 50)) + data[at + len(some) :]
        elif change == 3:
            data = data[:at] + draw.choice(BYTES) + data[at + draw.randrange(3) :]
        elif change == 4:
            data = data[:at]
        else:
            data = data[:at] + draw.randbytes(draw.randrange(9)) + data[at:]
    return data


def as_file(draw: Draw, text_: str) -> bytes:
    """A text in some encoding, perhaps packed, perhaps damaged before or after."""
    encoding = draw.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32"))
    data = text_.encode(encoding, "replace")
    if draw.random() < 0.3:
        data = damaged(draw, data)
    if draw.random() < 0.3:
        data = draw.choice(PACKERS)(data)
        if draw.random() < 0.1:
            data = draw.choice(PACKERS)(data)
        if draw.random() < 0.6:
            data = damaged(draw, data)
        elif draw.random() < 0.3:
            data += draw.choice((b"\0\0", data, b"more"))
    return data


def one_changed(content: Any, draw: Draw) -> Any:
    """A copy of JSON content in which a value anywhere is another, gone, or deep."""
    content = copy.deepcopy(content)
    place = content
    while True:
        key = draw.choice([*place] if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.3:
            break
        place = place[key]
    change = draw.random()
    if change < 0.2:
        del place[key]
    elif change < 0.3 and isinstance(place, dict):
        place[draw.choice(("x", "", "kind", "\ud800"))] = draw.choice(ODD)
    else:
        place[key] = draw.choice(ODD)
    return content


def as_json(draw: Draw, content: Any) -> str:
    """JSON, of which a part may be nested thousands deep, or no JSON."""
    said = json.dumps(content)
    if draw.random() < 0.1:
        deep = draw.choice(("[", '{"a":')) * draw.choice((10, 1_000, 100_000))
        at = draw.randrange(len(said) + 1)
        said = said[:at] + deep + said[at:]
    return said
