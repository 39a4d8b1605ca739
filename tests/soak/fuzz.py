"""A million inputs that nobody would write: each ends well, or with an error of ours in one line.

Cases are tried in one process, one after the other, and the process is watched from outside: a case that takes 20 s or
2 GiB ends it, and one that kills it is known by its number; the process is then started anew behind that case.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import mmap
import os
import resource
import signal
import struct
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from lmlab.errors import LmlabError
from tests.soak import inputs
from tests.soak.campaign import Case, WrongError, drawn, empty
from tests.soak.processes import ROOMY, SLOW

_NOW = struct.Struct("qddq")  # the case under way, when it began, the longest, and how many have ended
_LONGEST_MESSAGE = 2_000  # characters


class Fuzz:
    """Every target of `inputs`."""

    share, batch = 0.5, 4_000

    def prepare(self, folder: Path) -> None:
        """What the targets damage."""
        self.targets = inputs.targets(folder)

    def counts(self) -> dict[str, int]:
        """A million in all; cheap ones take most."""
        return {name: target.cases for name, target in self.targets.items()}

    def tried(self, name: str, numbers: range, seed: int, folder: Path) -> Iterator[Case]:
        """Try cases in processes that are watched."""
        at = numbers.start
        while at < numbers.stop:
            watched = _Watched(self, name, range(at, numbers.stop), seed, folder)
            at, cases = watched.follow()
            yield from cases

    def one(self, name: str, number: int, seed: int, folder: Path) -> tuple[str, str]:
        """What is found in a case, and its traceback."""
        try:
            self.targets[name].attack(drawn(seed, "fuzz", name, number), folder)
        except LmlabError as error:
            said = str(error)
            wrong = "\n" in said or not said or len(said) > _LONGEST_MESSAGE
            return ("its message is not one line", said[:4000]) if wrong else ("", "")
        except WrongError as error:
            return str(error), ""
        except BaseException as error:  # noqa: BLE001  # that is what is looked for
            return f"{type(error).__name__} {_place(error)}", traceback.format_exc()[-3000:]
        return "", ""


def _place(error: BaseException) -> str:
    """The last line of ours that an exception passed: those of one place are one finding."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/lmlab/" in frame.filename]
    return f"in {Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "outside lmlab"


class _Watched:
    """A process that tries cases, and what it did last."""

    def __init__(self, fuzz: Fuzz, name: str, numbers: range, seed: int, folder: Path) -> None:
        self._numbers, self._now = numbers, mmap.mmap(-1, _NOW.size)
        self._found, self._died = folder / "found.jsonl", folder / "died.txt"
        self._now[:] = _NOW.pack(numbers.start, time.monotonic(), 0.0, 0)
        self._found.write_text("")
        self._pid = os.fork()
        if not self._pid:
            try:
                self._try(fuzz, name, seed, empty(folder / "case"))
            finally:
                os._exit(0)

    def _try(self, fuzz: Fuzz, name: str, seed: int, folder: Path) -> None:
        died, null = self._died.open("w"), os.open(os.devnull, os.O_RDWR)
        faulthandler.enable(died)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        warnings.simplefilter("ignore")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2 * ROOMY
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        os.environ["LMLAB_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        longest = 0.0
        with self._found.open("a") as found:
            for done, number in enumerate(self._numbers, 1):
                began = time.monotonic()
                self._now[:] = _NOW.pack(number, began, longest, done - 1)
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    wrong, detail = fuzz.one(name, number, seed, folder)
                longest = max(longest, time.monotonic() - began)
                self._now[:] = _NOW.pack(number, time.monotonic(), longest, done)
                if wrong:
                    found.write(json.dumps([number, wrong.replace(str(folder), ""), detail]) + "\n")
                    found.flush()

    def follow(self) -> tuple[int, list[Case]]:
        """Watch it to its end; where to go on, and what came of its cases."""
        worst, because = 0, ""
        while True:
            ended, status = os.waitpid(self._pid, 0 if because else os.WNOHANG)
            if ended:
                break
            number, began, _, done = _NOW.unpack(self._now[:])
            worst = max(worst, resident := _resident(self._pid))
            if time.monotonic() - began > SLOW and done <= number - self._numbers.start:
                because = f"hangs for {SLOW:.0f} s"
            elif resident > ROOMY:
                because = f"takes more than {ROOMY >> 20:,} MiB"
            if because:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.02)
        number, _, longest, done = _NOW.unpack(self._now[:])
        if os.WIFSIGNALED(status) and not because:
            because = f"dies of {signal.Signals(os.WTERMSIG(status)).name}"
        cases = [Case(number, 0, 0, found, detail, 0) for number, found, detail in map(json.loads, self._found.open())]
        cases.append(Case(number, longest, worst, times=done))
        if because:
            detail = self._died.read_text(errors="replace")[:2000] if self._died.exists() else ""
            cases.append(Case(number, SLOW if "hangs" in because else 0.0, worst, because, detail))
        return (number + 1 if because else self._numbers.stop), cases


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


PART = Fuzz()
