"""Texts at addresses, read as streams: `s3://`, `gs://`, `hf://` and whatever else fsspec knows; http(s) without it.

No copy of the whole is kept, and an object that ends before its size is refused. Keys and accounts are given as the
library of the protocol wants them: in its environment variables and files.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from lmlab.errors import DataError, LmlabError, MissingExtraError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+(://|::)", re.IGNORECASE)
_HTTP = ("http://", "https://")
_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_LONGEST = 300  # characters shown of what a library says


def is_address(name: str) -> bool:
    """Whether a name is an address: `PROTOCOL://...`, or fsspec's chains of them.

    >>> is_address("s3://bucket/a.txt"), is_address("hf:name"), is_address("my.txt")
    (True, False, False)
    """
    return _ADDRESS.match(name) is not None


def title(address: str) -> str:
    """An address without what may be secret or says nothing of the content: user, query, fragment."""
    return re.sub(r"[?#].*|(?<=://)[^/@]*@", "", address) if address.lower().startswith(_HTTP) else address


def size_of(address: str) -> int | None:
    """Bytes at an address, None where nobody says.

    Raises:
        DataError: there is nothing to read.
        MissingExtraError: fsspec is not installed.
    """
    with _explained(address):
        file, size = _open(address)
        file.close()
    return size


def read(address: str) -> Iterator[bytes]:
    """The bytes at an address, in chunks.

    Raises:
        DataError: they cannot be read, or end too early.
        MissingExtraError: fsspec is not installed.
    """
    got = 0
    with _explained(address):
        file, size = _open(address)
    with contextlib.closing(file):
        while chunk := _next(file, address):
            got += len(chunk)
            yield chunk
    if size is not None and got < size:
        raise DataError(f"{title(address)} is cut off: {got:,} of {size:,} bytes came", "try again")


def _next(file: Any, address: str) -> bytes:
    with _explained(address):
        return bytes(file.read(_CHUNK))


def _open(address: str) -> tuple[Any, int | None]:
    """A stream of bytes, and their number where it is known."""
    if address.lower().startswith(_HTTP):
        import urllib.request

        asked = urllib.request.Request(address, headers={"User-Agent": "lmlab"})
        answer = urllib.request.urlopen(asked, timeout=_TIMEOUT)
        length = answer.headers.get("Content-Length")
        return answer, int(length) if length else None
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtraError(f"the text {address}", "fsspec") from error
    system, path = url_to_fs(address)
    about = system.info(path)
    if about.get("type") == "directory":
        raise IsADirectoryError("it is a folder: name its files")
    return system.open(path, "rb"), about.get("size")


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except LmlabError:
        raise
    except ImportError as error:
        needed = f"{title(address)} needs a library that is not installed"
        raise DataError(f"{needed} ({error})", "install it beside lmlab") from error
    except Exception as error:  # each protocol's library has its own
        said = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
        said = " ".join(str(said).split())[:_LONGEST] or type(error).__name__
        said = "there is none" if isinstance(error, FileNotFoundError) else said
        raise DataError(f"{title(address)} cannot be read ({said})", "see that it is there and may be read") from error
