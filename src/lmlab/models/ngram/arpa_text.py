"""The text of ARPA files: whole lines, their columns, and the numbers in them.

An error names the line. Numbers are log10 in a file and natural logs elsewhere; -99 stands for a probability
of 0.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from lmlab.errors import ArtifactError

_CHUNK = 1 << 18
_LONGEST = 1 << 24  # bytes of a line
_SQUEEZED = 1032  # bytes that one byte of gzip can become
_COLUMN = re.compile(rb"[^\0\t\r ]+")
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|-[iI][nN][fF]")
_LOG10_E, _LN_10 = 0.4342944819032518, 2.302585092994046
_TEN = [float(f"1e{power}") for power in range(41)]


class Lines:
    """A file in pieces of whole lines.

    Attributes:
        text: the piece at hand.
        at: where in it the next line begins.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._number = 1  # of the next line
        self.text, self.at = b"", 0

    def more(self) -> bool:
        """Have a line at hand, if there is one."""
        if self.at == len(self.text):
            self.text, self.at = self._file.read(_CHUNK), 0
            if not self.text.endswith(b"\n"):
                rest = self._file.readline(_LONGEST)
                if len(rest) == _LONGEST:
                    raise self.wrong(f"it has more than {_LONGEST:,} bytes")
                self.text += rest
            if self.text and not self.text.endswith(b"\n"):
                self.text += b"\n"
        return bool(self.text)

    def take(self, end: int, lines: int) -> None:
        """Leave lines behind, up to a place in the text."""
        self.at, self._number = end, self._number + lines

    def peek(self) -> bytes:
        """The next line; empty at the end of the file."""
        return self.text[self.at : self.text.index(b"\n", self.at)] if self.more() else b""

    def next(self) -> bytes:
        """Take a line; those that are blank are passed over."""
        while self.more():
            line = self.peek()
            self.take(self.at + len(line) + 1, 1)
            if line.strip():
                return line.strip()
        return b""

    def expect(self, marker: bytes) -> None:
        """Take the line that opens a section."""
        line = self.next()
        if line != marker:
            found = f"{shown(line)} stands" if line else "the file ends"
            raise self.wrong(f"{found} where {marker.decode()} is due", -1)

    def wrong(self, what: str, ahead: int = 0) -> ArtifactError:
        """The error of the next line, or one some lines ahead."""
        about = f"{self._path} is no sound ARPA file: line {self._number + ahead}: {what}"
        return ArtifactError(about, "get it again, or write it again")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Name the line in what the block finds wrong with it."""
        try:
            yield
        except ValueError as error:
            raise self.wrong(str(error)) from error


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int, int]]:
    """The text of a file, about how many bytes it has, and how many it can have."""
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                yield raw, size, size
                return
            with gzip.GzipFile(fileobj=raw) as file:
                yield file, 4 * size, _SQUEEZED * size  # type: ignore[misc]  # reads as IO does
    except (OSError, EOFError, zlib.error) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", "get it again, or write it again") from error


def columns(line: bytes, k: int) -> tuple[float, list[bytes], float]:
    """Log10 p, the words and log10 b of a line; a ValueError says what is wrong with it."""
    found = _COLUMN.findall(line)
    if not found or found[0].startswith(b"\\"):
        raise ValueError(f"there are fewer {k}-grams than the header promises")
    logp = _number(found[0])
    if not logp <= 0:
        raise ValueError(f"{shown(found[0])} is no log10 probability, a number up to 0")
    if len(found) - k not in (1, 2):
        raise ValueError(f"it has {len(found)} columns, not the {k + 1} or {k + 2} of a {k}-gram")
    backoff = _number(found[-1]) if len(found) == k + 2 else 0.0
    if not backoff < 1e9:
        raise ValueError(f"{shown(found[-1])} is no log10 backoff weight")
    return logp, found[1 : k + 1], backoff


def _number(column: bytes) -> float:
    """NaN where it is no number; -inf for what stands for a probability of 0."""
    value = float(column) if _NUMBER.fullmatch(column) else np.nan
    return -np.inf if value == -99 else value


def known(words: list[bytes], ids: Mapping[bytes, int]) -> list[int]:
    """The ids of words; a ValueError names one that has none."""
    for word in words:
        if word not in ids:
            raise ValueError(f"the word {shown(word)} is not among the 1-grams")
    return [ids[word] for word in words]


def natural(log10s: Sequence[float]) -> np.ndarray:
    """Natural logs of what is given as log10, float32."""
    with np.errstate(over="ignore"):  # as good as -inf
        return (np.array(log10s, dtype=np.float64) * _LN_10).astype(np.float32)


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
    digits = int(value * _LOG10_E * _TEN[decimals] + 0.5)
    whole, part = divmod(digits, 10**decimals)
    sign = b"-" if log < 0 and digits else b""
    return sign + (b"%d.%0*d" % (whole, decimals, part)).rstrip(b"0").rstrip(b".")
