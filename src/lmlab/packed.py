"""The files of a folder in one file: a zip that stores them as they are, each aligned, so that they can be mapped.

What lies in it has a path as in a folder, `model.lm/manifest.json`. Whoever reads through `extent` and `pieces` reads
either. `unzip model.lm -d FOLDER` makes the folder again; no sum of the zip's own is relied on.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lmlab.disk import replacing
from lmlab.errors import ArtifactError, shown

SUFFIX = ".lm"
"""What the name of one file ends with, where it is chosen in place of a folder."""
_FIRST = b"PK\3\4"
_HEAD, _HEAD64 = 30, 20  # bytes before a member's name, and of the sizes behind it that may pass 4 GB
_PADDING = 0xD935  # the zip's field for padding; zipalign of Android writes the same
_ALIGNED = 64  # as the numbers of an .npy file are
_PIECE = 1 << 20


class Extent(NamedTuple):
    """Where the bytes of a path lie."""

    file: Path
    start: int
    size: int


def is_packed(path: Path) -> bool:
    """Whether it is a file that begins as ours do."""
    try:
        with path.open("rb") as file:
            return file.read(len(_FIRST)) == _FIRST
    except (OSError, ValueError):
        return False


def pack(folder: Path, path: Path) -> None:
    """Write the files of a folder, which has no folders in it, as one, atomically; equal files give equal bytes."""
    import shutil
    import zipfile

    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for each in sorted(folder.iterdir()):
            member = zipfile.ZipInfo(each.name)
            member.external_attr = 0o644 << 16
            length = -(file.tell() + _HEAD + len(each.name) + 4 + _HEAD64) % _ALIGNED
            member.extra = struct.pack("<HH", _PADDING, length) + bytes(length)
            with archive.open(member, "w", force_zip64=True) as target, each.open("rb") as source:
                shutil.copyfileobj(source, target, _PIECE)


def members(path: Path) -> Mapping[str, Extent]:
    """What lies in one file, by name.

    Raises:
        ArtifactError: it is none of ours, or damaged.
        OSError: it cannot be read.
    """
    now = path.stat()
    return _members(path, (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns))


@functools.lru_cache(maxsize=16)
def _members(path: Path, identity: tuple[int, ...]) -> dict[str, Extent]:
    import zipfile

    found: dict[str, Extent] = {}
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                file.seek(member.header_offset)
                first, name, extra = struct.unpack("<4s22xHH", file.read(_HEAD))
                start = member.header_offset + _HEAD + name + extra
                whole = first == _FIRST and member.file_size == member.compress_size
                if not whole or start + member.file_size > archive.start_dir or member.filename in found:
                    raise ValueError(f"{shown(member.filename)} is not stored as it is, once")  # noqa: TRY301
                if start % _ALIGNED:
                    raise ValueError("its members are not aligned: unzip it into a folder")  # noqa: TRY301
                found[member.filename] = Extent(path, start, member.file_size)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError, struct.error) as error:
        problem = f"{path} is no sound model in one file ({error})"
        raise ArtifactError(problem, "copy it again, or make it again") from error
    return found


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file in a folder, or in one file, by its path from there.

    Raises:
        ArtifactError, OSError: as `members`.
    """
    if not folder.is_dir():
        return {name: where.size for name, where in members(folder).items()}
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def extent(path: Path) -> Extent:
    """Where the bytes of a file lie: in itself, or in the one file that its path leads through.

    Raises:
        ArtifactError: that is damaged.
        OSError: there is no such file.
    """
    if not path.parent.is_file():
        return Extent(path, 0, path.stat().st_size)
    try:
        return members(path.parent)[path.name]
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, "no such file in it", str(path)) from None


def pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, wherever it lies.

    Raises:
        ArtifactError, OSError: as `extent`.
    """
    where = extent(path)
    with where.file.open("rb") as file:
        file.seek(where.start)
        left = where.size
        while left and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
