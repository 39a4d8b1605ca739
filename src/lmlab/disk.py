"""Writing to the disk whole or not at all, with one clear line for what the disk refuses.

Every file and folder is written beside its place, synced, and renamed into it: a reader sees the old or the new, never
half, and a kill at any moment leaves nothing but a hidden file that nobody reads.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from lmlab.errors import HeldError, RunExistsError, StorageError, UsageError, shown

_ROOM = "free some space, or write elsewhere (-o; for the cache LMLAB_CACHE)"
_LONGEST_HOLDER = 200  # characters shown
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    None: _ROOM,  # how NumPy says that its file was cut short
    errno.EACCES: "write where you may, with -o",
    errno.EROFS: "write where you may, with -o",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another -o",
    errno.EEXIST: "a file stands where a folder is needed; choose another -o",
}


def cache_dir() -> Path:
    """The folder of what was downloaded or made: `$LMLAB_CACHE`, else `~/.cache/lmlab`. It may not exist yet."""
    return Path(os.environ.get("LMLAB_CACHE") or Path.home() / ".cache" / "lmlab")


def exists(path: str | Path) -> bool:
    """Whether something is at a path that somebody named.

    Raises:
        UsageError: no system could tell: the name is too long, or holds a NUL.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:  # a link to itself
            return False
        said = getattr(error, "strerror", None) or error
        raise UsageError(f"{shown(str(path))} cannot be the name of anything ({said})", "name another") from error
    return True


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False, lasting: bool = True) -> Iterator[Path]:
    """Give a folder to fill, that appears at `path` only when the block ends well; what it replaces stands till then.

    What is not lasting may be lost where the system fails: it is not synced.

    Raises:
        RunExistsError: `path` is already there, and not to be overwritten.
        StorageError: it cannot be written; nothing is left behind.
    """
    if exists(path) and not overwrite:
        raise RunExistsError(path)
    with scratch_folder(path) as beside:
        yield beside
        for file in [*beside.rglob("*"), beside] if lasting else ():
            settle(file)
        _swap(beside, path)
        if lasting:
            _sync(path.parent)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside a place, on its disk, removed when the block ends.

    Raises:
        StorageError: it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
        beside.mkdir(mode=0o700)
        try:
            yield beside
        finally:
            if beside.exists():
                import shutil  # which a cold start need not load

                shutil.rmtree(beside, ignore_errors=True)


def _swap(beside: Path, path: Path) -> None:
    """Put a folder at its place; what stood there comes back where that fails."""
    hidden = _hide(path)
    try:
        beside.rename(path)
    except OSError:
        if hidden is not None:
            hidden.rename(path)
        raise
    _remove(hidden)


def discard(path: Path) -> None:
    """Remove a folder, if it is there: hidden first, so that no half of it is ever in sight."""
    with writing(path):
        _remove(_hide(path))


def _hide(path: Path) -> Path | None:
    if not path.exists():
        return None
    return path.rename(path.with_name(f".{path.name}.{os.urandom(6).hex()}"))


def _remove(folder: Path | None) -> None:
    if folder is not None:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write, that takes its place only when the block ends well; else the old content stands."""
    if exists(path) and not path.is_file():
        raise StorageError(f"{path} cannot be written (it is no plain file)", "name another file")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        finally:
            beside.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def as_json(content: Mapping[str, Any]) -> bytes:
    """What `write_json` writes."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # JSON escapes so what a file name's odd bytes became


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically."""
    write_file(path, as_json(content))


@contextlib.contextmanager
def held(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let nobody else hold a file or folder, there or still to be made, while the block runs.

    The lock lies beside it, `.NAME.lock`, and says who holds it; however the process ends, the system frees it.

    Args:
        path: what is held.
        waiting: is told who holds it, and the lock is waited for; None does not wait.

    Raises:
        HeldError: another process holds it.
        StorageError: links lead in a circle, or it cannot be written.
        UsageError: no system could have it.
    """
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    exists(path)  # refuses what can be the name of nothing
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise StorageError(f"{path} is a link that leads back to itself", "name another")
    beside = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        with writing(path):
            beside.parent.mkdir(parents=True, exist_ok=True)
            while True:
                file = stack.enter_context(beside.open("a+"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    holder = file.read(_LONGEST_HOLDER).strip() or "another process"
                    if waiting is None:
                        raise HeldError(path, holder) from None
                    waiting(holder)
                    fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink:
                    break  # else who held it has just removed it
            stack.callback(beside.unlink, missing_ok=True)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        yield


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise StorageError, in one clear line, for what the disk refuses."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, "see that the place exists and may be written")
        raise StorageError(f"{path} cannot be written ({error.strerror or error})", remedy) from error
    except SafetensorError as error:
        raise StorageError(f"{path} cannot be written ({error})", _ROOM) from error


def settle(path: Path) -> None:
    """Sync a file or folder, and make it readable for all: a library may write for its owner alone."""
    path.chmod(0o755 if path.is_dir() else 0o644)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
