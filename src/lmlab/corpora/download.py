"""Downloading a file: resumed where it broke off, verified, and put in place in one step.

The bytes gather in `<target>.part`; only a whole and verified file takes the target's name. (pooch starts anew instead
of resuming, and tries an address that answers "not found" again: docs/decisions/0002-dependencies.md.)
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from lmlab.corpora.raw import Progress
from lmlab.disk import held
from lmlab.errors import DownloadError
from lmlab.integrity import file_sha256

_CHUNK = 1 << 18
_TIMEOUT = 30.0


class _BrokenOff(Exception):
    """The connection ended before the file did; what came is kept."""


def download(
    urls: Sequence[str],
    target: Path,
    sha256: str | None = None,
    *,
    progress: Progress | None = None,
    attempts: int = 3,
    pause: float = 1.0,
) -> str:
    """Download a file from the first address that has it, and return its SHA-256.

    Args:
        urls: addresses of the same file, tried in order.
        target: where it goes; its folder is made.
        sha256: what its SHA-256 must be, None where unknown.
        progress: called with the bytes so far and their total, None where unknown.
        attempts: how often one address is tried.
        pause: seconds before the second attempt, doubled before each further one.

    Raises:
        DownloadError: no address has it, or what came is not the file expected.
        HeldError: another process downloads it.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with held(target):
            return _download(urls, target, sha256, progress, attempts, pause)
    except OSError as error:
        raise DownloadError(f"{target} cannot be written ({error.strerror})", "make room or set LMLAB_CACHE") from error


def _download(
    urls: Sequence[str], target: Path, sha256: str | None, progress: Progress | None, attempts: int, pause: float
) -> str:
    part = target.with_name(target.name + ".part")
    causes = []
    for url in urls:
        resumed = part.exists()
        cause = _fetch(url, part, progress, attempts, pause)
        if cause is None and resumed and sha256 not in (None, file_sha256(part)):
            part.unlink()  # its beginning may be of another file: once more, from the start
            cause = _fetch(url, part, progress, attempts, pause)
        if cause is not None:
            causes.append(f"{url} ({cause})")
            continue
        found = file_sha256(part)
        if sha256 not in (None, found):
            part.unlink()
            remedy = f"the file may have changed at its source; place a good copy by hand as {target}"
            raise DownloadError(f"{url} has sha256 {found}, but {sha256} is expected", remedy)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        return found
    remedy = f"try again (it resumes), or place the file by hand as {target}"
    raise DownloadError(f"cannot fetch {target.name} from {', nor from '.join(causes)}", remedy)


def _fetch(url: str, part: Path, progress: Progress | None, attempts: int, pause: float) -> str | None:
    """Try until the part is whole; None, or why it is not."""
    cause = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _fetch_once(url, part, progress)
        except urllib.error.HTTPError as error:
            cause = f"HTTP {error.code} {error.reason}"
            error.close()
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # longer than the file: not a beginning of it
            elif error.code < http.client.INTERNAL_SERVER_ERROR:
                return cause
        except urllib.error.URLError as error:
            cause = str(error.reason)
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            cause = str(error) or type(error).__name__
        else:
            return None
    return cause


def _fetch_once(url: str, part: Path, progress: Progress | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "lmlab"} | ({"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            done = 0  # the server sends it whole
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with part.open("ab" if done else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke off after {done} of {total} bytes")  # what came is kept
