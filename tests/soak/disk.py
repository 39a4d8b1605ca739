"""The disk refuses: full, a quota on files, read-only. One line, nothing lost, and with room the command works.

changes  the disk says that it is full at the so-manieth change that the command makes, drawn among all
quota    no file may be larger than some bytes (RLIMIT_FSIZE), drawn up to the largest that the command writes
small    a disk of some pages, mounted for the case: only where root may
closed   folders in which the user may not write; root becomes nobody in the child
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.soak.campaign import Case, drawn, empty
from tests.soak.kills import JOBS, Job
from tests.soak.kills import PART as KILLS
from tests.soak.processes import GROWS, at_change, command

_NOBODY = 65534


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Every command that writes, on disks that refuse."""

    share, batch = 0.1, 2

    def prepare(self, folder: Path) -> None:
        """What the commands come to where the disk takes it all."""
        KILLS.prepare(folder)
        self.root, self.mounts = os.geteuid() == 0, os.geteuid() == 0 and _may_mount(empty(folder / "small"))

    def counts(self) -> dict[str, int]:
        """Of each way as many."""
        skipped = [] if self.mounts else ["small"]
        return {way: 150 for way in ("changes", "quota", "small", "closed") if way not in skipped}

    def tried(self, name: str, numbers: range, seed: int, folder: Path) -> Iterator[Case]:
        """Refuse, look, give room, try again."""
        for number in numbers:
            began, draw = time.perf_counter(), drawn(seed, "disk", name, number)
            job_name = draw.choice(list(JOBS))
            home = empty(folder / "case")
            try:
                wrong, rss = self._case(name, JOBS[job_name], draw, home)
            finally:
                self._open(home)
            wrong = wrong and f"{job_name}: {wrong}".replace(str(home), "")
            yield Case(number, time.perf_counter() - began, rss, wrong)

    def _case(self, way: str, job: Job, draw: random.Random, home: Path) -> tuple[str, int]:
        cache = home / "cache"
        KILLS.begin(job, home)
        before: Callable[[], Any]
        if way == "changes":
            before = at_change(draw.randint(1, job.changes), _full, GROWS)
        elif way == "quota":
            before = _quota(int(2 ** draw.uniform(0, 21)))
        elif way == "small":
            _mount(home, draw.choice((4, 8, 16, 32, 64, 128, 256, 512)))
            KILLS.begin(job, home)
            before = _nothing
        else:
            before = self._closing(home, cache, draw)
        ended = command(job.words, home, cache, before=KILLS.little(job, before)).end()
        wrong = ended.wrong(quiet=False)
        if ended.code == 0 and not wrong and KILLS.output(job, KILLS.place(job, home)) != job.end:
            wrong = "ends well, but otherwise than with room"
        if ended.code and not wrong:
            wrong = KILLS.unreadable(job, home)
        if ended.code and not wrong and job.before and KILLS.place(job, home).read_bytes() != job.before:
            wrong = "the file that stood there is lost"
        if wrong or not ended.code or way == "small":
            return wrong, ended.rss
        self._open(home)
        place = KILLS.place(job, home)
        if place.is_dir() and job.words[0] == "ngram":
            return "it failed, but left a whole model", ended.rss
        again = command(KILLS.words(job, home), home, cache, before=KILLS.little(job, _nothing)).end()
        if again.code:
            return f"with room it fails: {again.err}", ended.rss
        return (
            "with room it ends otherwise" if KILLS.output(job, KILLS.place(job, home)) != job.end else ""
        ), ended.rss

    def _closing(self, home: Path, cache: Path, draw: random.Random) -> Callable[[], None]:
        """Close a folder; the child loses the right to write there all the same."""
        cache.mkdir()
        closed = draw.choice(([home], [cache], [home, cache]))
        for folder in (home, cache):
            os.chown(folder, _NOBODY if self.root else -1, -1)
            folder.chmod(0o555 if folder in closed else 0o755)

        def leave() -> None:
            if self.root:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)

        return leave

    def _open(self, home: Path) -> None:
        if os.path.ismount(home):
            subprocess.run(["umount", str(home)], check=True)
        for folder in (home, home / "cache"):
            if folder.is_dir():
                folder.chmod(0o755)


def _nothing() -> None:
    pass


def _quota(size: int) -> Callable[[], None]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does; the write then fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def _may_mount(folder: Path) -> bool:
    try:
        _mount(folder, 4)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def _mount(folder: Path, pages: int) -> None:
    if not shutil.which("mount"):
        raise OSError("there is no mount")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs", str(folder)], check=True, capture_output=True
    )


PART = Disk()
