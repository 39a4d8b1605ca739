"""Killed with signal 9 at any moment: what is there is readable, and the command run again ends as if nothing had been.

Half of the kills strike right before a change of the disk, drawn among all that the command makes: after whatever it
did before. The others strike after so many seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmlab import store
from lmlab.errors import LmlabError
from lmlab.tokens.id_store import TokenStore
from tests.soak.campaign import Case, drawn, empty
from tests.soak.processes import SLOW, Ended, at_change, changes_of, command
from tests.texts import some_text

_MOST = 3  # kills of one case, before it may end
_TINY = {
    "lstm": ["model.hidden=16", "model.embedding=8"],
    "cnn": ["model.channels=8", "model.embedding=4", "model.layers=2"],
    "transformer": ["model.width=8", "model.heads=2", "model.layers=1", "model.window=16"],
}
_SHORT = ["batch_size=8", "length=16", "evaluations=4", "threads=1", "precision=fp32", "baseline=false"]


def training(kind: str, steps: int = 12) -> list[str]:
    """The words of a short training of a tiny model."""
    settings = [*_TINY[kind], *(f"train.{one}" for one in _SHORT)]
    named = [word for setting in settings for word in ("--set", setting)]
    return [
        "train",
        "text",
        "--model",
        kind,
        "--tokenizer",
        "char",
        "--steps",
        str(steps),
        *named,
        "-o",
        "out",
        "--quiet",
        "--json",
    ]


@dataclass
class Job:
    """A command that is killed.

    Attributes:
        words: of the command.
        text: what it reads.
        spills: whether so little memory is left to it that it goes on on disk.
        before: what stands in place of its output beforehand; empty where nothing does.
        changes: of the disk that it makes, unharmed.
        seconds: that it takes.
        end: its output, unharmed.
    """

    words: list[str]
    text: str = "text"
    spills: bool = False
    before: bytes = b""
    changes: int = 0
    seconds: float = 0.0
    end: Any = None


JOBS = {
    **{kind: Job(training(kind)) for kind in _TINY},
    "estimate": Job(
        ["ngram", "estimate", "long", "-o", "out", "--order", "3", "--memory", "512M", "--quiet"], spills=True
    ),
    "arpa": Job(["ngram", "arpa", "model", "out", "--quiet"]),
    "arpa over": Job(["ngram", "arpa", "model", "out", "--quiet"], before=b"an older file\n"),
    "arpa.gz": Job(["ngram", "arpa", "model", "out.gz", "--quiet"]),
    "prune": Job(["ngram", "prune", "model", "-o", "out", "--threshold", "1e-6", "--quiet"]),
    "import": Job(["ngram", "import", "model.arpa", "-o", "out", "--quiet"]),
    "encode": Job(
        [
            "train",
            "text",
            "--tokenizer",
            "bpe",
            "--model",
            "ngram",
            "--order",
            "2",
            "--set",
            "tokenizer.vocab_size=300",
            "-o",
            "out",
            "--quiet",
            "--json",
        ]
    ),
}


def _little_memory() -> None:
    """Let a small text be counted in several runs on disk; in a process that ends soon."""
    from lmlab.kernels.ngram import counter

    counter.PIECE, counter._LEAST_RUN, counter._ARRANGING = 1 << 10, 200_000, 1 << 20


class Kills:
    """Every command that writes, killed."""

    share, batch = 0.35, 2

    def prepare(self, folder: Path) -> None:
        """Texts, a model, and what each job comes to where nobody kills it."""
        torch.set_num_threads(1)
        self.home = folder
        (folder / "text").write_text(some_text(400))
        rng = random.Random(0)
        words = [f"w{int(rng.paretovariate(0.6)) % 20_000:x}" for _ in range(200_000)]
        (folder / "long").write_text("".join(" ".join(words[at : at + 12]) + "\n" for at in range(0, len(words), 12)))
        for words in (
            ["ngram", "estimate", "long", "-o", "model", "--order", "3", "--prune", "0,1", "--quiet"],
            ["ngram", "arpa", "model", "model.arpa", "--quiet"],
        ):
            ended = command(words, folder).end(60)
            if ended.code:
                raise RuntimeError(ended.err)
        self._warm(folder)
        for job in JOBS.values():
            place = self.begin(job, empty(folder / "whole"))
            job.changes, job.seconds = changes_of(job.words, place, self.little(job, lambda: None))
            job.end = self.output(job, self.place(job, place))

    def _warm(self, folder: Path) -> None:
        """Import and compile, in this process, all that the jobs need."""
        from lmlab.cli import main

        here, cache = os.getcwd(), os.environ.get("LMLAB_CACHE")
        os.chdir(empty(folder / "warm"))
        os.environ["LMLAB_CACHE"] = str(folder / "warm" / "cache")
        try:
            for name in ("text", "long", "model", "model.arpa"):
                os.symlink(folder / name, name)
            for job in JOBS.values():
                with contextlib.redirect_stdout(io.StringIO()):
                    if main(job.words):
                        raise RuntimeError(f"{job.words} fails")
                shutil.rmtree("out") if os.path.isdir("out") else self.place(job, Path()).unlink()
        finally:
            os.chdir(here)
            os.environ.pop("LMLAB_CACHE") if cache is None else os.environ.update(LMLAB_CACHE=cache)

    def counts(self) -> dict[str, int]:
        """Rounds, in which more than a thousand kills strike."""
        return {
            **dict.fromkeys(_TINY, 110),
            "estimate": 110,
            "arpa": 60,
            "arpa over": 60,
            "arpa.gz": 40,
            "prune": 60,
            "import": 60,
            "encode": 60,
        }

    def tried(self, name: str, numbers: range, seed: int, folder: Path) -> Iterator[Case]:
        """Kill a command up to three times, then let it end; a case is a kill that struck."""
        for number in numbers:
            began = time.perf_counter()
            kills, worst, found, detail = self._round(
                JOBS[name], drawn(seed, "kills", name, number), empty(folder / "round")
            )
            yield Case(number, time.perf_counter() - began, worst, found.replace(str(folder), ""), detail, times=kills)

    def _round(self, job: Job, rng: random.Random, folder: Path) -> tuple[int, int, str, str]:
        """How many kills struck, the most memory, what is wrong, and what was done."""
        self.begin(job, folder)
        kills, worst, done, wrong = 0, 0, list[str](), ""
        for _ in range(rng.randint(1, _MOST)):
            ended, moment = self._kill(job, rng, folder)
            worst = max(worst, ended.rss)
            struck = ended.code == -signal.SIGKILL and ended.seconds < SLOW
            kills += struck
            done.append(f"  {moment}: {'killed' if struck else f'code {ended.code}'}")
            if wrong := self.unreadable(job, folder) if struck else ended.wrong():
                break
        if not wrong and not self.done(job, folder):
            ended = command(self.words(job, folder), folder, before=self.little(job, lambda: None)).end()
            wrong = ended.wrong() or (f"run again it fails: {ended.err}" if ended.code else "")
        if not wrong and self.output(job, self.place(job, folder)) != job.end:
            wrong = "run again it ends otherwise than unharmed"
        return kills, worst, wrong, "\n".join([*done, *_listing(folder)]) if wrong else ""

    def _kill(self, job: Job, rng: random.Random, folder: Path) -> tuple[Ended, str]:
        words = self.words(job, folder)
        if rng.random() < 0.5:
            change = rng.randint(1, job.changes)
            arm = at_change(change, lambda: os.kill(os.getpid(), signal.SIGKILL))
            return command(
                words, folder, before=self.little(job, arm)
            ).end(), f"change {change} of {' '.join(words[:2])}"
        after = rng.uniform(0, 1.1 * job.seconds)
        child = command(words, folder, before=self.little(job, lambda: None))
        if not child.wait(after):
            os.kill(child.pid, signal.SIGKILL)
        return child.end(), f"{after:.3f} s of {' '.join(words[:2])}"

    def little(self, job: Job, then: Callable[[], Any]) -> Callable[[], Any]:
        """What a process does first: give a job that spills little memory, then this."""

        def before() -> None:
            if job.spills:
                _little_memory()
            then()

        return before

    def killed_late(self) -> None:
        """Die when most of a training is done."""
        at_change(round(0.7 * JOBS["lstm"].changes), lambda: os.kill(os.getpid(), signal.SIGKILL))()

    # -- what a job leaves --------------------------------------------------------------------------------------------

    def begin(self, job: Job, folder: Path) -> Path:
        """What a job reads, and what stands in its way."""
        for name in ("text", "long", "model", "model.arpa"):
            os.symlink(self.home / name, folder / name)
        if job.before:
            (folder / "out").write_bytes(job.before)
        return folder

    def words(self, job: Job, folder: Path) -> list[str]:
        """The command as it goes on: a run that was begun is resumed."""
        resumed = job.words[0] == "train" and (folder / "out").exists()
        return ["train", "--resume", "out", "--quiet", "--json"] if resumed else job.words

    def place(self, job: Job, folder: Path) -> Path:
        """Where its output goes."""
        return folder / ("out.gz" if "out.gz" in job.words else "out")

    def done(self, job: Job, folder: Path) -> bool:
        """Whether its output is there, and there is no going on."""
        place = self.place(job, folder)
        return job.words[0] == "ngram" and place.is_dir()

    def unreadable(self, job: Job, folder: Path) -> str:
        """What of all that is there cannot be read, or is neither old nor new."""
        place = self.place(job, folder)
        try:
            for store_folder in (folder / "cache").glob("tokens/*/[tv]*"):
                if store_folder.name != "tokenizer":
                    TokenStore.open(store_folder)
            if place.is_dir():
                manifest = store.read_manifest(place)
                store.read_config(place)
                if "checkpoints" in os.listdir(place):
                    from lmlab.training import checkpoint

                    checkpoint.newest(place)
                if (place / "model.safetensors").exists() or manifest["status"] == "done":
                    store.load(place)
        except LmlabError as error:
            return str(error).replace(str(folder), ".")
        if place.is_file() and place.read_bytes() not in (job.before, job.end):
            return f"{place.name} is neither the old file nor the new one"
        return ""

    def output(self, job: Job, place: Path) -> Any:
        """All that must not depend on kills."""
        if place.is_file():
            return place.read_bytes()
        files = {
            path.name: path.read_bytes()
            for path in place.iterdir()
            if path.is_file()
            and path.suffix in (".safetensors", ".npy", ".json")
            and path.name not in (store.MANIFEST,)
        }
        results = json.loads((place / store.MANIFEST).read_text())["results"]
        for timed in ("train_seconds", "seconds"):
            results.pop(timed, None)
        files.pop(store.CONFIG, None)
        return files, json.dumps(_untimed(results), sort_keys=True)


def _untimed(results: Any) -> Any:
    """Results without what a clock said."""
    if isinstance(results, dict):
        return {key: _untimed(value) for key, value in results.items() if "seconds" not in key}
    return results


def _listing(folder: Path) -> list[str]:
    return [f"  {path.relative_to(folder)}" for path in sorted(folder.rglob("*"))]


PART = Kills()
