"""The text of ARPA files: whole lines, their columns, and the numbers in them.

An error names the line. Numbers are log10 in a file and natural logs elsewhere.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from lmlab.corpora.reading import inflate, packed
from lmlab.disk import exists
from lmlab.errors import ArtifactError, DataError

_CHUNK = 1 << 18
_LONGEST = 1 << 24  # bytes of a line
_SQUEEZED = 1032  # bytes that one byte of gzip can become; no list of different n-grams is packed tighter by others
_BOM = b"\xef\xbb\xbf"
_COLUMN = re.compile(rb"[^\0\t\r ]+")
_BLANK = re.compile(rb"[\0\t\n\r ]*")
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|-[iI][nN][fF]")
_UNIGRAM = re.compile(rb"(-?\d+\.?\d*(?:e-?\d+)?)[\t ]([^\0\t\r\n ]+)(?:\t(-?\d+\.?\d*(?:e-?\d+)?))?\n")
LOG10_E, LN_10 = 0.4342944819032518, 2.302585092994046
_TEN = [float(f"1e{power}") for power in range(41)]
_COMPILE_LM = "compile-lm --text yes FILE FILE.arpa makes an ARPA file of it"
_GIVEN = "give the ARPA file that build_binary was given"
_OTHERS = {  # how files begin that are none
    b"iARPA": ("an iARPA file of IRSTLM's", _COMPILE_LM),
    b"blmt": ("a binary file of IRSTLM's", _COMPILE_LM),
    b"Qblmt": ("a binary file of IRSTLM's", _COMPILE_LM),
    b"mmap lm http://kheafield.com/code": ("a binary file of KenLM's", "lmlab ngram query reads it; else " + _GIVEN),
    b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8"),
}


class Lines:
    """Chunks of a file as pieces of whole lines.

    Attributes:
        text: the piece at hand.
        at: where in it the next line begins.
    """

    def __init__(self, path: Path, chunks: Iterator[bytes]) -> None:
        self._path, self._chunks, self._rest = path, chunks, b""
        self._number = 1  # of the first line of the piece
        self.text, self.at = b"", 0

    def more(self) -> bool:
        """Have a line at hand, if there is one."""
        if self.at == len(self.text):
            self._number += int(np.count_nonzero(np.frombuffer(self.text, np.uint8) == 10))  # `count` is slower
            self.text, self.at = b"", 0
            self.text = self._piece()
        return bool(self.text)

    def _piece(self) -> bytes:
        """Whole lines, `_CHUNK` bytes or more except at the end; a last line without end gets one."""
        parts: list[bytes | memoryview] = [self._rest]
        size = open_line = len(self._rest)
        for chunk in self._chunks:
            end = chunk.rfind(b"\n") + 1
            size, open_line = size + len(chunk), len(chunk) - end if end else open_line + len(chunk)
            if open_line > _LONGEST:
                raise self.wrong(f"it has more than {_LONGEST:,} bytes")
            if end and size >= _CHUNK:
                self._rest = chunk[end:]
                return b"".join([*parts, memoryview(chunk)[:end]])
            parts.append(chunk)
        self._rest = b""
        text = b"".join(parts)
        return text if not text or text.endswith(b"\n") else text + b"\n"

    def peek(self) -> bytes:
        """The next line that is not blank; empty at the end of the file."""
        while self.more():
            if self.text[self.at] <= 32:
                self.at = _BLANK.match(self.text, self.at).end()  # type: ignore[union-attr]  # it always matches
            if self.at < len(self.text):
                return self.text[self.at : self.text.index(b"\n", self.at)]
        return b""

    def next(self) -> bytes:
        """Take the next line that is not blank, without the space around it."""
        line = self.peek()
        self.at = min(self.at + len(line) + 1, len(self.text))
        return line.strip()

    def expect(self, marker: bytes) -> None:
        """Take the line that opens a section."""
        line = self.next()
        if line != marker:
            found = f"{shown(line)} stands" if line else "the file ends"
            raise self.wrong(f"{found} where {marker.decode()} is due", ahead=-1 if line else 0)

    def wrong(self, what: str, remedy: str = "get it again, or write it again", ahead: int = 0) -> ArtifactError:
        """The error of the next line, or one so many lines ahead that are not blank."""
        number = self._number + self.text.count(b"\n", 0, self.at) + min(ahead, 0)
        for line in self.text[self.at :].split(b"\n") if ahead > 0 else ():
            ahead -= bool(_COLUMN.search(line))
            if ahead < 0:
                break
            number += 1
        return ArtifactError(f"{self._path} is no sound ARPA file: line {number}: {what}", remedy)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Name the line in what the block finds wrong with it; a ValueError brings that, and maybe the remedy."""
        try:
            yield
        except ValueError as error:
            raise self.wrong(*error.args) from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[Iterator[bytes], int, int]]:
    """The text of a file, compressed or not, in chunks; about how many bytes it has, and how many it can have.

    Raises:
        ArtifactError: it cannot be read, or is of another format that is known by its beginning.
    """
    try:
        if exists(path) and not stat.S_ISREG(path.stat().st_mode):
            raise ArtifactError(f"{path} cannot be read (it is no regular file)", "give an ARPA file")
        with path.open("rb") as raw:
            size, squeezed = os.fstat(raw.fileno()).st_size, packed([raw.read(64)])
            raw.seek(0)
            chunks = inflate(iter(lambda: raw.read(_CHUNK), b""), str(path))
            yield _recognised(path, chunks), 4 * size if squeezed else size, _SQUEEZED * size if squeezed else size
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "get it again, or write it again") from error
    except DataError as error:
        raise ArtifactError(str(error)) from error


def _recognised(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 64:
            break
    for begin, (kind, remedy) in _OTHERS.items():
        if head.startswith(begin):
            raise ArtifactError(f"{path} is {kind}", remedy)
    return chain([head.removeprefix(_BOM)], chunks)


def columns(line: bytes, k: int, most: float = 0.0) -> tuple[float, list[bytes], float]:
    """Log10 p, the words and log10 b of a line.

    Args:
        line: without its end.
        k: how many words are due.
        most: the greatest log10 p allowed; what lies above 0 is taken for 0.

    Raises:
        ValueError: says what is wrong with the line, and maybe the remedy.
    """
    found = _COLUMN.findall(line)
    if not found or found[0].startswith(b"\\"):
        raise ValueError(f"there are fewer {k}-grams than the header promises")
    logp = _number(found[0])
    if not logp <= most:
        about = f"{shown(found[0])} is no log10 probability, a number up to 0"
        remedy = ("`lmlab ngram import --positive zero` takes it for 0, as KenLM's -i",) * (logp > 0)
        raise ValueError(about, *remedy)
    if len(found) - k not in (1, 2):
        raise ValueError(f"it has {len(found)} columns, not the {k + 1} or {k + 2} of a {k}-gram")
    backoff = _number(found[-1]) if len(found) == k + 2 else 0.0
    if not abs(backoff) < 1e9:
        raise ValueError(f"{shown(found[-1])} is no log10 backoff weight, a number between -1e9 and 1e9")
    return min(logp, 0.0), found[1 : k + 1], backoff


@functools.lru_cache(1 << 10)  # rare words share theirs
def _number(column: bytes) -> float:
    """NaN where it is no number."""
    return float(column) if _NUMBER.fullmatch(column) else np.nan


def unigrams(lines: Lines, size: int, most: float = 0.0) -> Iterator[tuple[float, bytes, float]]:
    """Log10 p, the word and log10 b of so many lines; each is at hand until the next is asked for.

    Raises:
        ValueError: says what is wrong with the line at hand, and maybe the remedy.
    """
    for _ in range(size):
        match = _UNIGRAM.match(lines.text, lines.at) if lines.more() else None  # as nearly all are
        if match and (logp := float(match[1])) <= most and abs(backoff := float(match[3] or 0)) < 1e9:
            yield min(logp, 0.0), match[2], backoff
            lines.at = match.end()
        else:
            line = lines.peek()
            logp, (word,), backoff = columns(line, 1, most)
            yield logp, word, backoff
            lines.at += len(line) + 1


def known(words: list[bytes], ids: Mapping[bytes, int]) -> list[int]:
    """The ids of words; a ValueError names one that has none."""
    for word in words:
        if word not in ids:
            raise ValueError(f"the word {shown(word)} is not among the 1-grams")
    return [ids[word] for word in words]


def natural(log10s: Sequence[float], unit: float = LN_10) -> np.ndarray:
    """Natural logs, or in another unit, of what is given as log10, float32."""
    with np.errstate(over="ignore"):  # as good as -inf
        return (np.array(log10s, dtype=np.float64) * unit).astype(np.float32)


def shown(text: bytes) -> str:
    """The beginning of a text, for an error message."""
    return repr(text[:60].decode("utf-8", "backslashreplace"))


def log10(log: float) -> bytes:
    """A natural log as log10, with the fewest decimals that always bring its float32 back."""
    if log == -np.inf:
        return b"-99"
    value, decimals, least = min(abs(log), 1e9), 7, 2.0
    while 0 < value < least and decimals < 40:
        least /= 8  # float32 gets finer by 8, decimals by 10
        decimals += 1
    digits = int(value * LOG10_E * _TEN[decimals] + 0.5)
    whole, part = divmod(digits, 10**decimals)
    sign = b"-" if log < 0 and digits else b""
    return sign + (b"%d.%0*d" % (whole, decimals, part)).rstrip(b"0").rstrip(b".")
