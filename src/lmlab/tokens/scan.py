r"""Whitespace words straight from bytes: text to ids as fast as it is read, the vocabulary learnt on the way.

A line is a document, `<bos> words <eos>`, the empty ones too; a word is a run of anything but `SPACES`. New words get
ids in order of appearance. These are the words of `tokenizer word` with `split space`, without a Python object a line.
A word spelled like a special is unknown, as in every tokenizer of words.

`Scanner` is plain Python, at its best up to a few megabytes; `CompiledScanner` does the same twenty times faster, after
half a second to load Numba.

Shapes: N ids.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lmlab.kernels import engine
from lmlab.vocabulary import BOS, EOS, PAD, SPACES, SPECIALS, UNK

if TYPE_CHECKING:
    from lmlab.kernels.text.scan import CompiledScanner

_INSIDE_LINES = SPACES.replace("\n", "").encode()
_SPACES = bytes.maketrans(_INSIDE_LINES, b" " * len(_INSIDE_LINES))
_MARKS = {**{name.encode(): UNK for name in SPECIALS}, b"\n": EOS, b"": PAD}


WordScanner: TypeAlias = "Scanner | CompiledScanner"


class Scanner:
    r"""Turns whitespace words into ids.

    Args:
        words: known from the start, ids from 4 on.
        learn: whether new words get ids; else they are unknown.

    >>> scanner = Scanner()
    >>> scanner.feed(b"to be or\nnot to be").tolist(), scanner.close().tolist()
    ([2, 4, 5, 6, 3, 2, 7, 4, 5], [3])
    """

    def __init__(self, words: Sequence[str] = (), *, learn: bool = True) -> None:
        following = count(len(SPECIALS) + len(words))
        self._ids: dict[bytes, int] = defaultdict(following.__next__) if learn else _Fixed()
        self._ids.update(_MARKS)
        self._ids.update((word.encode(), id) for id, word in enumerate(words, len(SPECIALS)))
        self._open = False

    def feed(self, text: bytes) -> np.ndarray:
        """The ids (uint32) of the next piece of text, sound UTF-8 that begins and ends between words."""
        found = text.translate(_SPACES).replace(b"\n", b" \n ").split(b" ")  # four times as fast as a pattern
        ids = array("I", list(map(self._ids.__getitem__, found)))  # adds half as much to the look-up as np.fromiter
        ids_N = np.frombuffer(ids, dtype=np.uint32)
        ids_N = ids_N.compress(ids_N != PAD)  # nothing, between two spaces
        after_N = np.concatenate([np.array([UNK if self._open else EOS], dtype=np.uint32), ids_N])
        self._open = bool(after_N[-1] != EOS)
        return np.insert(ids_N, np.flatnonzero(after_N[:-1] == EOS), BOS)

    def close(self) -> np.ndarray:
        """The ids that end the text: `<eos>` where its last line has no newline."""
        ended, self._open = self._open, False
        return np.array([EOS] if ended else [], dtype=np.uint32)

    def seal(self) -> None:
        """Give up what only feeding needs."""

    def __len__(self) -> int:
        return len(self._ids) - len(_MARKS) + len(SPECIALS)

    def words(self) -> list[str]:
        """The words in order of their ids, the specials left out."""
        words = list(self._ids)[len(_MARKS) :]
        return b"\n".join(words).decode("utf-8").split("\n") if words else []


class _Fixed(dict[bytes, int]):
    """Knows no other words."""

    def __missing__(self, word: bytes) -> int:
        return UNK


def scanner(text_bytes: int | None, words: Sequence[str] = (), *, learn: bool = True) -> WordScanner:
    """The scanner that is quicker for so much text (None: nobody knows how much)."""
    if text_bytes is not None and not engine.compiled(text_bytes):
        return Scanner(words, learn=learn)
    from lmlab.kernels.text.scan import CompiledScanner

    return CompiledScanner(words, learn=learn)
