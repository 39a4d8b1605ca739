"""Whether files are as they were written: SHA-256 sums, compared once on a machine and then known by identity.

A model directory and a folder of tokens each keep the sums of their files. What was compared is remembered in the cache
(`$LMLAB_CACHE/verified`) with device, inode, size and times of each file, so that opening it again costs a look at
each. A file that changed within a moment of being looked at is not remembered: its times might not tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmlab import packed
from lmlab.disk import cache_dir, write_file
from lmlab.errors import ArtifactError, StorageError

Sums = Mapping[str, list[str]]
"""By file name the SHA-256 sums that it may have: one, or two while another file takes its place."""
_SETTLED = 0.1  # seconds after which a change would show in a file's times
_LARGEST_JSON = 1 << 28


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    for piece in packed.pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a plain file, in hex."""
    return file_sha256(plain(path))


def json_sum(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object, however it is spaced and ordered."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def signed(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A JSON object with its own sum in it, under a name."""
    return {**content, name: json_sum(content)}


def unsigned(path: Path, content: Mapping[str, Any], name: str, remedy: str) -> dict[str, Any]:
    """What `signed` was given, once its sum is found to be that of the rest.

    Raises:
        ArtifactError: it is not; the message names the path that the object was read from.
    """
    rest = {key: value for key, value in content.items() if key != name}
    if content.get(name) != json_sum(rest):
        raise ArtifactError(f"{path} is damaged (not what was written)", remedy)
    return rest


def plain(path: Path) -> Path:
    """The path, where it names a regular file: no link, device or pipe, which may lead anywhere or never end.

    Raises:
        ArtifactError: it does not, or there is none.
    """
    try:
        within = packed.extent(path).file != path
        mode = stat.S_IFREG if within else path.lstat().st_mode
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", "make it again") from error
    if not stat.S_ISREG(mode):
        raise ArtifactError(f"{path} is no regular file", "put the file itself in its place")
    return path


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object of a regular file.

    Raises:
        ArtifactError: missing, no regular file, larger than 256 MiB, not JSON, or not an object.
    """
    if (size := packed.extent(plain(path)).size) > _LARGEST_JSON:
        raise ArtifactError(f"{path} has {size:,} bytes, but {_LARGEST_JSON:,} at most are read", remedy)
    try:
        written = b"".join(packed.pieces(path))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})", remedy) from error
    return json_object(path, written, remedy)


def json_object(path: Path, written: bytes, remedy: str) -> dict[str, Any]:
    """The JSON object that was read from a path.

    Raises:
        ArtifactError: not JSON, or not an object.
    """
    try:
        content = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error})", remedy) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is damaged (not an object)", remedy)
    return content


class Verified:
    """The files of a folder, after their sums were compared.

    Args:
        folder: where they lie.
        sums: of every file that matters.
        remedy: what to do where one is damaged.
        told: what else the caller compares with them before it calls `remember`; other words are not remembered.

    Attributes:
        remembered: whether `remember` was called for these files before, and none has changed since.

    Raises:
        ArtifactError: a file is missing, no regular file, or not as it was written.
    """

    def __init__(self, folder: Path, sums: Sums, remedy: str, told: str = "") -> None:
        self._seen = {name: _identity(plain(folder / name)) for name in sums}
        named = f"{folder.resolve()}\0{json_sum(sums)}\0{told}"
        key = hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()
        self._note = cache_dir() / "verified" / f"{key[:32]}.json"
        self.remembered = self._known() == self._seen
        if self.remembered:
            return
        for name, allowed in sums.items():
            if not isinstance(allowed, list) or sha256_of(folder / name) not in allowed:
                raise ArtifactError(f"{folder / name} is damaged (not what was written)", remedy)

    def _known(self) -> object:
        try:
            return json.loads(self._note.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None

    def remember(self) -> None:
        """Need not compare these files again on this machine; where the cache cannot be written, do."""
        newest = max((times[-1] for times in self._seen.values()), default=0)
        if self.remembered or time.time_ns() - newest < _SETTLED * 1e9:
            return
        with contextlib.suppress(OSError, StorageError):
            self._note.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._note, json.dumps(self._seen))


def _identity(path: Path) -> list[int]:
    now = packed.extent(path).file.stat()
    return [now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns]
